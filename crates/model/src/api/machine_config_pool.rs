//! MachineConfigPool: which nodes take which MachineConfigs, and how many at a time.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Desired state of a pool.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1",
    kind = "MachineConfigPool",
    plural = "machineconfigpools",
    shortname = "mcp",
    doc = "A pool of nodes that have the same configuration and image.",
    status = "MachineConfigPoolStatus",
    derive = "PartialEq",
    derive = "Default",
    label("openshift.io/operator-managed", ""),
    printcolumn(
        name = "Config",
        type_ = "string",
        json_path = ".status.configuration.name"
    ),
    printcolumn(
        name = "Updated",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Updated")].status"#,
        description = "When all the machines in the pool are updated to the desired configuration"
    ),
    printcolumn(
        name = "Updating",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Updating")].status"#,
        description = "When at least one machine is not updated or is being updated"
    ),
    printcolumn(
        name = "Degraded",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Degraded")].status"#,
        description = "When progress is blocked on a failed render, build or machine"
    ),
    printcolumn(
        name = "MachineCount",
        type_ = "number",
        json_path = ".status.machineCount",
        description = "Number of machines in the pool"
    ),
    printcolumn(
        name = "ReadyMachineCount",
        type_ = "number",
        json_path = ".status.readyMachineCount",
        description = "Number of machines that are updated and ready"
    ),
    printcolumn(
        name = "UpdatedMachineCount",
        type_ = "number",
        json_path = ".status.updatedMachineCount",
        description = "Number of machines that have the desired configuration and image"
    ),
    printcolumn(
        name = "DegradedMachineCount",
        type_ = "number",
        json_path = ".status.degradedMachineCount",
        description = "Number of machines that reported a failure"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigPoolSpec {
    /// Selects the MachineConfigs that are rendered for the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_config_selector: Option<LabelSelector>,

    /// Selects the nodes of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,

    /// Stops updates of nodes; rendering and building go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,

    /// How many nodes may be unavailable at a time, as a number or a percentage of the pool; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,

    /// The rendered MachineConfig that the nodes should have; written by the render controller.
    #[serde(default, skip_serializing_if = "PoolConfiguration::is_empty")]
    pub configuration: PoolConfiguration,
}

/// Seen state of a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigPoolStatus {
    /// Generation of the pool that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The rendered MachineConfig that every node of the pool had when all were last updated.
    #[serde(default, skip_serializing_if = "PoolConfiguration::is_empty")]
    pub configuration: PoolConfiguration,

    /// Number of nodes in the pool.
    #[serde(default)]
    pub machine_count: i32,

    /// Nodes that have the desired configuration and image.
    #[serde(default)]
    pub updated_machine_count: i32,

    /// Updated nodes that are ready.
    #[serde(default)]
    pub ready_machine_count: i32,

    /// Nodes that cannot serve: not ready, cordoned, or in the middle of an update.
    #[serde(default)]
    pub unavailable_machine_count: i32,

    /// Nodes that reported a failure.
    #[serde(default)]
    pub degraded_machine_count: i32,

    /// The pool's conditions; types and reasons are in `condition`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub conditions: Vec<PoolCondition>,
}

/// A reference to a rendered MachineConfig and to those that it was made from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolConfiguration {
    /// API version of the rendered MachineConfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,

    /// `MachineConfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,

    /// Name of the rendered MachineConfig; empty before the first render.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,

    /// The MachineConfigs that were merged, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub source: Vec<ObjectReference>,
}

impl PoolConfiguration {
    /// Whether nothing has been rendered yet.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A condition of a pool. Not `metav1.Condition`: the reason may be empty and nothing is required but type and status.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolCondition {
    /// Type of the condition.
    #[serde(rename = "type")]
    pub type_: String,

    /// `True`, `False` or `Unknown`.
    pub status: String,

    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,

    /// Why, in one CamelCase word.
    #[serde(default)]
    pub reason: String,

    /// Why, for a person.
    #[serde(default)]
    pub message: String,
}
