//! The disruption loop: the node disruption policy in force, in MachineConfiguration's status for people to read and
//! agents to follow.

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use model::api::{CLUSTER, MachineConfiguration, NodeDisruptionPolicyStatus};
use model::update::Policy;

use crate::cache::{Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::Result;

pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        Kind::MachineConfiguration => Wake::of(change.name.as_deref()),
        _ => Wake::Nobody,
    }
}

/// One look at the MachineConfiguration.
pub(crate) async fn reconcile(
    object: Arc<MachineConfiguration>,
    ctx: Arc<Context>,
) -> Result<Action> {
    // A server without our CRD's rules may hold others; nobody follows them.
    if object.name_any() != CLUSTER {
        return Ok(Action::await_change());
    }
    let before = object.status.clone().unwrap_or_default();
    let user = object.spec.node_disruption_policy.as_ref();
    let mut after = before.clone();
    after.observed_generation = object.metadata.generation;
    after.node_disruption_policy_status = Some(NodeDisruptionPolicyStatus {
        cluster_policies: user.map(Policy::of).unwrap_or_default().cluster_policies(),
    });
    if before != after {
        let mut object = object.as_ref().clone();
        object.status = Some(after);
        ctx.write_status(&object).await?;
        tracing::info!("the node disruption policy in force is written");
    }
    Ok(Action::await_change())
}
