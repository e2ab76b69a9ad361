//! MachineOSConfig in the shape of `v1alpha1`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{BuildReference, Named, rule};

/// Desired layered image of a pool.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1alpha1",
    kind = "MachineOSConfig",
    plural = "machineosconfigs",
    shortname = "mosc",
    doc = "The layered image of a pool, in the shape of v1alpha1; v1 says the same with fewer levels.",
    status = "MachineOSConfigStatus",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct MachineOSConfigSpec {
    /// The pool whose nodes get the image.
    pub machine_config_pool: Named,

    /// What the image is built from, and where it is pushed.
    pub build_inputs: BuildInputs,

    /// How nodes get the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_outputs: Option<BuildOutputs>,
}

/// What the image is built from, and where it is pushed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BuildInputs {
    /// Kept, and not used: the base image is the pool's `osImageURL`.
    #[serde(
        rename = "baseOSImagePullspec",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::digested())]
    pub base_os_image_pullspec: Option<String>,

    /// Kept, and not used: the extensions image is the pool's `baseOSExtensionsContainerImage`.
    #[serde(
        rename = "baseOSExtensionsImagePullspec",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::digested())]
    pub base_os_extensions_image_pullspec: Option<String>,

    /// Secret with credentials for pulling the base image; the cluster's pull secret when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_image_pull_secret: Option<Named>,

    /// Who builds the image.
    #[serde(default)]
    pub image_builder: ImageBuilder,

    /// Secret with credentials for pushing the image; the cluster's pull secret when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered_image_push_secret: Option<Named>,

    /// Where the image is pushed, as `host[:port]/path:tag`.
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::tagged())]
    pub rendered_image_pushspec: String,

    /// Kept, and not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_version: Option<String>,

    /// The Containerfile, in one entry for every architecture or one per architecture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["containerfileArch".into()]))]
    pub container_file: Vec<MachineOSContainerfile>,
}

/// How nodes get the image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BuildOutputs {
    /// Kept, and not used: nodes have the cluster's pull secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_image_pull_secret: Option<Named>,
}

/// Who builds the image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuilder {
    /// `PodImageBuilder`, the only value.
    #[serde(default)]
    pub image_builder_type: ImageBuilderType,
}

/// The one kind of builder there was.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageBuilderType {
    #[default]
    PodImageBuilder,
}

/// A Containerfile and the architecture it is for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MachineOSContainerfile {
    /// Architecture of the nodes, or `noarch` for all.
    #[serde(default)]
    pub containerfile_arch: ContainerfileArch,

    /// Text of the Containerfile.
    #[schemars(length(max = 65536))]
    pub content: String,
}

/// Architecture that a Containerfile is for; two have two names.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ContainerfileArch {
    Arm64,
    Amd64,
    Ppc64le,
    S390x,
    Aarch64,
    #[serde(rename = "x86_64")]
    X86_64,
    #[default]
    Noarch,
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
    pub observed_generation: Option<i64>,

    /// Pull spec, with digest, of the image that the pool's nodes should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::digested())]
    pub current_image_pullspec: Option<String>,

    /// The MachineOSBuild that is wanted now; from `v1`.
    #[serde(
        rename = "machineOSBuild",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub machine_os_build: Option<BuildReference>,
}
