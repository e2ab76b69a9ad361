//! Creating objects.

use jiff::Timestamp;
use serde_json::Value;

use super::write::{Management, Outcome, Step, WriteOptions, commit, prepare};
use super::{Part, Target};
use crate::cluster::Cluster;
use crate::status::ApiError;
use crate::store::{Key, WriteError};

/// How often a generated name may turn out to be taken.
const NAME_ATTEMPTS: usize = 8;

/// Creates an object from a client's document.
pub(crate) async fn create(
    cluster: &Cluster,
    target: &Target,
    object: Value,
    duplicates: &[String],
    options: &WriteOptions,
) -> Result<Outcome, ApiError> {
    let generated = object["metadata"]["name"]
        .as_str()
        .is_none_or(str::is_empty);
    for attempt in 1.. {
        let step = Step {
            target,
            part: Part::Main,
            options,
            old: None,
            management: Management::Update,
            now: Timestamp::now(),
        };
        let prepared = prepare(cluster, step, object.clone(), duplicates)?;
        let name = prepared.value["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let subject = target.resource.subject(&name);
        check_place(cluster, target, &name)?;
        let key = target.key_of(&name);
        if options.dry_run && cluster.store.get(&key).is_some() {
            return Err(ApiError::already_exists(&subject));
        }
        match commit(cluster, key, None, prepared.value, options.dry_run).await {
            Ok(object) => {
                return Ok(Outcome::new(object, true, prepared.warnings));
            }
            Err(WriteError::Conflict { .. }) if generated && attempt < NAME_ATTEMPTS => {}
            Err(WriteError::Conflict { .. }) => return Err(ApiError::already_exists(&subject)),
            Err(other) => return Err(other.into()),
        }
    }
    unreachable!("the loop ends by returning")
}

/// Objects are created only for kinds and in namespaces that exist and stay.
pub(super) fn check_place(cluster: &Cluster, target: &Target, name: &str) -> Result<(), ApiError> {
    if target.resource.terminating {
        return Err(ApiError::method_not_allowed_because(
            "create not allowed while custom resource definition is terminating",
        ));
    }
    let Some(namespace) = target.namespace.as_deref() else {
        return Ok(());
    };
    let key = Key::new(crate::cluster::NAMESPACES, "", namespace);
    let Some(found) = cluster.store.get(&key) else {
        let subject = crate::status::Subject {
            group: String::new(),
            kind: "namespaces".into(),
            name: namespace.into(),
        };
        return Err(ApiError::not_found(&subject));
    };
    if found.head().metadata.deletion_timestamp.is_some() {
        let detail = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        return Err(ApiError::forbidden(&target.resource.subject(name), &detail));
    }
    Ok(())
}
