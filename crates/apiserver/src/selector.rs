//! Label and field selectors.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kinds::Version;
use crate::status::ApiError;
use crate::store::Object;

/// What a list or watch asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

/// One requirement on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    path: Vec<String>,
    equal: bool,
    value: String,
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector` query parameters.
    pub(crate) fn parse(labels: &str, fields: &str, version: &Version) -> Result<Self, ApiError> {
        Ok(Self {
            labels: parse_labels(labels).map_err(|message| {
                ApiError::bad_request(format!("unable to parse label selector: {message}"))
            })?,
            fields: parse_fields(fields, version)?,
        })
    }

    /// A `LabelSelector` object; an empty one selects everything.
    pub(crate) fn of_labels(selector: &Value) -> Result<Self, String> {
        let mut labels = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            let test = Test::In(vec![value]);
            labels.push(Requirement {
                key: key.clone(),
                test,
            });
        }
        let expressions = selector["matchExpressions"].as_array();
        for expression in expressions.into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(String::from).collect();
            let test = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            labels.push(Requirement { key, test });
        }
        Ok(Self {
            labels,
            fields: Vec::new(),
        })
    }

    /// The same selector, for one name only.
    pub(crate) fn and_name(mut self, name: &str) -> Self {
        self.fields.push(FieldRequirement {
            path: vec!["metadata".into(), "name".into()],
            equal: true,
            value: name.into(),
        });
        self
    }

    /// Nothing is filtered out.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object with these labels, as `metadata` has them, is selected by its labels.
    pub(crate) fn selects(&self, labels: &Value) -> bool {
        self.labels.iter().all(|requirement| {
            let value = labels.get(&requirement.key).and_then(Value::as_str);
            requirement.test.holds(value)
        })
    }

    /// Whether a stored object is selected.
    pub(crate) fn matches(&self, object: &Object) -> bool {
        let mut whole: Option<Value> = None;
        let fields = self.fields.iter().all(|field| {
            let path: Vec<&str> = field.path.iter().map(String::as_str).collect();
            let found = match path.as_slice() {
                ["metadata", "name"] => object.key.name().to_owned(),
                ["metadata", "namespace"] => object.key.namespace().to_owned(),
                path => {
                    let value = whole.get_or_insert_with(|| object.value());
                    shown(value, path)
                }
            };
            (found == field.value) == field.equal
        });
        fields && {
            let none = BTreeMap::new();
            let labels = object.head().metadata.labels.as_ref().unwrap_or(&none);
            self.labels.iter().all(|requirement| {
                let value = labels.get(requirement.key.as_str()).map(AsRef::as_ref);
                requirement.test.holds(value)
            })
        }
    }
}

/// The text of a field as field selectors compare it; empty if absent.
fn shown(value: &Value, path: &[&str]) -> String {
    // The only selectable object: an event's source is compared by its component.
    if path == ["source"] {
        return shown(value, &["source", "component"]);
    }
    let found = path.iter().fold(value, |value, name| &value[*name]);
    match found {
        Value::String(text) => text.clone(),
        Value::Null if path.last() == Some(&"unschedulable") => "false".into(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(allowed) => value.is_some_and(|v| allowed.iter().any(|a| a == v)),
            Self::NotIn(refused) => !value.is_some_and(|v| refused.iter().any(|r| r == v)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Above(bound) => number().is_some_and(|n| n > *bound),
            Self::Below(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

fn parse_fields(text: &str, version: &Version) -> Result<Vec<FieldRequirement>, ApiError> {
    let mut requirements = Vec::new();
    for term in split_escaped(text, ',') {
        if term.is_empty() {
            continue;
        }
        let (key, equal, value) = if let Some((key, value)) = term.split_once("!=") {
            (key, false, value)
        } else if let Some((key, value)) = term.split_once("==") {
            (key, true, value)
        } else if let Some((key, value)) = term.split_once('=') {
            (key, true, value)
        } else {
            return Err(ApiError::bad_request(format!(
                "unable to parse field selector: invalid selector: '{term}'; can't understand '{term}'"
            )));
        };
        let path: Vec<String> = key.trim().split('.').map(String::from).collect();
        let built_in = ["metadata.name", "metadata.namespace"].contains(&key.trim());
        if !built_in && !version.selectable.contains(&path) {
            return Err(ApiError::bad_request(format!(
                "field label not supported: {}",
                key.trim()
            )));
        }
        requirements.push(FieldRequirement {
            path,
            equal,
            value: unescape(value),
        });
    }
    Ok(requirements)
}

fn split_escaped(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, character) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == separator {
            parts.push(&text[start..at]);
            start = at + separator.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next()),
            other => plain.push(other),
        }
    }
    plain
}

/// `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    let mut rest = text.trim();
    let mut requirements = Vec::new();
    while !rest.is_empty() {
        let absent = rest.starts_with('!');
        if absent {
            rest = rest[1..].trim_start();
        }
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/')))
            .unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        check_label_key(key)?;
        rest = after.trim_start();
        let test = if absent {
            Test::Absent
        } else {
            let (test, after) = parse_test(rest)?;
            rest = after;
            test
        };
        requirements.push(Requirement {
            key: key.into(),
            test,
        });
        rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(after) if !after.trim().is_empty() => rest = after.trim_start(),
            Some(_) => return Err("found '', expected: identifier after ','".into()),
            None if rest.is_empty() => {}
            None => return Err(format!("found '{rest}', expected: ',' or end of string")),
        }
    }
    Ok(requirements)
}

fn parse_test(rest: &str) -> Result<(Test, &str), String> {
    for token in ["notin", "in"] {
        let Some(after) = rest.strip_prefix(token) else {
            continue;
        };
        let inner = after
            .trim_start()
            .strip_prefix('(')
            .ok_or_else(|| format!("found '{after}', expected: '('"))?;
        let (list, after) = inner
            .split_once(')')
            .ok_or("found '', expected: ',' or ')'")?;
        let values: Vec<String> = list.split(',').map(|v| v.trim().to_owned()).collect();
        for value in &values {
            check_label_value(value)?;
        }
        let test = if token == "in" {
            Test::In(values)
        } else {
            Test::NotIn(values)
        };
        return Ok((test, after));
    }
    for token in ["!=", "==", "=", ">", "<"] {
        let Some(after) = rest.strip_prefix(token) else {
            continue;
        };
        let (value, after) = after.split_at(after.find(',').unwrap_or(after.len()));
        let value = value.trim();
        check_label_value(value)?;
        let number = || {
            value.parse().map_err(|_| {
                format!("for 'Gt', 'Lt' operators, the value must be an integer, found '{value}'")
            })
        };
        let test = match token {
            "!=" => Test::NotIn(vec![value.into()]),
            ">" => Test::Above(number()?),
            "<" => Test::Below(number()?),
            _ => Test::In(vec![value.into()]),
        };
        return Ok((test, after));
    }
    Ok((Test::Exists, rest))
}

/// A label's or annotation's key: an optional DNS subdomain and `/`, then a name.
pub(crate) fn check_label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix
        && !crate::resources::names::is_subdomain(prefix)
    {
        return Err(format!(
            "prefix part of key `{key}` must be a DNS subdomain"
        ));
    }
    if name.is_empty() || name.len() > 63 || !is_label_text(name) {
        return Err(format!(
            "name part of key `{key}` must consist of at most 63 alphanumeric characters, '-', '_' or '.', \
             and must start and end with an alphanumeric character"
        ));
    }
    Ok(())
}

/// A label's value.
pub(crate) fn check_label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || (value.len() <= 63 && is_label_text(value)) {
        return Ok(());
    }
    Err(format!(
        "value `{value}` must be empty or consist of at most 63 alphanumeric characters, '-', '_' or '.', \
         and must start and end with an alphanumeric character"
    ))
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::resources::scale::selector_text;

    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let requirements = parse_labels(selector).unwrap();
        let found = requirements
            .iter()
            .all(|r| r.test.holds(labels.get(r.key.as_str()).copied()));
        assert_eq!(found, expected, "{selector} on {labels:?}");
    }

    #[test]
    fn label_selectors() {
        check("", &[], true);
        check("a", &[("a", "")], true);
        check("a", &[], false);
        check("!a", &[], true);
        check("!a", &[("a", "x")], false);
        check("a=b", &[("a", "b")], true);
        check("a==b", &[("a", "c")], false);
        check("a!=b", &[], true);
        check("a != b", &[("a", "b")], false);
        check("a in (b, c)", &[("a", "c")], true);
        check("a in (b,c),d", &[("a", "c")], false);
        check("a notin (b,c)", &[("a", "d")], true);
        check("a notin (b,c)", &[], true);
        check("a>3", &[("a", "4")], true);
        check("a<3", &[("a", "4")], false);
        check("x.io/y=", &[("x.io/y", "")], true);
        check("x.io/y=,z=1", &[("x.io/y", ""), ("z", "1")], true);
        check("instance=a", &[("instance", "a")], true);
    }

    proptest! {
        /// A `LabelSelector`, its text as clients write it, and plain reading agree.
        #[test]
        fn the_text_of_a_selector_means_the_same(
            equal in prop::collection::btree_map("[a-c]", "[x-z]", 0..2),
            rules in prop::collection::vec(("[a-c]", 0..4usize, prop::collection::vec("[x-z]", 1..3)), 0..3),
            labels in prop::collection::btree_map("[a-c]", "[x-z]", 0..3),
        ) {
            let operators = ["In", "NotIn", "Exists", "DoesNotExist"];
            let expressions: Vec<Value> = rules
                .iter()
                .map(|(key, operator, values)| {
                    let values = if *operator < 2 { values.as_slice() } else { &[] };
                    json!({"key": key, "operator": operators[*operator], "values": values})
                })
                .collect();
            let selector = json!({"matchLabels": equal, "matchExpressions": expressions});
            let label = |key: &str| labels.get(key).map(String::as_str);
            let expected = equal.iter().all(|(key, value)| label(key) == Some(value))
                && rules.iter().all(|(key, operator, values)| {
                    let among = label(key).is_some_and(|found| values.iter().any(|v| v == found));
                    match operator {
                        0 => among,
                        1 => !among,
                        2 => label(key).is_some(),
                        _ => label(key).is_none(),
                    }
                });
            let holds = |requirements: &[Requirement]| {
                requirements.iter().all(|r| r.test.holds(label(&r.key)))
            };
            prop_assert_eq!(holds(&Selector::of_labels(&selector).unwrap().labels), expected);
            let text = selector_text(&selector);
            prop_assert_eq!(holds(&parse_labels(&text).unwrap()), expected, "{}", text);
        }
    }

    #[test]
    fn malformed_label_selectors_are_refused() {
        for selector in [
            "a in b", "a in (b", "=b", "a=b,", "a=b c", "-a", "a=-b", "a>x", "a b",
        ] {
            assert!(parse_labels(selector).is_err(), "{selector}");
        }
    }

    #[test]
    fn escapes_in_field_selectors() {
        assert_eq!(split_escaped(r"a=b\,c,d=e", ','), [r"a=b\,c", "d=e"]);
        assert_eq!(unescape(r"b\,c\=\\"), r"b,c=\");
    }
}
