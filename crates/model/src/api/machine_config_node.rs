//! MachineConfigNode: how far one node is with its update, for people and programs to read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{Named, rule};

/// Stands where a config name is required and none is known yet.
pub const NOT_YET_SET: &str = "not-yet-set";

/// Desired state of one node; its name is the node's.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1",
    kind = "MachineConfigNode",
    plural = "machineconfignodes",
    shortname = "mcn",
    doc = "Progress of one node towards its desired configuration and image.",
    status = "MachineConfigNodeStatus",
    derive = "PartialEq",
    derive = "Default",
    label("openshift.io/operator-managed", ""),
    validation = Rule::new("self.metadata.name == self.spec.node.name").message("spec.node.name should match metadata.name"),
    printcolumn(name = "PoolName", type_ = "string", json_path = ".spec.pool.name"),
    printcolumn(name = "DesiredConfig", type_ = "string", json_path = ".spec.configVersion.desired"),
    printcolumn(name = "CurrentConfig", type_ = "string", json_path = ".status.configVersion.current"),
    printcolumn(name = "Updated", type_ = "string", json_path = r#".status.conditions[?(@.type=="Updated")].status"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "UpdatePrepared", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="UpdatePrepared")].status"#),
    printcolumn(name = "UpdateExecuted", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="UpdateExecuted")].status"#),
    printcolumn(name = "UpdatePostActionComplete", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="UpdatePostActionComplete")].status"#),
    printcolumn(name = "UpdateComplete", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="UpdateComplete")].status"#),
    printcolumn(name = "Resumed", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="Resumed")].status"#),
    printcolumn(name = "UpdatedFilesAndOS", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="AppliedFilesAndOS")].status"#),
    printcolumn(name = "CordonedNode", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="Cordoned")].status"#),
    printcolumn(name = "DrainedNode", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="Drained")].status"#),
    printcolumn(name = "RebootedNode", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="RebootedNode")].status"#),
    printcolumn(name = "UncordonedNode", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="Uncordoned")].status"#)
)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigNodeSpec {
    /// The node.
    pub node: Named,
    /// The pool that the node is in.
    pub pool: Named,
    /// The rendered MachineConfig that the node should have.
    pub config_version: NodeConfigVersion,
    /// The layered image that the node should run; absent when its pool has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_image: Option<NodeConfigImage>,
}

/// The rendered MachineConfig that a node should have.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfigVersion {
    /// Its name, or `not-yet-set`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule::dns1123())]
    pub desired: String,
}

/// The layered image that a node should run.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfigImage {
    /// Its pull spec, with digest.
    #[schemars(length(min = 1, max = 447))]
    #[x_kube(validation = rule::digested())]
    pub desired_image: String,
}

/// Seen state of one node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigNodeStatus {
    /// Generation of the MachineConfigNode that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("observedGeneration must not move backwards"))]
    pub observed_generation: Option<i64>,

    /// Rendered MachineConfigs of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_version: Option<NodeConfigVersionStatus>,

    /// Layered images of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_image: Option<NodeConfigImageStatus>,

    /// Where the node is in its update; types are in `condition`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Sets of container images that the node keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pinned_image_sets: Vec<NodePinnedImageSet>,

    /// Where the node differs from its configuration in what only an installation can set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["fieldPath".into()]))]
    pub irreconcilable_changes: Vec<IrreconcilableChange>,
}

/// Progress of one set of container images on a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.desiredGeneration) && has(self.currentGeneration) ? self.desiredGeneration >= self.currentGeneration : true")
        .message("desired generation must be greater than or equal to the current generation"),
    validation = Rule::new("has(self.lastFailedGeneration) && has(self.desiredGeneration) ? self.desiredGeneration >= self.lastFailedGeneration : true")
        .message("desired generation must be greater than or equal to the last failed generation"),
    validation = Rule::new("has(self.lastFailedGeneration) ? has(self.lastFailedGenerationError) : true")
        .message("last failed generation error must be given with last failed generation")
)]
#[serde(rename_all = "camelCase")]
pub struct NodePinnedImageSet {
    /// Name of the PinnedImageSet.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule::dns1123())]
    pub name: String,
    /// Generation that the node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("currentGeneration must not move backwards"))]
    pub current_generation: Option<i32>,
    /// Generation that the node should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("desiredGeneration must not move backwards"))]
    pub desired_generation: Option<i32>,
    /// Generation that the node failed to get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("lastFailedGeneration must not move backwards"))]
    pub last_failed_generation: Option<i32>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub last_failed_generation_error: Option<String>,
}

/// A difference that only an installation can mend.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IrreconcilableChange {
    /// The field of the MachineConfig.
    #[schemars(length(min = 1, max = 70))]
    #[x_kube(
        validation = Rule::new("self.startsWith('spec.')").message("must start with `spec.`"),
        validation = Rule::new("self.matches('^[\\\\da-zA-Z\\\\.\\\\[\\\\]]+$')")
            .message("must be a path of names and indexes")
    )]
    pub field_path: String,
    /// The difference.
    #[schemars(length(min = 1, max = 4096))]
    pub diff: String,
}

/// Rendered MachineConfigs of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfigVersionStatus {
    /// The one that the node has; empty before the first is applied.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub current: String,
    /// The one that the node was told to have.
    pub desired: String,
}

/// Layered images of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfigImageStatus {
    /// The one that the node runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_image: Option<String>,
    /// The one that the node was told to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_image: Option<String>,
}
