//! Strategic merge: a merge patch in which the schema says how lists are merged.

use serde_json::{Map, Value};

use crate::schema::Schema;
use crate::status::ApiError;

/// `$patch: replace | delete | merge`.
const DIRECTIVE: &str = "$patch";
/// `$deleteFromPrimitiveList/field: [values]`.
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
/// `$setElementOrder/field: [values or keys]`.
const ORDER_PREFIX: &str = "$setElementOrder/";
/// `$retainKeys: [names]`: everything else goes.
const RETAIN: &str = "$retainKeys";

/// Items of a list that is merged at most: each is searched for.
const MAX_MERGED: usize = 1000;

/// Merges `patch` into `target`, both objects.
pub(super) fn merge(
    target: &mut Value,
    patch: &Value,
    schema: Option<&Schema>,
) -> Result<(), ApiError> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = Value::Object(without_directives(patch));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(malformed(&format!("unknown {DIRECTIVE} `{other}`"))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("made an object above");
    if let Some(retained) = patch.get(RETAIN) {
        let retained = list(retained, RETAIN)?;
        fields.retain(|name, _| retained.iter().any(|r| r == name));
    }
    for (name, value) in patch {
        if let Some(field) = name.strip_prefix(DELETE_PREFIX) {
            let gone = list(value, name)?;
            if let Some(Value::Array(items)) = fields.get_mut(field) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (name, value) in patch {
        if name.starts_with('$') {
            continue;
        }
        let schema = schema.and_then(|schema| schema.field(name));
        match value {
            Value::Null => {
                fields.remove(name);
            }
            Value::Object(_) => {
                let before = fields.entry(name.clone()).or_insert(Value::Null);
                merge(before, value, schema)?;
            }
            Value::Array(changes) => {
                let before = fields.entry(name.clone()).or_insert(Value::Null);
                merge_list(before, changes, schema)?;
            }
            scalar => {
                fields.insert(name.clone(), scalar.clone());
            }
        }
    }
    for (name, order) in patch {
        if let Some(field) = name.strip_prefix(ORDER_PREFIX) {
            let schema = schema.and_then(|schema| schema.field(field));
            if let Some(Value::Array(items)) = fields.get_mut(field) {
                sort(items, list(order, name)?, schema);
            }
        }
    }
    Ok(())
}

fn merge_list(
    target: &mut Value,
    changes: &[Value],
    schema: Option<&Schema>,
) -> Result<(), ApiError> {
    let replace = changes.iter().any(|c| c[DIRECTIVE] == "replace");
    let schema = schema.filter(|schema| schema.patch_merge && !replace);
    let Some(schema) = schema else {
        *target = changes
            .iter()
            .filter(|change| change[DIRECTIVE] != "replace" || !only_directive(change))
            .map(cleaned)
            .collect();
        return Ok(());
    };
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let items = target.as_array_mut().expect("made an array above");
    if changes.len() > MAX_MERGED {
        return Err(malformed(&format!(
            "a list that is merged has {} items, at most {MAX_MERGED} are allowed",
            changes.len()
        )));
    }
    let Some(key) = schema.patch_merge_key.as_deref() else {
        for change in changes {
            if !items.contains(change) {
                items.push(change.clone());
            }
        }
        return Ok(());
    };
    for change in changes {
        let identity = change
            .get(key)
            .ok_or_else(|| malformed(&format!("a list item lacks its merge key `{key}`")))?;
        let position = items
            .iter()
            .position(|item| item.get(key) == Some(identity));
        match (change[DIRECTIVE].as_str(), position) {
            (Some("delete"), Some(at)) => {
                items.remove(at);
            }
            (Some("delete"), None) => {}
            (_, Some(at)) => merge(&mut items[at], change, schema.items.as_deref())?,
            (_, None) => items.push(cleaned(change)),
        }
    }
    Ok(())
}

/// Items named in `order` come in that order; the others keep their places after the item they followed.
fn sort(items: &mut Vec<Value>, order: &[Value], schema: Option<&Schema>) {
    let key = schema.and_then(|schema| schema.patch_merge_key.as_deref());
    let same = |item: &Value, wanted: &Value| match key {
        Some(key) => item.get(key) == wanted.get(key),
        None => item == wanted,
    };
    let rank = |item: &Value| order.iter().position(|wanted| same(item, wanted));
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = Vec::new();
    for item in items.drain(..) {
        last = rank(&item).unwrap_or(last);
        ranked.push((last, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    items.extend(ranked.into_iter().map(|(_, item)| item));
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a [Value], ApiError> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| malformed(&format!("`{name}` must be a list")))
}

fn only_directive(change: &Value) -> bool {
    change.as_object().is_some_and(|map| map.len() == 1)
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(name, value)| !name.starts_with('$') && !value.is_null())
        .map(|(name, value)| (name.clone(), cleaned(value)))
        .collect()
}

fn cleaned(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        other => other.clone(),
    }
}

fn malformed(detail: &str) -> ApiError {
    ApiError::bad_request(format!("malformed strategic merge patch: {detail}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn check(mut old: Value, patch: Value, expected: Value) {
        let schema = json!({"type": "object", "properties": {
            "taints": {"type": "array", "x-kubernetes-patch-strategy": "merge",
                       "x-kubernetes-patch-merge-key": "key",
                       "items": {"type": "object", "properties": {"key": {"type": "string"}}}},
            "finalizers": {"type": "array", "x-kubernetes-patch-strategy": "merge",
                           "items": {"type": "string"}},
            "plain": {"type": "array", "items": {"type": "string"}},
        }});
        let schema = Schema::parse(&schema, "test").unwrap();
        merge(&mut old, &patch, Some(&schema)).unwrap();
        assert_eq!(old, expected, "{patch}");
    }

    #[test]
    fn merges() {
        check(
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"b": null, "d": 3}}),
            json!({"a": {"c": 2, "d": 3}}),
        );
        check(
            json!({"plain": ["x", "y"]}),
            json!({"plain": ["z"]}),
            json!({"plain": ["z"]}),
        );
        check(
            json!({"finalizers": ["x", "y"]}),
            json!({"finalizers": ["z", "x"]}),
            json!({"finalizers": ["x", "y", "z"]}),
        );
        check(
            json!({"finalizers": ["x", "y"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["x"], "$setElementOrder/finalizers": ["y"]}),
            json!({"finalizers": ["y"]}),
        );
        check(
            json!({"taints": [{"key": "a", "value": "1"}, {"key": "b"}]}),
            json!({"taints": [{"key": "a", "value": "2"}, {"key": "c"}, {"key": "b", "$patch": "delete"}]}),
            json!({"taints": [{"key": "a", "value": "2"}, {"key": "c"}]}),
        );
        check(
            json!({"taints": [{"key": "a"}, {"key": "b"}]}),
            json!({"taints": [{"$patch": "replace"}, {"key": "c"}]}),
            json!({"taints": [{"key": "c"}]}),
        );
        check(
            json!({"taints": [{"key": "a"}, {"key": "b"}]}),
            json!({"$setElementOrder/taints": [{"key": "b"}, {"key": "a"}]}),
            json!({"taints": [{"key": "b"}, {"key": "a"}]}),
        );
        check(
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"$patch": "replace", "d": 3}}),
            json!({"a": {"d": 3}}),
        );
        check(
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"$retainKeys": ["c", "d"], "d": 3}}),
            json!({"a": {"c": 2, "d": 3}}),
        );
    }
}
