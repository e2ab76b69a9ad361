//! A pool's status, from what was seen and what is planned: counters, conditions, and for every wait a
//! sentence that says what is waited for.
//!
//! `RenderDegraded` belongs to the render; it is read here, for `Degraded`, and never written.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::{MachineConfigPool, MachineConfigPoolStatus, PoolCondition};
use crate::condition::{self, PoolConditionType, PoolReason, Status, Word};
use crate::node::{NodeView, Phase, Target};
use crate::problem::summary;
use crate::rollout::{Gate, Hold, Plan, Seen, listed};
use crate::skew;

/// A pool's own reasons, and those that only a roll-out has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Pool(PoolReason),
    InvalidMaxUnavailable,
    ContestedNodes,
    BuildRetrying,
    PoolDegraded,
}

impl Word for Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Pool(reason) => reason.as_str(),
            Reason::InvalidMaxUnavailable => "InvalidMaxUnavailable",
            Reason::ContestedNodes => "ContestedNodes",
            Reason::BuildRetrying => "BuildRetrying",
            Reason::PoolDegraded => "PoolDegraded",
        }
    }
}

impl From<PoolReason> for Reason {
    fn from(reason: PoolReason) -> Self {
        Reason::Pool(reason)
    }
}

struct Verdict {
    holds: bool,
    reason: Reason,
    message: String,
}

fn verdict(holds: bool, reason: impl Into<Reason>, message: impl Into<String>) -> Verdict {
    Verdict {
        holds,
        reason: reason.into(),
        message: message.into(),
    }
}

/// Whether a status says the same as another but for numbers and words of nodes that are on their way.
pub fn only_counts(before: &MachineConfigPoolStatus, after: &MachineConfigPoolStatus) -> bool {
    let steady = |status: &MachineConfigPoolStatus| MachineConfigPoolStatus {
        updated_machine_count: 0,
        ready_machine_count: 0,
        unavailable_machine_count: 0,
        conditions: status
            .conditions
            .iter()
            .map(|condition| PoolCondition {
                message: String::new(),
                last_transition_time: None,
                ..condition.clone()
            })
            .collect(),
        ..status.clone()
    };
    steady(before) == steady(after)
}

/// The pool's next status. Equal to the one it has when nothing changed.
pub fn report(
    pool: &MachineConfigPool,
    seen: &Seen,
    plan: &Plan,
    now: Timestamp,
) -> MachineConfigPoolStatus {
    let mut status = pool.status.clone().unwrap_or_default();
    let target = seen.target();
    let runs = |node: &&NodeView| target.as_ref().is_some_and(|target| node.runs(target));
    let count = |test: &dyn Fn(&&NodeView) -> bool| {
        i32::try_from(seen.nodes.iter().filter(|node| test(node)).count()).unwrap_or(i32::MAX)
    };
    status.observed_generation = pool.metadata.generation;
    status.machine_count = count(&|_| true);
    status.updated_machine_count = count(&runs);
    status.ready_machine_count = count(&|node| runs(node) && node.obstacle.is_none());
    status.unavailable_machine_count = count(&|node| node.is_unavailable());
    status.degraded_machine_count = count(&|node| node.fault().is_some());

    let finished = target
        .as_ref()
        .filter(|_| status.ready_machine_count == status.machine_count);
    if finished.is_some() {
        status.configuration = pool.spec.configuration.clone();
    }
    let verdicts = [
        (PoolConditionType::Updated, updated(finished)),
        (
            PoolConditionType::Updating,
            updating(seen, plan, &status, finished.is_some()),
        ),
        (PoolConditionType::NodeDegraded, node_degraded(seen)),
        (
            PoolConditionType::ImageBuildDegraded,
            image_build_degraded(&seen.gate),
        ),
    ];
    for (kind, verdict) in verdicts {
        set(&mut status.conditions, kind, verdict, now);
    }
    for (kind, asked, field) in [
        (
            PoolConditionType::PinnedImageSetsDegraded,
            !pool.spec.pinned_image_sets.is_empty(),
            "pinnedImageSets",
        ),
        (
            PoolConditionType::OsImageStreamDegraded,
            pool.spec.os_image_stream.is_some(),
            "osImageStream",
        ),
    ] {
        // Who never asked does not need to be told.
        if asked || condition::get(&status.conditions, kind).is_some() {
            set(&mut status.conditions, kind, unsupported(asked, field), now);
        }
    }
    let skew = version_skew(seen);
    if skew.holds || condition::get(&status.conditions, PoolConditionType::VersionSkew).is_some() {
        let kind = PoolConditionType::VersionSkew;
        set(&mut status.conditions, kind, skew, now);
    }
    let files = files_degraded(seen);
    if files.holds || condition::get(&status.conditions, PoolConditionType::FilesDegraded).is_some()
    {
        let kind = PoolConditionType::FilesDegraded;
        set(&mut status.conditions, kind, files, now);
    }
    let degraded = degraded(&status.conditions, seen);
    set(
        &mut status.conditions,
        PoolConditionType::Degraded,
        degraded,
        now,
    );
    status
}

fn set(
    conditions: &mut Vec<PoolCondition>,
    kind: PoolConditionType,
    verdict: Verdict,
    now: Timestamp,
) {
    condition::set(
        conditions,
        kind,
        Status::from(verdict.holds),
        verdict.reason,
        verdict.message,
        now,
    );
}

/// What is said of a field that is kept and not acted on. It stops nothing, so it does not make the pool degraded.
fn unsupported(asked: bool, field: &str) -> Verdict {
    if !asked {
        return verdict(false, PoolReason::AsExpected, "");
    }
    let message = format!(
        "`spec.{field}` is kept but not acted on; nodes are updated without it, remove it to clear this condition"
    );
    verdict(true, PoolReason::NotSupported, message)
}

/// It stops nothing, so it does not make the pool degraded: agents are upgraded one by one.
fn version_skew(seen: &Seen) -> Verdict {
    let versions = seen
        .nodes
        .iter()
        .filter_map(|node| Some((node.name.as_str(), node.agent_version.as_deref()?)));
    match skew::broken(skew::VERSION, versions) {
        Some(message) => verdict(true, PoolReason::VersionsApart, message),
        None => verdict(false, PoolReason::AsExpected, ""),
    }
}

/// Nodes that have the files keep them; no other gets them.
fn files_degraded(seen: &Seen) -> Verdict {
    match seen.missing.is_empty() {
        true => verdict(false, PoolReason::AsExpected, ""),
        false => verdict(
            true,
            PoolReason::SecretUnavailable,
            summary(&seen.missing).replace('\n', "; "),
        ),
    }
}

fn updated(finished: Option<&Target>) -> Verdict {
    match finished {
        Some(target) => verdict(
            true,
            PoolReason::AllNodesUpdated,
            format!("all nodes are updated to {target}"),
        ),
        None => verdict(false, PoolReason::NodesUpdating, ""),
    }
}

fn updating(seen: &Seen, plan: &Plan, status: &MachineConfigPoolStatus, finished: bool) -> Verdict {
    if finished {
        return verdict(false, PoolReason::AllNodesUpdated, "");
    }
    let Some(config) = &seen.config else {
        return verdict(
            false,
            PoolReason::NotRendered,
            "waits for the first rendered config",
        );
    };
    let mut moving: BTreeMap<String, String> = seen
        .nodes
        .iter()
        .filter_map(|node| progress(node).map(|progress| (node.name.clone(), progress)))
        .collect();
    for assignment in &plan.assign {
        moving.insert(assignment.node.clone(), "is told to update".to_owned());
    }
    let also = |text: String| {
        if moving.is_empty() {
            text
        } else {
            format!("{text}; under way: {}", listed(&moving))
        }
    };
    let Some(target) = seen.target() else {
        let (goes_on, reason, text) = image_wait(&seen.gate, config);
        let goes_on = (goes_on && !seen.paused) || !moving.is_empty();
        let text = if seen.paused {
            format!("pool is paused; {text}")
        } else {
            text
        };
        return verdict(goes_on, reason, also(text));
    };
    match &plan.hold {
        Some(hold @ Hold::Paused) => verdict(
            !moving.is_empty(),
            PoolReason::Paused,
            also(format!("will not update to {target}: {hold}")),
        ),
        Some(Hold::MaxUnavailable(invalid)) => verdict(
            !moving.is_empty(),
            Reason::InvalidMaxUnavailable,
            also(format!("will not update to {target}: {invalid}")),
        ),
        Some(Hold::Schedule(invalid)) => verdict(
            !moving.is_empty(),
            PoolReason::InvalidSchedule,
            also(format!("will not update to {target}: {invalid}")),
        ),
        Some(hold @ Hold::NoContent { .. }) => verdict(
            !moving.is_empty(),
            PoolReason::SecretUnavailable,
            also(format!("will not update to {target}: {hold}")),
        ),
        Some(hold @ Hold::Window { .. }) => verdict(
            !moving.is_empty(),
            PoolReason::WindowClosed,
            also(format!("{}; others wait: {hold}", so_far(&target, status))),
        ),
        Some(hold @ Hold::Wave { .. }) => verdict(
            !moving.is_empty(),
            PoolReason::WaveWaiting,
            also(format!("{}; others wait: {hold}", so_far(&target, status))),
        ),
        Some(hold @ Hold::FailureBudget { .. }) => verdict(
            true,
            PoolReason::RolloutHalted,
            also(format!("{}; others wait: {hold}", so_far(&target, status))),
        ),
        // Who is under way holds a slot and is named there.
        Some(hold @ Hold::Slots { .. }) => verdict(
            true,
            PoolReason::NodesUpdating,
            format!("{}; others wait: {hold}", so_far(&target, status)),
        ),
        Some(hold) => verdict(
            true,
            PoolReason::NodesUpdating,
            also(format!("{}; others wait: {hold}", so_far(&target, status))),
        ),
        None => verdict(
            true,
            PoolReason::NodesUpdating,
            also(so_far(&target, status)),
        ),
    }
}

fn so_far(target: &Target, status: &MachineConfigPoolStatus) -> String {
    format!(
        "updating to {target}: {} of {} nodes are ready",
        status.ready_machine_count, status.machine_count
    )
}

/// What a node that is not where it should be does about it.
fn progress(node: &NodeView) -> Option<String> {
    match node.phase() {
        Phase::Pending | Phase::Working => node.under_way(),
        Phase::Failing => Some(format!("failed to update: {}", node.reason)),
        Phase::New | Phase::Done | Phase::Degraded => None,
    }
}

/// Whether the image is on its way, with the reason and a sentence.
fn image_wait(gate: &Gate, config: &str) -> (bool, PoolReason, String) {
    match gate {
        Gate::NotLayered | Gate::Ready { .. } => (true, PoolReason::NodesUpdating, String::new()),
        Gate::NoBuild { message } => (
            true,
            PoolReason::BuildPending,
            format!("the image for `{config}` waits for its build: {message}"),
        ),
        Gate::Prepared { build } => (
            true,
            PoolReason::BuildPending,
            format!("MachineOSBuild `{build}` waits for a builder"),
        ),
        Gate::Building { build, message, .. } => (
            true,
            PoolReason::Building,
            format!("MachineOSBuild `{build}` is being built: {message}"),
        ),
        Gate::Failed { .. } => (
            false,
            PoolReason::BuildFailed,
            format!(
                "no image for `{config}`: {}; nodes stay on what they run",
                failure(gate)
            ),
        ),
        Gate::Interrupted { build, message } => (
            false,
            PoolReason::BuildInterrupted,
            format!("MachineOSBuild `{build}` was interrupted: {message}"),
        ),
    }
}

fn failure(gate: &Gate) -> String {
    match gate {
        Gate::Failed {
            build: Some(build),
            message,
        } => format!("MachineOSBuild `{build}`: {message}"),
        Gate::Failed {
            build: None,
            message,
        } => message.clone(),
        Gate::NotLayered
        | Gate::Ready { .. }
        | Gate::NoBuild { .. }
        | Gate::Prepared { .. }
        | Gate::Building { .. }
        | Gate::Interrupted { .. } => String::new(),
    }
}

fn node_degraded(seen: &Seen) -> Verdict {
    let mut faults: BTreeMap<String, String> = seen
        .nodes
        .iter()
        .filter_map(|node| Some((node.name.clone(), node.fault()?)))
        .collect();
    let reason = if faults.is_empty() {
        Reason::ContestedNodes
    } else {
        Reason::Pool(PoolReason::NodesDegraded)
    };
    for (node, pools) in &seen.contested {
        let pools: Vec<String> = pools.iter().map(|pool| format!("`{pool}`")).collect();
        faults.insert(
            node.clone(),
            format!(
                "is selected by pools {}, so none updates it; change its labels so that one is left",
                pools.join(" and ")
            ),
        );
    }
    if faults.is_empty() {
        return verdict(false, PoolReason::AsExpected, "");
    }
    verdict(true, reason, listed(&faults))
}

fn image_build_degraded(gate: &Gate) -> Verdict {
    match gate {
        Gate::NotLayered => verdict(false, PoolReason::NoLayeredImage, ""),
        Gate::Ready { build, .. } => verdict(
            false,
            PoolReason::BuildSuccess,
            format!("MachineOSBuild `{build}` succeeded"),
        ),
        Gate::NoBuild { message } => verdict(false, PoolReason::BuildPending, message),
        Gate::Prepared { build } => verdict(
            false,
            PoolReason::BuildPending,
            format!("MachineOSBuild `{build}` waits for a builder"),
        ),
        Gate::Building {
            build,
            message,
            retrying: true,
        } => verdict(
            true,
            Reason::BuildRetrying,
            format!("MachineOSBuild `{build}`: {message}"),
        ),
        Gate::Building {
            build,
            retrying: false,
            ..
        } => verdict(
            false,
            PoolReason::Building,
            format!("MachineOSBuild `{build}` is being built"),
        ),
        Gate::Failed { .. } => verdict(true, PoolReason::BuildFailed, failure(gate)),
        Gate::Interrupted { build, message } => verdict(
            false,
            PoolReason::BuildInterrupted,
            format!("MachineOSBuild `{build}` was interrupted: {message}"),
        ),
    }
}

/// Whether anything keeps the pool from where it should be, told in the words of that condition.
fn degraded(conditions: &[PoolCondition], seen: &Seen) -> Verdict {
    let mut faults: Vec<String> = [
        PoolConditionType::RenderDegraded,
        PoolConditionType::ImageBuildDegraded,
        PoolConditionType::NodeDegraded,
        PoolConditionType::FilesDegraded,
    ]
    .into_iter()
    .filter(|kind| condition::is_true(conditions, *kind))
    .filter_map(|kind| condition::get(conditions, kind))
    .map(|found| format!("{}: {}", found.type_, found.message))
    .collect();
    faults.extend(seen.invalid_selector.iter().map(ToString::to_string));
    faults.extend(seen.max_unavailable.as_ref().err().map(ToString::to_string));
    faults.extend(seen.policy_problems.iter().cloned());
    faults.extend(seen.schedule.as_ref().err().map(ToString::to_string));
    if faults.is_empty() {
        verdict(false, PoolReason::AsExpected, "")
    } else {
        verdict(true, Reason::PoolDegraded, faults.join("; "))
    }
}

#[cfg(test)]
mod tests;
