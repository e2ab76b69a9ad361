//! The garbage collector: dependents follow their owners, contents follow their namespace, objects follow
//! their definition, and old events go.
//!
//! One task follows every change in the store. Whatever it decides, it decides from what is stored now, so it
//! may be stopped and started at any point.

mod definitions;
mod expiry;
mod index;
mod namespaces;
mod owners;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep_until};

use crate::cluster::{Cluster, DEFINITIONS, NAMESPACES};
use crate::resources::Target;
use crate::resources::delete::{DeleteOptions, FOREGROUND, ORPHAN, Preconditions, delete};
use crate::status::ApiError;
use crate::store::{Event, EventKind, Expired, Key, Object, Scope, Start, Watcher};
use index::Index;

/// How long to wait after an error before trying again.
const RETRY: Duration = Duration::from_secs(10);

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// An object whose owners may be gone.
    Dependent(Key),
    /// An object that is being deleted and has to do with its dependents first.
    Owner(Key),
    /// A namespace: it gets what every namespace has, or is being deleted.
    Namespace(String),
    /// A definition: its objects may be stored in an older version, or it is being deleted.
    Definition(String),
    /// Old events.
    Expiry,
}

/// Why the collector has something to do.
enum Woken {
    Events(Result<Vec<Arc<Event>>, Expired>),
    Expiry,
    Retry,
}

/// Runs until the cluster is dropped or stops.
pub(crate) async fn run(cluster: Weak<Cluster>) {
    let Some(mut stopping) = cluster.upgrade().map(|c| c.stopping.subscribe()) else {
        return;
    };
    let collect = async {
        while let Some(strong) = cluster.upgrade() {
            let started = strong.store.watch(Scope::Everything, Start::Now);
            drop(strong);
            match started {
                Ok(watcher) => follow(&cluster, watcher).await,
                Err(error) => tracing::error!(%error, "the collector cannot watch the store"),
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = collect => {}
        // An error means that the cluster is gone.
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

/// Follows the store until its history is lost; then everything is looked at again.
async fn follow(cluster: &Weak<Cluster>, mut watcher: Watcher) {
    let mut index = Index::default();
    let mut queue = BTreeSet::from([Work::Expiry]);
    for object in watcher.initial() {
        index.add(&object);
        note(&object, &mut queue);
    }
    let mut next_expiry = Instant::now() + expiry::INTERVAL;
    let mut failed = BTreeSet::new();
    let mut retry_at = Instant::now();
    loop {
        while let Some(work) = queue.pop_first() {
            let Some(strong) = cluster.upgrade() else {
                return;
            };
            if let Err(error) = perform(&strong, &index, &work).await {
                tracing::warn!(?work, message = %error.message, "collection failed, will retry");
                failed.insert(work);
                retry_at = Instant::now() + RETRY;
            }
        }
        let woken = tokio::select! {
            events = watcher.next() => Woken::Events(events),
            () = sleep_until(next_expiry) => Woken::Expiry,
            () = sleep_until(retry_at), if !failed.is_empty() => Woken::Retry,
        };
        match woken {
            Woken::Events(Ok(events)) => {
                for event in events {
                    observe(&event, &mut index, &mut queue);
                }
            }
            Woken::Events(Err(Expired { .. })) => return,
            Woken::Expiry => {
                next_expiry += expiry::INTERVAL;
                queue.insert(Work::Expiry);
            }
            Woken::Retry => queue.append(&mut failed),
        }
    }
}

/// Keeps the index, and notes what an event may have made necessary.
fn observe(event: &Arc<Event>, index: &mut Index, queue: &mut BTreeSet<Work>) {
    if let Some(previous) = &event.previous {
        index.remove(previous);
    }
    if event.kind != EventKind::Deleted {
        index.add(&event.object);
        note(&event.object, queue);
        return;
    }
    let object = &event.object;
    let uid = &object.head().metadata.uid;
    queue.extend(index.dependents(uid).cloned().map(Work::Dependent));
    for owner in object.head().metadata.owner_references.iter().flatten() {
        queue.extend(index.key_of(&owner.uid).cloned().map(Work::Owner));
    }
    if !object.key.namespace().is_empty() {
        queue.insert(Work::Namespace(object.key.namespace().into()));
    }
    if let Some((group, plural)) = object.key.resource().split_once('/')
        && !group.is_empty()
    {
        queue.insert(Work::Definition(format!("{plural}.{group}")));
    }
}

/// Notes what the mere state of an object makes necessary.
fn note(object: &Object, queue: &mut BTreeSet<Work>) {
    let metadata = &object.head().metadata;
    if metadata
        .owner_references
        .as_ref()
        .is_some_and(|o| !o.is_empty())
    {
        queue.insert(Work::Dependent(object.key.clone()));
    }
    match object.key.resource() {
        NAMESPACES => queue.insert(Work::Namespace(object.key.name().into())),
        DEFINITIONS => queue.insert(Work::Definition(object.key.name().into())),
        _ => false,
    };
    if metadata.deletion_timestamp.is_none() {
        return;
    }
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    if finalizers
        .iter()
        .any(|f| **f == *FOREGROUND || **f == *ORPHAN)
    {
        queue.insert(Work::Owner(object.key.clone()));
    }
}

async fn perform(cluster: &Cluster, index: &Index, work: &Work) -> Result<(), ApiError> {
    match work {
        Work::Dependent(key) => owners::check_dependent(cluster, index, key).await,
        Work::Owner(key) => owners::finish_owner(cluster, index, key).await,
        Work::Namespace(name) => namespaces::keep(cluster, name).await,
        Work::Definition(name) => definitions::keep(cluster, name).await,
        Work::Expiry => expiry::expire(cluster).await,
    }
}

/// The kind and place of a stored object; `None` if nothing serves it any more.
fn target_of(cluster: &Cluster, key: &Key) -> Option<Target> {
    let registry = cluster.registry();
    let resource = registry.stored_at(key.resource())?;
    Some(Target::stored(&resource, key))
}

/// Deletes an object unless it is gone or another one by now.
async fn remove(cluster: &Cluster, object: &Object, policy: Option<&str>) -> Result<(), ApiError> {
    let Some(target) = target_of(cluster, &object.key) else {
        return Ok(());
    };
    let options = DeleteOptions {
        preconditions: Some(Preconditions {
            uid: Some(object.head().metadata.uid.to_string()),
            resource_version: None,
        }),
        propagation_policy: policy.map(Into::into),
        ..DeleteOptions::default()
    };
    tolerate_change(
        delete(cluster, &target, &options, |_| Ok(()))
            .await
            .map(|_| ()),
    )
}

/// The object is gone or changed: another event tells about that.
fn tolerate_change(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if matches!(error.code, StatusCode::NOT_FOUND | StatusCode::CONFLICT) => Ok(()),
        other => other,
    }
}
