//! The steps every write goes through between a client's proposal and the store.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Part, Target, metadata};
use crate::admission::{self, Notes, Operation, Review};
use crate::auth::{self, User};
use crate::cluster::Cluster;
use crate::managed::{Entries, Writer};
use crate::rules;
use crate::status::{ApiError, Cause};
use crate::store::{Change, Key, Object, Revision, Write, WriteError};

/// `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Options of create, update, patch and apply.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// Who writes, for `metadata.managedFields`; the client's program if it did not say.
    pub(crate) manager: String,
    /// What the client said about that.
    pub(crate) given_manager: Option<String>,
    /// Apply takes fields over from others.
    pub(crate) force: bool,
    /// Apply may create the object if it is missing.
    pub(crate) may_create: bool,
    /// The object must have this name, by the rules of who asks.
    pub(crate) only_name: Option<String>,
    /// Who asks; `None` is the server itself.
    pub(crate) user: Option<User>,
    /// The write is one of the number of replicas alone, which is what policies see of it.
    pub(crate) scales: bool,
    /// What policies tell the audit log.
    pub(crate) notes: Notes,
}

impl WriteOptions {
    /// For what the server does by itself.
    pub(crate) fn internal() -> Self {
        Self {
            dry_run: false,
            validation: FieldValidation::Ignore,
            manager: "apiserver".into(),
            given_manager: None,
            force: true,
            may_create: true,
            only_name: None,
            user: None,
            scales: false,
            notes: Notes::default(),
        }
    }
}

/// What a write led to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) object: Arc<Object>,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(object: Arc<Object>, created: bool, warnings: Vec<String>) -> Self {
        Self {
            object,
            created,
            warnings,
        }
    }
}

/// Where `metadata.managedFields` come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Management<'a> {
    /// They follow from what changed.
    Update,
    /// An apply has decided already.
    Applied(&'a Entries),
}

/// A proposal that passed every check, in the stored shape.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) value: Value,
    pub(crate) warnings: Vec<String>,
}

/// What a proposal is measured against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) target: &'a Target,
    pub(crate) part: Part,
    pub(crate) options: &'a WriteOptions,
    /// The object before, in the version of the request; `None` when it is created.
    pub(crate) old: Option<&'a Value>,
    pub(crate) management: Management<'a>,
    pub(crate) now: Timestamp,
}

/// Takes a client's proposal, in the version of the request, to what would be stored.
pub(crate) fn prepare(
    cluster: &Cluster,
    step: Step<'_>,
    mut object: Value,
    duplicates: &[String],
) -> Result<Prepared, ApiError> {
    let Step { target, old, .. } = step;
    let (resource, version) = (&target.resource, target.version());
    let mut warnings = accept(cluster, step, &mut object, duplicates)?;
    let mut entries = match step.management {
        Management::Update => Entries::sent(&object, old),
        Management::Applied(entries) => entries.clone(),
    };
    let mut object = complete(step, object)?;

    version.schema.prune(&mut object);
    version.schema.apply_defaults(&mut object);
    refuse_if_any(structural_problems(&object, old, target), &object, target)?;
    // From here on every field has the type that the schema says.
    (resource.behaviour.prepare)(&mut object);
    let mut causes = rules::check(&version.schema, &object, old);
    causes.extend((resource.behaviour.validate)(&object, old));
    refuse_if_any(causes, &object, target)?;
    if let Some(user) = &step.options.user {
        auth::check_escalation(cluster, user, target, &object, old)?;
        cluster.auth.restrict(user, resource, old, &object)?;
        warnings.extend(ask_policies(cluster, step, user, &object)?);
    }

    if let Some(old) = old
        && resource.behaviour.generation
        && generation_relevant(&object, version.status) != generation_relevant(old, version.status)
    {
        let before = old["metadata"]["generation"].as_i64().unwrap_or(0);
        object["metadata"]["generation"] = json!(before + 1);
    }
    if let Management::Update = step.management {
        let writer = writer(target, step.part, step.options, step.now);
        entries.record_update(&writer, old, &object, &version.schema);
    }
    object["metadata"]["managedFields"] = entries.to_json();
    Ok(Prepared {
        value: to_storage(object, target),
        warnings,
    })
}

/// What the admission policies say to the object that would be stored.
fn ask_policies(
    cluster: &Cluster,
    step: Step<'_>,
    user: &User,
    object: &Value,
) -> Result<Vec<String>, ApiError> {
    let Step {
        target,
        options,
        old,
        ..
    } = step;
    let scale = target.version().scale.as_ref().filter(|_| options.scales);
    let shown = |object: &Value| scale.map(|scale| super::scale::of(object, scale));
    let (scaled, scaled_before) = (shown(object), old.and_then(shown));
    let review = Review {
        user,
        target,
        name: object["metadata"]["name"].as_str().unwrap_or_default(),
        subresource: match (scale, step.part) {
            (Some(_), _) => Some("scale"),
            (None, Part::Status) => Some("status"),
            (None, Part::Main) => None,
        },
        operation: match old {
            None => Operation::Create,
            Some(_) => Operation::Update,
        },
        object: scaled.as_ref().or(Some(object)),
        old: scaled_before.as_ref().or(old),
        dry_run: options.dry_run,
        notes: &options.notes,
    };
    admission::admit(cluster, &review)
}

/// Checks that the proposal is what the URL says and has only known fields, and brings its metadata into shape.
/// Returns warnings.
fn accept(
    cluster: &Cluster,
    step: Step<'_>,
    object: &mut Value,
    duplicates: &[String],
) -> Result<Vec<String>, ApiError> {
    let resource = &step.target.resource;
    let version = step.target.version();
    check_identity(object, step.target)?;
    object["apiVersion"] = json!(version.api_version);
    object["kind"] = json!(resource.kind);
    if !resource.behaviour.custom {
        drop_nulls(object);
    }
    let mut problems = duplicates.to_vec();
    problems.extend(version.schema.unknown_fields(object));
    problems.extend(metadata::normalise(object, &cluster.metadata_schema)?);
    let mut warnings = Vec::new();
    match step.options.validation {
        FieldValidation::Strict if !problems.is_empty() => {
            return Err(ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
                problems.join(", "),
                kind = resource.kind,
                version = version.name,
            )));
        }
        FieldValidation::Warn => warnings.append(&mut problems),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    warnings.extend(version.deprecation.clone());
    Ok(warnings)
}

/// Adds what the server decides, and puts back what this endpoint may not change.
fn complete(step: Step<'_>, mut object: Value) -> Result<Value, ApiError> {
    let target = step.target;
    match step.old {
        None => {
            if target.version().status
                && let Some(fields) = object.as_object_mut()
            {
                fields.remove("status");
            }
            let namespace = target.namespace.as_deref();
            metadata::on_create(&mut object, &target.resource, namespace, step.now)?;
        }
        Some(old) => {
            object = restrict_to_part(object, old, target, step.part);
            metadata::on_update(&mut object, old);
        }
    }
    if let Some(wanted) = &step.options.only_name
        && object["metadata"]["name"] != json!(wanted)
    {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        return Err(ApiError::forbidden(
            &target.resource.subject(name),
            &format!("only the object named {wanted:?} may be written with this credential"),
        ));
    }
    Ok(object)
}

fn refuse_if_any(causes: Vec<Cause>, object: &Value, target: &Target) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(
        &target.resource.kind_subject(name),
        causes,
    ))
}

/// Where a proposal does not fit its schema. Problems that the object had before are no reason to refuse other
/// changes, so that objects from before a stricter definition can still be worked with and deleted.
fn structural_problems(object: &Value, old: Option<&Value>, target: &Target) -> Vec<Cause> {
    let schema = &target.version().schema;
    let mut structural = schema.validate(object);
    if !structural.is_empty()
        && let Some(old) = old
    {
        let before = schema.validate(old);
        structural.retain(|cause| !before.contains(cause));
    }
    let mut causes = metadata::validate(object, old, &target.resource);
    causes.append(&mut structural);
    causes
}

fn to_storage(mut object: Value, target: &Target) -> Value {
    let version = target.version();
    match version.convert {
        Some(convert) => (convert.to_storage)(object),
        None => {
            object["apiVersion"] = json!(target.resource.storage_version().api_version);
            object
        }
    }
}

/// For built-in kinds a null is the same as nothing.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The body must be of the kind, and in the place, that the URL says.
fn check_identity(object: &Value, target: &Target) -> Result<(), ApiError> {
    let version = target.version();
    let kind = &target.resource.kind;
    if !object.is_object() {
        return Err(ApiError::bad_request(format!(
            "the object provided is not a {kind}: expected a JSON object"
        )));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let given = text(&object["apiVersion"]);
    if given != version.api_version && !given.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({})",
            version.api_version
        )));
    }
    let given = text(&object["kind"]);
    if given != *kind && !given.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the kind in the data ({given}) does not match the expected kind ({kind})"
        )));
    }
    let given = text(&object["metadata"]["name"]);
    if !target.name.is_empty() && !given.is_empty() && given != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let given = text(&object["metadata"]["namespace"]);
    let expected = target.namespace.as_deref().unwrap_or_default();
    if !given.is_empty() && given != expected {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: \
             found `{given}`, expected `{expected}`"
        )));
    }
    Ok(())
}

/// Puts back what this endpoint may not change.
fn restrict_to_part(mut object: Value, old: &Value, target: &Target, part: Part) -> Value {
    let put_back = |object: &mut Value, field: &str| match old.get(field) {
        Some(kept) => object[field] = kept.clone(),
        None => {
            if let Some(fields) = object.as_object_mut() {
                fields.remove(field);
            }
        }
    };
    match part {
        Part::Main => {
            if target.version().status {
                put_back(&mut object, "status");
            }
            object
        }
        Part::Status if target.resource.behaviour.custom => {
            // For custom kinds nothing but the status changes.
            let mut kept = old.clone();
            match object.get_mut("status") {
                Some(status) => kept["status"] = status.take(),
                None => {
                    if let Some(fields) = kept.as_object_mut() {
                        fields.remove("status");
                    }
                }
            }
            kept
        }
        Part::Status => {
            // Built-in kinds let metadata through here as well.
            put_back(&mut object, "spec");
            object
        }
    }
}

/// What `metadata.generation` counts changes of.
fn generation_relevant(object: &Value, status_is_separate: bool) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("metadata");
        fields.remove("apiVersion");
        if status_is_separate {
            fields.remove("status");
        }
    }
    object
}

/// Writes, or for a dry run only shows what would be written.
pub(crate) async fn commit(
    cluster: &Cluster,
    key: Key,
    expected: Option<Revision>,
    value: Value,
    dry_run: bool,
) -> Result<Arc<Object>, WriteError> {
    if dry_run {
        return Ok(Arc::new(Object::unsaved(
            key,
            expected.unwrap_or(0),
            &value,
        )));
    }
    let change = Change::Put(value);
    let write = Write {
        key,
        expected,
        change,
    };
    let object = cluster.store.write(write).await?;
    cluster.written(object.key.resource());
    Ok(object)
}

/// The same object, as far as clients can tell.
pub(crate) fn unchanged(old: &Value, new: &Value) -> bool {
    let comparable = |value: &Value| {
        let mut value = value.clone();
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        value
    };
    comparable(old) == comparable(new)
}

/// Who a write is attributed to.
pub(crate) fn writer(
    target: &Target,
    part: Part,
    options: &WriteOptions,
    now: Timestamp,
) -> Writer {
    Writer {
        manager: options.manager.clone(),
        api_version: target.version().api_version.clone(),
        subresource: match part {
            Part::Main => "",
            Part::Status => "status",
        },
        now,
    }
}
