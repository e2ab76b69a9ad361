//! What a build prints, kept in a ConfigMap for whoever may read the API.

use std::collections::BTreeMap;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use model::api::MachineOSBuild;
use model::{build_log, keys};
use serde_json::json;

use crate::error::{Doing, Error, Result, chain};
use crate::owned;

/// Label of ConfigMaps with logs: watches of ConfigMaps leave them out, for they change all the time.
pub(crate) const LABEL: &str = "caprock.dev/build-log";

/// The log of one attempt.
#[derive(Debug)]
pub(crate) struct Log {
    api: Api<ConfigMap>,
    name: String,
    lines: Mutex<build_log::Log>,
    /// Changes that could not be written yet.
    unwritten: tokio::sync::Mutex<BTreeMap<String, Option<String>>>,
}

impl Log {
    /// Starts the log of an attempt; what an earlier attempt wrote is replaced.
    pub(crate) async fn start(client: &Client, build: &MachineOSBuild) -> Result<Self> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
        let name = build_log::name(&build.name_any());
        let doing = || format!("write ConfigMap `{name}`");
        let empty = ConfigMap {
            metadata: ObjectMeta {
                labels: Some([(LABEL.to_owned(), build.name_any())].into()),
                ..owned::by(build, &name)
            },
            ..ConfigMap::default()
        };
        let to_be_made = PostParams::default();
        let made = api.create(&to_be_made, &empty).await.doing(doing);
        match made {
            Err(error) if error.is_conflict() => {
                api.replace(&name, &to_be_made, &empty).await.doing(doing)?;
            }
            other => drop(other?),
        }
        Ok(Log {
            api,
            name,
            lines: Mutex::default(),
            unwritten: tokio::sync::Mutex::default(),
        })
    }

    /// Appends text, which is written with the next flush.
    pub(crate) fn add(&self, text: &str) {
        let mut log = self
            .lines
            .lock()
            .expect("no panic happens while the lock is held");
        text.lines().for_each(|line| log.push(line));
    }

    /// Writes what is new. A log that cannot be written now is written with the next flush, and fails no build.
    pub(crate) async fn flush(&self) {
        let mut unwritten = self.unwritten.lock().await;
        let changes = self
            .lines
            .lock()
            .expect("no panic happens while the lock is held")
            .take_changes();
        unwritten.extend(changes);
        if unwritten.is_empty() {
            return;
        }
        let change = Patch::Merge(json!({"data": *unwritten}));
        match self
            .api
            .patch(&self.name, &PatchParams::default(), &change)
            .await
        {
            Ok(_) => unwritten.clear(),
            Err(source) => {
                let error = Error::Api {
                    doing: format!("write ConfigMap `{}`", self.name),
                    source,
                };
                tracing::warn!("{}", chain(&error));
            }
        }
    }
}
