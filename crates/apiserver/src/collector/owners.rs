//! Dependents whose owners are gone, and owners that go after or without their dependents.

use serde_json::Value;

use super::index::Index;
use super::{remove, target_of, tolerate_change};
use crate::cluster::Cluster;
use crate::resources::delete::{FOREGROUND, ORPHAN};
use crate::resources::update::{Proposal, update};
use crate::resources::{Part, WriteOptions};
use crate::status::ApiError;
use crate::store::{Key, Object, Owner};

/// Deletes an object none of whose owners exists; forgets the owners that are gone if others exist.
pub(super) async fn check_dependent(
    cluster: &Cluster,
    index: &Index,
    key: &Key,
) -> Result<(), ApiError> {
    let Some(object) = cluster.store.get(key) else {
        return Ok(());
    };
    let owners = object.head().metadata.owner_references.clone();
    let owners = owners.unwrap_or_default();
    if owners.is_empty() {
        return Ok(());
    }
    let gone: Vec<&Owner> = owners
        .iter()
        .filter(|owner| !exists(cluster, index, &object, owner))
        .collect();
    if gone.len() == owners.len() {
        if object.head().metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        return remove(cluster, &object, None).await;
    }
    for owner in gone {
        forget_owner(cluster, key, &owner.uid).await?;
    }
    Ok(())
}

/// An owner whose kind nothing serves counts as existing: it cannot be looked up.
fn exists(cluster: &Cluster, index: &Index, dependent: &Object, owner: &Owner) -> bool {
    if index.key_of(&owner.uid).is_some() {
        return true;
    }
    let registry = cluster.registry();
    let Some(resource) = registry.by_kind(&owner.api_version, &owner.kind) else {
        return true;
    };
    let namespace = dependent.key.namespace();
    if resource.namespaced && namespace.is_empty() {
        return true;
    }
    let namespace = if resource.namespaced { namespace } else { "" };
    let key = Key::new(resource.storage.clone(), namespace, &owner.name);
    let found = cluster.store.get(&key);
    found.is_some_and(|found| found.head().metadata.uid == owner.uid)
}

/// Does what an owner's finalizers ask for, and removes them when it is done.
pub(super) async fn finish_owner(
    cluster: &Cluster,
    index: &Index,
    key: &Key,
) -> Result<(), ApiError> {
    let Some(owner) = cluster.store.get(key) else {
        return Ok(());
    };
    let metadata = &owner.head().metadata;
    if metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    let has = |name: &str| {
        let finalizers = metadata.finalizers.iter().flatten();
        finalizers.into_iter().any(|finalizer| **finalizer == *name)
    };
    let uid = &metadata.uid;
    if has(ORPHAN) {
        for dependent in index.dependents(uid) {
            forget_owner(cluster, dependent, uid).await?;
        }
        return drop_finalizer(cluster, key, ORPHAN).await;
    }
    if !has(FOREGROUND) {
        return Ok(());
    }
    let mut blocked = false;
    for dependent in index.dependents(uid) {
        let Some(object) = cluster.store.get(dependent) else {
            continue;
        };
        let owners = object.head().metadata.owner_references.iter().flatten();
        let others = owners.clone().any(|other| other.uid != *uid);
        if others {
            forget_owner(cluster, dependent, uid).await?;
            continue;
        }
        let mut owners = owners;
        blocked |= owners.any(|o| o.uid == *uid && o.block_owner_deletion == Some(true));
        if object.head().metadata.deletion_timestamp.is_none() {
            remove(cluster, &object, Some("Foreground")).await?;
        }
    }
    if blocked {
        return Ok(());
    }
    drop_finalizer(cluster, key, FOREGROUND).await
}

async fn forget_owner(cluster: &Cluster, key: &Key, uid: &str) -> Result<(), ApiError> {
    edit_list(cluster, key, "ownerReferences", |owner| owner["uid"] == uid).await
}

pub(super) async fn drop_finalizer(
    cluster: &Cluster,
    key: &Key,
    name: &str,
) -> Result<(), ApiError> {
    edit_list(cluster, key, "finalizers", |finalizer| finalizer == name).await
}

/// Removes the entries of a list in `metadata` for which `unwanted` holds.
async fn edit_list(
    cluster: &Cluster,
    key: &Key,
    list: &str,
    unwanted: impl Fn(&Value) -> bool,
) -> Result<(), ApiError> {
    let Some(target) = target_of(cluster, key) else {
        return Ok(());
    };
    let options = WriteOptions::internal();
    let result = update(cluster, &target, Part::Main, &options, |old| {
        let mut object = old.clone();
        if let Some(entries) = object["metadata"][list].as_array_mut() {
            entries.retain(|entry| !unwanted(entry));
        }
        Ok(Proposal {
            object,
            duplicates: Vec::new(),
        })
    });
    tolerate_change(result.await.map(|_| ()))
}
