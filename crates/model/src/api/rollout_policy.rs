//! RolloutPolicy: in which order and when a pool's nodes are updated, what they must show before that counts as done, and
//! what happens when they do not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use kube_core::duration::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Named, rule};

/// Waves, windows, health, drift and failure budget of one pool or several.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "caprock.dev",
    version = "v1alpha1",
    kind = "RolloutPolicy",
    plural = "rolloutpolicies",
    shortname = "rop",
    doc = "When and in which order the nodes of a pool are updated, what they must show afterwards, and what happens when they do not.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.pools[*].name"),
    printcolumn(name = "Drift", type_ = "string", json_path = ".spec.drift"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutPolicySpec {
    /// MachineConfigPools that this is for. Of several policies for one pool the one whose name comes first applies, and
    /// the pool is Degraded until the others leave it out.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<Named>,

    /// When a node counts as well after an update.
    #[serde(default)]
    pub health: NodeHealth,

    /// What happens when somebody else changes what Caprock wrote: `Report` says so on the node, `Heal` also puts it back.
    #[serde(default)]
    pub drift: DriftPolicy,

    /// Whether an update in which kernel and kernel arguments stay starts everything but the kernel anew, in the place of a
    /// reboot, on hosts that can: `WhenPossible`, or `Never`.
    #[serde(default)]
    pub soft_reboot: SoftRebootPolicy,

    /// How many nodes may fail an update before no further node starts it: a count, or a percentage of the pool's nodes.
    /// `0` stops at the first. Without it, failed nodes only keep their slots of the pool's `maxUnavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_budget: Option<IntOrString>,

    /// How nodes are drained before they are disturbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainPolicy>,

    /// In which order nodes are updated: those of the first wave, then those of the second, then those of none. Each
    /// wave begins when all nodes of those before it run the new version and are well. Within a wave `maxUnavailable`
    /// of the pool holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub waves: Vec<UpdateWave>,

    /// When updates that drain a node may begin; at any time without one. What has begun is finished, and changes that
    /// drain nothing are made at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub windows: Vec<MaintenanceWindow>,
}

/// Nodes that are updated before others.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateWave {
    /// What messages call it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rule::dns1123())]
    pub name: String,
    /// Its nodes, of those of the pool that no earlier wave selects. An empty selector selects all.
    pub node_selector: LabelSelector,
    /// How long the wave's nodes must have been well before the next wave begins, such as `1h`; 30 days at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('0s') && duration(self) <= duration('720h')").message("must be between 0s and 720h"))]
    pub soak: Option<Duration>,
    /// Whether the next wave waits until somebody takes this away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause: bool,
}

/// A time at which nodes may be disturbed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceWindow {
    /// What messages call it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rule::dns1123())]
    pub name: String,
    /// Days of the week on which it begins; every day when none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Day>,
    /// When it begins, as `HH:MM` of its time zone.
    #[schemars(length(max = 5))]
    #[x_kube(validation = Rule::new("self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')").message("must be a time of day such as 22:30"))]
    pub start: String,
    /// How long it is open, such as `4h`; seven days at most.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('168h')").message("must be between 1m and 168h"))]
    pub duration: Duration,
    /// Name of its time zone in the IANA database, such as `Europe/Berlin`; `UTC` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
}

/// A day of the week.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    /// Monday.
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

/// How nodes are drained, with the names and meanings of `kubectl drain`. DaemonSet and static pods always stay, and
/// PodDisruptionBudgets are never broken.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrainPolicy {
    /// Whether pods without a controller are evicted, which nobody starts again. When `false`, a node that has one is not
    /// drained, and says so.
    #[serde(default = "yes")]
    pub force: bool,
    /// Whether pods with `emptyDir` volumes are evicted, whose data goes with them. When `false`, a node that has one is
    /// not drained, and says so.
    #[serde(default = "yes")]
    pub delete_empty_dir_data: bool,
    /// Seconds that each pod is given to end; its own `terminationGracePeriodSeconds` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub grace_period_seconds: Option<u32>,
    /// How long a drain may take until the pool is Degraded, such as `30m`; `1h` when nothing is said. The drain goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = duration_up_to_a_day())]
    pub timeout: Option<Duration>,
    /// A pod that should have been gone for so long is not waited for, such as `10m`; every pod is when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = duration_up_to_a_day())]
    pub skip_wait_for_delete_timeout: Option<Duration>,
}

impl Default for DrainPolicy {
    fn default() -> Self {
        DrainPolicy {
            force: true,
            delete_empty_dir_data: true,
            grace_period_seconds: None,
            timeout: None,
            skip_wait_for_delete_timeout: None,
        }
    }
}

fn yes() -> bool {
    true
}

/// When a node counts as well after an update.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeHealth {
    /// How long a node has, from when its agent begins to look, until everything that it enables is active, it is Ready
    /// and every probe passes; such as `90s` or `5m`, an hour at most. `2m` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = duration_up_to_an_hour())]
    pub deadline: Option<Duration>,

    /// What has to be true of the node besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub probes: Vec<Probe>,
}

/// One thing that has to be true of a node. Exactly one of `unit`, `file`, `mount`, `command` and `http` is given.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.unit), has(self.file), has(self.mount), has(self.command), has(self.http)].filter(given, given).size() == 1").message("exactly one of unit, file, mount, command and http is required"))]
pub struct Probe {
    /// What messages call it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rule::dns1123())]
    pub name: String,
    /// A unit is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitProbe>,
    /// A file is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileProbe>,
    /// Something is mounted at a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<MountProbe>,
    /// A command ends with an exit status. It is run as root, without a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandProbe>,
    /// A server on the node answers with a status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
}

/// A systemd unit that has to be active.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitProbe {
    /// Its name, with its type: `autofs.service`.
    #[schemars(length(min = 3, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9:_.@-]+\\\\.(service|socket|mount|automount|target|timer|path|swap|device|slice|scope)$')").message("must be the name of a unit with its type, such as autofs.service"))]
    pub name: String,
}

/// A file that has to be there.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FileProbe {
    /// Its path.
    #[schemars(length(min = 2, max = 4096))]
    #[x_kube(validation = absolute_path())]
    pub path: String,
    /// Text that has to be within its first MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub contains: Option<String>,
}

/// A place where something has to be mounted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MountProbe {
    /// The mount point.
    #[schemars(length(min = 1, max = 4096))]
    #[x_kube(validation = absolute_path())]
    pub path: String,
}

/// A command that has to end well.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CommandProbe {
    /// The program, by its absolute path or found in `PATH`, and its arguments.
    #[schemars(length(min = 1, max = 64))]
    pub argv: Vec<String>,
    /// The exit status that means that all is well.
    #[serde(default)]
    #[schemars(range(min = 0, max = 255))]
    pub exit_status: i32,
    /// How long one run may take; `10s` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = duration_up_to_an_hour())]
    pub timeout: Option<Duration>,
}

/// A server on the node that has to answer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpProbe {
    /// What to get: `http://`, then `localhost` or a loopback address, for what another host answers says nothing of this
    /// one.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^http://(localhost|127(\\\\.[0-9]{1,3}){3}|\\\\[::1\\\\])(:[0-9]{1,5})?(/[^ #]*)?$')").message("must begin with http:// and localhost or a loopback address, such as http://localhost:10248/healthz"))]
    pub url: String,
    /// The status that means that all is well; `200` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<i32>,
    /// How long one answer may take; `10s` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = duration_up_to_an_hour())]
    pub timeout: Option<Duration>,
}

/// What happens when somebody else changes what Caprock wrote.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriftPolicy {
    /// The node is Degraded and says what differs, until it is as it should be.
    #[default]
    Report,
    /// It is put back, and an event says so.
    Heal,
}

/// Whether a soft reboot may take the place of a reboot.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SoftRebootPolicy {
    /// Wherever the host can.
    #[default]
    WhenPossible,
    /// Every reboot is one.
    Never,
}

fn duration_up_to_an_hour() -> kube_core::Rule {
    kube_core::Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
        .message("must be between 1s and 1h")
}

fn duration_up_to_a_day() -> kube_core::Rule {
    kube_core::Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("must be between 1s and 24h")
}

fn absolute_path() -> kube_core::Rule {
    kube_core::Rule::new("self.startsWith('/') && !self.split('/').exists(part, part == '..')")
        .message("must be an absolute path without `..`")
}
