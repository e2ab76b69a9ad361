//! The objects that Caprock is on a cluster, as `deploy/` has them, with what the flags say.

use anyhow::{Context, anyhow};
use model::keys;
use oci::Reference;
use serde_json::{Value, json};

use crate::cli::{Addition, BuilderMode};

/// A file of `deploy/`.
#[derive(Debug)]
pub(crate) struct File {
    path: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($directory:literal: $($name:literal)*) => {
        &[$(File {
            path: concat!($directory, "/", $name, ".yaml"),
            text: include_str!(concat!("../../../../../deploy/", $directory, "/", $name, ".yaml")),
        }),*]
    };
}

/// What people write: it stays when Caprock is removed.
pub(crate) const API: &[File] = files!("api":
    "machineconfignodes" "machineconfigpools" "machineconfigs" "machineconfigurations" "machineosbuilds"
    "machineosconfigs" "namespace" "rolloutpolicies");
/// What runs, and what it may do.
pub(crate) const PARTS: &[File] = files!("objects":
    "agent-access" "agent" "builder-access" "builder" "controller-access" "controller" "namespaces"
    "network-policies" "policies" "priority" "webhook-access" "webhook");
/// Laid over the builder of [`PARTS`].
const USER_NAMESPACES: &[File] = files!("user-namespaces": "builder");
const REGISTRY: &[File] = files!("registry": "registry-access" "registry");
const MONITORING: &[File] = files!("monitoring": "alerts" "monitors");
/// What comes before a removal, for who removes with other tools.
pub(crate) const REMOVE: &[File] = files!("remove": "access" "job");

impl Addition {
    pub(crate) fn files(self) -> &'static [File] {
        match self {
            Addition::Registry => REGISTRY,
            Addition::Monitoring => MONITORING,
        }
    }
}

/// The images' names in the files.
const IMAGE: &str = "caprock";
const BUILDER_IMAGE: &str = "caprock-builder";

/// What the flags say of the objects.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    pub(crate) image: &'a str,
    /// Beside `image` when nothing is said.
    pub(crate) builder_image: Option<&'a str>,
    pub(crate) pull_secrets: &'a [String],
    pub(crate) builders: Option<u32>,
    pub(crate) builder_mode: BuilderMode,
    pub(crate) with: &'a [Addition],
}

/// All objects, in the order in which they are applied.
///
/// # Errors
/// When an image's name is no reference, or says nothing of the builder's.
pub(crate) fn chosen(choice: &Choice<'_>) -> anyhow::Result<Vec<Value>> {
    let image = |flag: &str, text: &str| {
        let parsed = text.parse::<Reference>();
        parsed.with_context(|| format!("`{flag} {text}` is not the name of an image"))
    };
    image("--image", choice.image)?;
    let builder_image = match choice.builder_image {
        Some(text) => {
            image("--builder-image", text)?;
            text.to_owned()
        }
        None => beside(choice.image)?,
    };
    let mut objects = Vec::new();
    let added = choice.with.iter().map(|addition| addition.files());
    for files in [API, PARTS].into_iter().chain(added) {
        objects.extend(parse(files));
    }
    for object in &mut objects {
        set(object, choice, &builder_image);
    }
    objects.sort_by_key(rank);
    Ok(objects)
}

/// The objects of some files as they are there.
pub(crate) fn parse(files: &[File]) -> Vec<Value> {
    files
        .iter()
        .flat_map(|file| {
            let documents: Result<Vec<Value>, _> = serde_saphyr::from_multiple(file.text);
            // The tests read them all.
            documents.expect(file.path)
        })
        .filter(|object| !object.is_null())
        .collect()
}

/// `registry/caprock:1` has the builder's image at `registry/caprock-builder:1`.
fn beside(image: &str) -> anyhow::Result<String> {
    if image.contains('@') {
        return Err(anyhow!(
            "`--image {image}`: a digest says nothing of the builder's image; name it with `--builder-image`"
        ));
    }
    let name = image.rfind('/').map_or(0, |slash| slash + 1);
    let end = image[name..]
        .find(':')
        .map_or(image.len(), |colon| name + colon);
    Ok(format!("{}-builder{}", &image[..end], &image[end..]))
}

fn set(object: &mut Value, choice: &Choice<'_>, builder_image: &str) {
    let Some(pod) = object.pointer_mut("/spec/template/spec") else {
        return;
    };
    let mut builds = false;
    for container in pod["containers"].as_array_mut().into_iter().flatten() {
        builds |= container["image"] == BUILDER_IMAGE;
        container["image"] = match container["image"].as_str() {
            Some(BUILDER_IMAGE) => json!(builder_image),
            Some(IMAGE) => json!(choice.image),
            other => json!(other),
        };
    }
    if !choice.pull_secrets.is_empty() {
        let secrets = choice.pull_secrets.iter().map(|name| json!({"name": name}));
        pod["imagePullSecrets"] = secrets.collect();
    }
    if builds && choice.builder_mode == BuilderMode::UserNamespace {
        confine(pod);
    }
    if let (true, Some(builders)) = (builds, choice.builders) {
        object["spec"]["replicas"] = json!(builders);
    }
}

/// Puts the builder's pod into a user namespace.
fn confine(pod: &mut Value) {
    let overlay = &parse(USER_NAMESPACES)[0]["spec"]["template"]["spec"];
    pod["hostUsers"] = overlay["hostUsers"].clone();
    let context = &mut pod["containers"][0]["securityContext"];
    let confined = &overlay["containers"][0]["securityContext"];
    for (field, value) in confined.as_object().into_iter().flatten() {
        context[field] = value.clone();
    }
}

/// Whether an object is installed where the Machine Config Operator is, too: its definitions and its namespace are left to it,
/// and so is the webhook, which writes into the definitions.
pub(super) fn stands_beside_another_operator(object: &Value) -> bool {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let is_theirs = match text("/kind") {
        Some("CustomResourceDefinition") => {
            text("/spec/group").is_some_and(|group| group.ends_with(".openshift.io"))
        }
        Some("Namespace") => text("/metadata/name") == Some(keys::NAMESPACE),
        _ => false,
    };
    let component = object.pointer("/metadata/labels/app.kubernetes.io~1component");
    !is_theirs && component.is_none_or(|component| component != "webhook")
}

/// What others need comes before them; workloads come last.
pub(crate) fn rank(object: &Value) -> usize {
    const FIRST: &[&str] = &[
        "Namespace",
        "CustomResourceDefinition",
        "PriorityClass",
        "ServiceAccount",
    ];
    const LAST: &[&str] = &["Deployment", "StatefulSet", "DaemonSet", "Job"];
    let kind = object["kind"].as_str().unwrap_or_default();
    let at = |list: &[&str]| list.iter().position(|other| *other == kind);
    match (at(FIRST), at(LAST)) {
        (Some(place), _) => place,
        (None, Some(place)) => FIRST.len() + 1 + place,
        (None, None) => FIRST.len(),
    }
}

/// `Deployment caprock-system/caprock-controller`, for messages.
pub(crate) fn name(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    let (kind, name) = (kind.unwrap_or_default(), name.unwrap_or_default());
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every file of `deploy/` is taken, here and by the kustomization beside it.
    #[test]
    fn no_file_is_forgotten() {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
        for (directory, files) in [
            ("api", API),
            ("objects", PARTS),
            ("registry", REGISTRY),
            ("monitoring", MONITORING),
            ("remove", REMOVE),
        ] {
            let there: BTreeSet<String> = std::fs::read_dir(deploy.join(directory))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.ends_with(".yaml") && name != "kustomization.yaml")
                .collect();
            let prefix = format!("{directory}/");
            let taken: BTreeSet<String> = files
                .iter()
                .map(|file| file.path.strip_prefix(&prefix).unwrap().to_owned())
                .collect();
            assert_eq!(taken, there, "the list of `{directory}` in this file");
            let text =
                std::fs::read_to_string(deploy.join(directory).join("kustomization.yaml")).unwrap();
            let kustomization: Value = serde_saphyr::from_str(&text).unwrap();
            let listed: BTreeSet<String> =
                serde_json::from_value(kustomization["resources"].clone()).unwrap();
            assert_eq!(listed, there, "`deploy/{directory}/kustomization.yaml`");
        }
    }

    fn choice(image: &str) -> Choice<'_> {
        Choice {
            image,
            builder_image: None,
            pull_secrets: &[],
            builders: None,
            builder_mode: BuilderMode::Privileged,
            with: &[],
        }
    }

    #[test]
    fn the_builders_image_stands_beside_the_other() {
        for (image, builder) in [
            ("caprock", "caprock-builder"),
            ("r.example/caprock:1", "r.example/caprock-builder:1"),
            (
                "r.example:5000/a/caprock",
                "r.example:5000/a/caprock-builder",
            ),
            (
                "r.example:5000/a/caprock:1",
                "r.example:5000/a/caprock-builder:1",
            ),
        ] {
            assert_eq!(beside(image).unwrap(), builder);
        }
        let digest = format!("r.example/caprock@sha256:{}", "0".repeat(64));
        let told = chosen(&choice(&digest)).unwrap_err().to_string();
        assert!(told.contains("--builder-image"), "{told}");
        assert!(chosen(&choice("No Image")).is_err());
    }

    #[test]
    fn what_another_operator_has_is_left_to_it() {
        let objects = chosen(&choice("r.example/caprock:1")).unwrap();
        let (beside, left): (Vec<_>, Vec<_>) = objects
            .iter()
            .partition(|object| stands_beside_another_operator(object));
        let names = |objects: &[&Value], kind| {
            let of_kind = objects.iter().filter(|object| object["kind"] == kind);
            let names: BTreeSet<String> = of_kind.map(|object| name(object)).collect();
            names
        };
        let one = |name: &str| BTreeSet::from([name.to_owned()]);
        assert_eq!(
            names(&beside, "CustomResourceDefinition"),
            one("CustomResourceDefinition rolloutpolicies.caprock.dev")
        );
        assert_eq!(
            names(&left, "Namespace"),
            one("Namespace openshift-machine-config-operator")
        );
        assert_eq!(
            names(&left, "Deployment"),
            one("Deployment caprock-system/caprock-webhook")
        );
        assert_eq!(names(&beside, "DaemonSet").len(), 1);
    }

    #[test]
    fn every_container_has_an_image_that_was_chosen_and_workloads_come_last() {
        let secrets = ["pull".to_owned()];
        let objects = chosen(&Choice {
            pull_secrets: &secrets,
            builders: Some(3),
            with: &[Addition::Registry, Addition::Monitoring],
            ..choice("r.example/caprock:1")
        })
        .unwrap();
        assert_eq!(objects[0]["kind"], "Namespace");
        assert_eq!(objects.last().unwrap()["kind"], "DaemonSet");
        let mut workloads = 0;
        for object in &objects {
            let Some(pod) = object.pointer("/spec/template/spec") else {
                continue;
            };
            workloads += 1;
            let image = pod["containers"][0]["image"].as_str().unwrap();
            let builds = object["metadata"]["name"] == "caprock-builder";
            let expected = if builds {
                "caprock-builder:1"
            } else {
                "caprock:1"
            };
            assert_eq!(image, format!("r.example/{expected}"), "{}", name(object));
            assert_eq!(pod["imagePullSecrets"][0]["name"], "pull");
            if builds {
                assert_eq!(object["spec"]["replicas"], 3);
            }
        }
        assert_eq!(workloads, 5);
    }
}
