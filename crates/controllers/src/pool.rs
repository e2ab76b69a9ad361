//! The pool loop: which nodes are told to change, and how the pool is doing.

pub(crate) mod expiry;
mod node_object;
pub(crate) mod observe;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::Selector;
use kube::runtime::controller::Action;
use model::api::{MachineConfigPool, PoolCondition};
use model::condition::{self, Entry, PoolConditionType, PoolReason};
use model::drain;
use model::keys;
use model::pool_status;
use model::provision;
use model::rollout::{self, Assignment, Plan, Seen};
use serde_json::json;

use crate::cache::{Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::{Doing, Result};
use crate::event::Tone;
use crate::node;

/// Writes for the nodes of one pool that are under way at once.
pub(crate) const WRITES_AT_ONCE: usize = 64;

/// Nodes and what is written for each concern their own pools; the rest may change what any pool decides.
pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        Kind::Node if change.name.is_some() => Wake::These(change.pools.clone()),
        Kind::MachineConfigNode if change.only_status => Wake::Nobody,
        // Others may have lost or won nodes by another selector.
        Kind::Pool if change.only_status => Wake::of(change.name.as_deref()),
        Kind::Pool
        | Kind::Node
        | Kind::MachineConfigNode
        | Kind::OsConfig
        | Kind::Build
        | Kind::MachineConfig
        | Kind::ConfigMap
        | Kind::MachineConfiguration
        | Kind::RolloutPolicy
        | Kind::Secret => Wake::Everyone,
        _ => Wake::Nobody,
    }
}

/// One look at one pool.
pub(crate) async fn reconcile(pool: Arc<MachineConfigPool>, ctx: Arc<Context>) -> Result<Action> {
    let (name, began) = (pool.name_any(), Instant::now());
    if let Some(rest) = ctx.pace.rest(&name, began) {
        return Ok(Action::requeue(rest));
    }
    let mut seen = observe::from_cache(&ctx, &pool);
    let mut plan = rollout::plan(&seen);
    let confirmed = !plan.assign.is_empty();
    if confirmed {
        (seen, plan) = confirm(&ctx, &pool).await?;
    }
    // Without the writes that follow: they are in proportion to what there is to do.
    ctx.pace.looked(&name, began.elapsed(), Instant::now());
    let done = match confirmed {
        true => act(&ctx, &pool, &seen, &plan).await,
        false => Ok(()),
    };
    ctx.telemetry.pool(&pool.name_any(), &seen, &plan);
    node_object::follow(&ctx, &pool, &seen).await?;
    let counts = report(&ctx, &pool, &seen, &plan).await?;
    done?;
    // Certificates end without a change, windows open and waves have soaked.
    let soon = plan.look_again().map_or(expiry::INTERVAL, from_now);
    let soon = counts.map_or(soon, |counts| soon.min(counts));
    Ok(Action::requeue(soon.min(expiry::INTERVAL)))
}

/// How long it is until a moment; a little longer, so that it is over then.
pub(crate) fn from_now(moment: Timestamp) -> Duration {
    let left = Timestamp::now().duration_until(moment);
    Duration::try_from(left).unwrap_or_default() + Duration::from_millis(100)
}

/// Plans again from what the API holds now. The local copy may lack a slot that was given out a moment ago, here or
/// by a controller that has just died.
async fn confirm(ctx: &Context, pool: &MachineConfigPool) -> Result<(Seen, Plan)> {
    let name = pool.name_any();
    let fresh = Api::<MachineConfigPool>::all(ctx.client.clone())
        .get(&name)
        .await
        .doing(|| format!("read MachineConfigPool `{name}`"))?;
    // No more than those that the pool may have.
    let mut wanted = ListParams::default();
    if let Some(Ok(selector)) = fresh.spec.node_selector.clone().map(Selector::try_from) {
        wanted = wanted.labels_from(&selector);
    }
    let nodes = Api::<Node>::all(ctx.client.clone())
        .list(&wanted)
        .await
        .doing(|| format!("list the Nodes of pool `{name}`"))?;
    let seen = observe::with_nodes(ctx, &fresh, nodes.items.iter());
    let plan = rollout::plan(&seen);
    Ok((seen, plan))
}

/// Tells each node of the plan, and everybody else at once which they are. One that cannot be told does not keep the
/// others from it.
async fn act(ctx: &Context, pool: &MachineConfigPool, seen: &Seen, plan: &Plan) -> Result<()> {
    let told: Vec<_> = plan
        .assign
        .iter()
        .map(|assignment| tell(ctx, pool, seen, assignment))
        .collect();
    let told: Vec<Result<()>> = stream::iter(told).buffered(WRITES_AT_ONCE).collect().await;
    let nodes: Vec<&str> = plan
        .assign
        .iter()
        .zip(&told)
        .filter(|(_, told)| told.is_ok())
        .map(|(assignment, _)| assignment.node.as_str())
        .collect();
    if let (Some(first), false) = (plan.assign.first(), nodes.is_empty()) {
        let reason = match first.to.image {
            Some(_) => "SetDesiredConfigAndOSImage",
            None => "SetDesiredConfig",
        };
        let message = format!("told to run {}: {}", first.to, nodes.join(", "));
        ctx.events
            .publish(pool, Tone::Normal, reason, &message)
            .await;
    }
    told.into_iter().collect()
}

async fn tell(
    ctx: &Context,
    pool: &MachineConfigPool,
    seen: &Seen,
    assignment: &Assignment,
) -> Result<()> {
    let Assignment {
        node,
        resource_version,
        to,
        ..
    } = assignment;
    // What the agent would ask for first, in the same write.
    let ahead = observe::drains_at_once(ctx, seen, assignment);
    let mut change = match &ahead {
        Some(object) => node::ahead(ctx, object, &drain::request(&to.config)).await?,
        None => json!({}),
    };
    // Config and image in one write: a node never sees one without the other.
    let metadata = &mut change["metadata"];
    metadata["resourceVersion"] = json!(resource_version);
    metadata["annotations"][keys::DESIRED_CONFIG] = json!(to.config);
    metadata["annotations"][keys::DESIRED_IMAGE] = json!(to.image);
    metadata["annotations"][keys::TOLD_AT] = json!(Timestamp::now());
    Api::<Node>::all(ctx.client.clone())
        .patch(node, &PatchParams::default(), &Patch::Merge(change))
        .await
        .doing(|| format!("tell node `{node}` to run {to}"))?;
    tracing::info!(pool = pool.name_any(), "{assignment}");
    if let Some(object) = ahead {
        // The agent finds the drain asked for, and does not tell of it.
        let message = format!("ask for the drain, for {to}");
        ctx.events
            .publish(object.as_ref(), Tone::Normal, "AskedForDrain", &message)
            .await;
    }
    Ok(())
}

/// Writes the pool's status. One that only counts on is written now and then; returns when it is to be, if not now.
async fn report(
    ctx: &Context,
    pool: &MachineConfigPool,
    seen: &Seen,
    plan: &Plan,
) -> Result<Option<Duration>> {
    let now = Timestamp::now();
    let mut next = pool_status::report(pool, seen, plan, now);
    next.cert_expirys = expiry::of(&ctx.cache);
    expiry::warn(ctx, pool, &next.cert_expirys, now).await;
    let first_boot = provision::proven(pool, seen, &next);
    if first_boot != provision::target_of(pool) {
        let annotation = first_boot.as_ref().map(provision::annotation);
        let annotations = json!({keys::FIRST_BOOT_TARGET: annotation});
        // The status is written when the changed pool is looked at again.
        ctx.merge(pool, json!({"metadata": {"annotations": annotations}}))
            .await?;
        return Ok(None);
    }
    if pool.status.as_ref() == Some(&next) {
        return Ok(None);
    }
    if pool
        .status
        .as_ref()
        .is_some_and(|before| pool_status::only_counts(before, &next))
        && let Some(wait) = ctx.pace.count(&pool.name_any(), Instant::now())
    {
        return Ok(Some(wait));
    }
    let before = pool.status.clone().unwrap_or_default().conditions;
    let after = next.conditions.clone();
    let mut object = pool.clone();
    object.status = Some(next);
    ctx.write_status(&object).await?;
    tell_changes(ctx, pool, &before, &after, seen.nodes.is_empty()).await;
    Ok(None)
}

/// An event for what became worse, and for what is done. In an empty pool nothing was done.
async fn tell_changes(
    ctx: &Context,
    pool: &MachineConfigPool,
    before: &[PoolCondition],
    after: &[PoolCondition],
    empty: bool,
) {
    let held = |conditions: &[PoolCondition]| {
        let found = condition::get(conditions, PoolConditionType::Updating)?;
        let tone = match PoolReason::ALL
            .iter()
            .find(|word| word.as_str() == found.reason)?
        {
            PoolReason::RolloutHalted => Tone::Warning,
            PoolReason::WaveWaiting | PoolReason::WindowClosed => Tone::Normal,
            _ => return None,
        };
        Some((tone, found.reason.clone(), found.message.clone()))
    };
    // The message names nodes, which come and go while it is the same wait.
    let waited = held(before).map(|(_, reason, _)| reason);
    if let Some((tone, reason, message)) = held(after)
        && waited.as_ref() != Some(&reason)
    {
        ctx.events.publish(pool, tone, &reason, &message).await;
    }
    for kind in [
        PoolConditionType::NodeDegraded,
        PoolConditionType::ImageBuildDegraded,
        PoolConditionType::FilesDegraded,
        PoolConditionType::Updated,
    ] {
        let (Some(now), then) = (condition::get(after, kind), condition::get(before, kind)) else {
            continue;
        };
        let told =
            then.is_some_and(|then| then.status == now.status && then.message == now.message);
        let nothing_done = empty && kind == PoolConditionType::Updated;
        if now.status != "True" || told || nothing_done {
            continue;
        }
        if let (PoolConditionType::Updated, Some(since)) = (kind, then.and_then(Entry::since)) {
            ctx.telemetry.nodes().rolled_out(since, Timestamp::now());
        }
        let (tone, reason) = if kind == PoolConditionType::Updated {
            (Tone::Normal, "RolloutCompleted")
        } else {
            (Tone::Warning, now.reason.as_str())
        };
        ctx.events.publish(pool, tone, reason, &now.message).await;
    }
}
