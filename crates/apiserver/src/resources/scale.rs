//! The scale subresource: an object seen as a number of replicas.

use serde_json::{Value, json};

use super::Target;
use crate::kinds::Scale;
use crate::status::{ApiError, Cause, Subject};

/// The `Scale` of an object that is in the target's version.
pub(crate) fn of(object: &Value, scale: &Scale) -> Value {
    let at = |path: &[String]| {
        path.iter()
            .fold(object, |value, name| &value[name.as_str()])
    };
    let number = |path: &[String]| at(path).as_i64().unwrap_or(0);
    let mut metadata = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": number(&scale.status_replicas)});
    if let Some(path) = &scale.selector {
        match at(path) {
            Value::String(text) => status["selector"] = json!(text),
            Value::Object(_) => status["selector"] = json!(selector_text(at(path))),
            _ => {}
        }
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": number(&scale.spec_replicas)},
        "status": status,
    })
}

/// The object with the number of replicas, and the version that is meant, of a proposed `Scale`.
pub(crate) fn set(
    object: &Value,
    scale: &Scale,
    proposed: &Value,
    target: &Target,
) -> Result<Value, ApiError> {
    let replicas = &proposed["spec"]["replicas"];
    let wanted = match replicas {
        Value::Null => 0,
        value => value
            .as_i64()
            .filter(|n| (0..=i64::from(i32::MAX)).contains(n))
            .ok_or_else(|| {
                let cause = Cause::invalid(
                    "spec.replicas",
                    value,
                    "must be a number that is not negative",
                );
                let subject = Subject {
                    group: "autoscaling".into(),
                    kind: "Scale".into(),
                    name: target.name.clone(),
                };
                ApiError::invalid(&subject, vec![cause])
            })?,
    };
    let named = proposed["metadata"]["name"].as_str().unwrap_or_default();
    if !named.is_empty() && named != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let mut object = object.clone();
    let mut place = &mut object;
    for name in &scale.spec_replicas {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[name.as_str()];
    }
    *place = json!(wanted);
    for field in ["resourceVersion", "uid"] {
        match proposed["metadata"].get(field) {
            Some(value) => object["metadata"][field] = value.clone(),
            None => object["metadata"][field] = Value::Null,
        }
    }
    Ok(object)
}

/// A `LabelSelector` as `kubectl` writes it.
pub(crate) fn selector_text(selector: &Value) -> String {
    let mut terms: Vec<String> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}
