//! A value that the replicas of a part share: JSON in a Secret, made when it is absent, and changed by one of them at a
//! time.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use anyhow::Context;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::InNamespace;

/// How often one that others write at the same time is read again.
const TRIES: usize = 5;

/// The Secret with the value.
pub(crate) struct Shared<T> {
    secrets: Api<Secret>,
    name: String,
    key: &'static str,
    value: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Shared<T> {
    pub(crate) fn new(client: Client, secret: &InNamespace, key: &'static str) -> Self {
        Self {
            secrets: Api::namespaced(client, &secret.namespace),
            name: secret.name.clone(),
            key,
            value: PhantomData,
        }
    }

    /// The present value: one of `make` when there is none, and what `next` makes of it when something is due. Of
    /// replicas that write at the same time one wins, and the others read what it wrote.
    pub(crate) async fn current(
        &self,
        make: impl Fn() -> anyhow::Result<T>,
        next: impl Fn(&T) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        for _ in 0..TRIES {
            let written = match self.secrets.get_opt(&self.name).await? {
                None => {
                    let secret = self.secret(&make()?)?;
                    self.secrets.create(&PostParams::default(), &secret).await
                }
                Some(secret) => {
                    let present = self.read(&secret)?;
                    let Some(next) = next(&present)? else {
                        return Ok(present);
                    };
                    let mut changed = self.secret(&next)?;
                    changed.metadata.resource_version = secret.resource_version();
                    self.secrets
                        .replace(&self.name, &PostParams::default(), &changed)
                        .await
                }
            };
            match written {
                Ok(secret) => return self.read(&secret),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("failed to write Secret `{}`", self.name));
                }
            }
        }
        anyhow::bail!("Secret `{}` is written by others all the time", self.name)
    }

    fn secret(&self, value: &T) -> anyhow::Result<Secret> {
        let text = serde_json::to_vec(value)?;
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(self.key.to_owned(), ByteString(text))])),
            ..Secret::default()
        })
    }

    fn read(&self, secret: &Secret) -> anyhow::Result<T> {
        let Self { name, key, .. } = self;
        let text = secret.data.as_ref().and_then(|data| data.get(*key));
        let text = text.with_context(|| {
            format!("Secret `{name}` has no `{key}`; delete it and a new one is made")
        })?;
        // The text has secrets in it, and so may an error's excerpt.
        serde_json::from_slice(&text.0)
            .map_err(|error| anyhow::anyhow!("line {}", error.line()))
            .with_context(|| {
                format!("`{key}` of Secret `{name}` cannot be read; delete the Secret and a new one is made")
            })
    }
}
