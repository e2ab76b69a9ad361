//! Definitions that are being deleted: first their objects, then they.

use super::{owners, remove};
use crate::cluster::{Cluster, DEFINITIONS};
use crate::kinds::CRD_CLEANUP;
use crate::status::ApiError;
use crate::store::{Key, Scope};

/// Deletes the objects of a definition that is being deleted, and lets the definition go once none is left.
pub(super) async fn empty(cluster: &Cluster, name: &str) -> Result<(), ApiError> {
    let key = Key::new(DEFINITIONS, "", name);
    let Some(definition) = cluster.store.get(&key) else {
        return Ok(());
    };
    if definition.head().metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    let mut left = false;
    if let Some(resource) = cluster.registry().defined_by(name) {
        let scope = Scope::Resource(resource.storage.clone());
        for object in cluster.store.list(&scope, None, None, usize::MAX)?.items {
            if object.head().metadata.deletion_timestamp.is_none() {
                remove(cluster, &object, None).await?;
            }
            left |= cluster.store.get(&object.key).is_some();
        }
    }
    if left {
        return Ok(());
    }
    owners::drop_finalizer(cluster, &key, CRD_CLEANUP).await
}
