//! From a CustomResourceDefinition to a kind.

use std::sync::Arc;

use serde_json::{Value, json};

use super::registry::priority;
use super::{Behaviour, Column, Columns, Resource, Scale, Version};
use crate::jsonpath::JsonPath;
use crate::resources::metadata::parsed_schema;
use crate::resources::names::{is_label, is_subdomain};
use crate::schema::Schema;
use crate::status::Cause;

/// Groups of the built-in kinds and of what is not stored; nobody may add to them.
const RESERVED_GROUPS: &[&str] = &[
    "apiextensions.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "batch",
    "coordination.k8s.io",
    "events.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
];

/// The kind a definition describes.
pub(super) fn resource(definition: &Value) -> Result<Resource, Vec<Cause>> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let mut causes = check_names(definition);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text(&spec["group"]), text(&names["kind"]));
    let mut versions = Vec::new();
    let listed = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, entry) in listed.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        match version(entry, &group, &kind, &path) {
            Ok(version) if entry["served"] == true => versions.push(version),
            Ok(_) => {}
            Err(mut more) => causes.append(&mut more),
        }
    }
    if listed.iter().filter(|v| v["storage"] == true).count() != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &spec["versions"],
            "must have exactly one version marked as storage version",
        ));
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    versions.sort_by_key(|version| std::cmp::Reverse(priority(&version.name)));
    let plural = text(&names["plural"]);
    let or = |value: &Value, or: String| value.as_str().map_or(or, String::from);
    let several = |value: &Value| -> Vec<String> {
        let values = value.as_array().into_iter().flatten();
        values.filter_map(Value::as_str).map(String::from).collect()
    };
    Ok(Resource {
        storage: format!("{group}/{plural}").into(),
        singular: or(&names["singular"], kind.to_lowercase()),
        list_kind: or(&names["listKind"], format!("{kind}List")),
        short_names: several(&names["shortNames"]),
        categories: several(&names["categories"]),
        group,
        plural,
        kind,
        namespaced: spec["scope"] == "Namespaced",
        versions,
        behaviour: Behaviour {
            custom: true,
            generation: true,
            unconditional_update: false,
            ..Behaviour::PLAIN
        },
        terminating: definition["metadata"]["deletionTimestamp"].is_string(),
    })
}

/// What is wrong with a definition, its versions apart.
fn check_names(definition: &Value) -> Vec<Cause> {
    let spec = &definition["spec"];
    let mut causes = Vec::new();
    for (value, path) in [
        (&spec["group"], "spec.group"),
        (&spec["names"]["plural"], "spec.names.plural"),
        (&spec["names"]["kind"], "spec.names.kind"),
        (&spec["scope"], "spec.scope"),
    ] {
        if value.as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(path, ""));
        }
    }
    if !causes.is_empty() {
        return causes;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let expected = format!("{plural}.{group}");
    if definition["metadata"]["name"] != json!(expected) {
        causes.push(Cause::invalid(
            "metadata.name",
            &definition["metadata"]["name"],
            &format!("must be spec.names.plural+\".\"+spec.group, `{expected}`"),
        ));
    }
    if !is_label(&plural) {
        causes.push(Cause::invalid(
            "spec.names.plural",
            &spec["names"]["plural"],
            "must be a DNS label",
        ));
    }
    if !group.contains('.') || !is_subdomain(&group) || RESERVED_GROUPS.contains(&group.as_str()) {
        causes.push(Cause::invalid(
            "spec.group",
            &spec["group"],
            "should be a domain with at least one dot that no built-in kind uses",
        ));
    }
    if spec["scope"] != "Namespaced" && spec["scope"] != "Cluster" {
        let supported = ["Cluster".to_owned(), "Namespaced".to_owned()];
        causes.push(Cause::not_supported(
            "spec.scope",
            &spec["scope"],
            &supported,
        ));
    }
    let strategy = &spec["conversion"]["strategy"];
    if *strategy == "Webhook" {
        let supported = ["None".to_owned()];
        let path = "spec.conversion.strategy";
        causes.push(Cause::not_supported(path, strategy, &supported));
    }
    causes
}

fn version(entry: &Value, group: &str, kind: &str, path: &str) -> Result<Version, Vec<Cause>> {
    let mut causes = Vec::new();
    let name = entry["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    }
    let schema_path = format!("{path}.schema.openAPIV3Schema");
    let declared = &entry["schema"]["openAPIV3Schema"];
    if declared.is_object() && declared["type"] != "object" {
        causes.push(Cause::invalid(
            format!("{schema_path}.type"),
            &declared["type"],
            "must be object at the root",
        ));
    }
    let schema = if declared.is_object() {
        Schema::parse(declared, &schema_path).unwrap_or_else(|error| {
            causes.push(Cause::invalid(error.path, &json!(""), &error.message));
            Schema::anything()
        })
    } else {
        causes.push(Cause::required(&schema_path, "schemas are required"));
        Schema::anything()
    };
    let columns = columns(&entry["additionalPrinterColumns"], path, &mut causes);
    let selectable = entry["selectableFields"].as_array();
    let selectable = selectable
        .into_iter()
        .flatten()
        .filter_map(|field| field["jsonPath"].as_str())
        .map(dotted)
        .collect();
    let subresources = &entry["subresources"];
    check_scale(&subresources["scale"], path, &mut causes);
    if !causes.is_empty() {
        return Err(causes);
    }
    let api_version = format!("{group}/{name}");
    let deprecation = (entry["deprecated"] == true).then(|| {
        let given = entry["deprecationWarning"].as_str().map(String::from);
        given.unwrap_or_else(|| format!("{api_version} {kind} is deprecated"))
    });
    Ok(Version {
        api_version,
        storage: entry["storage"] == true,
        deprecation,
        schema: Arc::new(schema.with_metadata(parsed_schema())),
        published: Arc::new(declared.clone()),
        status: subresources["status"].is_object(),
        scale: subresources["scale"]
            .is_object()
            .then(|| scale(subresources)),
        columns: Columns::Paths(columns),
        selectable,
        convert: None,
        since: 0,
        name,
    })
}

/// The columns of a version's table; the age where none are listed.
fn columns(listed: &Value, path: &str, causes: &mut Vec<Cause>) -> Vec<Column> {
    let mut columns = Vec::new();
    for (index, column) in listed.as_array().into_iter().flatten().enumerate() {
        let at = format!("{path}.additionalPrinterColumns[{index}]");
        let text = |name: &str| column[name].as_str().unwrap_or_default().to_owned();
        match JsonPath::parse(&text("jsonPath")) {
            Ok(json_path) => columns.push(Column {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description: text("description"),
                priority: column["priority"].as_i64().unwrap_or(0),
                path: json_path,
            }),
            Err(message) => causes.push(Cause::invalid(
                format!("{at}.jsonPath"),
                &column["jsonPath"],
                &message,
            )),
        }
    }
    if !listed.is_array() {
        columns.push(Column {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            path: JsonPath::parse(".metadata.creationTimestamp")
                .expect("a constant path is well formed"),
        });
    }
    columns
}

/// Replicas that cannot be found by a plain path could not be set.
fn check_scale(scale: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !scale.is_object() {
        return;
    }
    for (field, root) in [
        ("specReplicasPath", ".spec."),
        ("statusReplicasPath", ".status."),
    ] {
        let given = &scale[field];
        let at = format!("{path}.subresources.scale.{field}");
        match given.as_str() {
            None | Some("") => causes.push(Cause::required(at, "")),
            Some(text) if text.starts_with(root) && !text.contains('[') => {}
            Some(_) => {
                let detail = format!("should be a simple json path under {root}");
                causes.push(Cause::invalid(at, given, &detail));
            }
        }
    }
}

fn scale(subresources: &Value) -> Scale {
    let path = |field: &str| subresources["scale"][field].as_str().map(dotted);
    Scale {
        spec_replicas: path("specReplicasPath").unwrap_or_default(),
        status_replicas: path("statusReplicasPath").unwrap_or_default(),
        selector: path("labelSelectorPath"),
    }
}

/// `["spec", "replicas"]` of `.spec.replicas`.
fn dotted(path: &str) -> Vec<String> {
    path.split('.')
        .filter(|part| !part.is_empty())
        .map(String::from)
        .collect()
}
