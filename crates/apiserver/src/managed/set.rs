//! Sets of fields, as `fieldsV1` writes them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Nesting of a set at most; far above any schema.
const MAX_DEPTH: usize = 100;

/// A set of field paths. Keys are path elements as in `fieldsV1`: `f:name`, `k:{"key":"value"}`, `v:value`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet(pub(super) BTreeMap<String, Node>);

/// What is known below one path element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// The path that ends here is in the set.
    pub(super) member: bool,
    pub(super) children: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a child, unless there is nothing in it.
    pub(super) fn put(&mut self, element: String, node: Node) {
        if !node.is_empty() {
            self.0.insert(element, node);
        }
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        for (element, theirs) in &other.0 {
            let node = union.0.entry(element.clone()).or_default();
            node.member |= theirs.member;
            node.children = node.children.union(&theirs.children);
        }
        union
    }

    /// The paths that are not in `other`.
    pub(super) fn minus(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && !theirs, Self::minus)
    }

    /// The paths that are in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && theirs, Self::intersection)
    }

    fn combine(
        &self,
        other: &Self,
        member: impl Fn(bool, bool) -> bool,
        children: impl Fn(&Self, &Self) -> Self,
    ) -> Self {
        let nothing = Node::default();
        let mut result = Self::default();
        for (element, mine) in &self.0 {
            let theirs = other.0.get(element).unwrap_or(&nothing);
            let node = Node {
                member: member(mine.member, theirs.member),
                children: children(&mine.children, &theirs.children),
            };
            result.put(element.clone(), node);
        }
        result
    }

    /// Every path in the set, as people read it: `.spec.parts[name="a"].count`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let path = format!("{prefix}{}", shown(element));
            if node.member {
                paths.push(path.clone());
            }
            node.children.collect(&path, paths);
        }
    }

    /// The `fieldsV1` document.
    pub(super) fn to_json(&self) -> Value {
        let children = self.0.iter().map(|(element, node)| {
            let Value::Object(mut map) = node.children.to_json() else {
                unreachable!("a set is written as an object");
            };
            if node.member && !map.is_empty() {
                map.insert(".".into(), Value::Object(Map::new()));
            }
            (element.clone(), Value::Object(map))
        });
        Value::Object(children.collect())
    }

    /// Reads a `fieldsV1` document; `None` if it is malformed.
    pub(super) fn from_json(document: &Value) -> Option<Self> {
        Self::read(document, 0)
    }

    fn read(document: &Value, depth: usize) -> Option<Self> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut set = Self::default();
        for (element, inner) in document.as_object()? {
            if element == "." {
                continue;
            }
            let inner_map = inner.as_object()?;
            let children = Self::read(inner, depth + 1)?;
            let node = Node {
                member: inner_map.is_empty() || inner_map.contains_key("."),
                children,
            };
            set.put(element.clone(), node);
        }
        Some(set)
    }
}

fn shown(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", key)) => match serde_json::from_str::<Value>(key) {
            Ok(Value::Object(keys)) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", keys.join(","))
            }
            _ => format!("[{key}]"),
        },
        Some(("v", value)) => format!("[={value}]"),
        _ => format!("[{element}]"),
    }
}
