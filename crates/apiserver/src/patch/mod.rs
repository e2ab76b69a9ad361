//! The ways a client can describe a change: JSON patch, merge patch, strategic merge patch.

mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::schema::Schema;
use crate::status::ApiError;

/// Operations of one JSON patch at most, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

/// Bytes that the copy operations of one JSON patch may copy together.
const MAX_COPIED: usize = 3 << 20;

/// A change, by its media type.
#[derive(Debug, Clone)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Merge with lists merged by key, as the kind's schema says.
    Strategic(Value),
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// Server-side apply, which is not a patch of this module's kind.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// Media types that a PATCH may have; custom kinds have no strategic merge.
pub(crate) fn media_types(custom: bool) -> Vec<&'static str> {
    let strategic = (!custom).then_some(STRATEGIC);
    [JSON, MERGE]
        .into_iter()
        .chain(strategic)
        .chain([APPLY])
        .collect()
}

impl Patch {
    /// Reads a patch of one of [`media_types`], except [`APPLY`].
    pub(crate) fn parse(media_type: &str, document: Value, custom: bool) -> Result<Self, ApiError> {
        match media_type {
            JSON => json(document),
            MERGE => Ok(Self::Merge(object(document)?)),
            STRATEGIC if !custom => Ok(Self::Strategic(object(document)?)),
            _ => Err(ApiError::unsupported_media_type(&media_types(custom))),
        }
    }

    /// The changed object. `schema` covers the whole object, metadata included.
    pub(crate) fn apply(&self, old: &Value, schema: &Schema) -> Result<Value, ApiError> {
        let mut new = old.clone();
        match self {
            Self::Json(patch) => apply_operations(&mut new, patch)?,
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Strategic(patch) => strategic::merge(&mut new, patch, Some(schema))?,
        }
        Ok(new)
    }
}

fn json(document: Value) -> Result<Patch, ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(document)
        .map_err(|error| ApiError::bad_request(format!("malformed JSON patch: {error}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        return Err(ApiError::bad_request(format!(
            "the JSON patch has {} operations, at most {MAX_OPERATIONS} are allowed",
            patch.0.len()
        )));
    }
    Ok(Patch::Json(patch))
}

/// Operation by operation, because a few that copy could otherwise fill the memory.
fn apply_operations(document: &mut Value, patch: &json_patch::Patch) -> Result<(), ApiError> {
    let mut copied = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation
            && let Ok(source) = copy.from.resolve(document)
        {
            copied += source.to_string().len();
            if copied > MAX_COPIED {
                return Err(ApiError::too_large(MAX_COPIED));
            }
        }
        let single = std::slice::from_ref(operation);
        json_patch::patch(document, single).map_err(|error| {
            ApiError::unprocessable(format!(
                "the server rejected our request due to an error in our request: {error}"
            ))
        })?;
    }
    Ok(())
}

fn object(document: Value) -> Result<Value, ApiError> {
    if document.is_object() {
        Ok(document)
    } else {
        Err(ApiError::bad_request("a merge patch must be a JSON object"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn json(old: Value, operations: Value) -> Result<Value, ApiError> {
        Patch::parse(JSON, operations, true)?.apply(&old, &Schema::anything())
    }

    #[test]
    fn operations() {
        let old = json!({"a": {"b": [1, 2]}, "x/y": 1});
        let new = json(
            old.clone(),
            json!([
                {"op": "test", "path": "/a/b/0", "value": 1},
                {"op": "add", "path": "/a/b/-", "value": 3},
                {"op": "remove", "path": "/x~1y"},
                {"op": "copy", "from": "/a/b", "path": "/c"},
                {"op": "move", "from": "/a", "path": "/d"},
                {"op": "replace", "path": "/d/b/1", "value": "two"},
            ]),
        );
        assert_eq!(
            new.unwrap(),
            json!({"c": [1, 2, 3], "d": {"b": [1, "two", 3]}})
        );
        for failing in [
            json!([{"op": "test", "path": "/a/b/0", "value": 2}]),
            json!([{"op": "remove", "path": "/none"}]),
            json!([{"op": "replace", "path": "/a/b/9", "value": 2}]),
        ] {
            assert_eq!(json(old.clone(), failing).unwrap_err().code, 422);
        }
        let malformed = json(old, json!([{"op": "paint", "path": "/a"}]));
        assert_eq!(malformed.unwrap_err().code, 400);
    }

    #[test]
    fn copies_cannot_fill_the_memory() {
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": ["x".repeat(1000)]})];
        operations.extend((0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        let refused = json(json!({}), Value::Array(operations)).unwrap_err();
        assert_eq!(refused.code, 413);
    }

    #[test]
    fn merge_patches_remove_with_null() {
        let patch = Patch::parse(MERGE, json!({"a": {"b": null, "c": 2}}), true).unwrap();
        let new = patch.apply(&json!({"a": {"b": 1}}), &Schema::anything());
        assert_eq!(new.unwrap(), json!({"a": {"c": 2}}));
        assert_eq!(Patch::parse(MERGE, json!([1]), true).unwrap_err().code, 400);
        assert_eq!(
            Patch::parse(STRATEGIC, json!({}), true).unwrap_err().code,
            415
        );
        assert_eq!(
            Patch::parse("text/plain", json!({}), false)
                .unwrap_err()
                .code,
            415
        );
    }
}
