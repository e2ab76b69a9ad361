//! MachineOSBuild in the shape of `v1alpha1`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::ImageBuilderType;
use crate::api::{BuildProgress, Named, RelatedObject, rule};

/// What is built. Other inputs make another build, so the spec never changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1alpha1",
    kind = "MachineOSBuild",
    plural = "machineosbuilds",
    shortname = "mosb",
    doc = "One build of a layered image, in the shape of v1alpha1.",
    status = "MachineOSBuildStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Prepared",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Prepared")].status"#
    ),
    printcolumn(
        name = "Building",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Building")].status"#
    ),
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Succeeded")].status"#
    ),
    printcolumn(
        name = "Interrupted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Interrupted")].status"#
    ),
    printcolumn(
        name = "Failed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Failed")].status"#
    )
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("machineOSBuildSpec is immutable once set"))]
#[serde(rename_all = "camelCase")]
pub struct MachineOSBuildSpec {
    /// Kept, and not used.
    #[schemars(range(min = 1))]
    pub config_generation: i64,

    /// Kept, and not used.
    #[schemars(range(min = 1))]
    pub version: i64,

    /// The rendered MachineConfig that the image is for.
    pub desired_config: Named,

    /// The MachineOSConfig that asks for the image.
    #[serde(rename = "machineOSConfig")]
    pub machine_os_config: Named,

    /// Where the image is pushed.
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::tagged())]
    pub rendered_image_pushspec: String,
}

/// Seen state of a build.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MachineOSBuildStatus {
    /// `Prepared`, `Building`, `Succeeded`, `Interrupted`, `Failed`; at most one is `True`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// When a builder began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_start: Option<Time>,

    /// When the build ended, well or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_end: Option<Time>,

    /// Who builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder_reference: Option<BuilderReference>,

    /// How far the build is; from `v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<BuildProgress>,

    /// The result, with digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::digested())]
    pub final_image_pullspec: Option<String>,

    /// Objects that belong to the build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into(), "resource".into()]))]
    pub related_objects: Vec<RelatedObject>,
}

/// Who builds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BuilderReference {
    /// `PodImageBuilder`.
    #[serde(default)]
    pub image_builder_type: ImageBuilderType,

    /// What runs the build, where something does; `job` in `v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_pod: Option<RelatedObject>,

    /// Identity of the builder that holds the claim; from `v1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
}
