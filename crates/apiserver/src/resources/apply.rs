//! Server-side apply as a request: creates the object if it is missing, else merges into it.

use jiff::Timestamp;
use serde_json::Value;

use super::write::{Management, Outcome, Step, WriteOptions, commit, prepare, unchanged, writer};
use super::{Part, Target, create, delete, update};
use crate::cluster::Cluster;
use crate::managed;
use crate::status::{ApiError, Cause, Subject};
use crate::store::WriteError;

/// How often an apply is computed again because somebody else wrote in between.
const ATTEMPTS: usize = 16;

/// Applies a client's configuration.
pub(crate) async fn apply(
    cluster: &Cluster,
    target: &Target,
    part: Part,
    mut configuration: Value,
    duplicates: &[String],
    options: &WriteOptions,
) -> Result<Outcome, ApiError> {
    check(&configuration, options)?;
    if configuration["metadata"]["name"].is_null() {
        configuration["metadata"]["name"] = target.name.clone().into();
    }
    let version = target.version();
    let separate_status = version.status;
    let tracked = |field: &str| match part {
        Part::Main => field != "status" || !separate_status,
        Part::Status => field == "status",
    };
    for _ in 0..ATTEMPTS {
        let now = Timestamp::now();
        let stored = cluster.store.get(&target.key());
        let old = stored.as_ref().map(|stored| version.read(stored));
        if old.is_none() && (part == Part::Status || is_pinned(&configuration)) {
            return Err(target.not_found());
        }
        if old.is_none() && !options.may_create {
            let detail = "applying to an object that does not exist needs the right to create it";
            return Err(ApiError::forbidden(&target.subject(), detail));
        }
        let applied = managed::apply(
            old.as_ref(),
            &configuration,
            &writer(target, part, options, now),
            options.force,
            &version.schema,
            tracked,
        )
        .map_err(ApiError::apply_conflict)?;
        if let Some(old) = &old {
            update::check_preconditions(&applied.object, old, target)?;
        }
        let step = Step {
            target,
            part,
            options,
            old: old.as_ref(),
            management: Management::Applied(&applied.entries),
            now,
        };
        let prepared = prepare(cluster, step, applied.object, duplicates)?;
        let Some(stored) = stored else {
            create::check_place(cluster, target, &target.name)?;
            let key = target.key();
            match commit(cluster, key, None, prepared.value, options.dry_run).await {
                Ok(object) => return Ok(Outcome::new(object, true, prepared.warnings)),
                Err(WriteError::Conflict { .. }) => continue,
                Err(other) => return Err(other.into()),
            }
        };
        if unchanged(&stored.value(), &prepared.value) {
            return Ok(Outcome::new(stored, false, prepared.warnings));
        }
        let written = if delete::is_due(&prepared.value) {
            delete::finish(cluster, &stored, prepared.value, options.dry_run).await
        } else {
            let (key, expected) = (target.key(), Some(stored.revision));
            commit(cluster, key, expected, prepared.value, options.dry_run).await
        };
        match written {
            Ok(object) => return Ok(Outcome::new(object, false, prepared.warnings)),
            Err(WriteError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(ApiError::modified(&target.subject()))
}

fn check(configuration: &Value, options: &WriteOptions) -> Result<(), ApiError> {
    if options.given_manager.is_none() {
        let subject = Subject {
            group: "meta.k8s.io".into(),
            kind: "PatchOptions".into(),
            name: String::new(),
        };
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(ApiError::invalid(&subject, vec![cause]));
    }
    let metadata = &configuration["metadata"];
    if !configuration.is_object() || !(metadata.is_object() || metadata.is_null()) {
        return Err(ApiError::bad_request(
            "an applied configuration and its metadata must be objects",
        ));
    }
    if !configuration["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    for field in ["apiVersion", "kind"] {
        if configuration[field].as_str().is_none_or(str::is_empty) {
            return Err(ApiError::bad_request(format!(
                "{field}: an applied configuration must say what it is"
            )));
        }
    }
    Ok(())
}

/// A configuration that pins an object does not create another one.
fn is_pinned(configuration: &Value) -> bool {
    let given = |field: &str| {
        let text = configuration["metadata"][field].as_str();
        text.is_some_and(|text| !text.is_empty())
    };
    given("uid") || given("resourceVersion")
}
