#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::apply::{Applied, apply};
use super::entries::{Entries, Writer};
use crate::resources::metadata;
use crate::schema::Schema;
use crate::status::Cause;

fn schema() -> Schema {
    let part = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "count": {"type": "integer"}, "note": {"type": "string"},
    }});
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "integer"}, "b": {"type": "integer"},
            "deep": {"type": "object", "properties": {"x": {"type": "integer"}}},
            "parts": {"type": "array", "items": part,
                      "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "whole": {"type": "array", "items": {"type": "string"}},
            "unit": {"type": "object", "x-kubernetes-map-type": "atomic",
                     "additionalProperties": {"type": "string"}},
        }},
    }});
    Schema::parse(&schema, "test")
        .unwrap()
        .with_metadata(metadata::parsed_schema())
}

fn writer(manager: &str) -> Writer {
    Writer {
        manager: manager.into(),
        api_version: "g/v1".into(),
        subresource: "",
        now: Timestamp::UNIX_EPOCH,
    }
}

/// An object and its history of writes.
#[derive(Default)]
struct Story {
    object: Option<Value>,
}

impl Story {
    fn try_apply(&mut self, manager: &str, spec: Value, force: bool) -> Result<(), Vec<Cause>> {
        let configuration = json!({"apiVersion": "g/v1", "kind": "K", "spec": spec});
        let live = self.object.as_ref();
        let Applied {
            mut object,
            entries,
        } = apply(
            live,
            &configuration,
            &writer(manager),
            force,
            &schema(),
            |_| true,
        )?;
        object["metadata"]["managedFields"] = entries.to_json();
        self.object = Some(object);
        Ok(())
    }

    fn apply(mut self, manager: &str, spec: Value) -> Self {
        self.try_apply(manager, spec, false).unwrap();
        self
    }

    fn force(mut self, manager: &str, spec: Value) -> Self {
        self.try_apply(manager, spec, true).unwrap();
        self
    }

    /// Another client replaces the spec.
    fn update(mut self, manager: &str, spec: Value) -> Self {
        let old = self.object.take();
        let mut new = old.clone().unwrap_or_else(|| json!({"metadata": {}}));
        new["spec"] = spec;
        let mut entries = Entries::sent(&new, old.as_ref());
        entries.record_update(&writer(manager), old.as_ref(), &new, &schema());
        new["metadata"]["managedFields"] = entries.to_json();
        self.object = Some(new);
        self
    }

    #[track_caller]
    fn refuses(mut self, manager: &str, spec: Value, expected: &[&str]) -> Self {
        let causes = self.try_apply(manager, spec, false).unwrap_err();
        let told: Vec<String> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.message, cause.field))
            .collect();
        assert_eq!(told, expected);
        self
    }

    #[track_caller]
    fn is(self, expected: Value) -> Self {
        let spec = self.object.as_ref().map(|object| object["spec"].clone());
        assert_eq!(spec, Some(expected));
        self
    }

    /// `manager/operation: paths`, one per entry.
    #[track_caller]
    fn owned(self, expected: &[&str]) -> Self {
        let entries = Entries::of(self.object.as_ref().unwrap());
        let told: Vec<String> = entries
            .0
            .iter()
            .map(|entry| {
                let operation = if entry.apply { "Apply" } else { "Update" };
                let paths = entry.fields.paths().join(" ");
                format!("{}/{operation}: {paths}", entry.manager)
            })
            .collect();
        assert_eq!(told, expected);
        self
    }
}

#[test]
fn an_applied_field_that_is_no_longer_mentioned_goes() {
    Story::default()
        .apply("m", json!({"a": 1, "b": 2, "deep": {"x": 1}}))
        .owned(&["m/Apply: .spec.a .spec.b .spec.deep.x"])
        .apply("m", json!({"a": 1}))
        .is(json!({"a": 1}))
        .owned(&["m/Apply: .spec.a"]);
}

#[test]
fn a_field_that_somebody_else_has_too_stays() {
    Story::default()
        .apply("m", json!({"a": 1, "b": 2}))
        .apply("n", json!({"b": 2}))
        .owned(&["m/Apply: .spec.a .spec.b", "n/Apply: .spec.b"])
        .apply("m", json!({"a": 1}))
        .is(json!({"a": 1, "b": 2}))
        .owned(&["m/Apply: .spec.a", "n/Apply: .spec.b"]);
}

#[test]
fn changing_what_others_own_is_a_conflict() {
    Story::default()
        .apply("m", json!({"a": 1, "b": 2}))
        .update("kubectl-edit", json!({"a": 1, "b": 3}))
        .owned(&["m/Apply: .spec.a", "kubectl-edit/Update: .spec.b"])
        .refuses(
            "m",
            json!({"a": 1, "b": 2}),
            &["conflict with \"kubectl-edit\" using g/v1: .spec.b"],
        )
        .refuses("n", json!({"a": 5}), &["conflict with \"m\": .spec.a"])
        .is(json!({"a": 1, "b": 3}))
        .force("m", json!({"a": 1, "b": 2}))
        .is(json!({"a": 1, "b": 2}))
        .owned(&["m/Apply: .spec.a .spec.b"]);
}

#[test]
fn keyed_lists_merge_by_item() {
    Story::default()
        .apply("m", json!({"parts": [{"name": "x", "count": 1}, {"name": "y"}]}))
        .owned(&[
            "m/Apply: .spec.parts[name=\"x\"] .spec.parts[name=\"x\"].count .spec.parts[name=\"x\"].name \
             .spec.parts[name=\"y\"] .spec.parts[name=\"y\"].name",
        ])
        .apply("n", json!({"parts": [{"name": "z"}, {"name": "x", "note": "hi"}]}))
        .is(json!({"parts": [{"name": "x", "count": 1, "note": "hi"}, {"name": "y"}, {"name": "z"}]}))
        .refuses(
            "n",
            json!({"parts": [{"name": "x", "count": 2}]}),
            &["conflict with \"m\": .spec.parts[name=\"x\"].count"],
        )
        // `y` was only ours; of `x` only our field goes.
        .apply("m", json!({}))
        .is(json!({"parts": [{"name": "x", "note": "hi"}, {"name": "z"}]}));
}

#[test]
fn sets_merge_by_value_and_plain_lists_do_not() {
    Story::default()
        .apply("m", json!({"tags": ["a", "b"], "whole": ["a"]}))
        .apply("n", json!({"tags": ["b", "c"]}))
        .is(json!({"tags": ["a", "b", "c"], "whole": ["a"]}))
        .apply("m", json!({"whole": ["z"]}))
        .is(json!({"tags": ["b", "c"], "whole": ["z"]}))
        .refuses(
            "n",
            json!({"whole": ["y"]}),
            &["conflict with \"m\": .spec.whole"],
        );
}

#[test]
fn atomic_maps_are_owned_as_a_whole() {
    Story::default()
        .apply("m", json!({"unit": {"k": "v"}}))
        .owned(&["m/Apply: .spec.unit"])
        .refuses(
            "n",
            json!({"unit": {"l": "w"}}),
            &["conflict with \"m\": .spec.unit"],
        )
        .force("n", json!({"unit": {"l": "w"}}))
        .is(json!({"unit": {"l": "w"}}));
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let first = Story::default().apply("m", json!({"a": 1, "parts": [{"name": "x"}]}));
    let before = first.object.clone();
    let second = first.apply("m", json!({"a": 1, "parts": [{"name": "x"}]}));
    assert_eq!(second.object, before);
}

#[test]
fn many_updaters_are_put_together() {
    let mut story = Story::default();
    let mut spec = json!({"deep": {}});
    for index in 0..20 {
        spec["deep"][format!("k{index}")] = json!(index);
        story = story.update(&format!("client-{index:02}"), spec.clone());
    }
    let entries = Entries::of(story.object.as_ref().unwrap());
    assert_eq!(entries.0.len(), 10);
    assert_eq!(entries.0[0].manager, "ancient-changes");
}

#[test]
fn entries_survive_being_written_and_read() {
    let story = Story::default()
        .apply(
            "m",
            json!({"a": 1, "parts": [{"name": "x", "count": 2}], "tags": ["t"]}),
        )
        .update("u", json!({"a": 2, "deep": {"x": 1}}));
    let object = story.object.unwrap();
    let entries = Entries::of(&object);
    assert_eq!(entries.to_json(), object["metadata"]["managedFields"]);
    assert_eq!(
        entries.to_json()[0]["fieldsV1"],
        json!({"f:spec": {"f:a": {}, "f:deep": {".": {}, "f:x": {}}}})
    );
    let malformed = json!({"metadata": {"managedFields": [{"operation": "Apply", "fieldsV1": 3}]}});
    assert_eq!(Entries::of(&malformed), Entries::default());
}

/// What a manager applies: never empty, and no two managers agree by accident about everything.
fn any_spec() -> impl Strategy<Value = Value> {
    let number = || prop::option::of(0i64..2);
    let parts = prop::collection::btree_map("[a-c]", number(), 0..3);
    let tags = prop::collection::btree_set("[a-c]", 0..3);
    let unit = prop::option::of("[a-b]");
    (0i64..2, number(), number(), parts, tags, unit).prop_map(|(a, b, x, parts, tags, unit)| {
        let mut spec = json!({"a": a});
        if let Some(b) = b {
            spec["b"] = json!(b);
        }
        if let Some(x) = x {
            spec["deep"] = json!({"x": x});
        }
        let parts: Vec<Value> = parts
            .into_iter()
            .map(|(name, count)| match count {
                Some(count) => json!({"name": name, "count": count}),
                None => json!({"name": name}),
            })
            .collect();
        if !parts.is_empty() {
            spec["parts"] = json!(parts);
        }
        if !tags.is_empty() {
            spec["tags"] = json!(tags);
        }
        if let Some(unit) = unit {
            spec["unit"] = json!({unit: "u"});
        }
        spec
    })
}

/// The same, whatever order things were added in.
fn unordered(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["parts", "tags"] {
        if let Some(items) = spec[list].as_array_mut() {
            items.sort_by_key(ToString::to_string);
        }
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    spec
}

impl Story {
    fn spec(&self) -> Value {
        unordered(&self.object.as_ref().unwrap()["spec"])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn applying_twice_is_applying_once(first in any_spec(), second in any_spec()) {
        let mut story = Story::default().apply("one", first).force("two", second.clone());
        let once = story.object.clone();
        story.try_apply("two", second, false).unwrap();
        prop_assert_eq!(story.object, once);
    }

    #[test]
    fn conflicts_do_not_depend_on_who_was_first(left in any_spec(), right in any_spec()) {
        let mut one = Story::default().apply("left", left.clone());
        let mut other = Story::default().apply("right", right.clone());
        let refused = one.try_apply("right", right, false).err();
        let refused_too = other.try_apply("left", left, false).err();
        match (refused, refused_too) {
            (None, None) => prop_assert_eq!(one.spec(), other.spec()),
            (Some(causes), Some(others)) => {
                let fields = |causes: Vec<Cause>| -> std::collections::BTreeSet<String> {
                    causes.into_iter().map(|cause| cause.field).collect()
                };
                prop_assert_eq!(fields(causes), fields(others));
            }
            (one, other) => prop_assert!(false, "{one:?} but {other:?}"),
        }
    }

    #[test]
    fn what_is_applied_no_more_is_as_if_it_never_was(first in any_spec(), second in any_spec()) {
        let mut story = Story::default().apply("stays", first);
        let before = story.spec();
        if story.try_apply("goes", second, false).is_ok() {
            story.try_apply("goes", json!({}), false).unwrap();
            prop_assert_eq!(story.spec(), before);
        }
    }
}
