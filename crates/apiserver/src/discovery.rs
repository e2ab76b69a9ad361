//! What the server offers: versions, groups, resources.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::config;
use crate::http::review::{REVIEWS, Review};
use crate::kinds::{Registry, Resource, Version};

/// `/version`.
pub(crate) fn version(version: &config::Version) -> Value {
    json!({
        "major": version.major,
        "minor": version.minor,
        "gitVersion": version.git_version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The architecture's name as Go has it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// `/api`.
pub(crate) fn core_versions(registry: &Registry) -> Value {
    let versions = registry.groups().remove("").unwrap_or_default();
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [],
    })
}

/// `/apis`.
pub(crate) fn groups(registry: &Registry) -> Value {
    let groups = all_groups(registry);
    let groups: Vec<Value> = groups
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_entry(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
pub(crate) fn group(registry: &Registry, group: &str) -> Option<Value> {
    let groups = all_groups(registry);
    let versions = groups.get(group).filter(|_| !group.is_empty())?;
    let mut entry = group_entry(group, versions);
    entry["kind"] = json!("APIGroup");
    entry["apiVersion"] = json!("v1");
    Some(entry)
}

/// The groups of stored kinds, and those of reviews.
fn all_groups(registry: &Registry) -> BTreeMap<&str, Vec<&str>> {
    let mut groups = registry.groups();
    for review in REVIEWS {
        let versions = groups.entry(review.group).or_default();
        if !versions.contains(&review.version) {
            versions.push(review.version);
        }
    }
    groups
}

fn reviews(group: &str, version: &str) -> impl Iterator<Item = &'static Review> {
    REVIEWS
        .iter()
        .filter(move |review| review.group == group && review.version == version)
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let entry =
        |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let entries: Vec<Value> = versions.iter().map(entry).collect();
    json!({
        "name": group,
        "preferredVersion": entries.first(),
        "versions": entries,
    })
}

/// `/api/v1` and `/apis/{group}/{version}`.
pub(crate) fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for (resource, version) in registry.of_version(group, version) {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": VERBS,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        entries.push(entry);
        for part in parts(resource, version) {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, part.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": part.kind,
                "verbs": part.verbs,
            });
            if let Some((group, version)) = part.foreign {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            entries.push(entry);
        }
    }
    for review in reviews(group, version) {
        entries.push(json!({
            "name": review.plural, "singularName": review.kind.to_lowercase(),
            "namespaced": review.namespaced, "kind": review.kind, "verbs": ["create"],
        }));
    }
    if entries.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": entries,
    }))
}

/// `/api` (with `core`) and `/apis` in the aggregated form of `apidiscovery.k8s.io`.
pub(crate) fn aggregated(registry: &Registry, core: bool, api_version: &str) -> Value {
    let mut items = Vec::new();
    for (group, versions) in all_groups(registry) {
        if group.is_empty() != core {
            continue;
        }
        let versions: Vec<Value> = versions
            .into_iter()
            .map(|version| {
                let reviews = reviews(group, version).map(|review| {
                    let kind = review.kind;
                    json!({
                        "resource": review.plural,
                        "responseKind": {"group": group, "version": version, "kind": kind},
                        "scope": scope(review.namespaced),
                        "singularResource": kind.to_lowercase(),
                        "verbs": ["create"],
                    })
                });
                let resources: Vec<Value> = registry
                    .of_version(group, version)
                    .map(|(resource, version)| aggregated_resource(resource, version))
                    .chain(reviews)
                    .collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            })
            .collect();
        let mut item = json!({
            "metadata": {"creationTimestamp": null},
            "versions": versions,
        });
        if !group.is_empty() {
            item["metadata"]["name"] = json!(group);
        }
        items.push(item);
    }
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{api_version}"),
        "metadata": {},
        "items": items,
    })
}

fn scope(namespaced: bool) -> &'static str {
    if namespaced { "Namespaced" } else { "Cluster" }
}

fn aggregated_resource(resource: &Resource, version: &Version) -> Value {
    let response_kind = json!({
        "group": resource.group, "version": version.name, "kind": resource.kind,
    });
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": response_kind,
        "scope": scope(resource.namespaced),
        "singularResource": resource.singular,
        "verbs": VERBS,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let parts: Vec<Value> = parts(resource, version)
        .map(|part| {
            let (group, version) = part
                .foreign
                .unwrap_or((resource.group.as_str(), version.name.as_str()));
            json!({
                "subresource": part.name,
                "responseKind": {"group": group, "version": version, "kind": part.kind},
                "verbs": part.verbs,
            })
        })
        .collect();
    if !parts.is_empty() {
        entry["subresources"] = json!(parts);
    }
    entry
}

/// A subresource.
struct SubresourceEntry<'a> {
    name: &'static str,
    kind: &'a str,
    /// Group and version of its kind, if it is not the resource's own.
    foreign: Option<(&'static str, &'static str)>,
    verbs: &'static [&'static str],
}

fn parts<'a>(
    resource: &'a Resource,
    version: &'a Version,
) -> impl Iterator<Item = SubresourceEntry<'a>> {
    let own = |name, verbs| SubresourceEntry {
        name,
        kind: resource.kind.as_str(),
        foreign: None,
        verbs,
    };
    let foreign = |name, group, version, kind, verbs| SubresourceEntry {
        name,
        kind,
        foreign: Some((group, version)),
        verbs,
    };
    const CREATE: &[&str] = &["create"];
    let behaviour = &resource.behaviour;
    [
        version.status.then(|| own("status", STATUS_VERBS)),
        version
            .scale
            .is_some()
            .then(|| foreign("scale", "autoscaling", "v1", "Scale", STATUS_VERBS)),
        behaviour
            .eviction
            .then(|| foreign("eviction", "policy", "v1", "Eviction", CREATE)),
        behaviour.tokens.then(|| {
            let group = "authentication.k8s.io";
            foreign("token", group, "v1", "TokenRequest", CREATE)
        }),
    ]
    .into_iter()
    .flatten()
}

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];
