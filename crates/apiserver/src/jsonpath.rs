//! The JSONPath subset of printer columns: fields, indexes, wildcards, and filters that compare a field.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Wildcard,
    /// `?(@.a.b == literal)`; without a comparison the field must exist.
    Filter {
        path: Vec<Step>,
        test: Option<(Comparison, Value)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses `.status.conditions[?(@.type=="Ready")].status` and the like, with or without braces and `$`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut text = text.trim();
        if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            text = inner.trim();
        }
        let text = text.strip_prefix('$').unwrap_or(text);
        if text.is_empty() {
            return Err("expected a path such as `.spec.name`".into());
        }
        let mut parser = Parser { rest: text };
        let steps = parser.steps()?;
        if !parser.rest.is_empty() {
            return Err(format!("unexpected `{}`", parser.rest));
        }
        Ok(Self { steps })
    }

    /// Everything the path finds.
    pub(crate) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        walk(&self.steps, value)
    }
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|v| step.apply(v)).collect();
    }
    found
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(items)) => {
                let length = items.len() as i64;
                let at = if *index < 0 { length + index } else { *index };
                let at = usize::try_from(at).ok();
                at.and_then(|at| items.get(at)).into_iter().collect()
            }
            (Self::Wildcard, Value::Array(items)) => items.iter().collect(),
            (Self::Wildcard, Value::Object(map)) => map.values().collect(),
            (Self::Filter { path, test }, Value::Array(items)) => items
                .iter()
                .filter(|item| {
                    let found = walk(path, item);
                    match test {
                        None => !found.is_empty(),
                        Some((comparison, literal)) => {
                            found.iter().any(|v| comparison.holds(v, literal))
                        }
                    }
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::Number(a), Value::Number(b)) => a
                .as_f64()
                .zip(b.as_f64())
                .and_then(|(a, b)| a.partial_cmp(&b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        };
        match self {
            Self::Equal => order.is_some_and(|o| o.is_eq()),
            Self::NotEqual => !order.is_some_and(|o| o.is_eq()),
            Self::Less => order.is_some_and(|o| o.is_lt()),
            Self::LessOrEqual => order.is_some_and(|o| o.is_le()),
            Self::Greater => order.is_some_and(|o| o.is_gt()),
            Self::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) {
            Ok(())
        } else {
            Err(format!("expected `{token}` before `{}`", self.rest))
        }
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if self.eat("[") {
                steps.push(self.bracket()?);
                self.expect("]")?;
            } else if self.eat(".") {
                if self.eat("*") {
                    steps.push(Step::Wildcard);
                } else if !self.rest.starts_with('[') {
                    steps.push(Step::Field(self.name()?));
                }
            } else {
                return Ok(steps);
            }
        }
    }

    /// A field's name; a backslash takes the next character as it is.
    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        let mut characters = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
                c if c.is_alphanumeric() || matches!(c, '_' | '-' | '/') => name.push(c),
                _ => {
                    end = at;
                    break;
                }
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() {
            return Err(format!("expected a field name before `{}`", self.rest));
        }
        Ok(name)
    }

    fn bracket(&mut self) -> Result<Step, String> {
        if self.eat("*") {
            return Ok(Step::Wildcard);
        }
        if self.eat("?(") {
            self.spaces();
            self.expect("@")?;
            let path = self.steps()?;
            self.spaces();
            let comparisons = [
                ("==", Comparison::Equal),
                ("!=", Comparison::NotEqual),
                ("<=", Comparison::LessOrEqual),
                (">=", Comparison::GreaterOrEqual),
                ("<", Comparison::Less),
                (">", Comparison::Greater),
            ];
            let mut test = None;
            for (token, comparison) in comparisons {
                if self.eat(token) {
                    self.spaces();
                    test = Some((comparison, self.literal()?));
                    break;
                }
            }
            self.spaces();
            self.expect(")")?;
            return Ok(Step::Filter { path, test });
        }
        match self.literal()? {
            Value::String(name) => Ok(Step::Field(name)),
            number => number
                .as_i64()
                .map(Step::Index)
                .ok_or_else(|| "expected an index or a quoted name in brackets".into()),
        }
    }

    fn literal(&mut self) -> Result<Value, String> {
        for quote in ['"', '\''] {
            let Some(inner) = self.rest.strip_prefix(quote) else {
                continue;
            };
            let end = inner.find(quote).ok_or("a quoted string does not end")?;
            self.rest = &inner[end + 1..];
            return Ok(inner[..end].into());
        }
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.')))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let value = serde_json::from_str(word)
            .map_err(|_| format!("expected a value before `{}`", self.rest))?;
        self.rest = rest;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn check(path: &str, expected: Value) {
        let object = json!({
            "metadata": {"name": "n", "annotations": {"a.b/c": "d"}},
            "spec": {"list": [1, 2, 3], "deep": {"x": {"y": true}}},
            "status": {"conditions": [
                {"type": "Updated", "status": "True", "n": 2},
                {"type": "Degraded", "status": "False", "n": 7},
            ]},
        });
        let found: Value = match JsonPath::parse(path) {
            Ok(path) => path.find(&object).into_iter().cloned().collect(),
            Err(_) => json!("error"),
        };
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths() {
        check(".metadata.name", json!(["n"]));
        check("{.metadata.name}", json!(["n"]));
        check("$.metadata.name", json!(["n"]));
        check(".metadata.missing", json!([]));
        check(r".metadata.annotations.a\.b/c", json!(["d"]));
        check(".metadata.annotations['a.b/c']", json!(["d"]));
        check(".spec.list[1]", json!([2]));
        check(".spec.list[-1]", json!([3]));
        check(".spec.list[*]", json!([1, 2, 3]));
        check(".spec.list[9]", json!([]));
        check(".spec.deep.*.y", json!([true]));
        check(
            r#".status.conditions[?(@.type=="Updated")].status"#,
            json!(["True"]),
        );
        check(
            ".status.conditions[?(@.type == 'Degraded')].status",
            json!(["False"]),
        );
        check(".status.conditions[?(@.n > 3)].type", json!(["Degraded"]));
        check(".status.conditions[?(@.n)].n", json!([2, 7]));
        check(".status.conditions[?(@.type!=\"x\")].n", json!([2, 7]));
        check("", json!("error"));
        check(".a[", json!("error"));
        check(".a]", json!("error"));
        check(".a[?(@.x==)]", json!("error"));
        check("metadata.name", json!("error"));
    }
}
