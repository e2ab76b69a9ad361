//! MachineConfiguration of `operator.openshift.io/v1`: what changes of a node's configuration may do to it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use kube_core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group of MachineConfiguration.
pub const OPERATOR_GROUP: &str = "operator.openshift.io";
/// The name of the one MachineConfiguration.
pub const CLUSTER: &str = "cluster";

/// What the cluster wants.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "operator.openshift.io",
    version = "v1",
    kind = "MachineConfiguration",
    plural = "machineconfigurations",
    doc = "How changes of configuration are brought to the nodes of the cluster; there is one, named `cluster`.",
    status = "MachineConfigurationStatus",
    derive = "PartialEq",
    derive = "Default",
    label("openshift.io/operator-managed", ""),
    validation = Rule::new("self.metadata.name == 'cluster'")
        .message("there is one MachineConfiguration, and its name is `cluster`")
)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigurationSpec {
    /// What changes of files, units and SSH keys ask of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_disruption_policy: Option<NodeDisruptionPolicy>,

    /// `Managed`; read by other tools, without effect here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub management_state: String,

    /// Read by other tools, without effect here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_level: String,

    /// Read by other tools, without effect here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operator_log_level: String,
}

/// What changes ask of a node, as people write it. What is not named here keeps its default.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeDisruptionPolicy {
    /// For files, and for everything below directories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub files: Vec<FilePolicy>,

    /// For units. `name@.service` stands for all instances of the template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub units: Vec<UnitPolicy>,

    /// For the SSH keys of user `core`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sshkey: Option<SshKeyPolicy>,
}

/// What a change of one file, or of anything below one directory, asks for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePolicy {
    /// Absolute path of the file or directory.
    #[schemars(length(min = 1, max = 4095))]
    #[x_kube(validation = absolute())]
    pub path: String,
    /// What is done, in this order.
    #[schemars(length(max = 10))]
    #[x_kube(validation = some(), validation = alone("Reboot"), validation = alone("None"))]
    pub actions: Vec<PolicyAction>,
}

/// What a change of one unit asks for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitPolicy {
    /// Name of the unit with its suffix.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = unit_suffix(), validation = unit_name())]
    pub name: String,
    /// What is done, in this order.
    #[schemars(length(max = 10))]
    #[x_kube(validation = some(), validation = alone("Reboot"), validation = alone("None"))]
    pub actions: Vec<PolicyAction>,
}

/// What a change of SSH keys asks for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct SshKeyPolicy {
    /// What is done, in this order.
    #[schemars(length(max = 10))]
    #[x_kube(validation = some(), validation = alone("Reboot"), validation = alone("None"))]
    pub actions: Vec<PolicyAction>,
}

/// One action.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(
    validation = service_iff("Reload", "reload"),
    validation = service_iff("Restart", "restart")
)]
pub struct PolicyAction {
    /// What is done.
    #[serde(rename = "type")]
    pub type_: PolicyActionType,
    /// What is reloaded; with type `Reload` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<ServiceName>,
    /// What is restarted; with type `Restart` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<ServiceName>,
}

/// A service that an action is for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceName {
    /// Name of the unit with its suffix.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = unit_suffix(), validation = unit_name())]
    pub service_name: String,
}

/// What can be done.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyActionType {
    /// The node drains and reboots.
    Reboot,
    /// The node drains while the change is made.
    Drain,
    /// A service reads its configuration again.
    Reload,
    /// A service is restarted.
    Restart,
    /// systemd reads its units again.
    DaemonReload,
    /// Nothing.
    #[default]
    None,
}

/// Seen state.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigurationStatus {
    /// Generation of the spec that the policy below was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// The policy in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_disruption_policy_status: Option<NodeDisruptionPolicyStatus>,

    /// Written by other tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The policy in force.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeDisruptionPolicyStatus {
    /// The defaults with the spec merged over them.
    #[serde(default)]
    pub cluster_policies: ClusterPolicies,
}

/// The defaults with the spec merged over them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterPolicies {
    /// For files, and for everything below directories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub files: Vec<FilePolicyInForce>,
    /// For units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub units: Vec<UnitPolicyInForce>,
    /// For the SSH keys of user `core`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sshkey: Option<SshKeyPolicyInForce>,
}

/// What a change of one file, or of anything below one directory, asks for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePolicyInForce {
    /// Absolute path of the file or directory.
    pub path: String,
    /// What is done, in this order.
    #[schemars(length(max = 10))]
    pub actions: Vec<ActionInForce>,
}

/// What a change of one unit asks for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitPolicyInForce {
    /// Name of the unit with its suffix.
    pub name: String,
    /// What is done, in this order.
    #[schemars(length(max = 10))]
    pub actions: Vec<ActionInForce>,
}

/// What a change of SSH keys asks for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct SshKeyPolicyInForce {
    /// What is done, in this order.
    #[schemars(length(max = 10))]
    pub actions: Vec<ActionInForce>,
}

/// One action.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionInForce {
    /// What is done.
    #[serde(rename = "type")]
    pub type_: ActionTypeInForce,
    /// What is reloaded; with type `Reload` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<ServiceName>,
    /// What is restarted; with type `Restart` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<ServiceName>,
}

/// What can be done, and what only a default does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActionTypeInForce {
    /// The node drains and reboots.
    Reboot,
    /// The node drains while the change is made.
    Drain,
    /// A service reads its configuration again.
    Reload,
    /// A service is restarted.
    Restart,
    /// systemd reads its units again.
    DaemonReload,
    /// Nothing.
    #[default]
    None,
    /// `crio.service` is reloaded, and the node drains first when images may come from elsewhere than before.
    Special,
}

fn absolute() -> Rule {
    Rule::new("self.startsWith('/')").message("expected an absolute path")
}

fn some() -> Rule {
    Rule::new("self.size() > 0")
        .message("expected at least one action; `None` is the one for no disruption")
}

fn alone(kind: &str) -> Rule {
    Rule::new(format!(
        "self.exists(x, x.type=='{kind}') ? self.size() == 1 : true"
    ))
    .message(
        format!(
            "{kind} action can only be specified standalone, as it will override any other actions"
        )
        .as_str(),
    )
}

fn service_iff(kind: &str, field: &str) -> Rule {
    Rule::new(format!(
        "has(self.type) && self.type == '{kind}' ? has(self.{field}) : !has(self.{field})"
    ))
    .message(format!("{field} is required when type is {kind}, and forbidden otherwise").as_str())
}

fn unit_suffix() -> Rule {
    Rule::new(
        r"self.matches('\\.(service|socket|device|mount|automount|swap|target|path|timer|snapshot|slice|scope)$')",
    )
    .message(
        "Invalid ${SERVICETYPE} in service name. Expected format is ${NAME}${SERVICETYPE}, where ${SERVICETYPE} must be one of \
         \".service\", \".socket\", \".device\", \".mount\", \".automount\", \".swap\", \".target\", \".path\", \".timer\",\".snapshot\", \".slice\" or \".scope\".",
    )
}

fn unit_name() -> Rule {
    Rule::new(r"self.matches('^[a-zA-Z0-9:._\\\\@-]+\\..')").message(
        "Invalid ${NAME} in service name. Expected format is ${NAME}${SERVICETYPE}, where {NAME} must be atleast 1 character long \
         and can only consist of alphabets, digits, \":\", \"-\", \"_\", \".\", \"@\", and \"\\\".",
    )
}
