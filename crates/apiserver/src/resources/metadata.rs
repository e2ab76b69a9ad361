//! The rules of `metadata`: what clients may set, what the server sets, and what must fit.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::names;
use crate::kinds::Resource;
use crate::schema::Schema;
use crate::selector::{check_label_key, check_label_value};
use crate::status::{ApiError, Cause};

/// Bytes of all annotations together at most.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Fields of `metadata` that the server owns; an update keeps what was there.
const OWNED: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "generateName",
    "selfLink",
    "namespace",
];

/// Whole seconds, as the API writes time.
pub(crate) fn timestamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The schema of `metadata`, the same for every kind.
pub(crate) fn schema() -> Value {
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "object", "additionalProperties": {"type": "string"}});
    let count = || json!({"type": "integer", "format": "int64"});
    json!({
        "type": "object",
        "properties": {
            "name": text(), "generateName": text(), "namespace": text(), "selfLink": text(),
            "uid": text(), "resourceVersion": text(), "generation": count(),
            "creationTimestamp": {"type": "string", "format": "date-time", "nullable": true},
            "deletionTimestamp": {"type": "string", "format": "date-time", "nullable": true},
            "deletionGracePeriodSeconds": count(),
            "labels": texts(), "annotations": texts(),
            "ownerReferences": {
                "type": "array",
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"],
                "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "uid",
                "items": {
                    "type": "object",
                    "required": ["apiVersion", "kind", "name", "uid"],
                    "x-kubernetes-map-type": "atomic",
                    "properties": {
                        "apiVersion": text(), "kind": text(), "name": text(), "uid": text(),
                        "controller": {"type": "boolean"},
                        "blockOwnerDeletion": {"type": "boolean"},
                    },
                },
            },
            "finalizers": {
                "type": "array", "items": text(),
                "x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge",
            },
            "managedFields": {
                "type": "array",
                "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            },
        },
    })
}

/// The same, parsed.
pub(crate) fn parsed_schema() -> Schema {
    Schema::parse(&schema(), "metadata").expect("the schema of metadata is well formed")
}

/// Brings `metadata` into shape before anything looks at it: an object, known fields only, nothing
/// empty./// Returns the unknown fields that were dropped.
pub(crate) fn normalise(object: &mut Value, schema: &Schema) -> Result<Vec<String>, ApiError> {
    let metadata = object["metadata"].take();
    let mut metadata = match metadata {
        Value::Null => Map::new(),
        Value::Object(metadata) => metadata,
        _ => return Err(ApiError::bad_request("metadata: expected an object")),
    };
    metadata.retain(|_, value| !value.is_null());
    let sent = Value::Object(metadata.clone());
    let unknown = schema
        .unknown_fields(&sent)
        .into_iter()
        .map(|text| text.replacen("unknown field \"", "unknown field \"metadata.", 1))
        .collect();
    if let Some(cause) = schema.validate(&sent).into_iter().find(|cause| {
        // What cannot even be decoded; anything subtler is a 422 later.
        cause.reason == "FieldValueTypeInvalid"
    }) {
        return Err(ApiError::bad_request(format!(
            "metadata.{}: {}",
            cause.field, cause.message
        )));
    }
    metadata.retain(|name, value| {
        let empty = match value {
            Value::String(text) => text.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        !empty && schema.properties.contains_key(name)
    });
    let mut kept = Value::Object(metadata);
    schema.prune(&mut kept);
    object["metadata"] = kept;
    Ok(unknown)
}

/// Fills in what the server decides about a new object.
pub(crate) fn on_create(
    object: &mut Value,
    resource: &Resource,
    namespace: Option<&str>,
    now: Timestamp,
) -> Result<(), ApiError> {
    let metadata = &mut object["metadata"];
    let given = metadata["resourceVersion"].as_str().unwrap_or_default();
    if !given.is_empty() && given != "0" {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let random = |error: getrandom::Error| {
        ApiError::internal(format!(
            "the system's random numbers are unavailable: {error}"
        ))
    };
    if metadata["name"].as_str().is_none_or(str::is_empty)
        && let Some(prefix) = metadata["generateName"].as_str().filter(|p| !p.is_empty())
    {
        let longest = match resource.behaviour.names {
            crate::kinds::NameRule::Label => 58,
            _ => 248,
        };
        let end = prefix.floor_char_boundary(longest.min(prefix.len()));
        let name = format!("{}{}", &prefix[..end], names::suffix().map_err(random)?);
        metadata["name"] = json!(name);
    }
    let fields = metadata
        .as_object_mut()
        .expect("metadata was normalised to an object");
    for name in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        fields.remove(name);
    }
    match namespace {
        Some(namespace) => fields.insert("namespace".into(), json!(namespace)),
        None => fields.remove("namespace"),
    };
    fields.insert("uid".into(), json!(names::uid().map_err(random)?));
    fields.insert("creationTimestamp".into(), json!(timestamp(now)));
    if resource.behaviour.generation {
        fields.insert("generation".into(), json!(1));
    }
    Ok(())
}

/// Keeps what the server decided earlier, whatever the client sent.
pub(crate) fn on_update(object: &mut Value, old: &Value) {
    for field in OWNED {
        let kept = &old["metadata"][field];
        let metadata = object["metadata"]
            .as_object_mut()
            .expect("metadata was normalised to an object");
        if kept.is_null() {
            metadata.remove(*field);
        } else {
            metadata.insert((*field).into(), kept.clone());
        }
    }
}

/// Checks that apply to the metadata of every kind.
pub(crate) fn validate(object: &Value, old: Option<&Value>, resource: &Resource) -> Vec<Cause> {
    let metadata = &object["metadata"];
    let mut causes = Vec::new();
    match metadata["name"].as_str().filter(|name| !name.is_empty()) {
        None => causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        )),
        Some(name) if old.is_none() => {
            if let Err(message) = names::check(resource.behaviour.names, name) {
                causes.push(Cause::invalid("metadata.name", &metadata["name"], message));
            }
        }
        Some(_) => {}
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        if let Err(message) = check_label_key(key) {
            causes.push(Cause::invalid("metadata.labels", &json!(key), &message));
        }
        if let Err(message) = check_label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid("metadata.labels", value, &message));
        }
    }
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        if let Err(message) = check_label_key(&key.to_lowercase()) {
            causes.push(Cause::invalid(
                "metadata.annotations",
                &json!(key),
                &message,
            ));
        }
    }
    if size > MAX_ANNOTATIONS {
        causes.push(Cause::too_long(
            "metadata.annotations",
            MAX_ANNOTATIONS as u64,
        ));
    }
    check_owners(metadata, &mut causes);
    check_finalizers(metadata, old, &mut causes);
    causes
}

fn check_owners(metadata: &Value, causes: &mut Vec<Cause>) {
    let owners = metadata["ownerReferences"].as_array();
    let owners = owners.map_or(&[][..], Vec::as_slice);
    for (index, owner) in owners.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                causes.push(Cause::required(
                    format!("metadata.ownerReferences[{index}].{field}"),
                    "",
                ));
            }
        }
    }
    if owners.iter().filter(|o| o["controller"] == true).count() > 1 {
        causes.push(Cause::invalid(
            "metadata.ownerReferences",
            &metadata["ownerReferences"],
            "Only one reference can have Controller set to true",
        ));
    }
}

fn check_finalizers(metadata: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let listed = |metadata: &Value| -> Vec<String> {
        let finalizers = metadata["finalizers"].as_array();
        let finalizers = finalizers.into_iter().flatten();
        finalizers
            .filter_map(Value::as_str)
            .map(String::from)
            .collect()
    };
    let now = listed(metadata);
    for (index, finalizer) in now.iter().enumerate() {
        if let Err(message) = check_label_key(finalizer) {
            causes.push(Cause::invalid(
                format!("metadata.finalizers[{index}]"),
                &json!(finalizer),
                &message,
            ));
        }
    }
    if let Some(old) = old
        && old["metadata"]["deletionTimestamp"].is_string()
    {
        let before: HashSet<String> = listed(&old["metadata"]).into_iter().collect();
        let added: Vec<&String> = now
            .iter()
            .filter(|f| !before.contains(f.as_str()))
            .collect();
        if !added.is_empty() {
            causes.push(Cause::forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
                ),
            ));
        }
    }
}
