//! Roles and bindings: what their schemas cannot say.

use serde_json::{Value, json};

use crate::auth::policy::GROUP;
use crate::status::Cause;

/// Fills in the API groups that clients leave out.
pub(super) fn prepare_binding(binding: &mut Value) {
    let is_empty = |value: &Value| value.as_str().is_none_or(str::is_empty);
    if is_empty(&binding["roleRef"]["apiGroup"]) {
        binding["roleRef"]["apiGroup"] = json!(GROUP);
    }
    for subject in binding["subjects"].as_array_mut().into_iter().flatten() {
        let personal = matches!(subject["kind"].as_str(), Some("User" | "Group"));
        if personal && is_empty(&subject["apiGroup"]) {
            subject["apiGroup"] = json!(GROUP);
        }
    }
}

pub(super) fn validate_binding(binding: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let reference = &binding["roleRef"];
    let namespaced = binding["kind"] == "RoleBinding";
    let kinds: &[&str] = match namespaced {
        true => &["Role", "ClusterRole"],
        false => &["ClusterRole"],
    };
    let check = |value: &Value, path: String, supported: &[&str], causes: &mut Vec<Cause>| {
        if !value.as_str().is_some_and(|kind| supported.contains(&kind)) {
            let supported: Vec<String> = supported.iter().map(|s| (*s).to_owned()).collect();
            causes.push(Cause::not_supported(path, value, &supported));
        }
    };
    check(
        &reference["kind"],
        "roleRef.kind".into(),
        kinds,
        &mut causes,
    );
    check(
        &reference["apiGroup"],
        "roleRef.apiGroup".into(),
        &[GROUP],
        &mut causes,
    );
    if reference["name"].as_str().is_none_or(str::is_empty) {
        causes.push(Cause::required("roleRef.name", ""));
    }
    if let Some(old) = old
        && old["roleRef"] != *reference
    {
        causes.push(Cause::invalid(
            "roleRef",
            reference,
            "cannot change roleRef",
        ));
    }
    let subjects = binding["subjects"].as_array();
    for (index, subject) in subjects.into_iter().flatten().enumerate() {
        let at = |field: &str| format!("subjects[{index}].{field}");
        let kinds = ["User", "Group", "ServiceAccount"];
        check(&subject["kind"], at("kind"), &kinds, &mut causes);
        let account = subject["kind"] == "ServiceAccount";
        if account && subject["namespace"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(at("namespace"), ""));
        }
    }
    causes
}

pub(super) fn validate_role(role: &Value, _: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let has = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    for (index, rule) in role["rules"].as_array().into_iter().flatten().enumerate() {
        let at = |field: &str| format!("rules[{index}].{field}");
        if !has(&rule["verbs"]) {
            causes.push(Cause::required(
                at("verbs"),
                "verbs must contain at least one value",
            ));
        }
        if has(&rule["nonResourceURLs"]) {
            if role["kind"] == "Role" {
                causes.push(Cause::invalid(
                    at("nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            continue;
        }
        for field in ["apiGroups", "resources"] {
            if !has(&rule[field]) {
                causes.push(Cause::required(
                    at(field),
                    "resource rules must supply at least one value",
                ));
            }
        }
    }
    causes
}
