//! A node as the roll-out sees it: what it was told to run, what its agent says it runs, and whether
//! it can serve meanwhile. Everything is derived from the Node object; nothing is remembered.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};

use crate::drain::{DRAIN_OVERDUE, DRAIN_WAITS_FOR, Request};
use crate::file_secret::{SecretVersions, from_annotation};
use crate::keys;

/// What `status.nodeInfo.kubeletVersion` begins with on a Node that our agent registered and keeps Ready.
pub const AGENT_VERSION_PREFIX: &str = "caprock/";

/// What a node runs or is told to run: a rendered config and, in a layered pool, an image.
///
/// Both halves change together: a node that has one without the other is not there yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Name of the rendered MachineConfig.
    pub config: String,
    /// Pull spec with digest of the layered image; none in a pool without layering.
    pub image: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.config)?;
        match &self.image {
            Some(image) => write!(f, " with image `{image}`"),
            None => Ok(()),
        }
    }
}

/// The agent's own word for what it is doing, from the `state` annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentState {
    /// The node runs what it was told to run.
    Done,
    /// An update is under way.
    Working,
    /// The agent failed and keeps trying.
    Degraded,
    /// The wanted change cannot be made on a living node.
    Unreconcilable,
}

impl AgentState {
    /// The annotation's value.
    pub fn as_str(self) -> &'static str {
        match self {
            AgentState::Done => "Done",
            AgentState::Working => "Working",
            AgentState::Degraded => "Degraded",
            AgentState::Unreconcilable => "Unreconcilable",
        }
    }

    fn parse(value: &str) -> Option<Self> {
        [
            Self::Done,
            Self::Working,
            Self::Degraded,
            Self::Unreconcilable,
        ]
        .into_iter()
        .find(|state| state.as_str() == value)
    }
}

/// Where a node is between two targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No agent has reported a configuration yet, and none was asked for.
    New,
    /// The node runs what it was told, or was told nothing yet.
    Done,
    /// Told to change; its agent has not started.
    Pending,
    /// Its agent is at work: staging, waiting for the drain, rebooting, verifying, uncordoning.
    Working,
    /// Its agent failed on the way to the target.
    Failing,
    /// It runs its target, but its agent reports a fault (drift, a unit that died).
    Degraded,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 6] = [
        Phase::New,
        Phase::Done,
        Phase::Pending,
        Phase::Working,
        Phase::Failing,
        Phase::Degraded,
    ];

    /// The phase in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::New => "new",
            Phase::Done => "done",
            Phase::Pending => "pending",
            Phase::Working => "working",
            Phase::Failing => "failing",
            Phase::Degraded => "degraded",
        }
    }

    /// Whether an update is under way: the node was disrupted by us, or may be at any moment.
    pub fn in_progress(self) -> bool {
        match self {
            Phase::Pending | Phase::Working | Phase::Failing => true,
            Phase::New | Phase::Done | Phase::Degraded => false,
        }
    }

    /// Whether the agent reports a fault.
    pub fn is_degraded(self) -> bool {
        match self {
            Phase::Failing | Phase::Degraded => true,
            Phase::New | Phase::Done | Phase::Pending | Phase::Working => false,
        }
    }
}

/// The part of a Node that decisions are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Name of the Node.
    pub name: String,
    /// The version this view was read at: the precondition of a write that follows from it.
    pub resource_version: Option<String>,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// When the Node object was made.
    pub created: Option<Timestamp>,
    /// Failure domain; an empty label counts as none.
    pub zone: Option<String>,
    /// Why pods cannot run there now, or nothing: not ready, under pressure, cordoned.
    pub obstacle: Option<String>,
    /// What it was told to run.
    pub desired: Option<Target>,
    /// What its agent says it runs.
    pub current: Option<Target>,
    /// What its agent says it is doing.
    pub state: Option<AgentState>,
    /// Why, in the agent's words.
    pub reason: String,
    /// Since when it is done, as its agent says.
    pub done_since: Option<Timestamp>,
    /// Whether its agent has asked for a drain or an uncordon that nobody has carried out yet.
    pub asks: bool,
    /// The version of its agent; none of one that does not say so yet.
    pub agent_version: Option<String>,
    /// That its drain takes longer than its policy allows, and what it waits for.
    pub drain_overdue: Option<String>,
    /// What its drain waits for: pods, each with the reason, or a window.
    pub drain_waits_for: Option<String>,
    /// When it was told what to run.
    pub told_at: Option<Timestamp>,
    /// Values of Secrets that its next update brings along: one that drains or reboots it.
    pub held_back: SecretVersions,
}

impl NodeView {
    /// Reads a Node.
    pub fn of(node: &Node) -> Self {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let annotation = |key: &str| annotation(node, key);
        let target = |config: &str, image: &str| {
            annotation(config).map(|config| Target {
                config: config.to_owned(),
                image: annotation(image).map(str::to_owned),
            })
        };
        NodeView {
            name: node.metadata.name.clone().unwrap_or_default(),
            resource_version: node.metadata.resource_version.clone(),
            created: node.metadata.creation_timestamp.as_ref().map(|time| time.0),
            zone: zone(&labels),
            obstacle: obstacle(node),
            desired: target(keys::DESIRED_CONFIG, keys::DESIRED_IMAGE),
            current: target(keys::CURRENT_CONFIG, keys::CURRENT_IMAGE),
            state: annotation(keys::STATE).and_then(AgentState::parse),
            reason: annotation(keys::REASON).unwrap_or_default().to_owned(),
            done_since: annotation(keys::DONE_SINCE).and_then(|time| time.parse().ok()),
            asks: matches!(Request::open(node), Ok(Some(_))),
            agent_version: annotation(keys::VERSION).map(str::to_owned),
            drain_overdue: annotation(DRAIN_OVERDUE).map(str::to_owned),
            drain_waits_for: matches!(Request::open(node), Ok(Some(Request::Drain { .. })))
                .then(|| annotation(DRAIN_WAITS_FOR).map(str::to_owned))
                .flatten(),
            told_at: annotation(keys::TOLD_AT).and_then(|time| time.parse().ok()),
            held_back: from_annotation(annotation(keys::HELD_BACK)),
            labels,
        }
    }

    /// Whether every decision made from the other view is the same: they differ at most in the version they were read at.
    pub fn decides_as(&self, other: &Self) -> bool {
        let unversioned = NodeView {
            resource_version: self.resource_version.clone(),
            ..other.clone()
        };
        *self == unversioned
    }

    /// Where the node is between its current and its desired target.
    pub fn phase(&self) -> Phase {
        use AgentState::{Degraded, Done, Unreconcilable, Working};
        let arrived = self.desired.is_none() || self.desired == self.current;
        match (arrived, self.state) {
            (true, Some(Degraded | Unreconcilable)) => Phase::Degraded,
            (false, Some(Degraded | Unreconcilable)) => Phase::Failing,
            // What its agent has done, the node controller has still to finish.
            (true, Some(Done)) if self.asks && self.desired.is_some() => Phase::Working,
            (true, Some(Done)) => Phase::Done,
            (true, None | Some(Working)) if self.desired.is_some() => Phase::Working,
            (true, None | Some(Working)) if self.current.is_none() => Phase::New,
            (true, None | Some(Working)) => Phase::Done,
            (false, Some(Working)) => Phase::Working,
            (false, None | Some(Done)) => Phase::Pending,
        }
    }

    /// What a node does that was told to update, for people; none when it is not under way.
    pub(crate) fn under_way(&self) -> Option<String> {
        match (self.phase(), &self.drain_waits_for, self.told_at) {
            (Phase::Pending | Phase::Working, Some(waits), _) => {
                Some(format!("drains, and waits: {waits}"))
            }
            (Phase::Pending, None, Some(told)) => Some(format!(
                "was told to update at {told:.0} and has not started"
            )),
            (Phase::Pending, None, None) => {
                Some("was told to update and has not started".to_owned())
            }
            (Phase::Working, None, _) if self.reason.is_empty() => Some("is updating".to_owned()),
            (Phase::Working, None, _) => Some(format!("is updating: {}", self.reason)),
            (Phase::New | Phase::Done | Phase::Failing | Phase::Degraded, ..) => None,
        }
    }

    /// Whether the node runs `target` and its agent has finished.
    pub fn runs(&self, target: &Target) -> bool {
        self.phase() == Phase::Done && self.current.as_ref() == Some(target)
    }

    /// What is wrong with it, if something is: what its agent reports, or a drain that does not end.
    pub fn fault(&self) -> Option<String> {
        match (self.phase().is_degraded(), &self.drain_overdue) {
            (true, _) => Some(format!("reports: {}", self.reason)),
            (false, Some(overdue)) => Some(overdue.clone()),
            (false, None) => None,
        }
    }

    /// Whether the node cannot serve, or may stop serving at any moment because it is being
    /// updated. A node whose update failed is not counted here while it still serves.
    pub fn is_unavailable(&self) -> bool {
        self.obstacle.is_some() || matches!(self.phase(), Phase::Pending | Phase::Working)
    }
}

/// Whether our agent stands in for a kubelet on this Node, so that nobody else notices when it falls silent.
pub fn is_kept_by_agent(node: &Node) -> bool {
    let info = node
        .status
        .as_ref()
        .and_then(|status| status.node_info.as_ref());
    info.is_some_and(|info| info.kubelet_version.starts_with(AGENT_VERSION_PREFIX))
}

/// Whether a kubelet reports on this Node: one that ours stands in for has none, and one that was just created tells
/// neither.
pub fn has_kubelet(node: &Node) -> bool {
    let info = node
        .status
        .as_ref()
        .and_then(|status| status.node_info.as_ref());
    info.is_some_and(|info| {
        !info.kubelet_version.is_empty() && !info.kubelet_version.starts_with(AGENT_VERSION_PREFIX)
    })
}

/// Whether the daemon of the Machine Config Operator looks after this Node: no agent of Caprock has told anything of it.
pub fn is_kept_by_peer(node: &Node) -> bool {
    annotation(node, keys::PEER_SYNCED).is_some() && annotation(node, keys::VERSION).is_none()
}

/// A non-empty annotation of the Node.
pub fn annotation<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

fn zone(labels: &BTreeMap<String, String>) -> Option<String> {
    [keys::ZONE, "failure-domain.beta.kubernetes.io/zone"]
        .iter()
        .find_map(|key| labels.get(*key).filter(|zone| !zone.is_empty()))
        .cloned()
}

fn obstacle(node: &Node) -> Option<String> {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let Some(ready) = conditions.iter().find(|c| c.type_ == "Ready") else {
        return Some("has not reported whether it is ready".to_owned());
    };
    if ready.status != "True" {
        return Some(told("is not ready", ready));
    }
    let pressure = conditions.iter().find(|condition| {
        matches!(
            condition.type_.as_str(),
            "DiskPressure" | "MemoryPressure" | "PIDPressure" | "NetworkUnavailable"
        ) && condition.status != "False"
    });
    if let Some(pressure) = pressure {
        return Some(told(&format!("reports {}", pressure.type_), pressure));
    }
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable);
    (cordoned == Some(true)).then(|| "is cordoned".to_owned())
}

fn told(what: &str, condition: &NodeCondition) -> String {
    match condition.message.as_deref().filter(|m| !m.is_empty()) {
        Some(message) => format!("{what}: {message}"),
        None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn view(annotations: Value, conditions: Value) -> NodeView {
        let prefixed: serde_json::Map<String, Value> = annotations
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| {
                (
                    format!("machineconfiguration.openshift.io/{key}"),
                    value.clone(),
                )
            })
            .collect();
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "annotations": prefixed},
            "status": {"conditions": conditions},
        }))
        .unwrap();
        NodeView::of(&node)
    }

    fn phase(annotations: Value) -> Phase {
        view(annotations, json!([])).phase()
    }

    #[test]
    fn a_phase_follows_from_both_targets_and_the_agents_word() {
        let check = |annotations, expected| assert_eq!(phase(annotations), expected);
        check(json!({}), Phase::New);
        check(json!({"currentConfig": "a", "state": "Done"}), Phase::Done);
        check(json!({"desiredConfig": "a"}), Phase::Pending);
        check(
            json!({"currentConfig": "a", "desiredConfig": "a", "state": "Done"}),
            Phase::Done,
        );
        check(
            json!({"currentConfig": "a", "desiredConfig": "b", "state": "Done"}),
            Phase::Pending,
        );
        check(
            json!({"currentConfig": "a", "desiredConfig": "b", "state": "Working"}),
            Phase::Working,
        );
        check(
            json!({"currentConfig": "a", "desiredConfig": "b", "state": "Unreconcilable"}),
            Phase::Failing,
        );
        check(
            json!({"currentConfig": "a", "desiredConfig": "a", "state": "Degraded"}),
            Phase::Degraded,
        );
        check(
            json!({"currentConfig": "a", "desiredConfig": "a", "state": "Working"}),
            Phase::Working,
        );
        let mut uncordons = json!({
            "currentConfig": "a", "desiredConfig": "a", "state": "Done", "desiredDrain": "uncordon-a",
        });
        check(uncordons.clone(), Phase::Working);
        uncordons["lastAppliedDrain"] = json!("uncordon-a");
        check(uncordons, Phase::Done);
    }

    #[test]
    fn the_image_is_half_of_the_target() {
        let mut annotations = json!({
            "currentConfig": "a", "desiredConfig": "a", "desiredImage": "r/i@sha256:1", "state": "Done",
        });
        assert_eq!(phase(annotations.clone()), Phase::Pending);
        annotations["currentImage"] = json!("r/i@sha256:1");
        assert_eq!(phase(annotations.clone()), Phase::Done);
        annotations["desiredImage"] = json!("");
        assert_eq!(
            phase(annotations),
            Phase::Pending,
            "an empty annotation is an absent one, so the node has an image too many"
        );
    }

    #[test]
    fn an_obstacle_is_named_in_the_nodes_own_words() {
        let check = |conditions, expected: Option<&str>| {
            assert_eq!(view(json!({}), conditions).obstacle.as_deref(), expected);
        };
        check(json!([]), Some("has not reported whether it is ready"));
        check(json!([{"type": "Ready", "status": "True"}]), None);
        check(
            json!([{"type": "Ready", "status": "Unknown", "message": "agent is silent"}]),
            Some("is not ready: agent is silent"),
        );
        check(
            json!([
                {"type": "Ready", "status": "True"},
                {"type": "MemoryPressure", "status": "True"},
            ]),
            Some("reports MemoryPressure"),
        );
        check(
            json!([
                {"type": "Ready", "status": "True"},
                {"type": "DiskPressure", "status": "False"},
            ]),
            None,
        );
    }

    #[test]
    fn an_empty_zone_label_falls_back_to_the_older_label() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect()
        };
        assert_eq!(zone(&labels(&[("topology.kubernetes.io/zone", "")])), None);
        assert_eq!(
            zone(&labels(&[
                ("topology.kubernetes.io/zone", ""),
                ("failure-domain.beta.kubernetes.io/zone", "b"),
            ])),
            Some("b".to_owned())
        );
    }
}
