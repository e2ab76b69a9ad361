//! What every loop works with: a client, the local copy, and the few writes that several loops make.

use std::fmt::Debug;

use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::build::gate::Gates;
use crate::cache::Cache;
use crate::error::{Doing, Result};
use crate::event::Recorder;
use crate::pace::Pace;
use crate::pool::expiry::Warnings;
use crate::telemetry::Telemetry;

/// Shared by all loops of a process.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) cache: Cache,
    pub(crate) events: Recorder,
    pub(crate) gates: Gates,
    pub(crate) warnings: Warnings,
    pub(crate) telemetry: Telemetry,
    pub(crate) pace: Pace,
}

impl Context {
    /// Replaces an object's status, unless somebody wrote the object since it was read.
    pub(crate) async fn write_status<K>(&self, object: &K) -> Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let name = object.name_any();
        Api::<K>::all(self.client.clone())
            .replace_status(&name, &PostParams::default(), object)
            .await
            .doing(|| format!("write the status of {} `{name}`", K::kind(&())))
    }

    /// Merges `change` into an object, unless somebody wrote the object since it was read.
    pub(crate) async fn merge<K>(&self, seen: &K, mut change: Value) -> Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let name = seen.name_any();
        if let Some(version) = seen.resource_version() {
            change["metadata"]["resourceVersion"] = json!(version);
        }
        Api::<K>::all(self.client.clone())
            .patch(&name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .doing(|| format!("change {} `{name}`", K::kind(&())))
    }
}
