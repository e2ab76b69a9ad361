//! Changing objects: replace, patch, and everything else that reads, thinks and writes.

use jiff::Timestamp;
use serde_json::Value;

use super::write::{Management, Outcome, Step, WriteOptions, commit, prepare, unchanged};
use super::{Part, Target, delete};
use crate::cluster::Cluster;
use crate::status::{ApiError, Cause};
use crate::store::WriteError;

/// How often a change is computed again because somebody else wrote in between.
const ATTEMPTS: usize = 16;

/// A client's proposal, in the version of the request.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) object: Value,
    pub(crate) duplicates: Vec<String>,
}

/// Applies `change` to an existing object. `change` sees it in the version of the request, and may run
/// several times.
pub(crate) async fn update(
    cluster: &Cluster,
    target: &Target,
    part: Part,
    options: &WriteOptions,
    change: impl Fn(&Value) -> Result<Proposal, ApiError>,
) -> Result<Outcome, ApiError> {
    for _ in 0..ATTEMPTS {
        let stored = cluster
            .store
            .get(&target.key())
            .ok_or_else(|| target.not_found())?;
        let old = target.version().read(&stored);
        let proposal = change(&old)?;
        check_preconditions(&proposal.object, &old, target)?;
        let step = Step {
            target,
            part,
            options,
            old: Some(&old),
            management: Management::Update,
            now: Timestamp::now(),
        };
        let prepared = prepare(cluster, step, proposal.object, &proposal.duplicates)?;
        if unchanged(&stored.value(), &prepared.value) {
            return Ok(Outcome::new(stored, false, prepared.warnings));
        }
        let written = if delete::is_due(&prepared.value) {
            delete::finish(cluster, &stored, prepared.value, options.dry_run).await
        } else {
            let expected = Some(stored.revision);
            commit(
                cluster,
                target.key(),
                expected,
                prepared.value,
                options.dry_run,
            )
            .await
        };
        match written {
            Ok(object) => {
                return Ok(Outcome::new(object, false, prepared.warnings));
            }
            Err(WriteError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(ApiError::modified(&target.subject()))
}

/// Replaces an object with a client's document.
pub(crate) async fn replace(
    cluster: &Cluster,
    target: &Target,
    part: Part,
    object: Value,
    duplicates: &[String],
    options: &WriteOptions,
) -> Result<Outcome, ApiError> {
    let version_given = object["metadata"]["resourceVersion"]
        .as_str()
        .is_some_and(|version| !version.is_empty());
    if !version_given && !target.resource.behaviour.unconditional_update {
        let cause = Cause::invalid(
            "metadata.resourceVersion",
            &Value::from(0),
            "must be specified for an update",
        );
        let subject = target.resource.kind_subject(&target.name);
        return Err(ApiError::invalid(&subject, vec![cause]));
    }
    if object["metadata"]["name"]
        .as_str()
        .is_none_or(str::is_empty)
    {
        return Err(ApiError::bad_request(
            "the name of the object (based on the body) is empty",
        ));
    }
    update(cluster, target, part, options, |_| {
        Ok(Proposal {
            object: object.clone(),
            duplicates: duplicates.to_vec(),
        })
    })
    .await
}

/// A proposal that names a resourceVersion or uid is about exactly that object.
pub(super) fn check_preconditions(
    proposed: &Value,
    old: &Value,
    target: &Target,
) -> Result<(), ApiError> {
    let given = |field: &str| {
        let text = proposed["metadata"][field].as_str().unwrap_or_default();
        Some(text).filter(|text| !text.is_empty())
    };
    let subject = target.subject();
    if let Some(version) = given("resourceVersion") {
        if version.parse::<u64>().is_err() {
            let cause = Cause::invalid(
                "metadata.resourceVersion",
                &Value::from(version),
                "must be a number",
            );
            let subject = target.resource.kind_subject(&target.name);
            return Err(ApiError::invalid(&subject, vec![cause]));
        }
        if old["metadata"]["resourceVersion"] != version {
            return Err(ApiError::modified(&subject));
        }
    }
    if let Some(uid) = given("uid")
        && old["metadata"]["uid"] != uid
    {
        let found = old["metadata"]["uid"].as_str().unwrap_or_default();
        return Err(ApiError::conflict(
            &subject,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"
            ),
        ));
    }
    Ok(())
}
