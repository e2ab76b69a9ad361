//! Structural schemas: what a CRD (or a built-in kind) says its objects look like.
//!
//! Parsed once from OpenAPI v3 as CRDs carry it, then used for unknown-field checks, pruning, defaulting,
//! validation and merging. A schema that is not structural is refused when it is parsed.

mod default;
mod parse;
mod prune;
#[cfg(test)]
mod tests;
mod unknown;
mod validate;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::rules::CompiledRule;

/// A node of a structural schema.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    pub(crate) kind: Option<Type>,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Schema>,
    pub(crate) required: Vec<String>,
    pub(crate) additional: Option<Additional>,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) preserve_unknown: bool,
    pub(crate) int_or_string: bool,
    /// The value is a whole Kubernetes object with its own `metadata`.
    pub(crate) embedded: bool,
    pub(crate) list_type: ListType,
    /// The map is owned and replaced as a whole.
    pub(crate) atomic_map: bool,
    /// For strategic merge patches: the key that identifies list items.
    pub(crate) patch_merge_key: Option<String>,
    /// For strategic merge patches: lists are merged, not replaced.
    pub(crate) patch_merge: bool,
    pub(crate) limits: Limits,
    pub(crate) rules: Vec<CompiledRule>,
    /// Rules call the fields what they are called, also by words that CEL keeps for itself.
    pub(crate) plain_names: bool,
    /// There are rules here or further inside.
    pub(crate) has_rules: bool,
    /// There are defaults here or further inside.
    pub(crate) has_defaults: bool,
}

/// JSON types of the structural dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `additionalProperties`.
#[derive(Debug, Clone)]
pub(crate) enum Additional {
    /// `true`.
    Any,
    Schema(Box<Schema>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// Value validations: they accept or refuse, and never change anything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    pub(crate) one_of_values: Option<Vec<Value>>,
    pub(crate) format: Option<String>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) not: Option<Box<Schema>>,
}

impl Schema {
    /// A schema that accepts and keeps everything.
    pub(crate) fn anything() -> Self {
        Self {
            preserve_unknown: true,
            ..Self::default()
        }
    }

    /// An object with exactly these fields.
    pub(crate) fn of_fields(fields: impl IntoIterator<Item = (String, Self)>) -> Self {
        Self {
            kind: Some(Type::Object),
            properties: fields.into_iter().collect(),
            plain_names: true,
            ..Self::default()
        }
    }

    /// Describes `metadata` in full. What the schema itself demands of its fields stays in force.
    pub(crate) fn with_metadata(mut self, mut metadata: Self) -> Self {
        if let Some(own) = self.properties.remove("metadata") {
            for (name, own) in own.properties {
                if let Some(field) = metadata.properties.get_mut(&name) {
                    field.limits = own.limits;
                    field.has_rules |= own.has_rules;
                    metadata.has_rules |= own.has_rules;
                    field.rules = own.rules;
                }
            }
        }
        self.properties.insert("metadata".into(), metadata);
        self
    }

    /// The schema of a field, if the schema says anything about it.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(schema), _) => Some(schema),
            (None, Some(Additional::Schema(schema))) => Some(schema),
            (None, _) => None,
        }
    }

    /// Whether a field that the schema does not describe may stay.
    fn keeps_unknown(&self) -> bool {
        self.preserve_unknown || matches!(self.additional, Some(Additional::Any))
    }
}

/// `path.name`, or `path[name]` where a name is not an identifier.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
