//! Who acts on the MachineConfigs of a cluster: Caprock, or the Machine Config Operator of OpenShift and OKD. Two that act on
//! the same nodes would undo each other's work, so Caprock looks on until somebody takes the cluster over, and stops when
//! the other one runs again.

use kube_core::ResourceExt;

use crate::api::MachineConfigPool;
use crate::condition::{self, PoolConditionType};
use crate::keys;
use crate::node::{NodeView, Phase};

/// The API group that only OpenShift and OKD have.
pub const OPENSHIFT_GROUP: &str = "config.openshift.io";
/// The ClusterOperator of the Machine Config Operator.
pub const CLUSTER_OPERATOR: &str = "machine-config";
/// Its Deployments, in [`keys::NAMESPACE`].
pub const DEPLOYMENTS: [&str; 3] = [
    "machine-config-operator",
    "machine-config-controller",
    "machine-os-builder",
];
/// Its DaemonSet that works on nodes, in [`keys::NAMESPACE`].
pub const DAEMON_SET: &str = "machine-config-daemon";

/// Whether an object is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Found {
    /// It is not.
    #[default]
    Absent,
    /// It is.
    Present,
    /// Who asks may not know.
    Unknown,
}

/// What the API tells about who acts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The ClusterOperator of the Machine Config Operator.
    pub operator: Found,
    /// The take-over by which somebody has said that Caprock acts here: the uid of what says so. Each has another one.
    pub taken_over: Option<String>,
    /// Workloads of the Machine Config Operator that run, as `Deployment name`.
    pub running: Vec<String>,
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Caprock.
    Caprock,
    /// The Machine Config Operator, for this reason; with what can be done.
    Peer(String),
}

impl Evidence {
    /// Who acts. In doubt it is the other one.
    pub fn owner(&self) -> Owner {
        let why = match (self.operator, self.taken_over.is_some()) {
            (Found::Absent, _) => return Owner::Caprock,
            (Found::Present | Found::Unknown, true) => match self.running.is_empty() {
                true => return Owner::Caprock,
                false => format!(
                    "the cluster was taken over, but {} runs again; scale it down, or give the cluster back with `caprock takeover --undo`",
                    self.running.join(" and ")
                ),
            },
            (Found::Present, false) => format!(
                "the Machine Config Operator acts on this cluster (ClusterOperator `{CLUSTER_OPERATOR}`); `caprock takeover` says what it takes to change that"
            ),
            (Found::Unknown, false) => format!(
                "this is an OpenShift cluster, and this account may not read ClusterOperator `{CLUSTER_OPERATOR}`, so the Machine Config Operator may act here; allow that, or see `caprock takeover`"
            ),
        };
        Owner::Peer(why)
    }
}

/// What a take-over is decided from.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Workloads of the Machine Config Operator that run, as `Deployment name`.
    pub running: Vec<String>,
    /// Whether the Cluster Version Operator would start them again: it is there and has no override for them.
    pub managed: bool,
    /// All pools.
    pub pools: Vec<MachineConfigPool>,
    /// All nodes.
    pub nodes: Vec<NodeView>,
}

/// What stands in the way of a take-over, each with what to do about it. Empty when nothing does.
pub fn obstacles(seen: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    if seen.managed {
        found.push(format!(
            "ClusterVersion `version` has no override for Deployment `{}`, so it would be started again: add one with `unmanaged: true` to `spec.overrides`",
            DEPLOYMENTS[0]
        ));
    }
    for running in &seen.running {
        found.push(format!(
            "{running} runs: scale it to 0, a DaemonSet with a nodeSelector that no node has"
        ));
    }
    for pool in &seen.pools {
        let name = pool.name_any();
        let conditions = pool.status.as_ref().map(|status| &status.conditions);
        let is = |kind| {
            conditions
                .and_then(|conditions| condition::get(conditions, kind))
                .is_some_and(|found| found.status == "True")
        };
        if !pool.spec.paused {
            found.push(format!(
                "MachineConfigPool `{name}` is not paused: pause it, so that no node is touched before `caprock plan` was read"
            ));
        }
        if is(PoolConditionType::Degraded) {
            found.push(format!(
                "MachineConfigPool `{name}` is Degraded: mend it first"
            ));
        }
    }
    for node in &seen.nodes {
        match node.phase() {
            Phase::New | Phase::Done => {}
            Phase::Pending | Phase::Working | Phase::Failing | Phase::Degraded => {
                found.push(format!(
                    "node `{}` is not at rest (annotation `{}`): let its update end first",
                    node.name,
                    keys::STATE
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn in_doubt_it_is_the_other_one() {
        let running = || vec!["Deployment `machine-config-controller`".to_owned()];
        let check = |operator, taken_over: bool, running: Vec<String>, expected: Option<&str>| {
            let owner = Evidence {
                operator,
                taken_over: taken_over.then(|| "uid".to_owned()),
                running,
            }
            .owner();
            match (owner, expected) {
                (Owner::Caprock, None) => {}
                (Owner::Peer(why), Some(text)) => assert!(why.contains(text), "{why}"),
                (owner, expected) => panic!("{owner:?}, not {expected:?}"),
            }
        };
        check(Found::Absent, false, Vec::new(), None);
        check(Found::Absent, true, running(), None);
        check(
            Found::Present,
            false,
            running(),
            Some("ClusterOperator `machine-config`"),
        );
        check(
            Found::Present,
            false,
            Vec::new(),
            Some("`caprock takeover`"),
        );
        check(Found::Unknown, false, Vec::new(), Some("may not read"));
        check(Found::Present, true, Vec::new(), None);
        check(Found::Unknown, true, Vec::new(), None);
        check(
            Found::Present,
            true,
            running(),
            Some("`machine-config-controller` runs again"),
        );
    }

    #[test]
    fn a_take_over_waits_until_everything_is_at_rest() {
        let pool = |name: &str, paused: bool, degraded: &str| {
            let pool = json!({
                "metadata": {"name": name},
                "spec": {"paused": paused},
                "status": {"conditions": [{"type": "Degraded", "status": degraded}]},
            });
            serde_json::from_value::<MachineConfigPool>(pool).unwrap()
        };
        let node = |name: &str, state: &str| {
            NodeView::of(
                &serde_json::from_value(json!({"metadata": {"name": name, "annotations": {
                    keys::CURRENT_CONFIG: "rendered-worker-1",
                    keys::DESIRED_CONFIG: "rendered-worker-1",
                    keys::STATE: state,
                }}}))
                .unwrap(),
            )
        };
        let ready = Cluster {
            pools: vec![pool("worker", true, "False")],
            nodes: vec![node("worker-1", "Done")],
            ..Cluster::default()
        };
        assert_eq!(obstacles(&ready), Vec::<String>::new());
        let busy = Cluster {
            running: vec!["DaemonSet `machine-config-daemon`".to_owned()],
            managed: true,
            pools: vec![pool("worker", false, "True")],
            nodes: vec![node("worker-1", "Working")],
        };
        let words = [
            "unmanaged: true",
            "`machine-config-daemon` runs",
            "not paused",
            "Degraded",
            "not at rest",
        ];
        let found = obstacles(&busy);
        assert_eq!(found.len(), words.len(), "{found:#?}");
        for (found, word) in found.iter().zip(words) {
            assert!(found.contains(word), "{found}");
        }
    }
}
