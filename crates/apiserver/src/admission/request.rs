//! `request`: what expressions see of who asks for what.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::Review;
use crate::kinds::Resource;
use crate::resources::names;
use crate::schema::Schema;

/// The fields of `request`; those that are empty are not there.
pub(super) fn schema() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
        let text = || json!({"type": "string"});
        let texts = |names: &[&str]| {
            let fields: serde_json::Map<String, Value> = names
                .iter()
                .map(|name| ((*name).to_owned(), text()))
                .collect();
            json!({"type": "object", "properties": fields})
        };
        let words = json!({"type": "array", "items": {"type": "string"}});
        let (kind, resource) = (
            texts(&["group", "version", "kind"]),
            texts(&["group", "version", "resource"]),
        );
        let user = json!({"type": "object", "properties": {
            "username": text(), "uid": text(), "groups": words,
            "extra": {"type": "object", "additionalProperties": words},
        }});
        let request = json!({"type": "object", "properties": {
            "kind": kind, "resource": resource, "subResource": text(),
            "requestKind": kind, "requestResource": resource, "requestSubResource": text(),
            "name": text(), "namespace": text(), "operation": text(), "uid": text(),
            "userInfo": user,
            "dryRun": {"type": "boolean"},
            "options": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }});
        let parsed = Schema::parse(&request, "request");
        Schema {
            plain_names: true,
            ..parsed.expect("the schema of requests is well formed")
        }
    });
    &SCHEMA
}

/// `request` for a write that is judged as one of `resource` in `version`.
pub(super) fn of(review: &Review<'_>, resource: &Resource, version: &str) -> Value {
    let user = review.user;
    let mut info = json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = json!(uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    let asked = review.target;
    let (group, asked_version) = (&asked.resource.group, &asked.version().name);
    let names_of = |resource: &Resource, group: &str, version: &str| {
        let (kind_group, kind_version, kind) = match review.subresource {
            Some("scale") => ("autoscaling", "v1", "Scale"),
            Some("eviction") => ("policy", "v1", "Eviction"),
            Some("token") => ("authentication.k8s.io", "v1", "TokenRequest"),
            _ => (group, version, resource.kind.as_str()),
        };
        (
            json!({"group": kind_group, "version": kind_version, "kind": kind}),
            json!({"group": group, "version": version, "resource": resource.plural}),
        )
    };
    let (kind, plural) = names_of(resource, &resource.group, version);
    let (asked_kind, asked_plural) = names_of(&asked.resource, group, asked_version);
    let mut request = json!({
        "uid": names::uid().unwrap_or_default(),
        "kind": kind, "resource": plural,
        "requestKind": asked_kind, "requestResource": asked_plural,
        "operation": review.operation.as_str(),
        "userInfo": info,
        "dryRun": review.dry_run,
        "options": {},
    });
    let optional = [
        ("name", Some(review.name)),
        ("namespace", asked.namespace.as_deref()),
        ("subResource", review.subresource),
        ("requestSubResource", review.subresource),
    ];
    for (field, value) in optional {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            request[field] = json!(value);
        }
    }
    request
}
