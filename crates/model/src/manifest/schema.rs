//! Checks a value against the schema of its CRD, as an API server does with `fieldValidation=Strict`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Map, Value};

use crate::problem::{Problem, UNKNOWN_FIELD, did_you_mean};

/// Fields that the metadata of every object may have.
const METADATA: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Checks a whole object: its own fields against `schema`, its metadata against what all objects have.
pub(super) fn check_object(value: &Value, schema: &JSONSchemaProps, problems: &mut Vec<Problem>) {
    let Some(object) = value.as_object() else {
        problems.push(Problem::new("", "expected an object"));
        return;
    };
    let spec = schema.properties.iter().flatten();
    let spec: Vec<(&str, &JSONSchemaProps)> =
        spec.map(|(key, schema)| (key.as_str(), schema)).collect();
    for (key, value) in object {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => check_metadata(value, problems),
            key => match spec.iter().find(|(known, _)| *known == key) {
                Some((_, schema)) => check(value, schema, key, problems),
                None => {
                    let known = spec.iter().map(|(known, _)| *known);
                    unknown(key, key, known.chain(["metadata"]), problems);
                }
            },
        }
    }
    require(object, schema, "", problems);
}

/// Checks what the metadata of every object has.
pub(super) fn check_metadata(value: &Value, problems: &mut Vec<Problem>) {
    let Some(metadata) = value.as_object() else {
        problems.push(Problem::new("metadata", "expected an object"));
        return;
    };
    for (key, value) in metadata {
        let path = format!("metadata.{key}");
        match key.as_str() {
            "labels" | "annotations" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if !value.is_string() {
                        problems.push(Problem::new(
                            format!("{path}.{name}"),
                            format!("expected a string, found `{value}`; put it between quotes"),
                        ));
                    }
                }
                if !value.is_object() && !value.is_null() {
                    problems.push(Problem::new(path, "expected an object"));
                }
            }
            key if METADATA.contains(&key) => {}
            key => unknown(key, &path, METADATA.iter().copied(), problems),
        }
    }
}

fn check(value: &Value, schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    if value.is_null() {
        // The server drops a null that is not allowed, so both count as absent.
        return;
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        if !value.is_string() && !value.is_i64() {
            problems.push(Problem::new(
                path,
                format!("expected a number or a text such as `10%`, found `{value}`"),
            ));
        }
        return;
    }
    let fits = match schema.type_.as_deref() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    };
    if !fits {
        let expected = schema.type_.as_deref().unwrap_or_default();
        let hint = if expected == "string" && !value.is_object() && !value.is_array() {
            "; put it between quotes"
        } else {
            ""
        };
        problems.push(Problem::new(
            path,
            format!("expected {expected}, found `{}`{hint}", shortened(value)),
        ));
        return;
    }
    check_limits(value, schema, path, problems);
    match value {
        Value::Object(object) => check_fields(object, schema, path, problems),
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    check(item, schema, &format!("{path}[{index}]"), problems);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn check_fields(
    object: &Map<String, Value>,
    schema: &JSONSchemaProps,
    path: &str,
    problems: &mut Vec<Problem>,
) {
    let open = schema.x_kubernetes_preserve_unknown_fields == Some(true);
    for (key, value) in object {
        let field = format!("{path}.{key}");
        let known = schema.properties.as_ref().and_then(|known| known.get(key));
        match (known, &schema.additional_properties) {
            (Some(schema), _) => check(value, schema, &field, problems),
            (None, Some(JSONSchemaPropsOrBool::Schema(schema))) => {
                check(value, schema, &field, problems)
            }
            (None, Some(JSONSchemaPropsOrBool::Bool(true))) => {}
            (None, _) if open => {}
            (None, _) => {
                let known = schema
                    .properties
                    .iter()
                    .flatten()
                    .map(|(key, _)| key.as_str());
                unknown(key, &field, known, problems);
            }
        }
    }
    require(object, schema, path, problems);
}

fn require(
    object: &Map<String, Value>,
    schema: &JSONSchemaProps,
    path: &str,
    problems: &mut Vec<Problem>,
) {
    for key in schema.required.iter().flatten() {
        if object.get(key).is_none_or(Value::is_null) {
            let field = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            problems.push(Problem::new(field, "required, found nothing"));
        }
    }
}

fn check_limits(value: &Value, schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    let size = match value {
        Value::String(text) => Some((
            text.chars().count(),
            schema.min_length,
            schema.max_length,
            "characters",
        )),
        Value::Array(items) => Some((items.len(), schema.min_items, schema.max_items, "items")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    };
    if let Some((size, least, most, what)) = size {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if least.is_some_and(|least| size < least) {
            problems.push(Problem::new(
                path,
                format!(
                    "expected at least {} {what}, found {size}",
                    least.unwrap_or_default()
                ),
            ));
        }
        if most.is_some_and(|most| size > most) {
            problems.push(Problem::new(
                path,
                format!(
                    "expected at most {} {what}, found {size}",
                    most.unwrap_or_default()
                ),
            ));
        }
    }
    if let Some(allowed) = &schema.enum_
        && !allowed.iter().any(|allowed| allowed.0 == *value)
    {
        let words: Vec<&str> = allowed
            .iter()
            .filter_map(|allowed| allowed.0.as_str())
            .collect();
        let hint = did_you_mean(value.as_str().unwrap_or_default(), words.iter().copied());
        problems.push(Problem::new(
            path,
            format!(
                "expected one of `{}`, found `{}`{hint}",
                words.join("`, `"),
                shortened(value)
            ),
        ));
    }
}

fn unknown<'k>(
    key: &str,
    path: &str,
    known: impl Iterator<Item = &'k str>,
    problems: &mut Vec<Problem>,
) {
    problems.push(Problem::new(
        path,
        format!("{UNKNOWN_FIELD}{}", did_you_mean(key, known)),
    ));
}

/// A value for a message: long ones tell nobody anything.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
