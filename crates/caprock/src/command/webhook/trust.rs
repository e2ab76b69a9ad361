//! Whom the API server trusts: the authority that all replicas share, and the CRDs that name it.

use std::collections::BTreeMap;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, WebhookClientConfig, WebhookConversion,
};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use model::api::v1alpha1;

use crate::serve::pki::Authority;

/// Key of the Secret.
const KEY: &str = "authority.json";

/// The Secret with the authority.
pub(super) struct Trust {
    secrets: Api<Secret>,
    name: String,
}

impl Trust {
    pub(super) fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            name: name.to_owned(),
        }
    }

    /// The present authority; made when there is none, and replaced step by step before it ends. Of replicas that write
    /// at the same time one wins, and the others read what it wrote.
    pub(super) async fn authority(&self, now: Timestamp) -> anyhow::Result<Authority> {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let written = match self.secrets.get_opt(&self.name).await? {
                None => {
                    let secret = self.secret(&Authority::new(now)?)?;
                    self.secrets.create(&PostParams::default(), &secret).await
                }
                Some(secret) => {
                    let present = self.read(&secret)?;
                    let Some(next) = present.advanced(true, now)? else {
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

    fn secret(&self, authority: &Authority) -> anyhow::Result<Secret> {
        let text = serde_json::to_vec(authority)?;
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(text))])),
            ..Secret::default()
        })
    }

    fn read(&self, secret: &Secret) -> anyhow::Result<Authority> {
        let text = secret.data.as_ref().and_then(|data| data.get(KEY));
        let text = text.with_context(|| {
            format!(
                "Secret `{}` has no `{KEY}`; delete it and a new one is made",
                self.name
            )
        })?;
        // The text has keys in it, and so may an error's excerpt.
        serde_json::from_slice(&text.0)
            .map_err(|error| anyhow::anyhow!("line {}", error.line()))
            .with_context(|| {
                format!(
                    "`{KEY}` of Secret `{}` is not a certificate authority; delete the Secret and a new one is made",
                    self.name
                )
            })
    }
}

/// Tells the API server through the CRDs whom to ask for other versions and whom to trust (PEM). CRDs that are not
/// installed are left out; what is as it should be is not written.
pub(super) async fn announce(
    client: &Client,
    config: &WebhookClientConfig,
    bundle: &str,
) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let conversion = CustomResourceConversion {
        strategy: "Webhook".to_owned(),
        webhook: Some(WebhookConversion {
            client_config: Some(WebhookClientConfig {
                ca_bundle: Some(ByteString(bundle.as_bytes().to_vec())),
                ..config.clone()
            }),
            conversion_review_versions: vec!["v1".to_owned()],
        }),
    };
    for name in v1alpha1::CRDS {
        let Some(present) = definitions.get_opt(name).await? else {
            tracing::warn!(
                "CustomResourceDefinition `{name}` is not installed; `caprock crds` prints it"
            );
            continue;
        };
        let wanted = v1alpha1::serve(vec![present.clone()], Some(&conversion));
        let Some(wanted) = wanted
            .into_iter()
            .next()
            .filter(|wanted| *wanted != present)
        else {
            continue;
        };
        definitions
            .replace(name, &PostParams::default(), &wanted)
            .await
            .with_context(|| format!("failed to write CustomResourceDefinition `{name}`"))?;
        tracing::info!("CustomResourceDefinition `{name}` names this webhook");
    }
    Ok(())
}
