//! The conversion, on JSON as an API server has it: it keeps what it does not know.

use serde_json::{Map, Value, json};

use crate::api::{GROUP, VERSION as V1};

/// Annotation of `v1` objects with what only `v1alpha1` can say, as JSON.
pub const ANNOTATION: &str = "machineconfiguration.openshift.io/v1alpha1-fields";

/// Why an object cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The kind has one version only.
    #[error("`{0}` has no other versions; expected MachineOSConfig or MachineOSBuild")]
    Kind(String),
    /// There is no such version.
    #[error("cannot convert from `{from}` to `{to}`; known are v1 and v1alpha1 of {GROUP}")]
    Version {
        /// The object's `apiVersion`.
        from: String,
        /// The wanted `apiVersion`.
        to: String,
    },
}

/// Names of architectures in `v1alpha1` and in `v1`; the first name is what `v1` turns into.
const ARCHES: &[(&str, &str)] = &[
    ("noarch", "NoArch"),
    ("arm64", "ARM64"),
    ("aarch64", "ARM64"),
    ("amd64", "AMD64"),
    ("x86_64", "AMD64"),
    ("ppc64le", "PPC64LE"),
    ("s390x", "S390X"),
];

/// Fields of `spec.buildInputs` and where they are in the `spec` of `v1`.
const INPUTS: &[(&str, &str)] = &[
    ("baseImagePullSecret", "baseImagePullSecret"),
    ("renderedImagePushSecret", "renderedImagePushSecret"),
    ("renderedImagePushspec", "renderedImagePushSpec"),
];
const CONFIG_STATUS: &[(&str, &str)] = &[("currentImagePullspec", "currentImagePullSpec")];
const BUILD_SPEC: &[(&str, &str)] = &[
    ("desiredConfig", "machineConfig"),
    ("renderedImagePushspec", "renderedImagePushSpec"),
];
const BUILD_STATUS: &[(&str, &str)] = &[
    ("builderReference", "builder"),
    ("finalImagePullspec", "digestedImagePushSpec"),
];
const BUILDER: &[(&str, &str)] = &[("buildPod", "job")];

/// A MachineOSConfig or MachineOSBuild in another version (`group/version`).
pub fn convert(object: Value, to: &str) -> Result<Value, ConvertError> {
    let from = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    if from == to {
        return Ok(object);
    }
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let (old, new) = (
        format!("{GROUP}/{}", super::VERSION),
        format!("{GROUP}/{V1}"),
    );
    let upwards = match (from == old, from == new) {
        (true, _) if to == new => true,
        (_, true) if to == old => false,
        _ => {
            return Err(ConvertError::Version {
                from,
                to: to.into(),
            });
        }
    };
    match (kind.as_str(), upwards) {
        ("MachineOSConfig", true) => Ok(config_to_v1(object)),
        ("MachineOSConfig", false) => Ok(config_from_v1(object)),
        ("MachineOSBuild", true) => Ok(build_to_v1(object)),
        ("MachineOSBuild", false) => Ok(build_from_v1(object)),
        _ => Err(ConvertError::Kind(kind)),
    }
}

/// Answers a `ConversionReview` of a real cluster's API server.
pub fn review(mut review: Value) -> Value {
    let request = review["request"].take();
    let to = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let objects = request["objects"].as_array().cloned().unwrap_or_default();
    let converted: Result<Vec<Value>, ConvertError> = objects
        .into_iter()
        .map(|object| convert(object, to))
        .collect();
    let mut response = json!({"uid": request["uid"]});
    match converted {
        Ok(objects) => {
            response["result"] = json!({"status": "Success"});
            response["convertedObjects"] = json!(objects);
        }
        Err(error) => {
            response["result"] = json!({"status": "Failed", "message": error.to_string()});
        }
    }
    json!({
        "apiVersion": review["apiVersion"], "kind": review["kind"], "response": response,
    })
}

/// A `v1` MachineOSConfig from a `v1alpha1` one.
pub fn config_to_v1(mut object: Value) -> Value {
    set_version(&mut object, V1);
    let mut kept = Map::new();
    if let Some(spec) = object["spec"].as_object_mut() {
        if let Some(outputs) = spec.remove("buildOutputs") {
            kept.insert("buildOutputs".into(), outputs);
        }
        if let Some(Value::Object(mut inputs)) = spec.remove("buildInputs") {
            for (old, new) in INPUTS {
                rename(&mut inputs, spec, old, new);
            }
            if let Some(mut builder) = inputs.remove("imageBuilder") {
                swap_type(&mut builder, "PodImageBuilder", "Job");
                spec.insert("imageBuilder".into(), builder);
            }
            if let Some(files) = inputs.remove("containerFile") {
                spec.insert("containerFile".into(), files_to_v1(files, &mut kept));
            }
            if !inputs.is_empty() {
                kept.insert("buildInputs".into(), inputs.into());
            }
        }
    }
    rename_in(&mut object["status"], CONFIG_STATUS);
    drop_null(&mut object, "status");
    keep(&mut object, kept);
    object
}

/// A `v1alpha1` MachineOSConfig from a `v1` one.
pub fn config_from_v1(mut object: Value) -> Value {
    set_version(&mut object, super::VERSION);
    let mut kept = take_kept(&mut object);
    if let Some(spec) = object["spec"].as_object_mut() {
        let mut inputs = match kept.remove("buildInputs") {
            Some(Value::Object(inputs)) => inputs,
            _ => Map::new(),
        };
        for (old, new) in INPUTS {
            rename(spec, &mut inputs, new, old);
        }
        if let Some(mut builder) = spec.remove("imageBuilder") {
            swap_type(&mut builder, "Job", "PodImageBuilder");
            inputs.insert("imageBuilder".into(), builder);
        }
        let files = spec.remove("containerFile");
        if let Some(files) = files_from_v1(files, &mut kept) {
            inputs.insert("containerFile".into(), files);
        }
        spec.insert("buildInputs".into(), inputs.into());
        if let Some(outputs) = kept.remove("buildOutputs") {
            spec.insert("buildOutputs".into(), outputs);
        }
    }
    rename_back(&mut object["status"], CONFIG_STATUS);
    drop_null(&mut object, "status");
    object
}

/// A `v1` MachineOSBuild from a `v1alpha1` one.
pub fn build_to_v1(mut object: Value) -> Value {
    set_version(&mut object, V1);
    let mut kept = Map::new();
    if let Some(spec) = object["spec"].as_object_mut() {
        for field in ["configGeneration", "version"] {
            // One is what every build has whose MachineOSConfig was never changed.
            if let Some(value) = spec.remove(field).filter(|value| *value != json!(1)) {
                kept.insert(field.into(), value);
            }
        }
    }
    rename_in(&mut object["spec"], BUILD_SPEC);
    rename_in(&mut object["status"], BUILD_STATUS);
    if object["status"]["builder"].is_object() {
        rename_in(&mut object["status"]["builder"], BUILDER);
        swap_type(&mut object["status"]["builder"], "PodImageBuilder", "Job");
    }
    tidy_status(&mut object, "builder");
    keep(&mut object, kept);
    object
}

/// A `v1alpha1` MachineOSBuild from a `v1` one.
pub fn build_from_v1(mut object: Value) -> Value {
    set_version(&mut object, super::VERSION);
    let mut kept = take_kept(&mut object);
    rename_back(&mut object["spec"], BUILD_SPEC);
    if let Some(spec) = object["spec"].as_object_mut() {
        for field in ["configGeneration", "version"] {
            let value = kept.remove(field).unwrap_or_else(|| json!(1));
            spec.insert(field.into(), value);
        }
    }
    rename_back(&mut object["status"], BUILD_STATUS);
    if object["status"]["builderReference"].is_object() {
        let builder = &mut object["status"]["builderReference"];
        rename_back(builder, BUILDER);
        swap_type(builder, "Job", "PodImageBuilder");
    }
    tidy_status(&mut object, "builderReference");
    object
}

fn set_version(object: &mut Value, version: &str) {
    object["apiVersion"] = json!(format!("{GROUP}/{version}"));
}

/// Moves a field of `from` into `to`, under another name.
fn rename(from: &mut Map<String, Value>, to: &mut Map<String, Value>, old: &str, new: &str) {
    if let Some(value) = from.remove(old) {
        to.insert(new.into(), value);
    }
}

fn rename_in(value: &mut Value, names: &[(&str, &str)]) {
    if let Some(fields) = value.as_object_mut() {
        for (old, new) in names {
            if let Some(value) = fields.remove(*old) {
                fields.insert((*new).into(), value);
            }
        }
    }
}

fn rename_back(value: &mut Value, names: &[(&str, &str)]) {
    let back: Vec<(&str, &str)> = names.iter().map(|(old, new)| (*new, *old)).collect();
    rename_in(value, &back);
}

fn swap_type(builder: &mut Value, from: &str, to: &str) {
    if builder["imageBuilderType"] == from {
        builder["imageBuilderType"] = json!(to);
    }
}

/// Looking at a field that is missing leaves a null behind.
fn drop_null(value: &mut Value, field: &str) {
    if let Some(fields) = value.as_object_mut()
        && fields.get(field).is_some_and(Value::is_null)
    {
        fields.remove(field);
    }
}

fn tidy_status(object: &mut Value, builder: &str) {
    if object["status"].is_object() {
        drop_null(&mut object["status"], builder);
    }
    drop_null(object, "status");
}

/// The Containerfiles of `v1`. An architecture's second name, and a second entry for an architecture, are kept apart.
fn files_to_v1(files: Value, kept: &mut Map<String, Value>) -> Value {
    let Value::Array(files) = files else {
        return files;
    };
    let (mut stay, mut seen) = (Vec::new(), Vec::new());
    let (mut names, mut extra) = (Map::new(), Vec::new());
    for (index, mut file) in files.into_iter().enumerate() {
        let arch = file["containerfileArch"].as_str().unwrap_or("noarch");
        let Some((old, new)) = ARCHES.iter().find(|(old, _)| *old == arch) else {
            stay.push(file);
            continue;
        };
        if seen.contains(new) {
            extra.push(json!({"at": index, "file": file}));
            continue;
        }
        seen.push(*new);
        if first_name(new) != Some(*old) {
            names.insert((*new).into(), json!(old));
        }
        file["containerfileArch"] = json!(new);
        stay.push(file);
    }
    if !names.is_empty() {
        kept.insert("archNames".into(), names.into());
    }
    if !extra.is_empty() {
        kept.insert("moreContainerFiles".into(), extra.into());
    }
    stay.into()
}

fn files_from_v1(files: Option<Value>, kept: &mut Map<String, Value>) -> Option<Value> {
    let names = kept.remove("archNames").unwrap_or_default();
    let extra = kept.remove("moreContainerFiles").unwrap_or_default();
    let mut files = match files {
        Some(Value::Array(files)) => files,
        None if extra.is_null() => return None,
        None => Vec::new(),
        Some(other) => return Some(other),
    };
    for file in &mut files {
        let new = file["containerfileArch"]
            .as_str()
            .unwrap_or("NoArch")
            .to_owned();
        let own = names[new.as_str()].as_str();
        if let Some(old) = own.or_else(|| first_name(&new)) {
            file["containerfileArch"] = json!(old);
        }
    }
    for more in extra.as_array().into_iter().flatten() {
        let at = more["at"].as_u64().and_then(|at| usize::try_from(at).ok());
        let at = at.unwrap_or(files.len()).min(files.len());
        files.insert(at, more["file"].clone());
    }
    Some(files.into())
}

fn first_name(new: &str) -> Option<&'static str> {
    let found = ARCHES.iter().find(|(_, known)| *known == new);
    found.map(|(old, _)| *old)
}

/// Notes what `v1` cannot say. An older note is replaced: the client saw and wrote all of it.
fn keep(object: &mut Value, kept: Map<String, Value>) {
    if kept.is_empty() {
        return;
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][ANNOTATION] = json!(Value::Object(kept).to_string());
}

/// Takes the note back out. One that is not readable stays where it is.
fn take_kept(object: &mut Value) -> Map<String, Value> {
    let Some(annotations) = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    else {
        return Map::new();
    };
    let parsed = annotations
        .get(ANNOTATION)
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let Some(kept) = parsed else {
        return Map::new();
    };
    annotations.remove(ANNOTATION);
    if annotations.is_empty()
        && let Some(metadata) = object["metadata"].as_object_mut()
    {
        metadata.remove("annotations");
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::{self as old};
    use super::*;
    use crate::api::{self as new};

    fn named() -> impl Strategy<Value = new::Named> {
        "[a-z]{1,8}".prop_map(new::Named::new)
    }

    fn maybe<T: Clone + std::fmt::Debug + 'static>(
        value: impl Strategy<Value = T> + 'static,
    ) -> impl Strategy<Value = Option<T>> {
        proptest::option::of(value)
    }

    fn old_arch() -> impl Strategy<Value = old::ContainerfileArch> {
        use old::ContainerfileArch as Arch;
        prop::sample::select(vec![
            Arch::Arm64,
            Arch::Aarch64,
            Arch::Amd64,
            Arch::X86_64,
            Arch::Ppc64le,
            Arch::S390x,
            Arch::Noarch,
        ])
    }

    fn old_config() -> impl Strategy<Value = Value> {
        let file = (old_arch(), "[A-Z]{0,4}").prop_map(|(containerfile_arch, content)| {
            old::MachineOSContainerfile {
                containerfile_arch,
                content,
            }
        });
        let inputs = (
            (maybe("[a-z]{3}"), maybe("[a-z]{3}"), maybe("[0-9]{3}")),
            (maybe(named()), maybe(named()), "[a-z]{3}"),
            prop::collection::vec(file, 0..7),
        );
        let inputs = inputs.prop_map(|((base, extensions, release), (pull, push, spec), files)| {
            old::BuildInputs {
                base_os_image_pullspec: base,
                base_os_extensions_image_pullspec: extensions,
                base_image_pull_secret: pull,
                image_builder: old::ImageBuilder::default(),
                rendered_image_push_secret: push,
                rendered_image_pushspec: spec,
                release_version: release,
                container_file: files,
            }
        });
        let outputs = maybe(maybe(named())).prop_map(|outputs| {
            outputs.map(|current_image_pull_secret| old::BuildOutputs {
                current_image_pull_secret,
            })
        });
        let status = maybe((maybe("[a-z]{3}"), maybe(0..9_i64)));
        (named(), inputs, outputs, status).prop_map(|(pool, inputs, outputs, status)| {
            let mut config = old::MachineOSConfig::new(
                "a",
                old::MachineOSConfigSpec {
                    machine_config_pool: pool,
                    build_inputs: inputs,
                    build_outputs: outputs,
                },
            );
            config.status = status.map(|(image, generation)| old::MachineOSConfigStatus {
                current_image_pullspec: image,
                observed_generation: generation,
                ..old::MachineOSConfigStatus::default()
            });
            serde_json::to_value(config).unwrap()
        })
    }

    fn old_build() -> impl Strategy<Value = Value> {
        let pod = "[a-z]{3}".prop_map(|name| new::RelatedObject {
            name,
            resource: "pods".into(),
            ..new::RelatedObject::default()
        });
        let builder = (maybe(pod), "[a-z]{0,3}");
        let status = maybe((maybe(builder), maybe("[a-z]{3}")));
        let spec = (1..4_i64, 1..4_i64, named(), named(), "[a-z]{3}");
        (spec, status).prop_map(|((generation, version, desired, config, spec), status)| {
            let mut build = old::MachineOSBuild::new(
                "a",
                old::MachineOSBuildSpec {
                    config_generation: generation,
                    version,
                    desired_config: desired,
                    machine_os_config: config,
                    rendered_image_pushspec: spec,
                },
            );
            build.status = status.map(|(builder, image)| old::MachineOSBuildStatus {
                builder_reference: builder.map(|(build_pod, identity)| old::BuilderReference {
                    build_pod,
                    identity,
                    ..old::BuilderReference::default()
                }),
                final_image_pullspec: image,
                ..old::MachineOSBuildStatus::default()
            });
            serde_json::to_value(build).unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_config_comes_back_as_it_was(object in old_config()) {
            let stored = config_to_v1(object.clone());
            serde_json::from_value::<new::MachineOSConfig>(stored.clone()).unwrap();
            let shown = config_from_v1(stored.clone());
            prop_assert_eq!(&shown, &object);
            // What is stored is the same whichever way it is written.
            prop_assert_eq!(config_to_v1(shown), stored);
        }

        #[test]
        fn a_build_comes_back_as_it_was(object in old_build()) {
            let stored = build_to_v1(object.clone());
            serde_json::from_value::<new::MachineOSBuild>(stored.clone()).unwrap();
            let shown = build_from_v1(stored.clone());
            prop_assert_eq!(&shown, &object);
            prop_assert_eq!(build_to_v1(shown), stored);
        }
    }

    #[test]
    fn a_config_that_v1_wrote_comes_back_too() {
        let config = json!({
            "apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineOSConfig",
            "metadata": {"name": "a", "annotations": {"note": "x", ANNOTATION: "not json"}},
            "spec": {
                "machineConfigPool": {"name": "a"},
                "imageBuilder": {"imageBuilderType": "Job"},
                "renderedImagePushSpec": "r.example.com/a:b",
                "containerFile": [{"containerfileArch": "ARM64", "content": "FROM configs"}],
                "later": {"unknown": true},
            },
            "status": {
                "currentImagePullSpec": "r.example.com/a@sha256:0",
                "machineOSBuild": {"name": "a-1"},
            },
        });
        let old = "machineconfiguration.openshift.io/v1alpha1";
        let shown = convert(config.clone(), old).unwrap();
        assert_eq!(
            shown["spec"]["buildInputs"]["containerFile"][0]["containerfileArch"],
            "arm64"
        );
        assert_eq!(
            shown["status"]["currentImagePullspec"],
            "r.example.com/a@sha256:0"
        );
        let back = convert(shown, "machineconfiguration.openshift.io/v1").unwrap();
        assert_eq!(back, config);
    }

    #[test]
    fn a_review_is_all_or_nothing() {
        let build = json!({
            "apiVersion": "machineconfiguration.openshift.io/v1alpha1", "kind": "MachineOSBuild",
            "metadata": {"name": "a"},
            "spec": {
                "configGeneration": 2, "version": 1, "desiredConfig": {"name": "c"},
                "machineOSConfig": {"name": "a"}, "renderedImagePushspec": "r.example.com/a:b",
            },
        });
        let asked = |objects: Value| {
            review(json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "request": {
                    "uid": "u", "objects": objects,
                    "desiredAPIVersion": "machineconfiguration.openshift.io/v1",
                },
            }))
        };
        let answer = asked(json!([build]));
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["result"]["status"], "Success");
        let converted = &answer["response"]["convertedObjects"][0];
        assert_eq!(converted["spec"]["machineConfig"]["name"], "c");
        let pool = json!({
            "apiVersion": "machineconfiguration.openshift.io/v1alpha1", "kind": "MachineConfigPool",
        });
        let answer = asked(json!([build, pool]));
        assert_eq!(answer["response"]["result"]["status"], "Failed");
        assert!(answer["response"]["convertedObjects"].is_null());
    }
}
