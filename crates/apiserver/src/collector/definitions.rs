//! Definitions whose objects are brought to the storage version; those that are being deleted lose first their objects,
//! then themselves.

use serde_json::json;

use super::{owners, remove, target_of, tolerate_change};
use crate::cluster::{Cluster, DEFINITIONS};
use crate::kinds::CRD_CLEANUP;
use crate::resources::update::{Proposal, update};
use crate::resources::{Part, WriteOptions};
use crate::status::ApiError;
use crate::store::{Key, Object, Scope};

/// Writes objects of older versions again, or deletes the objects of a definition that is being deleted, and lets the
/// definition go once none is left.
pub(super) async fn keep(cluster: &Cluster, name: &str) -> Result<(), ApiError> {
    let key = Key::new(DEFINITIONS, "", name);
    let Some(definition) = cluster.store.get(&key) else {
        return Ok(());
    };
    if definition.head().metadata.deletion_timestamp.is_none() {
        return migrate(cluster, &definition).await;
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

/// Brings every object to the storage version, then says in the definition that no other version is stored. Only then
/// may the older version be taken out of the definition.
async fn migrate(cluster: &Cluster, definition: &Object) -> Result<(), ApiError> {
    let value = definition.value();
    let stored = value["status"]["storedVersions"].as_array();
    if stored.is_none_or(|versions| versions.len() < 2) {
        return Ok(());
    }
    let Some(resource) = cluster.registry().defined_by(definition.key.name()) else {
        return Ok(());
    };
    let version = resource.storage_version();
    let scope = Scope::Resource(resource.storage.clone());
    for object in cluster.store.list(&scope, None, None, usize::MAX)?.items {
        if *object.head().api_version != *version.api_version {
            rewrite(cluster, &object.key).await?;
        }
    }
    let Some(target) = target_of(cluster, &definition.key) else {
        return Ok(());
    };
    let only = json!([version.name]);
    let written = update(
        cluster,
        &target,
        Part::Status,
        &WriteOptions::internal(),
        |old| {
            let mut object = old.clone();
            object["status"]["storedVersions"] = only.clone();
            Ok(Proposal {
                object,
                duplicates: Vec::new(),
            })
        },
    )
    .await;
    tolerate_change(written.map(|_| ()))
}

/// Writes an object as it is, in the version that is stored now.
async fn rewrite(cluster: &Cluster, key: &Key) -> Result<(), ApiError> {
    let Some(target) = target_of(cluster, key) else {
        return Ok(());
    };
    let options = WriteOptions::internal();
    let written = update(cluster, &target, Part::Main, &options, |old| {
        Ok(Proposal {
            object: old.clone(),
            duplicates: Vec::new(),
        })
    })
    .await;
    tolerate_change(written.map(|_| ()))
}
