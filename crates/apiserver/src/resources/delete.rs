//! Deleting objects: preconditions, finalizers, propagation.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::write::commit;
use super::{Target, metadata};
use crate::cluster::{Cluster, NAMESPACES};
use crate::status::ApiError;
use crate::store::{Change, Object, Write, WriteError};

/// Finalizer of an owner whose dependents go first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents stay.
pub(crate) const ORPHAN: &str = "orphan";

/// How often a deletion is tried again because somebody else wrote in between.
const ATTEMPTS: usize = 16;

/// `DeleteOptions`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub(crate) preconditions: Option<Preconditions>,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) dry_run: Vec<String>,
}

/// Conditions on the object to delete.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// What became of the object.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It no longer exists; this was its last state.
    Gone(Arc<Object>),
    /// It goes when its finalizers are done.
    Pending(Arc<Object>),
}

/// Deletes an object, or marks it as being deleted if something has to happen first. `admit` may refuse, seeing the object.
pub(crate) async fn delete(
    cluster: &Cluster,
    target: &Target,
    options: &DeleteOptions,
    admit: impl Fn(&Value) -> Result<(), ApiError>,
) -> Result<Deleted, ApiError> {
    let extra = propagation_finalizer(options)?;
    let dry_run = !options.dry_run.is_empty();
    let subject = target.subject();
    if *target.resource.storage == *NAMESPACES && cluster.is_protected(&target.name) {
        return Err(ApiError::forbidden(
            &subject,
            "this namespace may not be deleted",
        ));
    }
    for _ in 0..ATTEMPTS {
        let stored = cluster
            .store
            .get(&target.key())
            .ok_or_else(|| target.not_found())?;
        let mut value = stored.value();
        check(&value, options, target)?;
        admit(&target.version().read(&stored))?;
        let had_mark = value["metadata"]["deletionTimestamp"].is_string();
        mark(&mut value, extra, target.resource.behaviour.generation);
        if had_mark && !is_due(&value) {
            return Ok(Deleted::Pending(stored));
        }
        if is_due(&value) {
            match finish(cluster, &stored, value, dry_run).await {
                Ok(object) => return Ok(Deleted::Gone(object)),
                Err(WriteError::Conflict { .. }) => continue,
                Err(other) => return Err(other.into()),
            }
        }
        (target.resource.behaviour.prepare)(&mut value);
        match commit(cluster, target.key(), Some(stored.revision), value, dry_run).await {
            Ok(object) => return Ok(Deleted::Pending(object)),
            Err(WriteError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(ApiError::modified(&subject))
}

/// Nothing holds a marked object any more. Namespaces wait for the collector, which knows what is in them.
pub(crate) fn is_due(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    let is_namespace = object["kind"] == "Namespace" && object["apiVersion"] == "v1";
    object["metadata"]["deletionTimestamp"].is_string()
        && finalizers.is_none_or(Vec::is_empty)
        && !is_namespace
}

/// Removes an object that is due; the last state is what an update made of it.
pub(crate) async fn finish(
    cluster: &Cluster,
    stored: &Arc<Object>,
    last: Value,
    dry_run: bool,
) -> Result<Arc<Object>, WriteError> {
    if dry_run {
        let key = stored.key.clone();
        return Ok(Arc::new(Object::unsaved(key, stored.revision, &last)));
    }
    let write = Write {
        key: stored.key.clone(),
        expected: Some(stored.revision),
        change: Change::Delete,
    };
    let object = cluster.store.write(write).await?;
    cluster.written(stored.key.resource());
    Ok(object)
}

fn propagation_finalizer(options: &DeleteOptions) -> Result<Option<&'static str>, ApiError> {
    match (
        options.propagation_policy.as_deref(),
        options.orphan_dependents,
    ) {
        (Some("Foreground"), None) => Ok(Some(FOREGROUND)),
        (Some("Orphan"), None) | (None, Some(true)) => Ok(Some(ORPHAN)),
        (Some("Background" | "") | None, None) | (None, Some(false)) => Ok(None),
        (Some(_), Some(_)) => Err(ApiError::bad_request(
            "orphanDependents and deletionPropagation cannot be both set",
        )),
        (Some(other), None) => Err(ApiError::bad_request(format!(
            "propagationPolicy: unsupported value `{other}`, expected Foreground, Background or Orphan"
        ))),
    }
}

fn check(object: &Value, options: &DeleteOptions, target: &Target) -> Result<(), ApiError> {
    let Some(preconditions) = &options.preconditions else {
        return Ok(());
    };
    let checks = [
        ("UID", &preconditions.uid, &object["metadata"]["uid"]),
        (
            "ResourceVersion",
            &preconditions.resource_version,
            &object["metadata"]["resourceVersion"],
        ),
    ];
    for (name, wanted, found) in checks {
        if let Some(wanted) = wanted
            && found != wanted.as_str()
        {
            let found = found.as_str().unwrap_or_default();
            return Err(ApiError::conflict(
                &target.subject(),
                &format!(
                    "Precondition failed: {name} in precondition: {wanted}, {name} in object meta: {found}"
                ),
            ));
        }
    }
    Ok(())
}

fn mark(object: &mut Value, finalizer: Option<&str>, generation: bool) {
    let metadata = &mut object["metadata"];
    if let Some(finalizer) = finalizer {
        let listed = metadata["finalizers"].as_array().cloned();
        let mut listed = listed.unwrap_or_default();
        if !listed.iter().any(|f| f == finalizer) {
            listed.push(json!(finalizer));
        }
        metadata["finalizers"] = Value::Array(listed);
    }
    if metadata["deletionTimestamp"].is_string() {
        return;
    }
    metadata["deletionTimestamp"] = json!(metadata::timestamp(Timestamp::now()));
    metadata["deletionGracePeriodSeconds"] = json!(0);
    if generation && let Some(before) = metadata["generation"].as_i64() {
        metadata["generation"] = json!(before + 1);
    }
}
