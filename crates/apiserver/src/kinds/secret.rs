//! Secrets and ConfigMaps: what their data may look like.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::status::Cause;

/// Data of one object at most.
const MAX_DATA: usize = 1 << 20;

/// Takes the line breaks out of a field's base64. Tools wrap it (kustomize does), and Kubernetes decodes and encodes it
/// anew.
fn unwrap_lines(object: &mut Value, field: &str) {
    let values = object.get_mut(field).and_then(Value::as_object_mut);
    for value in values.into_iter().flat_map(serde_json::Map::values_mut) {
        if let Value::String(text) = value {
            text.retain(|c| !matches!(c, '\r' | '\n'));
        }
    }
}

/// Brings binary data into one form.
pub(super) fn prepare_config_map(map: &mut Value) {
    unwrap_lines(map, "binaryData");
}

/// Merges `stringData` into `data`, brings it into one form and fills in the type.
pub(super) fn prepare(secret: &mut Value) {
    unwrap_lines(secret, "data");
    if secret["type"].as_str().is_none_or(str::is_empty) {
        secret["type"] = json!("Opaque");
    }
    let Some(fields) = secret.as_object_mut() else {
        return;
    };
    let Some(Value::Object(plain)) = fields.remove("stringData") else {
        return;
    };
    for (key, value) in plain {
        if let Some(text) = value.as_str() {
            fields
                .entry("data")
                .and_modify(|data| {
                    if data.is_null() {
                        *data = json!({});
                    }
                })
                .or_insert_with(|| json!({}))[key] = json!(STANDARD.encode(text));
        }
    }
}

/// What each well-known type must contain.
const REQUIRED: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

pub(super) fn validate(secret: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut size = 0;
    let kind = secret["type"].as_str().unwrap_or_default();
    for (key, value) in secret["data"].as_object().into_iter().flatten() {
        check_key(key, &mut causes);
        let path = format!("data[{key}]");
        match value.as_str().map(|text| STANDARD.decode(text)) {
            Some(Ok(bytes)) => {
                size += bytes.len();
                let json_wanted = matches!(
                    (kind, key.as_str()),
                    ("kubernetes.io/dockerconfigjson", ".dockerconfigjson")
                        | ("kubernetes.io/dockercfg", ".dockercfg")
                );
                if json_wanted && serde_json::from_slice::<Value>(&bytes).is_err() {
                    causes.push(Cause::invalid(
                        path,
                        &json!("<secret contents redacted>"),
                        "expected JSON",
                    ));
                }
            }
            _ => causes.push(Cause::invalid(
                path,
                &json!("<secret contents redacted>"),
                "expected a base64-encoded string",
            )),
        }
    }
    check_size(size, &mut causes);
    for (_, keys) in REQUIRED.iter().filter(|(name, _)| *name == kind) {
        for key in *keys {
            if secret["data"].get(key).is_none() {
                causes.push(Cause::required(format!("data[{key}]"), ""));
            }
        }
    }
    if let Some(old) = old
        && old["type"] != secret["type"]
    {
        causes.push(Cause::invalid(
            "type",
            &secret["type"],
            "field is immutable",
        ));
    }
    check_immutable(secret, old, &mut causes);
    causes
}

pub(super) fn validate_config_map(map: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in map[field].as_object().into_iter().flatten() {
            check_key(key, &mut causes);
            let path = format!("{field}[{key}]");
            match value.as_str() {
                Some(text) if field == "data" => size += text.len(),
                Some(text) => match STANDARD.decode(text) {
                    Ok(bytes) => size += bytes.len(),
                    Err(_) => causes.push(Cause::invalid(
                        path,
                        value,
                        "expected a base64-encoded string",
                    )),
                },
                None => causes.push(Cause::invalid(path, value, "expected a string")),
            }
            if field == "binaryData" && map["data"].get(key).is_some() {
                causes.push(Cause::invalid(
                    format!("data[{key}]"),
                    &json!(key),
                    "duplicate of key present in binaryData",
                ));
            }
        }
    }
    check_size(size, &mut causes);
    check_immutable(map, old, &mut causes);
    causes
}

fn check_key(key: &str, causes: &mut Vec<Cause>) {
    let fits = !key.is_empty()
        && key.len() <= 253
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && key != "."
        && !key.starts_with("..");
    if !fits {
        causes.push(Cause::invalid(
            format!("data[{key}]"),
            &json!(key),
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
        ));
    }
}

fn check_size(size: usize, causes: &mut Vec<Cause>) {
    if size > MAX_DATA {
        causes.push(Cause::too_long("data", MAX_DATA as u64));
    }
}

fn check_immutable(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else {
        return;
    };
    for field in ["immutable", "data", "binaryData"] {
        if old[field] != new[field] {
            causes.push(Cause::forbidden(
                field,
                "field is immutable when `immutable` is set",
            ));
        }
    }
}
