//! The ways a client can describe a change: JSON patch, merge patch, strategic merge patch.

mod strategic;

use serde_json::Value;

use crate::schema::Schema;
use crate::status::ApiError;

/// Operations of one JSON patch at most, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

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

/// Media types a PATCH may have.
pub(crate) const MEDIA_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl Patch {
    pub(crate) fn json(document: Value) -> Result<Self, ApiError> {
        let patch: json_patch::Patch = serde_json::from_value(document)
            .map_err(|error| ApiError::bad_request(format!("malformed JSON patch: {error}")))?;
        if patch.0.len() > MAX_OPERATIONS {
            return Err(ApiError::bad_request(format!(
                "the JSON patch has {} operations, at most {MAX_OPERATIONS} are allowed",
                patch.0.len()
            )));
        }
        Ok(Self::Json(patch))
    }

    pub(crate) fn merge(document: Value) -> Result<Self, ApiError> {
        Ok(Self::Merge(object(document)?))
    }

    pub(crate) fn strategic(document: Value) -> Result<Self, ApiError> {
        Ok(Self::Strategic(object(document)?))
    }

    /// The changed object. `schema` covers the whole object, metadata included.
    pub(crate) fn apply(&self, old: &Value, schema: &Schema) -> Result<Value, ApiError> {
        let mut new = old.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut new, patch).map_err(|error| {
                ApiError::unprocessable(format!(
                    "the server rejected our request due to an error in our request: {error}"
                ))
            })?,
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Strategic(patch) => strategic::merge(&mut new, patch, Some(schema))?,
        }
        Ok(new)
    }
}

fn object(document: Value) -> Result<Value, ApiError> {
    if document.is_object() {
        Ok(document)
    } else {
        Err(ApiError::bad_request("a merge patch must be a JSON object"))
    }
}
