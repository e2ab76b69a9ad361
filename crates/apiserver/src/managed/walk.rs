//! Walking values by schema: which fields a value has, what differs, how values merge.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::set::{FieldSet, Node};
use crate::schema::{ListType, Schema};

/// How a value is owned: as a whole, or in parts.
enum Shape<'a> {
    Whole,
    Fields(&'a Map<String, Value>),
    /// Items by path element, in order.
    Items(Vec<(String, &'a Value)>),
}

fn shape<'a>(value: &'a Value, schema: Option<&Schema>) -> Shape<'a> {
    match value {
        Value::Object(map) if !schema.is_some_and(|schema| schema.atomic_map) => Shape::Fields(map),
        Value::Array(items) => {
            let elements: Option<Vec<(String, &Value)>> = items
                .iter()
                .map(|item| Some((element_of(item, schema?)?, item)))
                .collect();
            elements.map_or(Shape::Whole, Shape::Items)
        }
        _ => Shape::Whole,
    }
}

/// The path element of a list item; `None` in lists that are owned as a whole.
fn element_of(item: &Value, list: &Schema) -> Option<String> {
    match &list.list_type {
        ListType::Atomic => None,
        ListType::Set => Some(format!("v:{item}")),
        ListType::Map(keys) => {
            let defaults = list.items.as_deref();
            let mut identity: BTreeMap<&str, &Value> = BTreeMap::new();
            for key in keys {
                let default = || defaults?.properties.get(key)?.default.as_ref();
                if let Some(value) = item.get(key).or_else(default) {
                    identity.insert(key, value);
                }
            }
            if identity.is_empty() {
                return None;
            }
            let text = serde_json::to_string(&identity).expect("JSON values serialise");
            Some(format!("k:{text}"))
        }
    }
}

fn field_schema<'a>(schema: Option<&'a Schema>, name: &str) -> Option<&'a Schema> {
    schema?.field(name)
}

fn item_schema(schema: Option<&Schema>) -> Option<&Schema> {
    schema?.items.as_deref()
}

/// Keyed items are members themselves, so that an item without other fields is owned too.
fn item_node(item: &Value, schema: Option<&Schema>, children: FieldSet) -> Node {
    let keyed = matches!(schema.map(|s| &s.list_type), Some(ListType::Map(_)));
    Node {
        member: !keyed || item.is_object(),
        children,
    }
}

/// The fields that `value` has.
pub(super) fn fields_of(value: &Value, schema: Option<&Schema>) -> FieldSet {
    let mut set = FieldSet::default();
    match shape(value, schema) {
        Shape::Whole => {}
        Shape::Fields(map) => {
            for (name, value) in map {
                let children = fields_of(value, field_schema(schema, name));
                let member = children.is_empty();
                set.put(format!("f:{name}"), Node { member, children });
            }
        }
        Shape::Items(items) => {
            for (element, item) in items {
                let children = fields_of(item, item_schema(schema));
                set.put(element, item_node(item, schema, children));
            }
        }
    }
    set
}

/// What changed between two values.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Added or modified.
    pub(super) set: FieldSet,
    pub(super) removed: FieldSet,
}

/// Compares two values that stand at the same place.
pub(super) fn compare(old: &Value, new: &Value, schema: Option<&Schema>) -> Difference {
    let mut difference = Difference::default();
    match (shape(old, schema), shape(new, schema)) {
        (Shape::Fields(before), Shape::Fields(after)) => {
            let names = before
                .keys()
                .chain(after.keys().filter(|n| !before.contains_key(*n)));
            for name in names {
                let schema = field_schema(schema, name);
                let pair = (before.get(name), after.get(name));
                record(&mut difference, format!("f:{name}"), pair, schema);
            }
        }
        (Shape::Items(before), Shape::Items(after)) => {
            let (known, left) = (index(&before), index(&after));
            for (element, item) in &after {
                let pair = (known.get(element.as_str()).copied(), Some(*item));
                record(&mut difference, element.clone(), pair, item_schema(schema));
            }
            for (element, item) in &before {
                if !left.contains_key(element.as_str()) {
                    let pair = (Some(*item), None);
                    record(&mut difference, element.clone(), pair, item_schema(schema));
                }
            }
        }
        _ => {}
    }
    difference
}

/// Items by path element. Lists may be long, so nothing searches them item by item.
fn index<'a>(items: &'a [(String, &'a Value)]) -> HashMap<&'a str, &'a Value> {
    items
        .iter()
        .map(|(element, item)| (element.as_str(), *item))
        .collect()
}

fn record(
    difference: &mut Difference,
    element: String,
    pair: (Option<&Value>, Option<&Value>),
    schema: Option<&Schema>,
) {
    let whole = |value: &Value| Node {
        member: true,
        children: fields_of(value, schema),
    };
    match pair {
        (None, Some(new)) => difference.set.put(element, whole(new)),
        (Some(old), None) => difference.removed.put(element, whole(old)),
        (Some(old), Some(new)) if old != new => {
            let inner = compare(old, new, schema);
            let in_parts = !matches!(shape(old, schema), Shape::Whole)
                && !matches!(shape(new, schema), Shape::Whole)
                && old.is_array() == new.is_array();
            let node = |member, children| Node { member, children };
            difference
                .set
                .put(element.clone(), node(!in_parts, inner.set));
            difference.removed.put(element, node(false, inner.removed));
        }
        _ => {}
    }
}

/// Merges what was applied over what is there.
pub(super) fn merge(live: &Value, applied: &Value, schema: Option<&Schema>) -> Value {
    match (shape(live, schema), shape(applied, schema)) {
        (Shape::Fields(live), Shape::Fields(applied)) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let value = match live.get(name) {
                    Some(before) => merge(before, value, field_schema(schema, name)),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Items(live), Shape::Items(applied)) => {
            let (known, wanted) = (index(&live), index(&applied));
            let mut merged: Vec<Value> = live
                .iter()
                .map(|(element, before)| match wanted.get(element.as_str()) {
                    Some(value) => merge(before, value, item_schema(schema)),
                    None => (*before).clone(),
                })
                .collect();
            for (element, value) in &applied {
                if !known.contains_key(element.as_str()) {
                    merged.push((*value).clone());
                }
            }
            Value::Array(merged)
        }
        _ => applied.clone(),
    }
}

/// Removes fields. What is left empty by that goes too; what `kept` still mentions stays.
pub(super) fn remove(value: &mut Value, gone: &FieldSet, kept: &FieldSet, schema: Option<&Schema>) {
    let nothing = FieldSet::default();
    let below = |set: &FieldSet, element: &str| -> FieldSet {
        let node = set.0.get(element);
        node.map_or_else(FieldSet::default, |node| node.children.clone())
    };
    // Whether the child stays.
    let visit = |child: &mut Value, element: &str, schema: Option<&Schema>| -> bool {
        let Some(node) = gone.0.get(element) else {
            return true;
        };
        if node.member && !kept.0.contains_key(element) {
            return false;
        }
        if node.children == nothing {
            return true;
        }
        remove(child, &node.children, &below(kept, element), schema);
        let emptied = child.as_object().is_some_and(Map::is_empty)
            || child.as_array().is_some_and(Vec::is_empty);
        !emptied || kept.0.contains_key(element)
    };
    match value {
        Value::Object(map) => {
            map.retain(|name, child| visit(child, &format!("f:{name}"), field_schema(schema, name)))
        }
        Value::Array(items) => {
            if let Some(list) = schema {
                items.retain_mut(|item| match element_of(item, list) {
                    Some(element) => visit(item, &element, item_schema(schema)),
                    None => true,
                });
            }
        }
        _ => {}
    }
}

/// The tracked part of an object: nothing that the server decides, and only the part that a write is about.
pub(super) fn tracked(object: &Value, keep: impl Fn(&str) -> bool) -> Value {
    const METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences"];
    let mut result = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        if matches!(name.as_str(), "apiVersion" | "kind") || !keep(name) {
            continue;
        }
        if name != "metadata" {
            result.insert(name.clone(), value.clone());
            continue;
        }
        let fields = value.as_object().into_iter().flatten();
        let fields: Map<String, Value> = fields
            .filter(|(name, _)| METADATA.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !fields.is_empty() {
            result.insert("metadata".into(), Value::Object(fields));
        }
    }
    Value::Object(result)
}
