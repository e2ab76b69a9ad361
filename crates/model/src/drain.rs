//! What has to happen on a node before and after its update: the agent's request, which pods must go,
//! and who put the cordon there.

use std::fmt;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::keys;
use crate::node::annotation;

/// What the agent asks for in the `desiredDrain` annotation: a verb and the rendered config it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `drain-<rendered config>`: cordon the node and evict its pods.
    Drain {
        /// The annotation's whole value, answered as it came.
        id: String,
    },
    /// `uncordon-<rendered config>`: let pods return.
    Uncordon {
        /// The annotation's whole value, answered as it came.
        id: String,
    },
}

/// A `desiredDrain` value with another verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation `{}` of node `{node}`: expected `drain-…` or `uncordon-…`, found `{found}`",
    keys::DESIRED_DRAIN
)]
pub struct UnknownRequest {
    /// The node.
    pub node: String,
    /// The value as written.
    pub found: String,
}

impl Request {
    /// The request that is not answered yet, if there is one.
    pub fn open(node: &Node) -> Result<Option<Self>, UnknownRequest> {
        let Some(wanted) = annotation(node, keys::DESIRED_DRAIN) else {
            return Ok(None);
        };
        if annotation(node, keys::LAST_APPLIED_DRAIN) == Some(wanted) {
            return Ok(None);
        }
        let id = wanted.to_owned();
        match wanted.split_once('-') {
            Some(("drain", _)) => Ok(Some(Request::Drain { id })),
            Some(("uncordon", _)) => Ok(Some(Request::Uncordon { id })),
            Some(_) | None => Err(UnknownRequest {
                node: node.metadata.name.clone().unwrap_or_default(),
                found: id,
            }),
        }
    }
}

/// What is done to a Node's `unschedulable` flag and to our mark on it.
///
/// The mark says that the cordon is ours. A node that somebody else had cordoned before carries none,
/// and stays cordoned after the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cordon {
    /// Nothing: it is as it should be.
    Keep,
    /// Cordon the node and leave our mark.
    Set,
    /// Uncordon the node and take our mark away.
    Lift,
}

/// What the request means for the node's cordon.
pub fn cordon(node: &Node, request: &Request) -> Cordon {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let ours = annotation(node, keys::CORDONED_BY).is_some();
    match request {
        Request::Drain { .. } if cordoned => Cordon::Keep,
        Request::Drain { .. } => Cordon::Set,
        Request::Uncordon { .. } if ours => Cordon::Lift,
        Request::Uncordon { .. } => Cordon::Keep,
    }
}

/// What happens to one pod when its node is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays: a DaemonSet's or a static pod's, or it has ended already.
    Stays,
    /// It is asked to go through the eviction API.
    Evict,
    /// It is on its way out already.
    Leaving,
}

/// Decides what happens to a pod of a node that is drained. Pods that nobody would start again and
/// pods with `emptyDir` data go too: the node restarts, and would take them with it.
pub fn fate(pod: &Pod) -> Fate {
    let metadata = &pod.metadata;
    let mirror = metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror"));
    let daemon = metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    if mirror || daemon || ended {
        Fate::Stays
    } else if metadata.deletion_timestamp.is_some() {
        Fate::Leaving
    } else {
        Fate::Evict
    }
}

/// Pods that a drain still waits for, with the reason, for people to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// `namespace/name` of the pod and why it is still there.
    pub pods: Vec<(String, String)>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 5;
        let named = self.pods.iter().take(NAMED);
        let mut parts: Vec<String> = named
            .map(|(pod, why)| format!("pod `{pod}` {why}"))
            .collect();
        if self.pods.len() > NAMED {
            parts.push(format!("and {} more", self.pods.len() - NAMED));
        }
        f.write_str(&parts.join("; "))
    }
}
