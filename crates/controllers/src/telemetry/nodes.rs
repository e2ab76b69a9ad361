//! What was done to nodes: roll-outs, drains, evictions, reboots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use model::keys;
use model::ledger::{self, Cause};
use model::node::annotation;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Label = [(&'static str, &'static str); 1];

/// Upper bounds in seconds: without pods a drain is over at once, disruption budgets may hold one for hours.
const DRAIN: [f64; 9] = [1.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0];
/// Upper bounds in seconds: from a change without reboots to waves that soak for days.
const ROLLOUT: [f64; 9] = [
    10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, 604_800.0,
];

/// What became of asking a pod to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// It goes.
    Granted,
    /// It may not go yet: a disruption budget, above all.
    Refused,
    /// The API server has too much to do.
    Throttled,
}

impl Eviction {
    const ALL: [Self; 3] = [Self::Granted, Self::Refused, Self::Throttled];

    fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
        }
    }
}

/// The counters of what happened to nodes.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    drains: Histogram,
    evictions: Family<Label, Counter>,
    rollouts: Histogram,
    reboots: Family<Label, Counter>,
    /// The newest reboot that was counted, by node.
    newest: Arc<Mutex<HashMap<String, Timestamp>>>,
}

impl Default for Nodes {
    fn default() -> Self {
        let nodes = Self {
            drains: Histogram::new(DRAIN),
            evictions: Family::default(),
            rollouts: Histogram::new(ROLLOUT),
            reboots: Family::default(),
            newest: Arc::default(),
        };
        for eviction in Eviction::ALL {
            drop(
                nodes
                    .evictions
                    .get_or_create(&[("result", eviction.as_str())]),
            );
        }
        for reason in Cause::WORDS {
            drop(nodes.reboots.get_or_create(&[("reason", reason)]));
        }
        nodes
    }
}

impl Nodes {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "caprock_drain_duration_seconds",
            "Time of a drain, from the cordon to the last pod's end",
            self.drains.clone(),
        );
        registry.register(
            "caprock_evictions",
            "Requests that a pod go, by result: granted, refused (by a disruption budget, above all), throttled",
            self.evictions.clone(),
        );
        registry.register(
            "caprock_rollout_duration_seconds",
            "Time of a roll-out, from when a pool was no longer updated to when all of its nodes were",
            self.rollouts.clone(),
        );
        registry.register(
            "caprock_reboots",
            "Reboots that agents told of, by what they were for",
            self.reboots.clone(),
        );
    }

    /// A drain that began then is done.
    pub(crate) fn drained(&self, since: Timestamp, now: Timestamp) {
        self.drains.observe(seconds(since, now));
    }

    pub(crate) fn eviction(&self, result: Eviction) {
        self.evictions
            .get_or_create(&[("result", result.as_str())])
            .inc();
    }

    /// A pool that was not updated since then is.
    pub(crate) fn rolled_out(&self, since: Timestamp, now: Timestamp) {
        self.rollouts.observe(seconds(since, now));
    }

    /// Counts a Node's reboots that were not there when it was seen last. Those before it was first seen are history.
    pub(crate) fn saw(&self, node: &Node) {
        let Some(text) = annotation(node, keys::REBOOTS) else {
            return;
        };
        // Whoever wrote over the annotation told of no reboot.
        let reboots = ledger::from_annotation(text).unwrap_or_default();
        let Some(newest) = reboots.iter().map(|reboot| reboot.at).max() else {
            return;
        };
        let mut seen = self
            .newest
            .lock()
            .expect("no panic happens while the lock is held");
        let before = seen.insert(node.name_any(), newest);
        // A machine that has only just come to be told of has had its first.
        for reboot in reboots
            .iter()
            .filter(|reboot| before.is_some_and(|before| reboot.at > before))
        {
            self.reboots
                .get_or_create(&[("reason", reboot.cause.word())])
                .inc();
        }
    }

    /// Forgets nodes that are no more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.newest
            .lock()
            .expect("no panic happens while the lock is held")
            .retain(|name, _| is_there(name));
    }
}

fn seconds(since: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(since).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use model::ledger::{Reboot, Why};
    use serde_json::json;

    fn node(reboots: &[(i64, Cause)]) -> Node {
        let reboots: Vec<Reboot> = reboots
            .iter()
            .map(|(at, cause)| Reboot {
                at: Timestamp::from_second(*at).unwrap(),
                deployment: "a.0".to_owned(),
                soft: false,
                cause: cause.clone(),
            })
            .collect();
        let text = ledger::to_annotation(&reboots);
        serde_json::from_value(json!({
            "metadata": {"name": "n", "annotations": {keys::REBOOTS: text}},
        }))
        .unwrap()
    }

    #[test]
    fn a_reboot_is_counted_once() {
        let nodes = Nodes::default();
        let count = |reason| nodes.reboots.get_or_create(&[("reason", reason)]).get();
        let update = |why| Cause::update("`rendered-2`", why, []);
        let first = (1, update(Why::Image));
        nodes.saw(&node(std::slice::from_ref(&first)));
        assert_eq!(count("image"), 0, "it was there before");
        let both = [first.clone(), (2, update(Why::KernelArguments))];
        nodes.saw(&node(&both));
        nodes.saw(&node(&both));
        assert_eq!((count("image"), count("kernel_arguments")), (0, 1));
        let three = [both[0].clone(), both[1].clone(), (3, Cause::NotAsked)];
        nodes.saw(&node(&three));
        assert_eq!((count("kernel_arguments"), count("unasked")), (1, 1));
        nodes.retain(|_| false);
        nodes.saw(&node(&three));
        assert_eq!(count("unasked"), 1);
    }
}
