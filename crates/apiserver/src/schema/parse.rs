//! From `openAPIV3Schema` to [`Schema`].

use regex::RegexBuilder;
use serde_json::{Map, Value};

use super::{Additional, Limits, ListType, Schema, Type};
use crate::rules::CompiledRule;

/// Nodes in one schema at most; far above any real CRD.
const MAX_NODES: usize = 50_000;
/// Rules of one node at most.
const MAX_RULES: usize = 100;
/// Compiled size of one pattern at most.
const MAX_PATTERN: usize = 1 << 20;

/// Why a schema is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub(crate) struct SchemaError {
    pub(crate) path: String,
    pub(crate) message: String,
}

impl Schema {
    /// Parses a schema; `path` is where it stands in its object, for messages.
    pub(crate) fn parse(value: &Value, path: &str) -> Result<Self, SchemaError> {
        Parser { nodes: 0 }.schema(value, path)
    }
}

struct Parser {
    nodes: usize,
}

impl Parser {
    fn schema(&mut self, value: &Value, path: &str) -> Result<Schema, SchemaError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(error(path, "the schema has too many nodes"));
        }
        let map = value
            .as_object()
            .ok_or_else(|| error(path, "expected an object"))?;
        if map.contains_key("$ref") {
            return Err(error(
                path,
                "`$ref` is not supported, write the schema in place",
            ));
        }
        let fields = Fields { map, path };
        let mut schema = Schema {
            kind: kind(&fields)?,
            nullable: fields.flag("nullable"),
            plain_names: false,
            default: map.get("default").cloned(),
            properties: match map.get("properties") {
                None => Default::default(),
                Some(properties) => {
                    let path = format!("{path}.properties");
                    let properties = properties
                        .as_object()
                        .ok_or_else(|| error(&path, "expected an object"))?;
                    let mut parsed = std::collections::BTreeMap::new();
                    for (name, value) in properties {
                        parsed.insert(
                            name.clone(),
                            self.schema(value, &format!("{path}[{name}]"))?,
                        );
                    }
                    parsed
                }
            },
            required: fields.strings("required")?,
            additional: match map.get("additionalProperties") {
                None | Some(Value::Bool(false)) => None,
                Some(Value::Bool(true)) => Some(Additional::Any),
                Some(other) => Some(Additional::Schema(Box::new(
                    self.schema(other, &format!("{path}.additionalProperties"))?,
                ))),
            },
            items: self.boxed(&fields, "items")?,
            preserve_unknown: fields.flag("x-kubernetes-preserve-unknown-fields"),
            int_or_string: fields.flag("x-kubernetes-int-or-string"),
            embedded: fields.flag("x-kubernetes-embedded-resource"),
            list_type: list_type(&fields)?,
            atomic_map: fields.text("x-kubernetes-map-type").as_deref() == Some("atomic"),
            patch_merge_key: fields.text("x-kubernetes-patch-merge-key"),
            patch_merge: fields
                .text("x-kubernetes-patch-strategy")
                .is_some_and(|strategy| strategy.contains("merge")),
            limits: self.limits(&fields)?,
            rules: rules(&fields)?,
            has_rules: false,
            has_defaults: false,
        };
        let additional = match &schema.additional {
            Some(Additional::Schema(schema)) => Some(schema.as_ref()),
            _ => None,
        };
        let inside: Vec<&Schema> = schema
            .properties
            .values()
            .chain(schema.items.as_deref())
            .chain(additional)
            .collect();
        let (rules, defaults) = (
            inside.iter().any(|schema| schema.has_rules),
            inside.iter().any(|schema| schema.has_defaults),
        );
        schema.has_rules = rules || !schema.rules.is_empty();
        schema.has_defaults = defaults || schema.default.is_some();
        Ok(schema)
    }

    fn limits(&mut self, fields: &Fields<'_>) -> Result<Limits, SchemaError> {
        Ok(Limits {
            one_of_values: fields.map.get("enum").and_then(Value::as_array).cloned(),
            format: fields.text("format"),
            pattern: match fields.text("pattern") {
                None => None,
                Some(pattern) => Some(
                    RegexBuilder::new(&pattern)
                        .size_limit(MAX_PATTERN)
                        .build()
                        .map_err(|reason| {
                            error(&format!("{}.pattern", fields.path), &reason.to_string())
                        })?,
                ),
            },
            min_length: fields.count("minLength"),
            max_length: fields.count("maxLength"),
            minimum: fields.number("minimum"),
            maximum: fields.number("maximum"),
            exclusive_minimum: fields.flag("exclusiveMinimum"),
            exclusive_maximum: fields.flag("exclusiveMaximum"),
            multiple_of: fields.number("multipleOf"),
            min_items: fields.count("minItems"),
            max_items: fields.count("maxItems"),
            min_properties: fields.count("minProperties"),
            max_properties: fields.count("maxProperties"),
            all_of: self.several(fields, "allOf")?,
            any_of: self.several(fields, "anyOf")?,
            one_of: self.several(fields, "oneOf")?,
            not: self.boxed(fields, "not")?,
        })
    }

    fn boxed(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
    ) -> Result<Option<Box<Schema>>, SchemaError> {
        match fields.map.get(name) {
            None => Ok(None),
            Some(value) => {
                let path = format!("{}.{name}", fields.path);
                Ok(Some(Box::new(self.schema(value, &path)?)))
            }
        }
    }

    fn several(&mut self, fields: &Fields<'_>, name: &str) -> Result<Vec<Schema>, SchemaError> {
        let Some(values) = fields.map.get(name) else {
            return Ok(Vec::new());
        };
        let path = format!("{}.{name}", fields.path);
        let values = values
            .as_array()
            .ok_or_else(|| error(&path, "expected an array"))?;
        values
            .iter()
            .enumerate()
            .map(|(index, value)| self.schema(value, &format!("{path}[{index}]")))
            .collect()
    }
}

struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
}

impl Fields<'_> {
    fn flag(&self, name: &str) -> bool {
        self.map.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.map.get(name).and_then(Value::as_str).map(Into::into)
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.map.get(name).and_then(Value::as_u64)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.map.get(name).and_then(Value::as_f64)
    }

    fn strings(&self, name: &str) -> Result<Vec<String>, SchemaError> {
        match self.map.get(name) {
            None => Ok(Vec::new()),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| {
                error(
                    &format!("{}.{name}", self.path),
                    "expected an array of strings",
                )
            }),
        }
    }
}

fn kind(fields: &Fields<'_>) -> Result<Option<Type>, SchemaError> {
    Ok(match fields.text("type").as_deref() {
        None | Some("") => None,
        Some("object") => Some(Type::Object),
        Some("array") => Some(Type::Array),
        Some("string") => Some(Type::String),
        Some("integer") => Some(Type::Integer),
        Some("number") => Some(Type::Number),
        Some("boolean") => Some(Type::Boolean),
        Some(other) => {
            return Err(error(
                &format!("{}.type", fields.path),
                &format!("unsupported type `{other}`"),
            ));
        }
    })
}

fn list_type(fields: &Fields<'_>) -> Result<ListType, SchemaError> {
    match fields.text("x-kubernetes-list-type").as_deref() {
        None | Some("atomic") => Ok(ListType::Atomic),
        Some("set") => Ok(ListType::Set),
        Some("map") => {
            let keys = fields.strings("x-kubernetes-list-map-keys")?;
            if keys.is_empty() {
                return Err(error(
                    &format!("{}.x-kubernetes-list-map-keys", fields.path),
                    "a list of type map needs at least one key",
                ));
            }
            Ok(ListType::Map(keys))
        }
        Some(other) => Err(error(
            &format!("{}.x-kubernetes-list-type", fields.path),
            &format!("unsupported list type `{other}`, expected atomic, set or map"),
        )),
    }
}

fn rules(fields: &Fields<'_>) -> Result<Vec<CompiledRule>, SchemaError> {
    let Some(rules) = fields.map.get("x-kubernetes-validations") else {
        return Ok(Vec::new());
    };
    let path = format!("{}.x-kubernetes-validations", fields.path);
    let rules = rules
        .as_array()
        .ok_or_else(|| error(&path, "expected an array"))?;
    if rules.len() > MAX_RULES {
        return Err(error(
            &path,
            &format!("at most {MAX_RULES} rules are allowed"),
        ));
    }
    rules
        .iter()
        .enumerate()
        .map(|(index, rule)| {
            CompiledRule::parse(rule).map_err(|problem| {
                let path = format!("{path}[{index}].{}", problem.field);
                error(&path, &problem.message)
            })
        })
        .collect()
}

fn error(path: &str, message: &str) -> SchemaError {
    SchemaError {
        path: path.into(),
        message: message.into(),
    }
}
