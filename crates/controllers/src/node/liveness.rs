//! Notices agents that fell silent. A kubelet's node is watched over by its own cluster; a node that our agent
//! registered has nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use model::keys;
use model::node::is_kept_by_agent;

use crate::cache::{Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::Result;
use crate::event::Tone;

/// A lease that states no duration is good for this long, as a kubelet's is.
const DEFAULT_LEASE: Duration = Duration::from_secs(40);

/// When each node's lease was last seen to move. Our own clock measures the silence: the agent's may differ, and
/// while this process or the API server was down no renewal could arrive.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    seen: Mutex<HashMap<String, Pulse>>,
}

#[derive(Debug, Clone)]
struct Pulse {
    renewed: Option<MicroTime>,
    at: Instant,
}

impl Pulses {
    /// For how long the node's lease has not moved.
    fn silence(&self, node: &str, renewed: Option<MicroTime>) -> Duration {
        let mut seen = self
            .seen
            .lock()
            .expect("no panic happens while the lock is held");
        let now = Instant::now();
        let fresh = Pulse {
            renewed: renewed.clone(),
            at: now,
        };
        let pulse = seen.entry(node.to_owned()).or_insert_with(|| fresh.clone());
        if pulse.renewed != renewed {
            *pulse = fresh;
        }
        now.duration_since(pulse.at)
    }
}

pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        Kind::Node | Kind::NodeLease => Wake::of(change.name.as_deref()),
        _ => Wake::Nobody,
    }
}

/// One look at one node: is its agent alive?
pub(crate) async fn reconcile(
    node: Arc<Node>,
    ctx: Arc<Context>,
    pulses: Arc<Pulses>,
) -> Result<Action> {
    if !is_kept_by_agent(&node) {
        return Ok(Action::await_change());
    }
    let name = node.name_any();
    let lease = ctx
        .cache
        .node_leases
        .get(&ObjectRef::<Lease>::new(&name).within(keys::NODE_LEASE_NAMESPACE));
    let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
    let allowed = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(DEFAULT_LEASE, Duration::from_secs);
    let silence = pulses.silence(&name, spec.and_then(|spec| spec.renew_time.clone()));
    if silence < allowed {
        return Ok(Action::requeue(allowed - silence));
    }
    if ready_is_known(&node) {
        mark_unknown(&ctx, &node, silence).await?;
    }
    Ok(Action::await_change())
}

fn conditions(node: &Node) -> &[NodeCondition] {
    let status = node.status.as_ref();
    status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}

fn ready_is_known(node: &Node) -> bool {
    conditions(node)
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status != "Unknown")
}

async fn mark_unknown(ctx: &Context, node: &Node, silence: Duration) -> Result<()> {
    let message = format!(
        "agent has been silent for {} s; see whether the node runs and its agent reaches the API",
        silence.as_secs()
    );
    let mut object = node.clone();
    let conditions = object
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    for condition in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
        condition.status = "Unknown".to_owned();
        condition.reason = Some("NodeStatusUnknown".to_owned());
        condition.message = Some(message.clone());
        condition.last_transition_time = Some(Time(Timestamp::now()));
    }
    ctx.write_status(&object).await?;
    ctx.events
        .publish(node, Tone::Warning, "NodeNotReady", &message)
        .await;
    Ok(())
}
