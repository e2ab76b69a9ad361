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

fn object(document: Value) -> Result<Value, ApiError> {
    if document.is_object() {
        Ok(document)
    } else {
        Err(ApiError::bad_request("a merge patch must be a JSON object"))
    }
}
