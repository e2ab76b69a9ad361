//! From JSON to CEL values, by schema: what an integer is, which strings are times, which fields can be seen.

use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString,
};
use cel::common::value::{CowVal, Val};
use serde_json::Value;

use super::library;
use crate::schema::{Schema, Type};

/// A CEL value.
pub(super) type Cel = Box<dyn Val>;

/// Converts a value. Fields that the schema does not describe cannot be seen by rules.
pub(super) fn convert(value: &Value, schema: &Schema, whole_object: bool) -> Cel {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(flag) => Box::new(CelBool::from(*flag)),
        Value::Number(number) => match (number.as_i64(), schema.kind) {
            (Some(integer), kind) if kind != Some(Type::Number) => Box::new(CelInt::from(integer)),
            _ => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => string(text, schema),
        Value::Array(items) => {
            let anything = Schema::anything();
            let schema = schema.items.as_deref().unwrap_or(&anything);
            let items: Vec<Cel> = items.iter().map(|i| convert(i, schema, false)).collect();
            Box::new(CelList::from(items))
        }
        Value::Object(map) => {
            let root = whole_object || schema.embedded;
            let mut fields: HashMap<CelMapKey<'static>, Cel> = HashMap::new();
            for (name, value) in map {
                let escaped = schema.properties.contains_key(name) && !schema.plain_names;
                let converted = match (name.as_str(), schema.field(name)) {
                    ("metadata", _) if root => identity(value),
                    ("apiVersion" | "kind", _) if root => {
                        convert(value, &Schema::anything(), false)
                    }
                    (_, Some(schema)) => convert(value, schema, false),
                    // Inside of what is preserved as a whole there is no schema to go by.
                    (_, None) if schema.kind.is_none() && schema.preserve_unknown => {
                        convert(value, schema, false)
                    }
                    (_, None) => continue,
                };
                let name = if escaped { escape(name) } else { name.clone() };
                fields.insert(CelMapKey::from(name), converted);
            }
            Box::new(CelMap::from(fields))
        }
    }
}

/// Of `metadata`, rules see only the names.
fn identity(metadata: &Value) -> Cel {
    let mut fields: HashMap<CelMapKey<'static>, Cel> = HashMap::new();
    for name in ["name", "generateName"] {
        if let Some(text) = metadata[name].as_str() {
            let value = Box::new(CelString::from(text.to_owned()));
            fields.insert(CelMapKey::from(name.to_owned()), value);
        }
    }
    Box::new(CelMap::from(fields))
}

fn string(text: &str, schema: &Schema) -> Cel {
    let plain = || -> Cel { Box::new(CelString::from(text.to_owned())) };
    let format = schema.limits.format.as_deref();
    let function = match format {
        Some("date-time") => "timestamp",
        Some("duration") => "duration",
        Some("byte") => {
            use base64::Engine;
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            return decoded.map_or_else(|_| plain(), |bytes| Box::new(CelBytes::from(bytes)));
        }
        _ => return plain(),
    };
    let arguments = vec![CowVal::owned(CelString::from(text.to_owned()))];
    library::environment()
        .find_overload(function, &arguments)
        .and_then(|function| function(arguments).ok())
        .map_or_else(plain, |value| value.into_owned())
}

/// Words that CEL keeps for itself.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A field's name as rules write it: identifiers stay, other characters have names of their own.
pub(super) fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
