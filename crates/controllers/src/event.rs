//! Events: what happened to an object, told once, where `kubectl describe` shows it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::error::{chain, has_code};

/// Events about cluster-scoped objects live here, by Kubernetes' own rule.
const NAMESPACE: &str = "default";
/// Longest message of an event, in bytes, by Kubernetes' own rule.
const MAX_MESSAGE: usize = 1024;

/// What is remembered of what was told once; then it is forgotten, and told once more.
const MAX_TOLD: usize = 10_000;

/// Whether an event tells of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Normal,
    Warning,
}

/// Writes events.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    api: Api<Event>,
    component: &'static str,
    /// What [`Recorder::publish_once`] said last, by object and reason.
    told: Arc<Mutex<HashMap<(String, String), String>>>,
}

impl Recorder {
    pub(crate) fn new(client: Client, component: &'static str) -> Self {
        Recorder {
            api: Api::namespaced(client, NAMESPACE),
            component,
            told: Arc::default(),
        }
    }

    /// Tells of something that each look finds again, once for as long as the words are the same.
    pub(crate) async fn publish_once<K>(&self, object: &K, tone: Tone, reason: &str, message: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let key = (object.uid().unwrap_or_default(), reason.to_owned());
        let is_new = {
            let mut told = self
                .told
                .lock()
                .expect("no panic happens while the lock is held");
            if told.len() >= MAX_TOLD {
                told.clear();
            }
            told.insert(key, message.to_owned()).as_deref() != Some(message)
        };
        if is_new {
            self.publish(object, tone, reason, message).await;
        }
    }

    /// Tells that something happened to a cluster-scoped object. The same words about the same object are one
    /// event with a count. An event that cannot be written is logged: nothing depends on it.
    pub(crate) async fn publish<K>(&self, object: &K, tone: Tone, reason: &str, message: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let about = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: Some(object.name_any()),
            uid: object.uid(),
            resource_version: object.resource_version(),
            ..ObjectReference::default()
        };
        let event = self.event(about, tone, reason, message);
        let name = event.metadata.name.clone().unwrap_or_default();
        let done = match self.api.create(&PostParams::default(), &event).await {
            Err(error) if has_code(&error, 409) => self.repeat(&name).await,
            other => other.map(drop),
        };
        if let Err(error) = done {
            tracing::warn!(
                reason,
                object = object.name_any(),
                "failed to write an event: {}",
                chain(&error)
            );
        }
    }

    fn event(&self, about: ObjectReference, tone: Tone, reason: &str, message: &str) -> Event {
        let mut hasher = DefaultHasher::new();
        (&about.kind, &about.name, &about.uid, reason, message).hash(&mut hasher);
        let name = about.name.as_deref().unwrap_or_default();
        let now = Time(Timestamp::now());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:016x}", hasher.finish())),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: about,
            type_: Some(
                match tone {
                    Tone::Normal => "Normal",
                    Tone::Warning => "Warning",
                }
                .to_owned(),
            ),
            reason: Some(reason.to_owned()),
            message: Some(shortened(message).to_owned()),
            source: Some(EventSource {
                component: Some(self.component.to_owned()),
                host: None,
            }),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        }
    }

    async fn repeat(&self, name: &str) -> Result<(), kube::Error> {
        let before = self.api.get(name).await?;
        let patch = json!({
            "count": before.count.unwrap_or(1).saturating_add(1),
            "lastTimestamp": Time(Timestamp::now()),
        });
        self.api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
    }
}

fn shortened(message: &str) -> &str {
    let end = message.floor_char_boundary(MAX_MESSAGE.min(message.len()));
    &message[..end]
}
