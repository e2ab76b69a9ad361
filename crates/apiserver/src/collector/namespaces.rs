//! Namespaces that are being deleted: first what is in them, then they.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{remove, tolerate_change};
use crate::cluster::{Cluster, NAMESPACES};
use crate::resources::delete::finish;
use crate::status::ApiError;
use crate::store::{Key, Scope};

/// Deletes the contents of a namespace that is being deleted, and the namespace once it is empty.
pub(super) async fn empty(cluster: &Cluster, name: &str) -> Result<(), ApiError> {
    let Some(namespace) = cluster.store.get(&Key::new(NAMESPACES, "", name)) else {
        return Ok(());
    };
    let metadata = &namespace.head().metadata;
    if metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    let registry = cluster.registry();
    let stored: BTreeSet<Arc<str>> = registry
        .resources()
        .filter(|resource| resource.namespaced)
        .map(|resource| resource.storage.clone())
        .collect();
    let mut left = false;
    for resource in stored {
        let scope = Scope::Namespace(resource, name.into());
        for object in cluster.store.list(&scope, None, None, usize::MAX)?.items {
            if object.head().metadata.deletion_timestamp.is_none() {
                remove(cluster, &object, None).await?;
            }
            left |= cluster.store.get(&object.key).is_some();
        }
    }
    let held = metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
    if left || held {
        return Ok(());
    }
    let last = namespace.value();
    let gone = finish(cluster, &namespace, last, false).await;
    tolerate_change(gone.map(|_| ()).map_err(ApiError::from))
}
