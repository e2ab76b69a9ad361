//! MachineConfigPool: which nodes take which MachineConfigs, and how many at a time.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule;

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

    /// Sets of container images that nodes should keep. Kept, and not acted on: the pool's status says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pinned_image_sets: Vec<PinnedImageSetReference>,

    /// Stream of operating system images. Kept, and not acted on: the pool's status says so.
    #[serde(
        rename = "osImageStream",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_image_stream: Option<OsImageStreamReference>,
}

/// A PinnedImageSet.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedImageSetReference {
    /// Its name.
    #[schemars(
        length(min = 1, max = 253),
        regex(
            pattern = r"^([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])(\.([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9\-]{0,61}[a-zA-Z0-9]))*$"
        )
    )]
    pub name: String,
}

/// A stream of operating system images.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct OsImageStreamReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule::dns1123())]
    pub name: String,
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

    /// When certificates of the nodes end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub cert_expirys: Vec<CertExpiry>,

    /// Progress of what is brought to nodes beside their configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["poolSynchronizerType".into()]))]
    pub pool_synchronizers_status: Vec<PoolSynchronizerStatus>,

    /// Stream of operating system images that the pool has.
    #[serde(
        rename = "osImageStream",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_image_stream: Option<OsImageStreamReference>,
}

/// When a certificate ends.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CertExpiry {
    /// The bundle that it is in.
    pub bundle: String,
    /// Its subject.
    pub subject: String,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Time>,
}

/// Progress of one thing that is brought to nodes beside their configuration.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("self.machineCount >= self.updatedMachineCount")
        .message("machineCount must be greater than or equal to updatedMachineCount"),
    validation = Rule::new("self.machineCount >= self.availableMachineCount")
        .message("machineCount must be greater than or equal to availableMachineCount"),
    validation = Rule::new("self.machineCount >= self.unavailableMachineCount")
        .message("machineCount must be greater than or equal to unavailableMachineCount"),
    validation = Rule::new("self.machineCount >= self.readyMachineCount")
        .message("machineCount must be greater than or equal to readyMachineCount"),
    validation = Rule::new("self.availableMachineCount >= self.readyMachineCount")
        .message("availableMachineCount must be greater than or equal to readyMachineCount")
)]
#[serde(rename_all = "camelCase")]
pub struct PoolSynchronizerStatus {
    /// What is brought.
    pub pool_synchronizer_type: PoolSynchronizerType,
    /// Nodes in the pool.
    #[schemars(range(min = 0))]
    pub machine_count: i64,
    /// Nodes that have it.
    #[schemars(range(min = 0))]
    pub updated_machine_count: i64,
    /// Nodes that have it and are ready.
    #[schemars(range(min = 0))]
    pub ready_machine_count: i64,
    /// Nodes that serve.
    #[schemars(range(min = 0))]
    pub available_machine_count: i64,
    /// Nodes that do not serve.
    #[schemars(range(min = 0))]
    pub unavailable_machine_count: i64,
    /// Generation that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf || (self == 0 && oldSelf > 0)")
        .message("observedGeneration must not move backwards except to zero"))]
    pub observed_generation: Option<i64>,
}

/// What is brought to nodes beside their configuration.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolSynchronizerType {
    #[default]
    PinnedImageSets,
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
