//! Stands in for a kubelet where there is none: creates the Node, keeps it Ready and renews its Lease.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use model::drain::{self, CORDONED_BY};
use model::keys::{self, NODE_LEASE_NAMESPACE};
use model::node::{Target, has_kubelet};
use serde_json::json;

use crate::error::{AgentError, chain, is_not_found};
use crate::machine::Facts;

/// How often the Lease is renewed, as kubelets do.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Heartbeats that may fail before a node counts as silent, as kubelets have it.
const BEATS_OF_A_LEASE: u64 = 4;
/// How often the status is written when nothing in it changed, as kubelets do.
const STATUS_REFRESH: Duration = Duration::from_secs(300);
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Registers a node and keeps it alive. Never returns; a failure is logged and tried again with the next heartbeat.
/// A machine that has arrived in a version becomes a Node that has it, cordoned until its agent has proven that.
pub(crate) async fn run(
    client: Client,
    name: String,
    registration: Registration,
    arrival: Option<Target>,
    facts: Facts,
) {
    let heartbeat = registration.heartbeat;
    let kubelet = StandIn {
        arrival,
        nodes: Api::all(client.clone()),
        leases: Api::namespaced(client, NODE_LEASE_NAMESPACE),
        name,
        registration,
        facts,
    };
    let mut written: Option<std::time::Instant> = None;
    loop {
        let stale = written.is_none_or(|at| at.elapsed() >= STATUS_REFRESH);
        match kubelet.beat(stale).await {
            Ok(wrote) => {
                written = if wrote {
                    Some(std::time::Instant::now())
                } else {
                    written
                }
            }
            Err(error) => {
                tracing::warn!(node = kubelet.name, "no heartbeat: {}", chain(&error))
            }
        }
        // Until the node is there once, it is wanted soon.
        tokio::time::sleep(if written.is_some() {
            heartbeat
        } else {
            Duration::from_secs(1)
        })
        .await;
    }
}

/// The Node that an agent registers.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    /// Its labels when it is created.
    pub(crate) labels: BTreeMap<String, String>,
    /// A label without which an existing Node is somebody else's, who is left alone.
    pub(crate) mark: Option<&'static str>,
    /// How often it shows that it lives.
    pub(crate) heartbeat: Duration,
}

impl Registration {
    /// A Node with these labels, which lives as kubelets do.
    pub(crate) fn new(labels: BTreeMap<String, String>) -> Self {
        Registration {
            labels,
            mark: None,
            heartbeat: HEARTBEAT,
        }
    }

    /// Whether a Node is the one that was registered.
    pub(crate) fn is_ours(&self, node: &Node) -> bool {
        let labels = node.metadata.labels.as_ref();
        self.mark
            .is_none_or(|mark| labels.is_some_and(|labels| labels.contains_key(mark)))
    }

    fn lease_seconds(&self) -> i32 {
        let seconds = self.heartbeat.as_secs().saturating_mul(BEATS_OF_A_LEASE);
        i32::try_from(seconds.max(1)).unwrap_or(i32::MAX)
    }
}

struct StandIn {
    nodes: Api<Node>,
    leases: Api<Lease>,
    name: String,
    registration: Registration,
    arrival: Option<Target>,
    facts: Facts,
}

impl StandIn {
    /// One heartbeat. Returns whether the status was written.
    async fn beat(&self, stale: bool) -> Result<bool, AgentError> {
        let node = self.node().await?;
        if has_kubelet(&node) {
            if stale {
                tracing::warn!(
                    node = self.name,
                    "a kubelet keeps this Node; `--register-node` leaves it alone"
                );
            }
            return Ok(stale);
        }
        let ready = is_ready(&node);
        if stale || !ready {
            self.set_status(&node).await?;
        }
        self.renew(&node).await?;
        Ok(stale || !ready)
    }

    /// The Node, created when missing. Labels of one that exists are left alone: they are moved by people.
    async fn node(&self) -> Result<Node, AgentError> {
        let failed = |action: &str| AgentError::api(format!("{action} Node `{}`", self.name));
        if let Some(node) = self
            .nodes
            .get_opt(&self.name)
            .await
            .map_err(failed("read"))?
        {
            return match self.registration.is_ours(&node) {
                true => Ok(node),
                false => Err(AgentError::Object {
                    object: format!("Node `{}`", self.name),
                    problem: "is somebody else's, and left alone".to_owned(),
                }),
            };
        }
        let mut labels = self.registration.labels.clone();
        labels.insert(HOSTNAME.to_owned(), self.name.clone());
        labels.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
        labels.insert("kubernetes.io/arch".to_owned(), architecture().to_owned());
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some(labels),
            annotations: self.arrival.as_ref().map(annotations),
            ..ObjectMeta::default()
        };
        let node = Node {
            metadata,
            spec: self.arrival.as_ref().map(|_| NodeSpec {
                unschedulable: Some(true),
                ..NodeSpec::default()
            }),
            ..Node::default()
        };
        self.nodes
            .create(&PostParams::default(), &node)
            .await
            .map_err(failed("create"))
    }

    async fn set_status(&self, node: &Node) -> Result<(), AgentError> {
        let patch = json!({"status": status(node, &self.facts, Timestamp::now())});
        let patched = self
            .nodes
            .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched
            .map(drop)
            .map_err(AgentError::api(format!("report on Node `{}`", self.name)))
    }

    async fn renew(&self, node: &Node) -> Result<(), AgentError> {
        let failed = |action: &str| AgentError::api(format!("{action} Lease `{}`", self.name));
        let now = MicroTime(Timestamp::now());
        let patch = json!({"spec": {"renewTime": now, "holderIdentity": self.name}});
        match self
            .leases
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(error) if is_not_found(&error) => {}
            other => return other.map(drop).map_err(failed("renew")),
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                owner_references: node.metadata.uid.as_ref().map(|uid| {
                    vec![
                        k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
                            api_version: "v1".to_owned(),
                            kind: "Node".to_owned(),
                            name: self.name.clone(),
                            uid: uid.clone(),
                            ..Default::default()
                        },
                    ]
                }),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(self.registration.lease_seconds()),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        self.leases
            .create(&PostParams::default(), &lease)
            .await
            .map(drop)
            .map_err(failed("create"))
    }
}

/// As if the node had drained and booted into the version: what is left is to prove it, and to ask for the cordon to be
/// taken off.
fn annotations(arrival: &Target) -> BTreeMap<String, String> {
    let drained = drain::request(&arrival.config);
    let mut annotations = BTreeMap::from([
        (keys::CURRENT_CONFIG, arrival.config.clone()),
        (keys::DESIRED_CONFIG, arrival.config.clone()),
        (CORDONED_BY, drained.clone()),
        (keys::DESIRED_DRAIN, drained.clone()),
        (keys::LAST_APPLIED_DRAIN, drained),
    ]);
    if let Some(image) = &arrival.image {
        annotations.insert(keys::CURRENT_IMAGE, image.clone());
        annotations.insert(keys::DESIRED_IMAGE, image.clone());
    }
    annotations
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn status(node: &Node, facts: &Facts, now: Timestamp) -> NodeStatus {
    let before = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let since = before
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "True")
        .and_then(|c| c.last_transition_time.clone());
    let ready = NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: Some("AgentReady".to_owned()),
        message: Some("the node's agent is running".to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
    };
    let mut conditions: Vec<NodeCondition> =
        before.into_iter().filter(|c| c.type_ != "Ready").collect();
    conditions.push(ready);
    NodeStatus {
        conditions: Some(conditions),
        allocatable: Some(facts.capacity.clone()),
        capacity: Some(facts.capacity.clone()),
        node_info: Some(facts.info.clone()),
        ..NodeStatus::default()
    }
}

/// What there is to say of this machine.
pub(crate) fn facts() -> Facts {
    Facts {
        capacity: capacity(),
        info: node_info(),
    }
}

fn capacity() -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut capacity = BTreeMap::from([("cpu".to_owned(), Quantity(cpus.to_string()))]);
    let memory = read("/proc/meminfo");
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next());
    capacity.extend(total.map(|kib| ("memory".to_owned(), Quantity(format!("{kib}Ki")))));
    capacity
}

fn node_info() -> NodeSystemInfo {
    let os_release = read("/etc/os-release");
    let pretty = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: boot_id(),
        kernel_version: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        kubelet_version: concat!("caprock/", env!("CARGO_PKG_VERSION")).to_owned(),
        machine_id: read("/etc/machine-id").trim().to_owned(),
        operating_system: "linux".to_owned(),
        os_image: pretty.unwrap_or_default().trim_matches('"').to_owned(),
        system_uuid: read("/etc/machine-id").trim().to_owned(),
        ..NodeSystemInfo::default()
    }
}

/// The running kernel's mark of this boot, as kubelets report it.
fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id").trim().to_owned()
}

/// A file that informs people only; one that is missing leaves its field empty.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| {
        tracing::debug!(path, %error, "not read");
        String::new()
    })
}

/// The machine's architecture by the name that Kubernetes has for it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
