//! Checking an object against the rules of its schema.

use std::collections::HashMap;

use cel::common::types::CelOptional;
use cel::{Context, ExecutionError, Value as CelValue};
use serde_json::Value;

use super::compile::{Code, CompiledRule};
use super::convert::{Cel, convert};
use super::library;
use crate::schema::{Additional, ListType, Schema, child};
use crate::status::Cause;

/// Loop steps that the rules of one object may take together, as far as that can be told beforehand.
const BUDGET: u64 = 2_000_000;
/// Bytes of a message made by a rule at most.
const MAX_MESSAGE: usize = 5 << 10;

/// Every rule that `object` breaks. `old` is the object before the write.
pub(crate) fn check(schema: &Schema, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut checker = Checker {
        budget: BUDGET,
        causes: Vec::new(),
    };
    checker.visit(schema, object, old, "", true);
    checker.causes
}

struct Checker {
    budget: u64,
    causes: Vec<Cause>,
}

impl Checker {
    fn visit(
        &mut self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        whole_object: bool,
    ) {
        if !schema.has_rules || (value.is_null() && schema.nullable) {
            return;
        }
        if !schema.rules.is_empty() {
            self.check_rules(schema, value, old, path, whole_object);
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let field = match (schema.properties.get(name), &schema.additional) {
                        (Some(schema), _) => schema,
                        (None, Some(Additional::Schema(schema))) => schema,
                        (None, _) => continue,
                    };
                    let old = old.and_then(|old| old.get(name));
                    self.visit(field, value, old, &child(path, name), false);
                }
            }
            Value::Array(items) => {
                let Some(item_schema) = &schema.items else {
                    return;
                };
                let before = old.map(|old| by_identity(&schema.list_type, old));
                for (index, item) in items.iter().enumerate() {
                    let old = before.as_ref().and_then(|before| {
                        let identity = identity(&schema.list_type, item)?;
                        before.get(&identity).copied()
                    });
                    self.visit(item_schema, item, old, &format!("{path}[{index}]"), false);
                }
            }
            _ => {}
        }
    }

    fn check_rules(
        &mut self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        whole_object: bool,
    ) {
        for rule in &schema.rules {
            let unchanged = old == Some(value);
            if !rule.program.uses_old && unchanged {
                // What was accepted before may stay, even if the rule came later.
                continue;
            }
            if rule.program.uses_old && old.is_none() && !rule.optional_old_self {
                continue;
            }
            let cost = cost(&rule.program, value, old);
            match self.budget.checked_sub(cost) {
                Some(left) => self.budget = left,
                None => {
                    self.causes.push(Cause::forbidden(
                        path,
                        "validation rules would exceed their cost budget on an object of this size",
                    ));
                    return;
                }
            }
            let variables = || {
                let this = convert(value, schema, whole_object);
                let before = old.map(|old| convert(old, schema, whole_object));
                let before: Option<Cel> = match (rule.optional_old_self, before) {
                    (true, Some(before)) => Some(Box::new(CelOptional::of(before))),
                    (true, None) => Some(Box::new(CelOptional::none())),
                    (false, before) => before,
                };
                (this, before)
            };
            let failure = match run(&rule.program, variables()) {
                Ok(CelValue::Bool(true)) => continue,
                Ok(CelValue::Bool(false)) => None,
                Ok(other) => Some(format!(
                    "rule evaluated to {}, expected bool",
                    other.type_of()
                )),
                Err(error) => Some(error.to_string()),
            };
            let detail = match failure {
                Some(error) => format!("rule: {}: {error}", rule.text),
                None => message(rule, variables()),
            };
            self.causes.push(cause(rule, schema, path, &detail));
        }
    }
}

fn run(code: &Code, (this, before): (Cel, Option<Cel>)) -> Result<CelValue, ExecutionError> {
    let mut context = Context::with_env(library::environment());
    context.add_variable_as_val("self", this);
    if let Some(before) = before {
        context.add_variable_as_val("oldSelf", before);
    }
    code.program.execute(&context)
}

/// The rule's own words, else the rule.
fn message(rule: &CompiledRule, variables: (Cel, Option<Cel>)) -> String {
    let made =
        rule.message_expression
            .as_ref()
            .and_then(|expression| match run(expression, variables) {
                Ok(CelValue::String(text)) => {
                    let fits = !text.trim().is_empty()
                        && text.len() <= MAX_MESSAGE
                        && !text.contains('\n');
                    fits.then(|| (*text).clone())
                }
                _ => None,
            });
    made.or_else(|| rule.message.clone())
        .unwrap_or_else(|| format!("failed rule: {}", rule.text))
}

fn cause(rule: &CompiledRule, schema: &Schema, path: &str, detail: &str) -> Cause {
    let kind = schema.kind.map_or("object", |kind| kind.as_str());
    let message = match rule.reason {
        "FieldValueForbidden" => format!("Forbidden: {detail}"),
        "FieldValueRequired" => format!("Required value: {detail}"),
        "FieldValueDuplicate" => format!("Duplicate value: {kind:?}"),
        _ => format!("Invalid value: {kind:?}: {detail}"),
    };
    let field = match &rule.field_path {
        Some(field) => format!("{path}{field}").trim_start_matches('.').to_owned(),
        None => path.to_owned(),
    };
    Cause {
        reason: rule.reason,
        message,
        field,
    }
}

/// The items of the list before, by what identifies them.
fn by_identity<'a>(list: &ListType, old: &'a Value) -> HashMap<String, &'a Value> {
    let items = old.as_array().map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .filter_map(|item| Some((identity(list, item)?, item)))
        .collect()
}

/// What identifies an item, in lists that say so.
fn identity(list: &ListType, item: &Value) -> Option<String> {
    let ListType::Map(keys) = list else {
        return None;
    };
    let values: Vec<&Value> = keys.iter().map(|key| &item[key.as_str()]).collect();
    serde_json::to_string(&values).ok()
}

/// How many steps a program may take on a value.
fn cost(code: &Code, value: &Value, old: Option<&Value>) -> u64 {
    let mut size = Size::of(value);
    if let Some(old) = old {
        size.add(&Size::of(old));
    }
    size.cost(code)
}

/// What counts for the cost of a program on some values.
#[derive(Debug, Clone, Default)]
pub(super) struct Size {
    /// Steps that a loop over anything in them may take.
    parts: u64,
    /// The same where strings may become lists.
    characters: u64,
    /// Bytes of the longest string.
    longest: u64,
}

impl Size {
    pub(super) fn of(value: &Value) -> Self {
        Self {
            parts: size_of(value, false),
            characters: size_of(value, true),
            longest: longest(value),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.parts += other.parts;
        self.characters += other.characters;
        self.longest += other.longest;
    }

    /// How many steps a program may take on them.
    pub(super) fn cost(&self, code: &Code) -> u64 {
        /// Characters that a string function reads in the time of a step, roughly.
        const CHARACTERS: u64 = 64;
        let size = match code.splits {
            true => self.characters,
            false => self.parts,
        };
        let scan = match code.scans {
            true => 1 + self.longest / CHARACTERS,
            false => 1,
        };
        size.saturating_pow(code.loops).saturating_mul(scan)
    }
}

/// Bytes of the longest string.
fn longest(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(longest).max().unwrap_or(0),
        Value::Object(map) => map.values().map(longest).max().unwrap_or(0),
        _ => 0,
    }
}

/// How many steps a loop over anything in `value` may take.
fn size_of(value: &Value, splits: bool) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(|i| size_of(i, splits)).sum::<u64>(),
        Value::Object(map) => 1 + map.values().map(|v| size_of(v, splits)).sum::<u64>(),
        Value::String(text) if splits => 1 + text.len() as u64,
        _ => 1,
    }
}
