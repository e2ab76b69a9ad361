//! The node loop: answers the agent's requests to drain and to uncordon, and notices agents that fell silent.

mod evict;
pub(crate) mod liveness;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use model::drain::{
    self, CORDONED_BY, Cordon, DRAIN_OVERDUE, DRAIN_SINCE, DRAIN_WAITS_FOR, LONG_DRAIN, Request,
    Rules,
};
use model::keys;
use model::node::{AgentState, annotation, is_kept_by_agent};
use model::schedule::{Opening, Schedule};
use serde_json::{Value, json};

use crate::cache::{Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::Result;
use crate::event::Tone;
use crate::node::evict::{Left, Round};
use crate::pool::from_now;
use crate::pool::observe::policy_of;

/// What is over sooner needs no write that says what is waited for.
const UNEVENTFUL: SignedDuration = SignedDuration::from_secs(2);

pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        Kind::Node => Wake::of(change.name.as_deref()),
        Kind::Pool if change.only_status => Wake::Nobody,
        // A window may be another one now.
        Kind::Pool | Kind::RolloutPolicy => Wake::Everyone,
        _ => Wake::Nobody,
    }
}

/// One look at one node.
pub(crate) async fn reconcile(node: Arc<Node>, ctx: Arc<Context>) -> Result<Action> {
    ctx.telemetry.nodes().saw(&node);
    match Request::open(&node) {
        Ok(None) => Ok(Action::await_change()),
        Ok(Some(request)) => answer(&ctx, &node, &request).await,
        Err(unknown) => {
            let message = format!("{unknown}; the agent of this node is of another version");
            ctx.events
                .publish_once(
                    node.as_ref(),
                    Tone::Warning,
                    "UnknownDrainRequest",
                    &message,
                )
                .await;
            Ok(Action::await_change())
        }
    }
}

async fn answer(ctx: &Context, node: &Node, request: &Request) -> Result<Action> {
    match request {
        Request::Drain { id } => {
            let policy = policy_of(ctx, node);
            // Windows that cannot be read keep nobody from finishing what was begun.
            let windows = Schedule::of(policy.as_ref()).unwrap_or_default().windows;
            let rules = Rules::of(policy.as_ref());
            if let Opening::Closed { name, opens } = windows.at(Timestamp::now())
                && annotation(node, DRAIN_SINCE).is_none()
                && annotation(node, CORDONED_BY).is_none()
            {
                let waits = format!("window `{name}`, which opens at {opens}");
                if annotation(node, DRAIN_WAITS_FOR) != Some(waits.as_str()) {
                    let change = json!({"metadata": {"annotations": {DRAIN_WAITS_FOR: waits}}});
                    ctx.merge(node, change).await?;
                }
                return Ok(Action::requeue(from_now(opens.at)));
            }
            if drain::cordon(node, request) == Cordon::Set {
                // Without a kubelet no pod comes after those that are there now.
                if is_kept_by_agent(node) && evict::is_done(ctx, node, &rules).await? {
                    let now = Timestamp::now();
                    finish(ctx, node, id, cordoned(id, now)).await?;
                    ctx.telemetry.nodes().drained(now, now);
                    return Ok(Action::await_change());
                }
                // The change of the node brings us back, with the cordon seen.
                cordon(ctx, node, id).await?;
                return Ok(Action::await_change());
            }
            match evict::round(ctx, node, request, &rules, since(node)).await? {
                Round::Done => {
                    finish(ctx, node, id, json!({})).await?;
                    let now = Timestamp::now();
                    ctx.telemetry
                        .nodes()
                        .drained(since(node).unwrap_or(now), now);
                    Ok(Action::await_change())
                }
                // The change that made it so brings us back.
                Round::Outdated => Ok(Action::await_change()),
                Round::Left(left) => {
                    show(ctx, node, &rules, &left).await?;
                    Ok(Action::requeue(left.again))
                }
            }
        }
        Request::Uncordon { id } => {
            let change = match drain::cordon(node, request) {
                Cordon::Lift => json!({
                    "metadata": {"annotations": {CORDONED_BY: null}},
                    "spec": {"unschedulable": null},
                }),
                Cordon::Keep | Cordon::Set => json!({}),
            };
            finish(ctx, node, id, change).await?;
            Ok(Action::await_change())
        }
    }
}

fn cordoned(id: &str, since: Timestamp) -> Value {
    json!({
        "metadata": {"annotations": {CORDONED_BY: id, DRAIN_SINCE: since.to_string()}},
        "spec": {"unschedulable": true},
    })
}

async fn cordon(ctx: &Context, node: &Node, id: &str) -> Result<()> {
    ctx.merge(node, cordoned(id, Timestamp::now())).await?;
    tracing::info!(node = node.name_any(), request = id, "cordoned");
    Ok(())
}

/// What asks for a node's drain before its agent does, in the write that tells it what to run: the agent's own words, our
/// cordon, and the answer too where nothing has to be evicted.
pub(crate) async fn ahead(ctx: &Context, node: &Node, id: &str) -> Result<Value> {
    let mut change = cordoned(id, Timestamp::now());
    let rules = Rules::of(policy_of(ctx, node).as_ref());
    let done = is_kept_by_agent(node) && evict::is_done(ctx, node, &rules).await?;
    let annotations = &mut change["metadata"]["annotations"];
    annotations[keys::DESIRED_DRAIN] = json!(id);
    annotations[keys::STATE] = json!(AgentState::Working.as_str());
    if done {
        annotations[keys::LAST_APPLIED_DRAIN] = json!(id);
        annotations[DRAIN_SINCE] = Value::Null;
    }
    Ok(change)
}

/// Records that the request is carried out, together with what carried it out.
async fn finish(ctx: &Context, node: &Node, id: &str, mut change: Value) -> Result<()> {
    let annotations = &mut change["metadata"]["annotations"];
    annotations[keys::LAST_APPLIED_DRAIN] = json!(id);
    for told in [DRAIN_SINCE, DRAIN_WAITS_FOR, DRAIN_OVERDUE] {
        annotations[told] = Value::Null;
    }
    ctx.merge(node, change).await?;
    tracing::info!(node = node.name_any(), request = id, "carried out");
    Ok(())
}

/// When the drain began.
fn since(node: &Node) -> Option<Timestamp> {
    annotation(node, DRAIN_SINCE).and_then(|text| text.parse().ok())
}

/// Says on the node what its drain waits for.
async fn show(ctx: &Context, node: &Node, rules: &Rules, left: &Left) -> Result<()> {
    let now = Timestamp::now();
    let began = since(node);
    let taken = now.duration_since(began.unwrap_or(now));
    if began.is_some() && taken < UNEVENTFUL {
        return Ok(());
    }
    let text = left.waiting.to_string();
    let is_overdue = taken >= rules.timeout;
    let overdue = is_overdue.then(|| {
        format!(
            "its drain takes longer than {:#} and goes on; it waits: {text}",
            rules.timeout
        )
    });
    let changed = annotation(node, DRAIN_WAITS_FOR) != Some(text.as_str());
    let newly_overdue = is_overdue && annotation(node, DRAIN_OVERDUE).is_none();
    if changed || newly_overdue || began.is_none() {
        let change = json!({"metadata": {"annotations": {
            DRAIN_WAITS_FOR: text,
            DRAIN_SINCE: began.unwrap_or(now).to_string(),
            DRAIN_OVERDUE: overdue,
        }}});
        ctx.merge(node, change).await?;
        tracing::info!(node = node.name_any(), "drain waits: {text}");
    }
    let over = taken - LONG_DRAIN;
    let just_now = over < SignedDuration::try_from(left.again).unwrap_or_default();
    let warning = match (&overdue, newly_overdue) {
        (Some(overdue), true) => Some(("DrainFailed", overdue.clone())),
        _ if !over.is_negative() && (changed || just_now) => Some((
            "DrainThresholdExceeded",
            format!("drain takes longer than 10 minutes; it waits: {text}"),
        )),
        _ => None,
    };
    if let Some((reason, message)) = warning {
        ctx.events
            .publish(node, Tone::Warning, reason, &message)
            .await;
    }
    Ok(())
}
