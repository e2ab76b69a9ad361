//! Gathers what a pool's roll-out is decided from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use model::api::MachineConfigPool;
use model::health;
use model::node::NodeView;
use model::pool::{Membership, PoolSelector, max_unavailable, membership};
use model::rollout::Seen;

use crate::cache::Cache;
use crate::context::Context;

/// From the local copy alone.
pub(super) fn from_cache(ctx: &Context, pool: &MachineConfigPool) -> Seen {
    let nodes = ctx.cache.nodes.state();
    with_nodes(ctx, pool, nodes.iter().map(AsRef::as_ref))
}

/// From the local copy, but with this pool and these Nodes.
pub(super) fn with_nodes<'a>(
    ctx: &Context,
    pool: &MachineConfigPool,
    nodes: impl Iterator<Item = &'a Node>,
) -> Seen {
    let name = pool.name_any();
    let selectors = selectors(&ctx.cache);
    let mut members = Vec::new();
    let mut contested = BTreeMap::new();
    for node in nodes {
        match membership(node.labels(), &selectors) {
            Membership::Member(owner) if owner == name => members.push(NodeView::of(node)),
            Membership::Contested(pools) if pools.contains(&name) => {
                contested.insert(node.name_any(), pools);
            }
            Membership::Member(_) | Membership::Contested(_) | Membership::Unclaimed => {}
        }
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let configuration = &pool.spec.configuration;
    let policies = ctx.cache.policies.state();
    let policy = health::policy_of(&name, policies.iter().map(AsRef::as_ref));
    let (failure_budget, policy_problems) = health::budget(policy, members.len());
    Seen {
        config: (!configuration.name.is_empty()).then(|| configuration.name.clone()),
        gate: ctx.gates.of(&ctx.cache, pool),
        paused: pool.spec.paused,
        max_unavailable: max_unavailable(&name, pool.spec.max_unavailable.as_ref(), members.len()),
        nodes: members,
        contested,
        invalid_selector: PoolSelector::parse(&name, pool.spec.node_selector.as_ref()).err(),
        failure_budget,
        policy_problems,
    }
}

/// Of all pools. One that cannot be read selects nothing, which its own pool's status says.
fn selectors(cache: &Cache) -> Vec<PoolSelector> {
    let pools = cache.pools.state();
    let parsed = pools
        .iter()
        .map(|pool| PoolSelector::parse(&pool.name_any(), pool.spec.node_selector.as_ref()));
    parsed.flat_map(Result::unwrap_or_default).collect()
}
