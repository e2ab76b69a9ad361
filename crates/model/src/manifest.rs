//! Manifests as people write them: YAML or JSON, several objects in a file, read as strictly as an API server would.
//!
//! Scalars are read as kubectl reads them (`0644` is octal, `yes` is true), so that an offline render and the cluster agree.

mod schema;

use std::fmt;
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{
    CLUSTER, GROUP, MachineConfig, MachineConfigNode, MachineConfigPool, MachineConfiguration,
    MachineOSBuild, MachineOSConfig, OPERATOR_GROUP, RolloutPolicy, VERSION, crds, v1alpha1,
};
use crate::health::Health;
use crate::keys;
use crate::problem::{Problem, did_you_mean, summary};
use crate::pull_spec::PullSpec;
use crate::schedule::Schedule;
use crate::update::policy_problems;

/// The schemas; making them anew for every object would be most of the work.
static CRDS: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(crds);

/// Longest text that is read.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Most documents in one text.
const MAX_DOCUMENTS: usize = 10_000;
/// Deepest nesting of objects and lists.
const MAX_DEPTH: usize = 64;
/// Most nodes that aliases may add; a manifest has few.
const MAX_REPLAYED: usize = 100_000;

/// An object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    MachineConfig(Box<MachineConfig>),
    MachineConfigPool(Box<MachineConfigPool>),
    MachineOSConfig(Box<MachineOSConfig>),
    MachineOSBuild(Box<MachineOSBuild>),
    MachineConfigNode(Box<MachineConfigNode>),
    RolloutPolicy(Box<RolloutPolicy>),
    MachineConfiguration(Box<MachineConfiguration>),
    /// A kind that is not ours; only that it is an object with kind and name was checked.
    Other(Value),
}

/// Why a manifest cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no YAML, or too much of it.
    #[error("{0}")]
    Syntax(String),
    /// Objects in it are not what their kinds say.
    #[error("{}", summary(.0))]
    Invalid(Vec<ObjectProblem>),
}

/// What is wrong with one object of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectProblem {
    /// Kind and name, or the place of the object in the text when it has none.
    pub object: String,
    /// The field and what is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for ObjectProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.problem)
    }
}

/// Reads every object of a text. Lists, as `kubectl get -o yaml` prints them, count as the objects in them.
///
/// # Errors
/// The first error of syntax, or everything that is wrong with the objects.
pub fn parse(text: &str) -> Result<Vec<Object>, ManifestError> {
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for read in each(text)? {
        match read.object {
            Ok(object) => objects.push(object),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        Ok(objects)
    } else {
        Err(ManifestError::Invalid(problems))
    }
}

/// One object of a text, or what is wrong with it.
#[derive(Debug)]
pub(crate) struct Read {
    /// The document that it is in, from 0; those that say nothing do not count.
    pub(crate) document: usize,
    /// Its place in the document, when that is a list.
    pub(crate) item: Option<usize>,
    /// Kind and name, or the document's number where it has none.
    pub(crate) label: String,
    /// Its annotation for `lint`.
    pub(crate) lint_ignore: String,
    /// The object.
    pub(crate) object: Result<Object, Vec<ObjectProblem>>,
}

/// Reads each object of a text by itself.
///
/// # Errors
/// The first error of syntax.
pub(crate) fn each(text: &str) -> Result<Vec<Read>, ManifestError> {
    let mut all = Vec::new();
    for (document, value) in documents(text)?.into_iter().enumerate() {
        let read = |item, value: Value| {
            let annotations = value.pointer("/metadata/annotations");
            let ignore = annotations.and_then(|all| all.get(keys::LINT_IGNORE)?.as_str());
            Read {
                document,
                item,
                label: label(&value, document + 1),
                lint_ignore: ignore.unwrap_or_default().to_owned(),
                object: object(value, document + 1),
            }
        };
        match value {
            Value::Object(mut list) if is_list(&list) => {
                if let Some(Value::Array(items)) = list.remove("items") {
                    let items = items.into_iter().enumerate();
                    all.extend(items.map(|(index, item)| read(Some(index), item)));
                }
            }
            other => all.push(read(None, other)),
        }
    }
    Ok(all)
}

fn documents(text: &str) -> Result<Vec<Value>, ManifestError> {
    if text.len() > MAX_BYTES {
        return Err(ManifestError::Syntax(format!(
            "expected at most {} MiB of manifests",
            MAX_BYTES / (1024 * 1024)
        )));
    }
    yaml(text).map_err(|error| ManifestError::Syntax(error.to_string()))
}

/// Every document of a text as kubectl reads it, within bounds.
pub(crate) fn yaml<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: MAX_DOCUMENTS,
            max_depth: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
        },
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options)
}

/// What is wrong with the metadata of an object of any kind.
pub(crate) fn metadata_problems(value: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(metadata) = value.get("metadata") {
        schema::check_metadata(metadata, &mut problems);
    }
    problems
}

fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    let kind = object.get("kind").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.ends_with("List")) && object.contains_key("items")
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

/// What an object is called in messages.
fn label(value: &Value, number: usize) -> String {
    match (text(value, "/kind"), text(value, "/metadata/name")) {
        ("", _) => format!("document {number}"),
        (kind, "") => format!("{kind} in document {number}"),
        (kind, name) => format!("{kind} `{name}`"),
    }
}

fn object(value: Value, number: usize) -> Result<Object, Vec<ObjectProblem>> {
    let name = label(&value, number);
    let api_version = text(&value, "/apiVersion").to_owned();
    let kind = text(&value, "/kind").to_owned();
    let problems = check(&value, &api_version, &kind, text(&value, "/metadata/name"));
    let at_object = |problem| ObjectProblem {
        object: name.clone(),
        problem,
    };
    if !problems.is_empty() {
        return Err(problems.into_iter().map(at_object).collect());
    }
    let typed = if RolloutPolicy::api_version(&()) == api_version && kind == "RolloutPolicy" {
        read(value).map(Object::RolloutPolicy)
    } else if api_version == format!("{OPERATOR_GROUP}/v1") && kind == "MachineConfiguration" {
        read(value).map(Object::MachineConfiguration)
    } else if api_version == format!("{GROUP}/{VERSION}") {
        match kind.as_str() {
            "MachineConfig" => read(value).map(Object::MachineConfig),
            "MachineConfigPool" => read(value).map(Object::MachineConfigPool),
            "MachineOSConfig" => read(value).map(Object::MachineOSConfig),
            "MachineOSBuild" => read(value).map(Object::MachineOSBuild),
            "MachineConfigNode" => read(value).map(Object::MachineConfigNode),
            _ => Ok(Object::Other(value)),
        }
    } else if kind == "MachineOSConfig" && api_version.starts_with(GROUP) {
        read(v1alpha1::config_to_v1(value)).map(Object::MachineOSConfig)
    } else if kind == "MachineOSBuild" && api_version.starts_with(GROUP) {
        read(v1alpha1::build_to_v1(value)).map(Object::MachineOSBuild)
    } else {
        Ok(Object::Other(value))
    };
    let object = typed.map_err(|problem| vec![at_object(problem)])?;
    let problems = rules(&object);
    if problems.is_empty() {
        Ok(object)
    } else {
        Err(problems.into_iter().map(at_object).collect())
    }
}

/// What the CRDs say in CEL. There are few such rules for what people write, so they are said again here.
fn rules(object: &Object) -> Vec<Problem> {
    match object {
        Object::MachineOSConfig(config) => image_rules(config),
        Object::RolloutPolicy(policy) => {
            let health = Health::of(&policy.spec.health).err();
            let schedule = Schedule::read(policy).err();
            health.into_iter().chain(schedule).flatten().collect()
        }
        Object::MachineConfiguration(config) => configuration_rules(config),
        Object::MachineConfig(_)
        | Object::MachineConfigPool(_)
        | Object::MachineOSBuild(_)
        | Object::MachineConfigNode(_)
        | Object::Other(_) => Vec::new(),
    }
}

fn configuration_rules(config: &MachineConfiguration) -> Vec<Problem> {
    let policy = config.spec.node_disruption_policy.as_ref();
    let mut problems = policy.map(policy_problems).unwrap_or_default();
    if config.metadata.name.as_deref() != Some(CLUSTER) {
        problems.push(Problem::new(
            "metadata.name",
            format!("expected `{CLUSTER}`, the name of the one MachineConfiguration"),
        ));
    }
    problems
}

fn image_rules(config: &MachineOSConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    match config.spec.rendered_image_push_spec.parse::<PullSpec>() {
        Ok(push) if push.tag().is_some() && push.digest().is_none() => {}
        Ok(push) => problems.push(Problem::new(
            "spec.renderedImagePushSpec",
            format!("expected `{}:<tag>`, found `{push}`", push.repository()),
        )),
        Err(error) => problems.push(Problem::new(
            "spec.renderedImagePushSpec",
            error.to_string(),
        )),
    }
    let pool = &config.spec.machine_config_pool.name;
    if config.metadata.name.as_ref() != Some(pool) {
        problems.push(Problem::new(
            "metadata.name",
            format!(
                "expected `{pool}`, the name of the pool, which has one MachineOSConfig at most"
            ),
        ));
    }
    problems
}

fn read<T: DeserializeOwned>(value: Value) -> Result<Box<T>, Problem> {
    serde_json::from_value(value)
        .map(Box::new)
        .map_err(|error| Problem::new("spec", error.to_string()))
}

/// Everything that the CRDs, or what every object has in common, refuse about an object.
fn check(value: &Value, api_version: &str, kind: &str, name: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (field, found) in [
        ("apiVersion", api_version),
        ("kind", kind),
        ("metadata.name", name),
    ] {
        if found.is_empty() {
            problems.push(Problem::new(field, "expected a text, found nothing"));
        }
    }
    let group = api_version.split('/').next().unwrap_or_default();
    let ours = || CRDS.iter().filter(|crd| crd.spec.group == group);
    let Some(known) = ours().next() else {
        return problems;
    };
    // Most kinds of that group are others' business.
    if group == OPERATOR_GROUP && kind != known.spec.names.kind {
        return problems;
    }
    let version_of = |crd: &'static CustomResourceDefinition| {
        let versions = crd.spec.versions.iter();
        versions
            .into_iter()
            .find(|version| format!("{group}/{}", version.name) == api_version)
    };
    let unknown_version = |crd: &CustomResourceDefinition| {
        let versions = crd.spec.versions.iter();
        let versions: Vec<String> = versions
            .map(|version| format!("`{group}/{}`", version.name))
            .collect();
        vec![Problem::new(
            "apiVersion",
            format!("expected {}, found `{api_version}`", versions.join(" or ")),
        )]
    };
    if !ours().any(|crd| version_of(crd).is_some()) {
        return unknown_version(known);
    }
    let Some(crd) = ours().find(|crd| crd.spec.names.kind == kind) else {
        let kinds = ours().map(|crd| crd.spec.names.kind.as_str());
        return vec![Problem::new(
            "kind",
            format!(
                "unknown kind `{kind}` of `{group}`{}",
                did_you_mean(kind, kinds)
            ),
        )];
    };
    let Some(version) = version_of(crd) else {
        return unknown_version(crd);
    };
    let version = version.schema.as_ref();
    if let Some(schema) = version.and_then(|schema| schema.open_api_v3_schema.as_ref()) {
        schema::check_object(value, schema, &mut problems);
    }
    problems
}

#[cfg(test)]
mod tests;
