//! Checking a value against a schema. Messages are worded as Kubernetes words them.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{ListType, Schema, Type, child};
use crate::status::Cause;

/// Problems reported per object at most.
const MAX_REPORTED: usize = 100;

impl Schema {
    /// Every problem of `value`; CEL rules are checked elsewhere.
    pub(crate) fn validate(&self, value: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        self.check(value, "", &mut causes);
        causes.truncate(MAX_REPORTED);
        causes
    }

    fn accepts(&self, value: &Value, path: &str) -> bool {
        let mut causes = Vec::new();
        self.check(value, path, &mut causes);
        causes.is_empty()
    }

    fn check(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if causes.len() > MAX_REPORTED || (value.is_null() && self.nullable) {
            return;
        }
        if !self.type_fits(value) {
            causes.push(self.wrong_type(value, path));
            return;
        }
        match value {
            Value::Object(map) => {
                self.check_count(map.len(), path, causes);
                for name in &self.required {
                    if !map.contains_key(name) {
                        causes.push(Cause::required(child(path, name), ""));
                    }
                }
                for (name, value) in map {
                    if let Some(schema) = self.field(name) {
                        let path = if self.properties.contains_key(name) || !name.contains('.') {
                            child(path, name)
                        } else {
                            format!("{path}[{name}]")
                        };
                        schema.check(value, &path, causes);
                    }
                }
            }
            Value::Array(items) => self.check_array(value, items, path, causes),
            Value::String(text) => self.check_text(value, text, path, causes),
            Value::Number(_) => self.check_number(value, path, causes),
            Value::Bool(_) | Value::Null => {}
        }
        if let Some(allowed) = &self.limits.one_of_values
            && !allowed.contains(value)
        {
            let shown: Vec<String> = allowed
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), String::from))
                .collect();
            causes.push(Cause::not_supported(path, value, &shown));
        }
        self.check_junctors(value, path, causes);
    }

    fn type_fits(&self, value: &Value) -> bool {
        if self.int_or_string {
            return value.is_string() || is_integer(value);
        }
        match self.kind {
            None => !value.is_null() || self.preserve_unknown,
            Some(Type::Object) => value.is_object(),
            Some(Type::Array) => value.is_array(),
            Some(Type::String) => value.is_string(),
            Some(Type::Boolean) => value.is_boolean(),
            Some(Type::Number) => value.is_number(),
            Some(Type::Integer) => is_integer(value),
        }
    }

    fn wrong_type(&self, value: &Value, path: &str) -> Cause {
        let wanted = match self.kind {
            _ if self.int_or_string => "integer,string",
            Some(kind) => kind.as_str(),
            None => "object",
        };
        let found = type_of(value);
        Cause {
            reason: "FieldValueTypeInvalid",
            message: format!(
                "Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}"
            ),
            field: path.into(),
        }
    }

    fn check_count(&self, count: usize, path: &str, causes: &mut Vec<Cause>) {
        let count = count as u64;
        if let Some(max) = self.limits.max_properties
            && count > max
        {
            causes.push(Cause {
                reason: "FieldValueTooMany",
                message: format!("Too many: {count}: must have at most {max} items"),
                field: path.into(),
            });
        }
        if let Some(min) = self.limits.min_properties
            && count < min
        {
            let detail = format!("{path} in body should have at least {min} properties");
            causes.push(Cause::invalid(path, &Value::from(count), &detail));
        }
    }

    fn check_array(&self, value: &Value, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
        if let Some(max) = self.limits.max_items
            && items.len() as u64 > max
        {
            causes.push(Cause::too_many(path, items.len(), max));
            return;
        }
        if let Some(min) = self.limits.min_items
            && (items.len() as u64) < min
        {
            let detail = format!("{path} in body should have at least {min} items");
            causes.push(Cause::invalid(path, &Value::from(items.len()), &detail));
        }
        match &self.list_type {
            ListType::Atomic => {}
            ListType::Set => self.check_unique(items, path, causes, Clone::clone),
            ListType::Map(keys) => self.check_unique(items, path, causes, |item| {
                keys.iter()
                    .map(|key| {
                        let value = item.get(key).cloned();
                        (key.clone(), value.unwrap_or_else(|| self.item_default(key)))
                    })
                    .collect()
            }),
        }
        if let Some(schema) = &self.items {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                schema.check(item, &format!("{path}[{index}]"), causes);
            }
        }
    }

    fn item_default(&self, key: &str) -> Value {
        self.items
            .as_deref()
            .and_then(|items| items.properties.get(key))
            .and_then(|schema| schema.default.clone())
            .unwrap_or(Value::Null)
    }

    fn check_unique(
        &self,
        items: &[Value],
        path: &str,
        causes: &mut Vec<Cause>,
        identity: impl Fn(&Value) -> Value,
    ) {
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let identity = identity(item);
            if !seen.insert(identity.to_string()) {
                let field = format!("{path}[{index}]");
                causes.push(Cause {
                    reason: "FieldValueDuplicate",
                    message: format!("Duplicate value: {identity}"),
                    field,
                });
            }
        }
    }

    fn check_text(&self, value: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
        let limits = &self.limits;
        if let Some(max) = limits.max_length
            && text.chars().count() as u64 > max
        {
            causes.push(Cause::too_long(path, max));
            return;
        }
        if let Some(min) = limits.min_length
            && (text.chars().count() as u64) < min
        {
            let detail = format!("{path} in body should be at least {min} chars long");
            causes.push(Cause::invalid(path, value, &detail));
        }
        if let Some(pattern) = &limits.pattern
            && !pattern.is_match(text)
        {
            let detail = format!("{path} in body should match '{}'", pattern.as_str());
            causes.push(Cause::invalid(path, value, &detail));
        }
        if let Some(format) = limits.format.as_deref()
            && !self.int_or_string
            && !format_fits(format, text)
        {
            // What is encoded is data, and may be a password.
            let redacted = json!("<contents redacted>");
            let shown = if format == "byte" { &redacted } else { value };
            let detail = format!("{path} in body must be of type {format}: {shown}");
            causes.push(Cause::invalid(path, shown, &detail));
        }
    }

    fn check_number(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let limits = &self.limits;
        let Some(number) = value.as_f64() else {
            return;
        };
        let mut refuse = |detail: String| causes.push(Cause::invalid(path, value, &detail));
        if let Some(min) = limits.minimum {
            if limits.exclusive_minimum && number <= min {
                refuse(format!("{path} in body should be greater than {min}"));
            } else if number < min {
                refuse(format!(
                    "{path} in body should be greater than or equal to {min}"
                ));
            }
        }
        if let Some(max) = limits.maximum {
            if limits.exclusive_maximum && number >= max {
                refuse(format!("{path} in body should be less than {max}"));
            } else if number > max {
                refuse(format!(
                    "{path} in body should be less than or equal to {max}"
                ));
            }
        }
        if let Some(factor) = limits.multiple_of
            && factor > 0.0
            && (number / factor).fract() != 0.0
        {
            refuse(format!("{path} in body should be a multiple of {factor}"));
        }
        if limits.format.as_deref() == Some("int32")
            && value.as_i64().is_none_or(|n| i32::try_from(n).is_err())
        {
            refuse(format!("{path} in body must be of type int32: {value}"));
        }
    }

    fn check_junctors(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let limits = &self.limits;
        let shown = if value.is_object() || value.is_array() {
            Value::from("")
        } else {
            value.clone()
        };
        for schema in &limits.all_of {
            schema.check(value, path, causes);
        }
        if !limits.any_of.is_empty() && !limits.any_of.iter().any(|s| s.accepts(value, path)) {
            let detail = format!("{path} in body must validate at least one schema (anyOf)");
            causes.push(Cause::invalid(path, &shown, &detail));
        }
        if !limits.one_of.is_empty()
            && limits
                .one_of
                .iter()
                .filter(|s| s.accepts(value, path))
                .count()
                != 1
        {
            let detail = format!("{path} in body must validate one and only one schema (oneOf)");
            causes.push(Cause::invalid(path, &shown, &detail));
        }
        if let Some(not) = &limits.not
            && not.accepts(value, path)
        {
            let detail = format!("{path} in body must not validate the schema (not)");
            causes.push(Cause::invalid(path, &shown, &detail));
        }
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The formats that are enforced; Kubernetes ignores those it does not know, and so do we.
fn format_fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        // With line breaks, as encoders wrap it.
        "byte" => {
            use base64::Engine;
            let lines: String = text.split(['\r', '\n']).collect();
            base64::engine::general_purpose::STANDARD
                .decode(lines)
                .is_ok()
        }
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" => {
            text.len() == 36
                && text.char_indices().all(|(at, c)| match at {
                    8 | 13 | 18 | 23 => c == '-',
                    _ => c.is_ascii_hexdigit(),
                })
        }
        _ => true,
    }
}
