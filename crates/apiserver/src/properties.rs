//! Laws that hold for any input: of patches, of schemas and of rules.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::patch::Patch;
use crate::rules;
use crate::schema::Schema;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Few names, so that two values have some in common.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..3).prop_map(Value::from),
        "[a-c~/]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            any_map(inner),
        ]
    })
}

fn any_map(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec!["a", "b", "c", "x/y", "~", ""]);
    prop::collection::vec((names, values), 0..4).prop_map(|fields| {
        let fields = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Value::Object(fields.collect())
    })
}

fn patched(media_type: &str, old: &Value, patch: Value, schema: &Schema) -> Value {
    let patch = Patch::parse(media_type, patch, false).unwrap();
    patch.apply(old, schema).unwrap()
}

/// RFC 7386, word by word.
fn merged(target: &Value, patch: &Value) -> Value {
    let Value::Object(fields) = patch else {
        return patch.clone();
    };
    let mut result = target.as_object().cloned().unwrap_or_default();
    for (name, value) in fields {
        match value {
            Value::Null => drop(result.remove(name)),
            value => {
                let before = result.get(name).cloned().unwrap_or_default();
                result.insert(name.clone(), merged(&before, value));
            }
        }
    }
    Value::Object(result)
}

/// A list whose items are told apart by `key`, as a map.
fn by_key(list: &Value) -> BTreeMap<String, Value> {
    let items = list.as_array().unwrap().iter();
    let keyed = items.map(|item| (item["key"].as_str().unwrap().to_owned(), item.clone()));
    let found: BTreeMap<String, Value> = keyed.collect();
    assert_eq!(
        found.len(),
        list.as_array().unwrap().len(),
        "a key twice: {list}"
    );
    found
}

fn keyed_schema() -> Schema {
    let schema = json!({"type": "object", "properties": {
        "list": {"type": "array", "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "key",
                 "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                           "properties": {"key": {"type": "string"}}}},
    }});
    Schema::parse(&schema, "test").unwrap()
}

fn items(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<Value>> {
    prop::collection::btree_map("[a-e]", values, 0..5).prop_map(|items| {
        let item = |(key, mut value): (String, Value)| {
            value["key"] = json!(key);
            value
        };
        items.into_iter().map(item).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_json_patch_of_the_difference_leads_there(old in any_json(), new in any_json()) {
        let difference = serde_json::to_value(json_patch::diff(&old, &new)).unwrap();
        prop_assert_eq!(patched(JSON, &old, difference, &Schema::anything()), new);
    }

    #[test]
    fn merge_patches_do_what_the_standard_says(old in any_json(), patch in any_map(any_json())) {
        let once = patched(MERGE, &old, patch.clone(), &Schema::anything());
        prop_assert_eq!(&once, &merged(&old, &patch));
        prop_assert_eq!(patched(MERGE, &once, patch, &Schema::anything()), once);
    }

    #[test]
    fn strategic_merges_of_keyed_lists_are_merges_of_maps(
        old in items((0i64..3).prop_map(|n| json!({"n": n, "kept": true}))),
        new in items(prop_oneof![
            (0i64..3).prop_map(|n| json!({"n": n})),
            Just(json!({"n": null})),
            Just(json!({"$patch": "delete"})),
        ]),
    ) {
        let mut expected = by_key(&json!(old));
        for item in &new {
            let key = item["key"].as_str().unwrap();
            if item["$patch"] == "delete" {
                expected.remove(key);
                continue;
            }
            let before = expected.get(key).cloned().unwrap_or_else(|| json!({}));
            expected.insert(key.to_owned(), merged(&before, item));
        }
        let patch = json!({"list": new});
        let once = patched(STRATEGIC, &json!({"list": old}), patch.clone(), &keyed_schema());
        let found = match once.get("list") {
            Some(list) => by_key(list),
            None => BTreeMap::new(),
        };
        prop_assert_eq!(found, expected, "{}", patch);
        prop_assert_eq!(patched(STRATEGIC, &once, patch, &keyed_schema()), once);
    }

    #[test]
    fn pruning_and_defaulting_twice_is_doing_it_once(value in any_map(any_json())) {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "object", "default": {"b": 1}, "properties": {
                "a": {"type": "string", "default": "x"}, "b": {"type": "integer"},
                "c": {"type": "array", "items": {"type": "object", "properties": {
                    "a": {"type": "integer", "default": 1}, "b": {"type": "string", "nullable": true, "default": "y"},
                }}},
            }},
            "b": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                "a": {"type": "boolean", "default": true},
            }}},
            "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                "a": {"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true, "default": 5}}},
            }},
        }});
        let schema = Schema::parse(&schema, "test").unwrap();
        let (mut once, mut twice) = (value.clone(), value);
        schema.prune(&mut once);
        schema.prune(&mut twice);
        schema.prune(&mut twice);
        prop_assert_eq!(&once, &twice);
        prop_assert!(schema.unknown_fields(&once).is_empty());
        schema.apply_defaults(&mut once);
        let defaulted = once.clone();
        schema.apply_defaults(&mut once);
        prop_assert_eq!(&once, &defaulted);
        schema.prune(&mut once);
        prop_assert_eq!(&once, &defaulted, "a default is pruned");
        schema.validate(&once);
    }
}

/// Expressions that mostly parse, and often mean something.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "self",
        "self.n",
        "self.s",
        "self.list",
        "self.map",
        "oldSelf",
        "self.none",
        "x",
        "1",
        "-9223372036854775808",
        "0",
        "2u",
        "1.5",
        "'a'",
        "'[a-'",
        "b'a'",
        "true",
        "null",
        "[]",
        "{}",
        "[1, 'a']",
        "{'a': 1}",
        "int",
        "duration('1h')",
        "timestamp('2026-01-01T00:00:00Z')",
        "quantity('1Ki')",
        "optional.none()",
    ]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(4, 24, 3, |inner| {
            let operator = prop::sample::select(vec![
                "+", "-", "*", "/", "%", "==", "!=", "<", ">=", "&&", "||", "in",
            ]);
            let call = prop::sample::select(vec![
                ".size()",
                ".sum()",
                ".min()",
                ".isSorted()",
                ".lowerAscii()",
                ".split('')",
                ".join(',')",
                ".hasValue()",
                ".value()",
                ".sign()",
                ".asInteger()",
                "[0]",
                "[?0]",
                ".?n",
                ".n",
                ".a.b",
                ".trim()",
                ".reverse()",
                ".substring(1)",
                ".charAt(9)",
                ".matches('a+')",
                ".findAll('.')",
                ".getHours()",
                ".family()",
            ]);
            let macros = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter"]);
            let global = prop::sample::select(vec![
                "size", "int", "string", "double", "type", "dyn", "url", "ip", "has", "!", "-",
            ]);
            prop_oneof![
                (inner.clone(), operator, inner.clone())
                    .prop_map(|(a, op, b)| format!("({a} {op} {b})")),
                (inner.clone(), call).prop_map(|(a, call)| format!("{a}{call}")),
                (inner.clone(), macros, inner.clone())
                    .prop_map(|(a, name, b)| format!("{a}.{name}(x, {b})")),
                (global, inner.clone()).prop_map(|(name, a)| format!("{name}({a})")),
                (inner.clone(), inner.clone(), inner)
                    .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            ]
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Every rule gets an answer: refused when it is read, when its types are checked, when it runs, or it says yes or no.
    #[test]
    fn no_rule_brings_the_server_down(rule in expression(), long in 0usize..400) {
        let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": rule}], "properties": {
            "n": {"type": "integer"}, "s": {"type": "string"},
            "list": {"type": "array", "items": {"type": "integer"}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
        }});
        let Ok(schema) = Schema::parse(&schema, "test") else {
            return Ok(());
        };
        rules::check_types(&schema, "test");
        let object = json!({
            "n": i64::MAX, "s": "ä".repeat(long), "list": vec![1; long], "map": {"a": "b"},
        });
        for old in [None, Some(&object)] {
            let mut new = object.clone();
            new["n"] = json!(3);
            rules::check(&schema, &new, old);
        }
    }
}
