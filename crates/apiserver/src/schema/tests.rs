#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::Schema;

fn parse(schema: Value) -> Schema {
    Schema::parse(&schema, "s").unwrap()
}

/// `reason field` of every problem that the schema of field `f` finds.
#[track_caller]
fn check(schema: Value, value: Value, expected: &[&str]) {
    let whole = parse(json!({"type": "object", "properties": {"f": schema}}));
    let found: Vec<String> = whole
        .validate(&json!({"f": value}))
        .iter()
        .map(|cause| {
            let reason = cause.reason.trim_start_matches("FieldValue");
            format!("{reason} {}", cause.field)
        })
        .collect();
    assert_eq!(found, expected, "{schema} on {value}");
}

#[test]
fn types() {
    check(json!({"type": "string"}), json!("x"), &[]);
    check(json!({"type": "string"}), json!(1), &["TypeInvalid f"]);
    check(json!({"type": "string"}), Value::Null, &["TypeInvalid f"]);
    check(
        json!({"type": "string", "nullable": true}),
        Value::Null,
        &[],
    );
    check(json!({"type": "integer"}), json!(1), &[]);
    check(json!({"type": "integer"}), json!(1.0), &[]);
    check(json!({"type": "integer"}), json!(1.5), &["TypeInvalid f"]);
    check(json!({"type": "number"}), json!(1), &[]);
    check(
        json!({"type": "boolean"}),
        json!("true"),
        &["TypeInvalid f"],
    );
    check(json!({"type": "array"}), json!({}), &["TypeInvalid f"]);
    check(
        json!({"x-kubernetes-int-or-string": true}),
        json!("50%"),
        &[],
    );
    check(json!({"x-kubernetes-int-or-string": true}), json!(5), &[]);
    check(
        json!({"x-kubernetes-int-or-string": true}),
        json!([]),
        &["TypeInvalid f"],
    );
    check(
        json!({"x-kubernetes-preserve-unknown-fields": true}),
        json!([1]),
        &[],
    );
}

#[test]
fn limits() {
    check(
        json!({"type": "string", "minLength": 2}),
        json!("ä"),
        &["Invalid f"],
    );
    check(
        json!({"type": "string", "maxLength": 2}),
        json!("äöü"),
        &["TooLong f"],
    );
    check(json!({"type": "string", "maxLength": 3}), json!("äöü"), &[]);
    check(
        json!({"type": "string", "pattern": "^a+$"}),
        json!("aab"),
        &["Invalid f"],
    );
    check(
        json!({"type": "string", "enum": ["a"]}),
        json!("b"),
        &["NotSupported f"],
    );
    check(
        json!({"type": "string", "format": "date-time"}),
        json!("today"),
        &["Invalid f"],
    );
    check(
        json!({"type": "string", "format": "unheard-of"}),
        json!("x"),
        &[],
    );
    check(
        json!({"type": "integer", "minimum": 1}),
        json!(0),
        &["Invalid f"],
    );
    check(
        json!({"type": "integer", "maximum": 1, "exclusiveMaximum": true}),
        json!(1),
        &["Invalid f"],
    );
    check(
        json!({"type": "integer", "format": "int32"}),
        json!(1_u64 << 40),
        &["Invalid f"],
    );
    check(
        json!({"type": "integer", "multipleOf": 5}),
        json!(7),
        &["Invalid f"],
    );
    check(
        json!({"type": "array", "maxItems": 1}),
        json!([1, 2]),
        &["TooMany f"],
    );
    check(
        json!({"type": "array", "minItems": 1}),
        json!([]),
        &["Invalid f"],
    );
    check(
        json!({"type": "object", "maxProperties": 0}),
        json!({"a": 1}),
        &["TooMany f"],
    );
}

#[test]
fn structure() {
    let object = json!({
        "type": "object", "required": ["a"],
        "properties": {"a": {"type": "string"}},
        "additionalProperties": {"type": "integer"},
    });
    check(object.clone(), json!({"b": 1}), &["Required f.a"]);
    check(object, json!({"a": "x", "b": "y"}), &["TypeInvalid f.b"]);
    let list = json!({"type": "array", "items": {"type": "string"}});
    check(list, json!(["a", 1]), &["TypeInvalid f[1]"]);
    let set =
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
    check(set, json!(["a", "b", "a"]), &["Duplicate f[2]"]);
    let map = json!({
        "type": "array", "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["k", "p"],
        "items": {"type": "object", "properties": {
            "k": {"type": "string"}, "p": {"type": "string", "default": "tcp"},
        }},
    });
    check(
        map.clone(),
        json!([{"k": "a"}, {"k": "a", "p": "udp"}]),
        &[],
    );
    check(
        map,
        json!([{"k": "a"}, {"k": "a", "p": "tcp"}]),
        &["Duplicate f[1]"],
    );
}

#[test]
fn junctors() {
    let any = json!({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
    check(any.clone(), json!({"b": 1}), &[]);
    check(any, json!({}), &["Invalid f"]);
    let one = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    check(one.clone(), json!({"a": 1}), &[]);
    check(one, json!({"a": 1, "b": 1}), &["Invalid f"]);
    let not = json!({"type": "object", "not": {"required": ["a"]}});
    check(not, json!({"a": 1}), &["Invalid f"]);
    let all = json!({"type": "string", "allOf": [{"minLength": 2}, {"pattern": "x"}]});
    check(all, json!("a"), &["Invalid f", "Invalid f"]);
}

#[test]
fn defaults_fill_in_from_the_outside_in() {
    let schema = parse(json!({"type": "object", "properties": {
        "a": {"type": "object", "default": {}, "properties": {
            "b": {"type": "integer", "default": 1},
        }},
        "n": {"type": "string", "default": "x"},
        "keep": {"type": "string", "default": "x", "nullable": true},
        "list": {"type": "array", "items": {"type": "object", "properties": {
            "c": {"type": "boolean", "default": true},
        }}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {
            "d": {"type": "string", "default": "y"},
        }}},
    }}));
    let mut value = json!({"n": null, "keep": null, "list": [{}, {"c": false}], "map": {"k": {}}});
    schema.apply_defaults(&mut value);
    assert_eq!(
        value,
        json!({
            "a": {"b": 1}, "n": "x", "keep": null,
            "list": [{"c": true}, {"c": false}], "map": {"k": {"d": "y"}},
        })
    );
}

#[test]
fn pruning_drops_exactly_what_is_reported() {
    let schema = parse(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "known": {"type": "string"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                     "properties": {"strict": {"type": "object", "properties": {}}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "list": {"type": "array", "items": {"type": "object", "properties": {
                "x": {"type": "integer"},
            }}},
            "object": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {}},
        }},
    }}));
    let mut value = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "extra": 1,
        "spec": {
            "known": "a", "knwon": "b", "free": {"any": 1, "strict": {"gone": 1}},
            "map": {"k": "v"}, "list": [{"x": 1, "y": 2}],
            "object": {"apiVersion": "v1", "kind": "K", "metadata": {}, "data": {}},
        },
    });
    let mut unknown = schema.unknown_fields(&value);
    unknown.sort();
    assert_eq!(
        unknown,
        [
            "unknown field \"extra\"",
            "unknown field \"spec.free.strict.gone\"",
            "unknown field \"spec.knwon\" (did you mean \"known\"?)",
            "unknown field \"spec.list[0].y\"",
            "unknown field \"spec.object.data\"",
        ]
    );
    schema.prune(&mut value);
    assert!(schema.unknown_fields(&value).is_empty());
    assert_eq!(
        value,
        json!({
            "apiVersion": "v1", "kind": "K", "metadata": {"name": "n"},
            "spec": {
                "known": "a", "free": {"any": 1, "strict": {}}, "map": {"k": "v"},
                "list": [{"x": 1}],
                "object": {"apiVersion": "v1", "kind": "K", "metadata": {}},
            },
        })
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    for (schema, expected) in [
        (json!("x"), "s: expected an object"),
        (json!({"type": "date"}), "s.type: unsupported type `date`"),
        (json!({"$ref": "#/x"}), "s: `$ref` is not supported"),
        (
            json!({"type": "string", "pattern": "("}),
            "s.pattern: regex parse error",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map"}),
            "s.x-kubernetes-list-map-keys: a list of type map needs at least one key",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "b"}}}),
            "s.properties[a].type: unsupported type `b`",
        ),
    ] {
        let error = Schema::parse(&schema, "s").unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
