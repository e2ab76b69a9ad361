//! What a pool is doing: in the words of its own conditions, with its nodes' part in it.

use kube_core::ResourceExt;

use super::Explanation;
use crate::api::{MachineConfigPool, PoolCondition};
use crate::condition::{self, Entry, PoolConditionType as Type};
use crate::node::{NodeView, Phase};

/// What a pool is explained from.
#[derive(Debug, Clone, Copy)]
pub struct PoolSeen<'a> {
    /// The pool.
    pub pool: &'a MachineConfigPool,
    /// Its nodes.
    pub nodes: &'a [NodeView],
}

/// Explains a pool.
pub fn pool(seen: PoolSeen<'_>) -> Explanation {
    let name = seen.pool.name_any();
    let Some(status) = &seen.pool.status else {
        let mut told = Explanation::new("pool", &name, "was made a moment ago");
        told.waits_for
            .push("the controllers to look at it".to_owned());
        told.remedies.push(
            "see that the controllers run (`caprock serve`, or `caprock controller`)".to_owned(),
        );
        return told;
    };
    let get = |kind| condition::get(&status.conditions, kind);
    let is = |kind| condition::is_true(&status.conditions, kind);
    let counted = format!(
        "{} of {} nodes are updated",
        status.updated_machine_count, status.machine_count
    );
    let updating = get(Type::Updating);
    let message = updating
        .map(|found| found.message.clone())
        .unwrap_or_default();
    let doing = match (seen.pool.spec.paused, is(Type::Updated)) {
        (_, true) => format!(
            "is up to date on `{}`: {counted}",
            seen.pool.spec.configuration.name
        ),
        (true, false) => format!("is paused: {counted}"),
        (false, false) if is(Type::Updating) => format!("is updating: {counted}"),
        (false, false) => format!("stands still: {counted}"),
    };
    let mut told = Explanation::new("pool", &name, doing);
    let leading = if is(Type::Updated) {
        get(Type::Updated)
    } else {
        updating
    };
    told.since = leading.and_then(Entry::since);
    if !message.is_empty() && !is(Type::Updated) {
        told.waits_for.push(message);
    }
    for node in seen.nodes {
        let waits = match node.phase() {
            Phase::Pending | Phase::Working => node.under_way().unwrap_or_default(),
            Phase::Failing => "failed".to_owned(),
            Phase::Degraded => "is degraded".to_owned(),
            Phase::New | Phase::Done => continue,
        };
        told.waits_for.push(format!(
            "node `{0}`, which {waits}: `caprock explain node/{0}`",
            node.name
        ));
    }
    told.because
        .extend(faults(&status.conditions).map(|(kind, message)| format!("{kind}: {message}")));
    if !is(Type::Updated) && !seen.pool.spec.paused {
        told.next
            .push("nodes are told to update as slots of `spec.maxUnavailable` get free".to_owned());
    }
    told.remedies.extend(remedies(seen, &status.conditions));
    told
}

fn faults(conditions: &[PoolCondition]) -> impl Iterator<Item = (&'static str, &str)> {
    [
        Type::RenderDegraded,
        Type::ImageBuildDegraded,
        Type::NodeDegraded,
    ]
    .into_iter()
    .filter(|kind| condition::is_true(conditions, *kind))
    .filter_map(|kind| {
        Some((
            kind.as_str(),
            condition::get(conditions, kind)?.message.as_str(),
        ))
    })
}

fn remedies(seen: PoolSeen<'_>, conditions: &[PoolCondition]) -> Vec<String> {
    let name = seen.pool.name_any();
    let mut found = Vec::new();
    let is = |kind| condition::is_true(conditions, kind);
    if is(Type::RenderDegraded) {
        found.push("correct the MachineConfig that the message names; until then the last rendered config stays in force".to_owned());
    }
    if is(Type::ImageBuildDegraded) {
        found.push(format!(
            "see `caprock logs {name}`, and correct the Containerfile or what the message names"
        ));
    }
    if is(Type::NodeDegraded) {
        found.push("`caprock explain node/NAME` for each node named".to_owned());
    }
    if seen.pool.spec.paused {
        found.push(format!(
            "unpause it: `kubectl patch mcp/{name} --type merge --patch '{{\"spec\":{{\"paused\":false}}}}'`"
        ));
    }
    found
}
