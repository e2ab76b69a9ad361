//! Reading JSON objects strictly: every key is known, every value has its type, every problem has its path.

use serde_json::{Map, Value};

use crate::problem::{Problem, UNKNOWN_FIELD, did_you_mean};

/// Collects what is wrong while reading goes on, so that all of it can be told at once.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push(Problem::new(field, reason));
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self.0)
        }
    }
}

/// A JSON object whose keys are known. `null` counts as absent, as in Ignition itself.
#[derive(Debug)]
pub(super) struct Fields<'v> {
    path: String,
    map: Option<&'v Map<String, Value>>,
}

impl<'v> Fields<'v> {
    /// Opens `value`, and reports every key that is not among `known`.
    pub(super) fn open(
        value: &'v Value,
        path: String,
        known: &[&str],
        problems: &mut Problems,
    ) -> Self {
        let map = match value {
            Value::Object(map) => Some(map),
            Value::Null => None,
            other => {
                problems.add(&path, format!("expected an object, found {}", kind(other)));
                None
            }
        };
        let fields = Fields { path, map };
        for key in map.into_iter().flat_map(Map::keys) {
            if !known.contains(&key.as_str()) {
                problems.add(fields.at(key), unknown_key(key, known));
            }
        }
        fields
    }

    /// Path of one of the object's fields.
    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<&'v Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// An object inside the object.
    pub(super) fn object(
        &self,
        key: &str,
        known: &[&str],
        problems: &mut Problems,
    ) -> Option<Fields<'v>> {
        let value = self.value(key)?;
        Some(Fields::open(value, self.at(key), known, problems))
    }

    /// The objects of a list inside the object.
    pub(super) fn objects(
        &self,
        key: &str,
        known: &[&str],
        problems: &mut Problems,
    ) -> Vec<Fields<'v>> {
        self.list(key, problems)
            .into_iter()
            .map(|(path, value)| Fields::open(value, path, known, problems))
            .collect()
    }

    /// The strings of a list inside the object, with their paths.
    pub(super) fn strings(&self, key: &str, problems: &mut Problems) -> Vec<(String, &'v str)> {
        let mut strings = Vec::new();
        for (path, value) in self.list(key, problems) {
            match value.as_str() {
                Some(text) => strings.push((path, text)),
                None => problems.add(path, format!("expected a string, found {}", kind(value))),
            }
        }
        strings
    }

    fn list(&self, key: &str, problems: &mut Problems) -> Vec<(String, &'v Value)> {
        match self.value(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (format!("{}[{index}]", self.at(key)), item))
                .collect(),
            Some(other) => {
                problems.add(
                    self.at(key),
                    format!("expected a list, found {}", kind(other)),
                );
                Vec::new()
            }
        }
    }

    pub(super) fn string(&self, key: &str, problems: &mut Problems) -> Option<&'v str> {
        let value = self.value(key)?;
        let text = value.as_str();
        if text.is_none() {
            problems.add(
                self.at(key),
                format!("expected a string, found {}", kind(value)),
            );
        }
        text
    }

    pub(super) fn boolean(&self, key: &str, problems: &mut Problems) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            problems.add(
                self.at(key),
                format!("expected true or false, found {}", kind(value)),
            );
        }
        flag
    }

    /// A whole number from 0 to `most`.
    pub(super) fn number(&self, key: &str, most: u32, problems: &mut Problems) -> Option<u32> {
        let value = self.value(key)?;
        let number = value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|&number| number <= most);
        if number.is_none() {
            problems.add(
                self.at(key),
                format!("expected a whole number from 0 to {most}, found `{value}`"),
            );
        }
        number
    }

    /// Reports `key` when it says anything at all. Empty lists, objects and strings say nothing.
    pub(super) fn refuse(&self, key: &str, reason: &str, problems: &mut Problems) {
        if self.value(key).is_some_and(says_something) {
            problems.add(self.at(key), reason);
        }
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => map.values().any(says_something),
    }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    // Butane's words are what people most often carry over.
    match key {
        "inline" | "contents_inline" => {
            return "unknown field of Ignition (it is Butane's); write `source: \"data:,...\"` with the text percent-encoded, or base64 after `data:;base64,`; `caprock machineconfig` writes it from files".into();
        }
        "local" => {
            return "unknown field of Ignition (it is Butane's); put the file's bytes into `source` as a `data:` URL; `caprock machineconfig` does it".into();
        }
        _ => {}
    }
    match did_you_mean(key, known.iter().copied()) {
        hint if hint.is_empty() => format!("{UNKNOWN_FIELD}; known are `{}`", known.join("`, `")),
        hint => format!("{UNKNOWN_FIELD}{hint}"),
    }
}

/// What a JSON value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
