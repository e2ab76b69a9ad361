//! What has to happen on a node before and after its update: the agent's request, which pods must go,
//! and who put the cordon there.

mod pods;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Node;

use crate::keys;
use crate::node::{NodeView, Phase, annotation};
use crate::update::{Disruption, Policy, Update, Version};

pub use pods::{Fate, Rules, Waiting, fate};

/// Node annotation: who cordoned the node for an update, and so may uncordon it. Its value is the request.
pub const CORDONED_BY: &str = "caprock.dev/cordoned-by";

/// Node annotation: when the drain that is under way began.
pub const DRAIN_SINCE: &str = "caprock.dev/drain-since";
/// Node annotation: the pods that a drain waits for, for people to read.
pub const DRAIN_WAITS_FOR: &str = "caprock.dev/drain-waits-for";
/// Node annotation: that the drain has not ended in the time its policy gives it, and what it waits for. It goes on.
pub const DRAIN_OVERDUE: &str = "caprock.dev/drain-overdue";
/// A drain that takes longer than this is told as an event: a disruption budget may never let it end.
pub const LONG_DRAIN: SignedDuration = SignedDuration::from_mins(10);

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

/// The request for the drain on the way to a rendered config.
pub fn request(config: &str) -> String {
    format!("drain-{config}")
}

/// Whether a node that is told to go from one version to another may be asked for its drain in the same breath, before its
/// agent asks: when nothing else comes first. The update drains for certain, its image is on the node, and the node is at
/// rest and in service.
pub fn at_once(node: &NodeView, from: &Version, to: &Version, policy: &Policy) -> bool {
    let at_rest = node.phase() == Phase::Done && node.obstacle.is_none();
    let update = || Update::between(from, to, &[], policy);
    let drains =
        |update: Update| update.obstacles.is_empty() && update.disruption >= Disruption::Drain;
    at_rest && from.image() == to.image() && drains(update())
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
    let ours = annotation(node, CORDONED_BY).is_some();
    match request {
        Request::Drain { .. } if cordoned => Cordon::Keep,
        Request::Drain { .. } => Cordon::Set,
        Request::Uncordon { .. } if ours => Cordon::Lift,
        Request::Uncordon { .. } => Cordon::Keep,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn node(annotations: &[(&str, &str)], unschedulable: bool) -> Node {
        let annotations: serde_json::Map<String, Value> = annotations
            .iter()
            .map(|(key, value)| (key.to_string(), json!(value)))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n", "annotations": annotations},
            "spec": {"unschedulable": unschedulable},
        }))
        .unwrap()
    }

    #[test]
    fn a_request_is_open_until_it_is_answered() {
        let check = |desired, applied, expected: Result<Option<Request>, &str>| {
            let node = node(
                &[
                    (keys::DESIRED_DRAIN, desired),
                    (keys::LAST_APPLIED_DRAIN, applied),
                ],
                false,
            );
            let expected = expected.map_err(|found| UnknownRequest {
                node: "n".to_owned(),
                found: found.to_owned(),
            });
            assert_eq!(Request::open(&node), expected);
        };
        let drain = |id: &str| Request::Drain { id: id.to_owned() };
        check("", "", Ok(None));
        check("drain-a", "", Ok(Some(drain("drain-a"))));
        check("drain-a", "drain-a", Ok(None));
        check("drain-a", "uncordon-a", Ok(Some(drain("drain-a"))));
        check(
            "uncordon-a",
            "drain-a",
            Ok(Some(Request::Uncordon {
                id: "uncordon-a".to_owned(),
            })),
        );
        check("explode-a", "", Err("explode-a"));
        check("drain", "", Err("drain"));
    }

    #[test]
    fn only_our_own_cordon_is_lifted() {
        let drain = Request::Drain {
            id: "drain-a".to_owned(),
        };
        let uncordon = Request::Uncordon {
            id: "uncordon-a".to_owned(),
        };
        let ours = [(CORDONED_BY, "drain-a")];
        let check = |node: &Node, request: &Request, expected| {
            assert_eq!(cordon(node, request), expected);
        };
        check(&node(&[], false), &drain, Cordon::Set);
        check(&node(&[], true), &drain, Cordon::Keep);
        check(&node(&ours, true), &drain, Cordon::Keep);
        check(&node(&ours, false), &drain, Cordon::Set);
        check(&node(&ours, true), &uncordon, Cordon::Lift);
        check(&node(&[], true), &uncordon, Cordon::Keep);
        check(&node(&[], false), &uncordon, Cordon::Keep);
    }

    #[test]
    fn a_drain_is_asked_for_at_once_when_nothing_else_comes_first() {
        let version = |name: &str, image: &str, arguments: &[&str]| Version {
            name: name.to_owned(),
            os_image_url: image.to_owned(),
            kernel_arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            ..Version::default()
        };
        let one = version("one", "r.example/os:1", &[]);
        let quiet = version("two", "r.example/os:1", &["quiet"]);
        let node = |state: &str, unschedulable: bool| {
            let node = json!({
                "metadata": {"name": "n", "annotations": {
                    (keys::CURRENT_CONFIG): "one", (keys::DESIRED_CONFIG): "one", (keys::STATE): state,
                }},
                "spec": {"unschedulable": unschedulable},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            });
            NodeView::of(&serde_json::from_value(node).unwrap())
        };
        let done = node("Done", false);
        let check = |node: &NodeView, to: &Version, expected: bool| {
            let asked = at_once(node, &one, to, &Policy::default());
            assert_eq!(asked, expected, "{node:?} {to:?}");
        };
        check(&done, &quiet, true);
        check(&done, &version("two", "r.example/os:1", &[]), false);
        check(&done, &version("two", "r.example/os:2", &["quiet"]), false);
        check(&node("Degraded", false), &quiet, false);
        check(&node("Done", true), &quiet, false);
    }
}
