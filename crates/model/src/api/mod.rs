//! The kinds of `machineconfiguration.openshift.io/v1`, MachineConfiguration of `operator.openshift.io/v1`, and
//! `caprock.dev/v1alpha1` for what they cannot say, one file each, and their CRDs.
//!
//! Field names, columns and validation are those that users of the group already know. What differs on purpose:
//! Containerfiles may be 64 KiB, pull specs may have any path and hosts such as `localhost:5000`, secrets are optional.

#![allow(
    unreachable_pub,
    reason = "the schema derive repeats every struct inside a function"
)]
#![allow(
    clippy::duplicated_attributes,
    reason = "columns have the same keys, one set each"
)]

mod machine_config;
mod machine_config_node;
mod machine_config_pool;
mod machine_configuration;
mod machine_os_build;
mod machine_os_config;
mod reference;
mod rollout_policy;
pub mod v1alpha1;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube_core::CustomResourceExt;

pub use machine_config::{MachineConfig, MachineConfigSpec};
pub use machine_config_node::{
    IrreconcilableChange, MachineConfigNode, MachineConfigNodeSpec, MachineConfigNodeStatus,
    NOT_YET_SET, NodeConfigImage, NodeConfigImageStatus, NodeConfigVersion,
    NodeConfigVersionStatus, NodePinnedImageSet,
};
pub use machine_config_pool::{
    CertExpiry, MachineConfigPool, MachineConfigPoolSpec, MachineConfigPoolStatus,
    OsImageStreamReference, PinnedImageSetReference, PoolCondition, PoolConfiguration,
    PoolSynchronizerStatus, PoolSynchronizerType,
};
pub use machine_configuration::{
    ActionInForce, ActionTypeInForce, CLUSTER, ClusterPolicies, FilePolicy, FilePolicyInForce,
    MachineConfiguration, MachineConfigurationSpec, MachineConfigurationStatus,
    NodeDisruptionPolicy, NodeDisruptionPolicyStatus, OPERATOR_GROUP, PolicyAction,
    PolicyActionType, ServiceName, SshKeyPolicy, SshKeyPolicyInForce, UnitPolicy,
    UnitPolicyInForce,
};
pub use machine_os_build::{
    BuildProgress, MachineOSBuild, MachineOSBuildSpec, MachineOSBuildStatus, MachineOSBuilder,
    RelatedObject, Transferred,
};
pub use machine_os_config::{
    BuildReference, ContainerfileArch, ImageBuilder, ImageBuilderType, MAX_CONTAINERFILE_BYTES,
    MachineOSConfig, MachineOSConfigSpec, MachineOSConfigStatus, MachineOSContainerfile,
};
pub use reference::Named;
pub use rollout_policy::{
    CommandProbe, Day, DrainPolicy, DriftPolicy, FileProbe, HttpProbe, MaintenanceWindow,
    MountProbe, NodeHealth, Probe, RolloutPolicy, RolloutPolicySpec, SoftRebootPolicy, UnitProbe,
    UpdateWave,
};

/// The API group of every kind here but RolloutPolicy and MachineConfiguration.
pub const GROUP: &str = "machineconfiguration.openshift.io";
/// The version of every kind here but RolloutPolicy.
pub const VERSION: &str = "v1";

/// The CRDs of every kind, in the order in which they are printed and installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        MachineConfig::crd(),
        MachineConfigPool::crd(),
        v1alpha1::add_to(MachineOSConfig::crd()),
        v1alpha1::add_to(MachineOSBuild::crd()),
        MachineConfigNode::crd(),
        RolloutPolicy::crd(),
        MachineConfiguration::crd(),
    ];
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        let schema = version.schema.as_mut();
        if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            forget_unsigned(schema);
        }
    }
    crds
}

/// Kubernetes knows the formats `int32` and `int64` alone and warns of others; that a number is not negative, its minimum says.
fn forget_unsigned(schema: &mut JSONSchemaProps) {
    if schema
        .format
        .as_ref()
        .is_some_and(|format| format.starts_with("uint"))
    {
        schema.format = None;
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|fields| fields.values_mut())
        .for_each(forget_unsigned);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        forget_unsigned(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        forget_unsigned(values);
    }
}

/// CEL rules that several fields share.
mod rule {
    use kube_core::Rule;

    /// A registry host (name with a dot, `localhost`, address, or anything with a port) and at least one path component.
    macro_rules! repository {
        () => {
            "^((localhost|([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\\\\.)+[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?|[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?:[0-9]{1,5})(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)+"
        };
    }

    /// An object name.
    pub(super) fn dns1123() -> Rule {
        Rule::new("!format.dns1123Subdomain().validate(self).hasValue()").message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character",
        )
    }

    /// A pull spec with a tag: what an image is pushed as.
    pub(super) fn tagged() -> Rule {
        Rule::new(concat!(
            "self.matches('",
            repository!(),
            ":[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$')"
        ))
        .message("must be host[:port]/path:tag, for example registry.example.com/os/worker:latest")
    }

    /// A pull spec with a digest: what is desired or recorded.
    pub(super) fn digested() -> Rule {
        Rule::new(concat!(
            "self.matches('",
            repository!(),
            "@sha256:[a-f0-9]{64}$')"
        ))
        .message("must be host[:port]/path@sha256:<64 hexadecimal characters>")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use std::path::Path;

    use super::*;

    /// The committed manifests are what the types say. `UPDATE_CRDS=1 cargo test -p model crds` rewrites them.
    #[test]
    fn crds_are_those_that_are_committed() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/api");
        for crd in crds() {
            let path = dir.join(format!("{}.yaml", crd.spec.names.plural));
            let expected = serde_saphyr::to_string(&crd).unwrap();
            if std::env::var_os("UPDATE_CRDS").is_some() {
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(&path, expected).unwrap();
                continue;
            }
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(
                committed,
                expected,
                "{} is out of date: run `UPDATE_CRDS=1 cargo test -p model crds`",
                path.display()
            );
        }
    }

    /// Kubernetes refuses a definition when a rule could cost too much, for which a string without a bound is as long as a
    /// request may be. Durations and the like are compared at no cost. It warns of formats that it does not know.
    #[test]
    fn kubernetes_takes_the_definitions() {
        fn check(path: &str, schema: &serde_json::Value) {
            let rules = schema["x-kubernetes-validations"].as_array();
            let reads = rules.into_iter().flatten().any(|rule| {
                let rule = rule["rule"].as_str().unwrap();
                ["self.matches(", "self.split(", "validate(self)"]
                    .iter()
                    .any(|reads| rule.contains(reads))
            });
            assert!(!reads || schema["maxLength"].is_u64(), "{path}");
            let format = schema["format"].as_str().unwrap_or("int64");
            assert!(!format.starts_with("uint"), "{path}: {format}");
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                check(&format!("{path}.{name}"), property);
            }
            for below in ["items", "additionalProperties"] {
                if schema[below].is_object() {
                    check(&format!("{path}[]"), &schema[below]);
                }
            }
        }
        for crd in crds() {
            let crd = serde_json::to_value(&crd).unwrap();
            for version in crd["spec"]["versions"].as_array().unwrap() {
                let name = crd["metadata"]["name"].as_str().unwrap();
                check(name, &version["schema"]["openAPIV3Schema"]);
            }
        }
    }
}
