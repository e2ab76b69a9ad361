//! Which nodes each pool has, kept while Nodes and pools change: a look at a pool costs what the pool has, and a change of
//! a Node concerns the pools that decide from what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use model::api::MachineConfigPool;
use model::node::NodeView;
use model::pool::{Membership, PoolSelector, membership};

/// The index; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Members(Arc<Mutex<Index>>);

#[derive(Debug, Default)]
struct Index {
    selectors: Vec<PoolSelector>,
    nodes: HashMap<String, Member>,
    /// Names of the nodes that each pool has, or contests with others.
    pools: HashMap<String, BTreeSet<String>>,
}

#[derive(Debug)]
struct Member {
    view: NodeView,
    membership: Membership,
}

/// What a pool's decisions are made from.
#[derive(Debug, Default)]
pub(crate) struct OfPool {
    /// Its members, by name.
    pub(crate) nodes: Vec<NodeView>,
    /// Nodes that it and others select, with the names of those pools.
    pub(crate) contested: BTreeMap<String, Vec<String>>,
}

impl Members {
    /// Takes note of a Node. Returns the pools that decide from what changed: those that it was in and is in, and none
    /// when nothing is different that a decision looks at.
    pub(crate) fn node(&self, node: &Node) -> Vec<String> {
        self.lock().insert(NodeView::of(node))
    }

    /// Takes note that a Node has gone.
    pub(crate) fn gone(&self, node: &str) -> Vec<String> {
        let mut index = self.lock();
        let member = index.nodes.remove(node);
        let pools = member.map(|member| pools(&member.membership));
        let pools = pools.unwrap_or_default();
        index.leave(node, &pools);
        pools
    }

    /// Takes note of all Nodes, after a new list.
    pub(crate) fn all_nodes<'a>(&self, nodes: impl Iterator<Item = &'a Node>) {
        let mut index = self.lock();
        index.nodes.clear();
        index.pools.clear();
        for node in nodes {
            index.insert(NodeView::of(node));
        }
    }

    /// Takes note of the pools.
    pub(crate) fn all_pools(&self, pools: &[Arc<MachineConfigPool>]) {
        let mut selectors = selectors(pools);
        selectors.sort_by(|a, b| a.name().cmp(b.name()));
        let mut index = self.lock();
        if index.selectors == selectors {
            return;
        }
        index.selectors = selectors;
        index.pools.clear();
        for (_, member) in std::mem::take(&mut index.nodes) {
            index.insert(member.view);
        }
    }

    /// Which pool a node belongs to.
    pub(crate) fn membership(&self, node: &str) -> Membership {
        let index = self.lock();
        let member = index.nodes.get(node);
        member.map_or(Membership::Unclaimed, |member| member.membership.clone())
    }

    /// What a pool has.
    pub(crate) fn of(&self, pool: &str) -> OfPool {
        let index = self.lock();
        let names = index.pools.get(pool).into_iter().flatten();
        let members = names.filter_map(|name| index.nodes.get(name));
        let mut found = OfPool::default();
        for member in members {
            found.add(&member.view, &member.membership);
        }
        found
    }

    /// The same from Nodes that were read just now.
    pub(crate) fn among<'a>(&self, pool: &str, nodes: impl Iterator<Item = &'a Node>) -> OfPool {
        let index = self.lock();
        let mut found = OfPool::default();
        for node in nodes {
            let membership = membership(node.labels(), &index.selectors);
            if pools(&membership).iter().any(|name| name == pool) {
                found.add(&NodeView::of(node), &membership);
            }
        }
        found.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0
            .lock()
            .expect("no panic happens while the lock is held")
    }
}

impl OfPool {
    fn add(&mut self, view: &NodeView, membership: &Membership) {
        match membership {
            Membership::Member(_) => self.nodes.push(view.clone()),
            Membership::Contested(pools) => {
                self.contested.insert(view.name.clone(), pools.clone());
            }
            Membership::Unclaimed => {}
        }
    }
}

impl Index {
    fn insert(&mut self, view: NodeView) -> Vec<String> {
        let name = view.name.clone();
        let before = self.nodes.remove(&name);
        let membership = match &before {
            Some(before) if before.view.labels == view.labels => before.membership.clone(),
            _ => membership(&view.labels, &self.selectors),
        };
        let (was_in, is_in) = (
            before
                .as_ref()
                .map(|before| pools(&before.membership))
                .unwrap_or_default(),
            pools(&membership),
        );
        let same = before
            .is_some_and(|before| before.membership == membership && before.view.decides_as(&view));
        if was_in != is_in {
            self.leave(&name, &was_in);
        }
        for pool in &is_in {
            let nodes = self.pools.entry(pool.clone()).or_default();
            nodes.insert(name.clone());
        }
        self.nodes.insert(name, Member { view, membership });
        if same {
            return Vec::new();
        }
        let concerned: BTreeSet<String> = was_in.into_iter().chain(is_in).collect();
        concerned.into_iter().collect()
    }

    fn leave(&mut self, node: &str, pools: &[String]) {
        for pool in pools {
            if let Some(nodes) = self.pools.get_mut(pool) {
                nodes.remove(node);
            }
        }
    }
}

fn pools(membership: &Membership) -> Vec<String> {
    match membership {
        Membership::Member(pool) => vec![pool.clone()],
        Membership::Contested(pools) => pools.clone(),
        Membership::Unclaimed => Vec::new(),
    }
}

/// Of all pools. One that cannot be read selects nothing, which its own pool's status says.
fn selectors(pools: &[Arc<MachineConfigPool>]) -> Vec<PoolSelector> {
    let parsed = pools
        .iter()
        .map(|pool| PoolSelector::parse(&pool.name_any(), pool.spec.node_selector.as_ref()));
    parsed.flat_map(Result::unwrap_or_default).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, labels: Value, annotations: Value) -> Node {
        let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn pool(name: &str, label: &str) -> Arc<MachineConfigPool> {
        let spec = json!({"nodeSelector": {"matchLabels": {label: ""}}});
        let spec = serde_json::from_value(spec).unwrap();
        Arc::new(MachineConfigPool::new(name, spec))
    }

    fn names(members: &Members, pool: &str) -> Vec<String> {
        let found = members.of(pool).nodes.into_iter();
        found.map(|node| node.name).collect()
    }

    #[test]
    fn a_change_concerns_the_pools_that_decide_from_it() {
        let members = Members::default();
        members.all_pools(&[pool("a", "a"), pool("b", "b")]);
        let in_a = node("n", json!({"a": ""}), json!({}));
        assert_eq!(members.node(&in_a), ["a"]);
        assert_eq!(members.node(&in_a), [""; 0], "nothing changed");
        let mut heard = in_a.clone();
        heard.metadata.resource_version = Some("7".to_owned());
        assert_eq!(members.node(&heard), [""; 0], "a heartbeat");
        let version = members.of("a").nodes[0].resource_version.clone();
        assert_eq!(version.as_deref(), Some("7"), "and yet the newest version");
        let state = json!({"machineconfiguration.openshift.io/state": "Working"});
        assert_eq!(members.node(&node("n", json!({"a": ""}), state)), ["a"]);
        assert_eq!(
            members.node(&node("n", json!({"b": ""}), json!({}))),
            ["a", "b"]
        );
        assert_eq!(
            (names(&members, "a"), names(&members, "b")),
            (vec![], vec!["n".to_owned()])
        );
        assert_eq!(members.membership("n"), Membership::Member("b".to_owned()));
        assert_eq!(members.gone("n"), ["b"]);
        assert_eq!(names(&members, "b"), [""; 0]);
    }

    #[test]
    fn nodes_follow_the_pools_selectors_whichever_come_first() {
        let members = Members::default();
        let (n, m) = (
            node("n", json!({"a": ""}), json!({})),
            node("m", json!({"a": "", "b": ""}), json!({})),
        );
        members.all_nodes([&n, &m].into_iter());
        assert_eq!(names(&members, "a"), [""; 0]);
        members.all_pools(&[pool("a", "a")]);
        assert_eq!(names(&members, "a"), ["m", "n"]);
        members.all_pools(&[pool("a", "a"), pool("b", "b")]);
        assert_eq!(names(&members, "a"), ["n"]);
        let both = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            members.of("b").contested,
            BTreeMap::from([("m".to_owned(), both)])
        );
        let fresh = members.among("a", [&m, &n].into_iter());
        assert_eq!((fresh.nodes.len(), fresh.contested.len()), (1, 1));
    }
}
