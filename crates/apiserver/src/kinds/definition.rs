//! What CustomResourceDefinitions themselves go through when they are written.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::custom;
use crate::resources::metadata::timestamp;
use crate::rules;
use crate::schema::Schema;
use crate::status::Cause;

/// The finalizer that keeps a definition until its objects are gone.
pub(crate) const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Fills in names, and brings the status up to date.
pub(super) fn prepare(definition: &mut Value) {
    let spec = &mut definition["spec"];
    let kind = spec["names"]["kind"].as_str().map(String::from);
    if let Some(kind) = kind {
        let names = &mut spec["names"];
        if names["singular"].as_str().is_none_or(str::is_empty) {
            names["singular"] = json!(kind.to_lowercase());
        }
        if names["listKind"].as_str().is_none_or(str::is_empty) {
            names["listKind"] = json!(format!("{kind}List"));
        }
    }
    if !spec["conversion"].is_object() {
        spec["conversion"] = json!({"strategy": "None"});
    }
    establish(definition);
}

/// The problems of a definition that its own schema does not find.
pub(super) fn validate(definition: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = custom::resource(definition).err().unwrap_or_default();
    causes.append(&mut check_rules(definition, old));
    if let Some(old) = old {
        for field in ["group", "scope"] {
            if old["spec"][field] != definition["spec"][field] {
                causes.push(Cause::invalid(
                    format!("spec.{field}"),
                    &definition["spec"][field],
                    "field is immutable",
                ));
            }
        }
    }
    causes
}

/// The rules whose types do not fit. What was there before may stay, as it was accepted then.
fn check_rules(definition: &Value, old: Option<&Value>) -> Vec<Cause> {
    let versions = |definition: &Value| {
        let listed = definition["spec"]["versions"].as_array();
        listed.cloned().unwrap_or_default()
    };
    let before = old.map(versions).unwrap_or_default();
    let mut causes = Vec::new();
    for (index, version) in versions(definition).iter().enumerate() {
        let declared = &version["schema"]["openAPIV3Schema"];
        let same = |old: &Value| old["schema"]["openAPIV3Schema"] == *declared;
        if before.iter().any(same) {
            continue;
        }
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        if let Ok(schema) = Schema::parse(declared, &path) {
            causes.append(&mut rules::check_types(&schema, &path));
        }
    }
    causes
}

/// Brings a definition's status and finalizer to where they belong: a definition that passes its checks is
/// established at once, because one server is all there is.
fn establish(definition: &mut Value) {
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
