//! Which nodes of a pool are told to change now, and why the others are not.
//!
//! A node that an update may disrupt, or that cannot serve anyhow, holds a *slot*; a pool has
//! `maxUnavailable` of them. Telling a node that already holds a slot something newer takes no second
//! one, so a stuck roll-out can always be superseded by a better one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;

use crate::node::{NodeView, Phase, Target};
use crate::pool::{InvalidMaxUnavailable, InvalidSelector};
use crate::problem::summary;
use crate::schedule::{Between, InvalidSchedule, Opening, Opens, Schedule};

/// Whether the image that belongs to the pool's rendered config is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// The pool has no MachineOSConfig; its nodes run the base image.
    NotLayered,
    /// The image is built and fits the rendered config.
    Ready {
        /// Pull spec with digest.
        image: String,
        /// The MachineOSBuild that made it.
        build: String,
    },
    /// No MachineOSBuild exists yet for these inputs; `message` says what it waits for.
    NoBuild {
        /// What it waits for.
        message: String,
    },
    /// The MachineOSBuild waits for a builder.
    Prepared {
        /// Its name.
        build: String,
    },
    /// The MachineOSBuild is being built.
    Building {
        /// Its name.
        build: String,
        /// How far it is.
        message: String,
        /// Whether its last attempt failed for a reason that may pass, and it is tried again.
        retrying: bool,
    },
    /// No image can be had until somebody changes something.
    Failed {
        /// The MachineOSBuild that failed, when one was made.
        build: Option<String>,
        /// What went wrong and where.
        message: String,
    },
    /// The build was stopped.
    Interrupted {
        /// Its name.
        build: String,
        /// Why.
        message: String,
    },
}

/// Everything that a pool's roll-out is decided from.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The pool's rendered config, once there is one.
    pub config: Option<String>,
    /// The image that goes with it.
    pub gate: Gate,
    /// `spec.paused`.
    pub paused: bool,
    /// Slots of the pool.
    pub max_unavailable: Result<usize, InvalidMaxUnavailable>,
    /// The pool's members.
    pub nodes: Vec<NodeView>,
    /// Nodes that this pool and others select, with the names of those pools: nobody updates them.
    pub contested: BTreeMap<String, Vec<String>>,
    /// A `nodeSelector` that cannot be read, so that the pool has no members.
    pub invalid_selector: Option<InvalidSelector>,
    /// How many nodes may fail an update before no further one starts; none for any number.
    pub failure_budget: Option<usize>,
    /// What is wrong with the pool's RolloutPolicy.
    pub policy_problems: Vec<String>,
    /// Order and times of its updates.
    pub schedule: Result<Schedule, InvalidSchedule>,
    /// Nodes that drain on their way to the target, or may.
    pub drains: BTreeSet<String>,
    /// What keeps files of the rendered config from being given to nodes, each with the file.
    pub missing: Vec<String>,
    /// Now.
    pub now: Timestamp,
}

impl Seen {
    /// What every node of the pool should run, once it is known.
    pub fn target(&self) -> Option<Target> {
        let config = self.config.clone()?;
        let image = match &self.gate {
            Gate::NotLayered => None,
            Gate::Ready { image, .. } => Some(image.clone()),
            Gate::NoBuild { .. }
            | Gate::Prepared { .. }
            | Gate::Building { .. }
            | Gate::Failed { .. }
            | Gate::Interrupted { .. } => return None,
        };
        Some(Target { config, image })
    }
}

/// One node that is told to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Name of the node.
    pub node: String,
    /// The version of the Node that the decision was made from.
    pub resource_version: Option<String>,
    /// What it was told before.
    pub from: Option<Target>,
    /// What it is told now.
    pub to: Target,
}

/// Why nodes that need an update get none now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// The pool is paused.
    Paused,
    /// The pool has no rendered config yet.
    NoConfig,
    /// The image is not there; the gate says why.
    NoImage,
    /// Files of the rendered config take their content from Secrets, and cannot.
    NoContent {
        /// Which, and why.
        missing: Vec<String>,
    },
    /// The pool's `maxUnavailable` cannot be read.
    MaxUnavailable(InvalidMaxUnavailable),
    /// All slots are held.
    Slots {
        /// Slots of the pool.
        max: usize,
        /// Who holds them, with the reason, by node name.
        holders: BTreeMap<String, String>,
    },
    /// More nodes failed their update than the pool's RolloutPolicy allows.
    FailureBudget {
        /// How many may fail.
        budget: usize,
        /// Who failed, with the reason, by node name.
        failed: BTreeMap<String, String>,
    },
    /// The pool's waves or windows cannot be read.
    Schedule(InvalidSchedule),
    /// The wave whose turn it is keeps the next ones back.
    Wave {
        /// Its name.
        wave: String,
        /// Why.
        between: Between,
    },
    /// The nodes that are left drain on their way, and no maintenance window is open.
    Window {
        /// Name of the next window.
        name: String,
        /// When it opens.
        opens: Opens,
    },
    /// The nodes that are left cannot take an update now.
    NotServing {
        /// Those nodes, with the reason.
        nodes: BTreeMap<String, String>,
    },
}

impl Hold {
    /// Every word that [`Hold::word`] has.
    pub const WORDS: [&str; 10] = [
        "paused",
        "config",
        "image",
        "secret",
        "invalid",
        "slots",
        "halted",
        "wave",
        "window",
        "not_serving",
    ];

    /// What is waited for, in a word.
    pub fn word(&self) -> &'static str {
        match self {
            Hold::Paused => "paused",
            Hold::NoConfig => "config",
            Hold::NoImage => "image",
            Hold::NoContent { .. } => "secret",
            Hold::MaxUnavailable(_) | Hold::Schedule(_) => "invalid",
            Hold::Slots { .. } => "slots",
            Hold::FailureBudget { .. } => "halted",
            Hold::Wave { .. } => "wave",
            Hold::Window { .. } => "window",
            Hold::NotServing { .. } => "not_serving",
        }
    }
}

/// What is done for a pool now. Nothing in a settled or paused pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Nodes to tell, in this order.
    pub assign: Vec<Assignment>,
    /// Why others wait, when some do.
    pub hold: Option<Hold>,
}

impl Plan {
    /// When time alone changes what is to be done.
    pub fn look_again(&self) -> Option<Timestamp> {
        match self.hold.as_ref()? {
            Hold::Window { opens, .. } => Some(opens.at),
            Hold::Wave {
                between: Between::Soak(until),
                ..
            } => Some(*until),
            _ => None,
        }
    }
}

/// Decides which nodes are told to change.
pub fn plan(seen: &Seen) -> Plan {
    let wait = |hold| Plan {
        assign: Vec::new(),
        hold: Some(hold),
    };
    if seen.config.is_none() {
        return wait(Hold::NoConfig);
    }
    let Some(target) = seen.target() else {
        return wait(Hold::NoImage);
    };
    let tell = |node: &NodeView| Assignment {
        node: node.name.clone(),
        resource_version: node.resource_version.clone(),
        from: node.desired.clone(),
        to: target.clone(),
    };
    let (arrived, outdated): (Vec<&NodeView>, Vec<&NodeView>) = seen
        .nodes
        .iter()
        .filter(|node| node.desired.as_ref() != Some(&target))
        .partition(|node| node.desired.is_none() && node.runs(&target));
    // Whoever has it and was never told, or not since a backup was restored, is told at any time: it looks after that then.
    let assign: Vec<Assignment> = arrived.into_iter().map(tell).collect();
    if outdated.is_empty() {
        return Plan { assign, hold: None };
    }
    let wait = |hold| Plan {
        assign: assign.clone(),
        hold: Some(hold),
    };
    if seen.paused {
        return wait(Hold::Paused);
    }
    if !seen.missing.is_empty() {
        return wait(Hold::NoContent {
            missing: seen.missing.clone(),
        });
    }
    let max = match &seen.max_unavailable {
        Ok(max) => *max,
        Err(invalid) => return wait(Hold::MaxUnavailable(invalid.clone())),
    };
    let schedule = match &seen.schedule {
        Ok(schedule) => schedule,
        Err(invalid) => return wait(Hold::Schedule(invalid.clone())),
    };

    let holders: BTreeMap<String, String> = seen
        .nodes
        .iter()
        .filter_map(|node| holds_slot(node).map(|why| (node.name.clone(), why)))
        .collect();
    let (superseded, rest): (Vec<_>, Vec<_>) = outdated
        .into_iter()
        .partition(|node| node.phase().in_progress());
    let (mut ready, blocked): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|node| node.obstacle.is_none() || node.phase() == Phase::New);
    ready.sort_by(|a, b| order(a).cmp(&order(b)));

    let mut slots = Slots::of(seen, max, &holders);
    let over_budget = over_budget(seen);
    if over_budget.is_some() {
        ready.clear();
    }
    let out_of_turn = out_of_turn(seen, schedule, &target, &mut ready);
    let out_of_hours = out_of_hours(seen, schedule, &mut ready);
    let before = ready.len();
    ready.retain(|node| slots.take(!holders.contains_key(&node.name), !disrupted(node)));
    let out_of_slots = ready.len() < before;
    let chosen = [superseded, ready].concat();
    let hold = if let Some(hold) = over_budget {
        Some(hold)
    } else if out_of_slots {
        let mut holders = holders;
        for node in &chosen {
            let started = || "is told to update now".to_owned();
            holders.entry(node.name.clone()).or_insert_with(started);
        }
        Some(Hold::Slots { max, holders })
    } else if let Some(hold) = out_of_hours.or(out_of_turn) {
        Some(hold)
    } else if blocked.is_empty() {
        None
    } else {
        Some(Hold::NotServing {
            nodes: blocked
                .iter()
                .map(|node| (node.name.clone(), node.obstacle.clone().unwrap_or_default()))
                .collect(),
        })
    };
    Plan {
        assign: assign
            .iter()
            .cloned()
            .chain(chosen.into_iter().map(tell))
            .collect(),
        hold,
    }
}

/// What of `maxUnavailable` is in use.
///
/// A degraded node that still serves holds a slot against others, yet updating it is a disruption like any other: three
/// of them must not go at once. A new node that does not serve yet disrupts nobody, but it is as little known as any
/// other whether it survives its update.
struct Slots {
    max: usize,
    held: usize,
    down: usize,
    under_way: usize,
}

impl Slots {
    fn of(seen: &Seen, max: usize, holders: &BTreeMap<String, String>) -> Self {
        let count = |is: fn(&NodeView) -> bool| seen.nodes.iter().filter(|node| is(node)).count();
        Slots {
            max,
            held: holders.len(),
            down: count(disrupted),
            under_way: count(|node| node.phase().in_progress()),
        }
    }

    /// Whether one more node may start, which then counts.
    fn take(&mut self, takes_slot: bool, goes_down: bool) -> bool {
        let fits = self.under_way < self.max
            && !(takes_slot && self.held >= self.max)
            && !(goes_down && self.down >= self.max);
        if fits {
            self.held += usize::from(takes_slot);
            self.down += usize::from(goes_down);
            self.under_way += 1;
        }
        fits
    }
}

fn disrupted(node: &NodeView) -> bool {
    node.phase().in_progress() || node.obstacle.is_some()
}

/// Keeps back whoever is not of the wave whose turn it is. Nodes that are under way already go over to what is newer at
/// once: they are disturbed anyhow, and may be what the others wait for.
fn out_of_turn(
    seen: &Seen,
    schedule: &Schedule,
    target: &Target,
    ready: &mut Vec<&NodeView>,
) -> Option<Hold> {
    let (turn, between) = schedule.turn(&seen.nodes, target, seen.now);
    let before = ready.len();
    ready.retain(|node| schedule.wave_of(node) <= turn);
    let wave = schedule.waves.get(turn)?.name.clone();
    let hold = Hold::Wave {
        wave,
        between: between?,
    };
    (ready.len() < before).then_some(hold)
}

/// Keeps back whoever drains while no window is open. A new node has nothing yet that could be disturbed.
fn out_of_hours(seen: &Seen, schedule: &Schedule, ready: &mut Vec<&NodeView>) -> Option<Hold> {
    let Opening::Closed { name, opens } = schedule.windows.at(seen.now) else {
        return None;
    };
    let before = ready.len();
    ready.retain(|node| node.phase() == Phase::New || !seen.drains.contains(&node.name));
    (ready.len() < before).then_some(Hold::Window { name, opens })
}

/// The halt of a pool where too many nodes failed. What failed is a node's update: one that runs its target and drifted
/// says nothing of the image.
fn over_budget(seen: &Seen) -> Option<Hold> {
    let budget = seen.failure_budget?;
    let failed: BTreeMap<String, String> = seen
        .nodes
        .iter()
        .filter(|node| node.phase() == Phase::Failing)
        .map(|node| (node.name.clone(), format!("reports: {}", node.reason)))
        .collect();
    (failed.len() > budget).then_some(Hold::FailureBudget { budget, failed })
}

/// Why the node holds a slot, if it does. However many reasons there are, it is one slot.
fn holds_slot(node: &NodeView) -> Option<String> {
    let why = match node.phase() {
        Phase::Pending | Phase::Working => return node.under_way(),
        Phase::Failing => format!("failed to update: {}", node.reason),
        Phase::Degraded => format!("is degraded: {}", node.reason),
        Phase::New | Phase::Done => return node.obstacle.clone(),
    };
    Some(why)
}

/// By zone, then the oldest first; nodes without a zone come last.
fn order(node: &NodeView) -> impl Ord + '_ {
    (
        node.zone.is_none(),
        node.zone.as_deref(),
        node.created,
        node.name.as_str(),
    )
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.assign.is_empty() && self.hold.is_none() {
            return f.write_str("nothing to do");
        }
        let lines = self
            .assign
            .iter()
            .map(Assignment::to_string)
            .chain(self.hold.iter().map(|hold| format!("others wait: {hold}")));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(from) => write!(f, "node `{}`: {from} → {}", self.node, self.to),
            None => write!(f, "node `{}`: {}", self.node, self.to),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Paused => f.write_str("the pool is paused (`spec.paused`)"),
            Hold::NoConfig => f.write_str("the pool has no rendered config yet"),
            Hold::NoImage => f.write_str("the image of the rendered config is not there yet"),
            Hold::NoContent { missing } => f.write_str(&summary(missing).replace('\n', "; ")),
            Hold::MaxUnavailable(invalid) => {
                write!(f, "{invalid}; no further node starts until it is corrected")
            }
            Hold::Slots { max, holders } => write!(
                f,
                "{} of {max} allowed unavailable: {}",
                holders.len(),
                listed(holders)
            ),
            Hold::FailureBudget { budget, failed } => write!(
                f,
                "{} failed and {budget} may (`spec.failureBudget` of the pool's RolloutPolicy): {}; mend or replace what \
                 they were told to run",
                failed.len(),
                listed(failed)
            ),
            Hold::Schedule(invalid) => {
                write!(f, "{invalid}; no further node starts until it is corrected")
            }
            Hold::Wave { wave, between } => write!(f, "wave `{wave}` comes first: {between}"),
            Hold::Window { name, opens } => {
                write!(f, "they drain, and window `{name}` opens at {opens}")
            }
            Hold::NotServing { nodes } => f.write_str(&listed(nodes)),
        }
    }
}

/// Messages name this many nodes; 200 would be no message any more.
const NAMED: usize = 5;

/// "node `a` is updating; node `b` is cordoned; and 3 more".
pub(crate) fn listed(nodes: &BTreeMap<String, String>) -> String {
    let mut parts: Vec<String> = nodes
        .iter()
        .take(NAMED)
        .map(|(name, why)| format!("node `{name}` {why}"))
        .collect();
    if nodes.len() > NAMED {
        parts.push(format!("and {} more", nodes.len() - NAMED));
    }
    parts.join("; ")
}

#[cfg(test)]
pub(crate) mod tests;
