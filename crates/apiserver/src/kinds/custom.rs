//! From a CustomResourceDefinition to a kind.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::registry::priority;
use super::{Behaviour, Column, Columns, NameRule, Resource, Version};
use crate::jsonpath::JsonPath;
use crate::resources::metadata::{parsed_schema, timestamp};
use crate::schema::Schema;
use crate::status::Cause;

/// The finalizer that keeps a definition until its objects are gone.
pub(crate) const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The problems of a definition that its own schema does not find.
pub(crate) fn check_definition(definition: &Value) -> Vec<Cause> {
    resource(definition).err().unwrap_or_default()
}

/// Brings a definition's status and finalizer to where they belong: a definition that passes its checks is
/// established at once, because one server is all there is.
pub(super) fn establish(definition: &mut Value) {
    let now = json!(timestamp(Timestamp::now()));
    let terminating = definition["metadata"]["deletionTimestamp"].is_string();
    if !terminating {
        let listed = definition["metadata"]["finalizers"].as_array().cloned();
        let mut listed = listed.unwrap_or_default();
        if !listed.iter().any(|finalizer| finalizer == CRD_CLEANUP) {
            listed.push(json!(CRD_CLEANUP));
        }
        definition["metadata"]["finalizers"] = Value::Array(listed);
    }
    let names = definition["spec"]["names"].clone();
    let storage = definition["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten();
    let storage = storage
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .next();
    let status = &mut definition["status"];
    status["acceptedNames"] = names;
    let stored = status["storedVersions"].as_array().cloned();
    let mut stored = stored.unwrap_or_default();
    if let Some(storage) = storage.filter(|storage| !stored.contains(storage)) {
        stored.push(storage);
    }
    status["storedVersions"] = Value::Array(stored);
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let mut wanted = vec![
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        (
            "Established",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
    ];
    if terminating {
        wanted.push((
            "Terminating",
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        ));
    }
    for (kind, reason, message) in wanted {
        if !conditions.iter().any(|condition| condition["type"] == kind) {
            conditions.push(json!({
                "type": kind, "status": "True", "lastTransitionTime": now,
                "reason": reason, "message": message,
            }));
        }
    }
    status["conditions"] = Value::Array(conditions);
}

/// The kind a definition describes.
pub(super) fn resource(definition: &Value) -> Result<Resource, Vec<Cause>> {
    let spec = &definition["spec"];
    let mut causes = Vec::new();
    let mut required = |value: &Value, path: &str| match value.as_str() {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => {
            causes.push(Cause::required(path, ""));
            String::new()
        }
    };
    let group = required(&spec["group"], "spec.group");
    let plural = required(&spec["names"]["plural"], "spec.names.plural");
    let kind = required(&spec["names"]["kind"], "spec.names.kind");
    let scope = required(&spec["scope"], "spec.scope");
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    if causes.is_empty() && name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &json!(name),
            &format!("must be spec.names.plural+\".\"+spec.group, `{plural}.{group}`"),
        ));
    }
    if causes.is_empty() && (!group.contains('.') || group == "apiextensions.k8s.io") {
        causes.push(Cause::invalid(
            "spec.group",
            &json!(group),
            "should be a domain with at least one dot",
        ));
    }
    if !matches!(scope.as_str(), "Namespaced" | "Cluster") && !scope.is_empty() {
        let supported = ["Cluster".to_owned(), "Namespaced".to_owned()];
        causes.push(Cause::not_supported(
            "spec.scope",
            &spec["scope"],
            &supported,
        ));
    }
    let namespaced = scope == "Namespaced";
    let mut versions = Vec::new();
    let listed = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, entry) in listed.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        match version(entry, &group, &kind, &path) {
            Ok(version) if entry["served"].as_bool() == Some(true) => versions.push(version),
            Ok(_) => {}
            Err(mut more) => causes.append(&mut more),
        }
    }
    let stored = listed.iter().filter(|v| v["storage"] == true).count();
    if stored != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &spec["versions"],
            "must have exactly one version marked as storage version",
        ));
    }
    if spec["conversion"]["strategy"] == "Webhook" {
        causes.push(Cause::not_supported(
            "spec.conversion.strategy",
            &spec["conversion"]["strategy"],
            &["None".to_owned()],
        ));
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    versions.sort_by_key(|version| std::cmp::Reverse(priority(&version.name)));
    let names = &spec["names"];
    let text = |value: &Value, or: String| value.as_str().map_or(or, String::from);
    let several = |value: &Value| -> Vec<String> {
        let values = value.as_array().map_or(&[][..], Vec::as_slice);
        values
            .iter()
            .filter_map(Value::as_str)
            .map(String::from)
            .collect()
    };
    Ok(Resource {
        storage: format!("{group}/{plural}").into(),
        singular: text(&names["singular"], kind.to_lowercase()),
        list_kind: text(&names["listKind"], format!("{kind}List")),
        short_names: several(&names["shortNames"]),
        categories: several(&names["categories"]),
        group,
        plural,
        kind,
        namespaced,
        versions,
        behaviour: Behaviour {
            custom: true,
            generation: true,
            unconditional_update: false,
            names: NameRule::Subdomain,
            ..Behaviour::PLAIN
        },
        terminating: definition["metadata"]["deletionTimestamp"].is_string(),
    })
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
    let mut columns = Vec::new();
    let listed = &entry["additionalPrinterColumns"];
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
    let selectable = entry["selectableFields"].as_array();
    let selectable = selectable
        .into_iter()
        .flatten()
        .filter_map(|field| field["jsonPath"].as_str())
        .map(dotted)
        .collect();
    let subresources = &entry["subresources"];
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
        columns: Columns::Paths(columns),
        selectable,
        convert: None,
        name,
    })
}

/// `["spec", "replicas"]` of `.spec.replicas`.
fn dotted(path: &str) -> Vec<String> {
    path.split('.')
        .filter(|part| !part.is_empty())
        .map(String::from)
        .collect()
}
