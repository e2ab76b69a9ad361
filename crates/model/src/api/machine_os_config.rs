//! MachineOSConfig: how the layered image of a pool is built and where it goes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Named, rule};

/// Longest Containerfile, in bytes of UTF-8. Sixteen times what the field's users had: heredocs and comments fit.
pub const MAX_CONTAINERFILE_BYTES: usize = 64 * 1024;

/// Desired layered image of a pool.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1",
    kind = "MachineOSConfig",
    plural = "machineosconfigs",
    shortname = "mosc",
    doc = "The layered image of a pool: a Containerfile on top of the pool's base image, and where the result is pushed.",
    status = "MachineOSConfigStatus",
    derive = "PartialEq",
    derive = "Default",
    label("openshift.io/operator-managed", ""),
    validation = Rule::new(
        "self.metadata.name == self.spec.machineConfigPool.name || oldSelf.hasValue() && \
         oldSelf.spec.machineConfigPool.name.value() == self.spec.machineConfigPool.name"
    )
    .message(
        "MachineOSConfig name must match the referenced MachineConfigPool name; \
         can only have one MachineOSConfig per MachineConfigPool"
    )
    .optional_old_self(true)
)]
#[serde(rename_all = "camelCase")]
pub struct MachineOSConfigSpec {
    /// The pool whose nodes get the image.
    pub machine_config_pool: Named,

    /// Who builds the image.
    pub image_builder: ImageBuilder,

    /// Secret with credentials for pulling the base image; the cluster's pull secret when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_image_pull_secret: Option<Named>,

    /// Secret with credentials for pushing the image; the cluster's pull secret when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered_image_push_secret: Option<Named>,

    /// Where the image is pushed, as `host[:port]/path:tag`. Each build replaces the tag by its own name.
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::tagged())]
    pub rendered_image_push_spec: String,

    /// The Containerfile, in one entry for every architecture or one per architecture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["containerfileArch".into()]))]
    pub container_file: Vec<MachineOSContainerfile>,
}

/// Who builds the image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuilder {
    /// `Job`, the only value; a builder claims the MachineOSBuild.
    pub image_builder_type: ImageBuilderType,
}

/// The one kind of builder there is; the name is kept for the manifests that say it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageBuilderType {
    #[default]
    Job,
}

/// A Containerfile and the architecture it is for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MachineOSContainerfile {
    /// Architecture of the nodes, or `NoArch` for all.
    #[serde(default)]
    pub containerfile_arch: ContainerfileArch,

    /// Text of the Containerfile; it usually starts with `FROM configs AS final`.
    #[schemars(length(max = 65536))]
    pub content: String,
}

/// Architecture that a Containerfile is for.
#[derive(
    Serialize,
    Deserialize,
    JsonSchema,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub enum ContainerfileArch {
    #[serde(rename = "ARM64")]
    Arm64,
    #[serde(rename = "AMD64")]
    Amd64,
    #[serde(rename = "PPC64LE")]
    Ppc64le,
    #[serde(rename = "S390X")]
    S390x,
    #[default]
    NoArch,
}

/// Seen state of a pool's layered image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MachineOSConfigStatus {
    /// Conditions of the MachineOSConfig.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Generation of the MachineOSConfig that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("observedGeneration must not move backwards"))]
    pub observed_generation: Option<i64>,

    /// Pull spec, with digest, of the image that the pool's nodes should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::digested())]
    pub current_image_pull_spec: Option<String>,

    /// The MachineOSBuild that is wanted now.
    #[serde(
        rename = "machineOSBuild",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub machine_os_build: Option<BuildReference>,
}

/// A reference to a MachineOSBuild.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildReference {
    /// API group of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural name of the object's kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the object, empty for cluster-scoped kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}
