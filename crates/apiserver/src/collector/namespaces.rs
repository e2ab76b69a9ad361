//! Namespaces get their default account; those that are being deleted lose first what is in them, then themselves.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::{remove, tolerate_change};
use crate::cluster::{Cluster, NAMESPACES};
use crate::resources::create::create;
use crate::resources::delete::finish;
use crate::resources::{Target, WriteOptions};
use crate::status::ApiError;
use crate::store::{Key, Scope};

const ACCOUNTS: &str = "/serviceaccounts";

/// Makes what every namespace has, or deletes the contents of a namespace that is being deleted, and the namespace once
/// it is empty.
pub(super) async fn keep(cluster: &Cluster, name: &str) -> Result<(), ApiError> {
    let Some(namespace) = cluster.store.get(&Key::new(NAMESPACES, "", name)) else {
        return Ok(());
    };
    let metadata = &namespace.head().metadata;
    if metadata.deletion_timestamp.is_none() {
        return make_account(cluster, name).await;
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

/// The account of pods that name none; clients ask for its token.
async fn make_account(cluster: &Cluster, namespace: &str) -> Result<(), ApiError> {
    const DEFAULT: &str = "default";
    if cluster
        .store
        .get(&Key::new(ACCOUNTS, namespace, DEFAULT))
        .is_some()
    {
        return Ok(());
    }
    let Some(resource) = cluster.registry().stored_at(ACCOUNTS) else {
        return Ok(());
    };
    let version = resource.storage_version().name.clone();
    let target = Target::new(resource, &version, Some(namespace.into()), None);
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT},
    });
    let made = create(cluster, &target, account, &[], &WriteOptions::internal()).await;
    // The namespace may be going by now, or somebody else was faster.
    match made {
        Err(error) if error.code == StatusCode::FORBIDDEN => Ok(()),
        made => tolerate_change(made.map(|_| ())),
    }
}
