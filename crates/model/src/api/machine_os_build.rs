//! MachineOSBuild: one build of a layered image, named by its inputs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use kube_core::Rule;
use serde::{Deserialize, Serialize};

use super::{ImageBuilderType, Named, rule};

/// What is built. Other inputs make another build, so the spec never changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1",
    kind = "MachineOSBuild",
    plural = "machineosbuilds",
    shortname = "mosb",
    doc = "One build of a layered image.",
    status = "MachineOSBuildStatus",
    derive = "PartialEq",
    derive = "Default",
    label("openshift.io/operator-managed", ""),
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
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("machineOSBuildSpec is immutable once set"))]
#[serde(rename_all = "camelCase")]
pub struct MachineOSBuildSpec {
    /// The rendered MachineConfig that the image is for.
    pub machine_config: Named,

    /// The MachineOSConfig that asks for the image.
    #[serde(rename = "machineOSConfig")]
    pub machine_os_config: Named,

    /// Where the image is pushed; the tag is the build's name.
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::tagged())]
    pub rendered_image_push_spec: String,
}

/// Seen state of a build.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new(
        "has(self.buildEnd) ? has(self.buildStart) && timestamp(self.buildStart) <= timestamp(self.buildEnd) : true"
    )
    .message("buildEnd must be after buildStart")
)]
#[serde(rename_all = "camelCase")]
pub struct MachineOSBuildStatus {
    /// `Prepared`, `Building`, `Succeeded`, `Interrupted`, `Failed`; at most one is `True`. Frozen once an end is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["type".into()]),
        validation = frozen_after("Failed"),
        validation = frozen_after("Interrupted"),
        validation = frozen_after("Succeeded")
    )]
    pub conditions: Vec<Condition>,

    /// When a builder began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("buildStart is immutable once set"))]
    pub build_start: Option<Time>,

    /// When the build ended, well or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("buildEnd is immutable once set"))]
    pub build_end: Option<Time>,

    /// Who builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<MachineOSBuilder>,

    /// How far the build is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<BuildProgress>,

    /// The result, with digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::digested())]
    pub digested_image_push_spec: Option<String>,

    /// Objects that belong to the build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into(), "resource".into()]))]
    pub related_objects: Vec<RelatedObject>,
}

/// Who builds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MachineOSBuilder {
    /// `Job`.
    pub image_builder_type: ImageBuilderType,
    /// The Job that runs the build, where a Job does; builders of ours have an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<RelatedObject>,
    /// Identity of the builder that holds the claim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
}

/// How far a build is: step `step` of `steps`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildProgress {
    /// The running step, counted from 1.
    pub step: u32,
    /// Steps in all.
    pub steps: u32,
    /// The instruction of the running step, or what the builder waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What was fetched from registries for the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<Transferred>,
    /// What the registry that the image goes to has of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Transferred>,
}

/// Bytes on their way, of all blobs that are known so far.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes that have arrived.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// An object that belongs to a build.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct RelatedObject {
    /// API group of the object, empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Plural name of the object's kind.
    pub resource: String,
    /// Name of the object.
    pub name: String,
    /// Namespace of the object, empty for cluster-scoped kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

fn frozen_after(end: &str) -> Rule {
    Rule::new(format!(
        "oldSelf.exists(x, x.type=='{end}' && x.status=='True') ? self==oldSelf : true"
    ))
    .message(format!("once a {end} condition is set, conditions are immutable").as_str())
}
