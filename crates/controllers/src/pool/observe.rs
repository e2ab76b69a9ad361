//! Gathers what a pool's roll-out is decided from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use model::api::{CLUSTER, MachineConfigPool, RolloutPolicy};
use model::drain;
use model::health;
use model::node::Target;
use model::pool::{Membership, PoolSelector, max_unavailable};
use model::rollout::{Assignment, Seen};
use model::schedule::{Opening, Schedule};
use model::update::{Disruption, Policy, Update, Version};

use crate::cache::Cache;
use crate::context::Context;
use crate::members::OfPool;
use crate::node_files;

/// From the local copy alone.
pub(super) fn from_cache(ctx: &Context, pool: &MachineConfigPool) -> Seen {
    of(ctx, pool, ctx.cache.members.of(&pool.name_any()))
}

/// From the local copy, but with this pool and these Nodes.
pub(super) fn with_nodes<'a>(
    ctx: &Context,
    pool: &MachineConfigPool,
    nodes: impl Iterator<Item = &'a Node>,
) -> Seen {
    let members = ctx.cache.members.among(&pool.name_any(), nodes);
    of(ctx, pool, members)
}

fn of(ctx: &Context, pool: &MachineConfigPool, members: OfPool) -> Seen {
    let name = pool.name_any();
    let OfPool {
        nodes: members,
        contested,
    } = members;
    let configuration = &pool.spec.configuration;
    let policies = ctx.cache.policies.state();
    let policy = health::policy_of(&name, policies.iter().map(AsRef::as_ref));
    let (failure_budget, policy_problems) = health::budget(policy, members.len());
    let schedule = Schedule::of(policy.map(|applied| applied.policy));
    let mut seen = Seen {
        config: (!configuration.name.is_empty()).then(|| configuration.name.clone()),
        gate: ctx.gates.of(&ctx.cache, pool),
        paused: pool.spec.paused,
        max_unavailable: max_unavailable(&name, pool.spec.max_unavailable.as_ref(), members.len()),
        nodes: members,
        contested,
        invalid_selector: PoolSelector::parse(&name, pool.spec.node_selector.as_ref()).err(),
        failure_budget,
        policy_problems,
        schedule,
        drains: BTreeSet::new(),
        missing: node_files::missing(&ctx.cache, pool),
        now: Timestamp::now(),
    };
    seen.drains = drains(ctx, &seen);
    seen
}

/// Nodes whose update drains them, as far as their configurations tell; who cannot tell counts among them. Only asked
/// while no window is open.
fn drains(ctx: &Context, seen: &Seen) -> BTreeSet<String> {
    let closed = seen
        .schedule
        .as_ref()
        .is_ok_and(|schedule| matches!(schedule.windows.at(seen.now), Opening::Closed { .. }));
    let Some(target) = seen.target().filter(|_| closed) else {
        return BTreeSet::new();
    };
    let version = |target: &Target| version(ctx, target);
    let (to, policy) = (version(&target), policy(ctx));
    let mut known: BTreeMap<Option<&Target>, bool> = BTreeMap::new();
    let drains = |from: Option<&Target>| {
        let (Some(from), Some(to)) = (from.and_then(version), &to) else {
            return true;
        };
        Update::between(&from, to, &[], &policy).disruption >= Disruption::Drain
    };
    let outdated = seen
        .nodes
        .iter()
        .filter(|node| node.desired.as_ref() != Some(&target));
    outdated
        .filter(|node| {
            // It waits with what drains the node for its next update, which is this one.
            if !node.held_back.is_empty() {
                return true;
            }
            let from = node.current.as_ref();
            *known.entry(from).or_insert_with(|| drains(from))
        })
        .map(|node| node.name.clone())
        .collect()
}

/// Which pool a node belongs to.
pub(crate) fn membership_of(ctx: &Context, node: &Node) -> Membership {
    ctx.cache.members.membership(&node.name_any())
}

/// The Node of an assignment whose drain may be asked for in the same write.
pub(super) fn drains_at_once(
    ctx: &Context,
    seen: &Seen,
    assignment: &Assignment,
) -> Option<Arc<Node>> {
    let place = seen
        .nodes
        .binary_search_by(|node| node.name.cmp(&assignment.node));
    let node = &seen.nodes[place.ok()?];
    let (from, to) = (
        version(ctx, node.current.as_ref()?)?,
        version(ctx, &assignment.to)?,
    );
    let object = Cache::get(&ctx.cache.nodes, &node.name)?;
    drain::at_once(node, &from, &to, &policy(ctx)).then_some(object)
}

fn version(ctx: &Context, target: &Target) -> Option<Version> {
    let config = Cache::get(&ctx.cache.machine_configs, &target.config)?;
    Version::new(&target.config, &config.spec, target.image.as_deref()).ok()
}

/// The node disruption policy in force.
fn policy(ctx: &Context) -> Policy {
    let configuration = Cache::get(&ctx.cache.configurations, CLUSTER);
    let policy = configuration.as_deref().map(Policy::followed);
    policy.unwrap_or_default()
}

/// The RolloutPolicy of the pool that a node belongs to.
pub(crate) fn policy_of(ctx: &Context, node: &Node) -> Option<RolloutPolicy> {
    let Membership::Member(pool) = membership_of(ctx, node) else {
        return None;
    };
    let policies = ctx.cache.policies.state();
    let applied = health::policy_of(&pool, policies.iter().map(AsRef::as_ref))?;
    Some(applied.policy.clone())
}
