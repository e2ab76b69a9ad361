//! In which order and at which times a pool's nodes are updated: the waves and windows of its RolloutPolicy.

mod window;

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_core::ResourceExt;

use crate::api::{RolloutPolicy, UpdateWave};
use crate::node::{NodeView, Target};
use crate::problem::{Problem, summary};
use crate::selector;

pub use window::{Opening, Opens, Window, Windows};

/// A policy's waves and windows, read once and trusted afterwards.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schedule {
    /// In their order. Nodes of none come after the last.
    pub waves: Vec<Wave>,
    /// When updates that drain may begin.
    pub windows: Windows,
}

/// Nodes that are updated before those after them.
#[derive(Debug, Clone, PartialEq)]
pub struct Wave {
    /// What messages call it.
    pub name: String,
    /// Selects its nodes, of those that no earlier wave has.
    pub selector: LabelSelector,
    /// How long all of its nodes must have been well before the next wave.
    pub soak: SignedDuration,
    /// Whether the next wave waits for a person.
    pub pause: bool,
}

/// A schedule that cannot be read: nothing begins until it is mended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("RolloutPolicy `{policy}`: {problems}")]
pub struct InvalidSchedule {
    /// Name of the policy.
    pub policy: String,
    /// What is wrong with it, with fields.
    pub problems: String,
}

/// What keeps the waves after one back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Between {
    /// Nodes of the wave that do not run the target yet.
    Nodes(Vec<String>),
    /// All do, and must stay well until then.
    Soak(Timestamp),
    /// All do, and a person is to say that the next wave may begin.
    Pause,
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Between::Nodes(nodes) => {
                let named: Vec<String> = nodes
                    .iter()
                    .take(NAMED)
                    .map(|node| format!("`{node}`"))
                    .collect();
                let more = match nodes.len() > NAMED {
                    true => format!(" and {} more", nodes.len() - NAMED),
                    false => String::new(),
                };
                write!(f, "{}{more} not there yet", named.join(", "))
            }
            Between::Soak(until) => {
                let until = Timestamp::from_second(until.as_second()).unwrap_or(*until);
                write!(f, "all of it is there, and has to stay well until {until}")
            }
            Between::Pause => f.write_str(
                "all of it is there, and the next begins when its `pause` is taken out of the pool's RolloutPolicy",
            ),
        }
    }
}

/// Messages name this many nodes.
const NAMED: usize = 5;

/// What a soak is bounded by.
const LONGEST_SOAK: SignedDuration = SignedDuration::from_hours(720);

impl Wave {
    fn of(wave: &UpdateWave) -> Result<Self, Problem> {
        selector::matches(&wave.node_selector, &BTreeMap::new()).map_err(|problem| {
            Problem::new(format!("nodeSelector.{}", problem.field), problem.reason)
        })?;
        let soak = wave.soak.map(std::time::Duration::from).unwrap_or_default();
        let soak = SignedDuration::try_from(soak)
            .ok()
            .filter(|soak| *soak <= LONGEST_SOAK)
            .ok_or_else(|| Problem::new("soak", "expected 30 days (`720h`) at most"))?;
        Ok(Wave {
            name: wave.name.clone(),
            selector: wave.node_selector.clone(),
            soak,
            pause: wave.pause,
        })
    }
}

impl Schedule {
    /// The schedule of a pool's policy; without one, all nodes are alike and any time is right.
    ///
    /// # Errors
    /// Everything that is wrong with waves and windows.
    pub fn of(policy: Option<&RolloutPolicy>) -> Result<Self, InvalidSchedule> {
        let Some(policy) = policy else {
            return Ok(Schedule::default());
        };
        Schedule::read(policy).map_err(|problems| InvalidSchedule {
            policy: policy.name_any(),
            problems: summary(&problems),
        })
    }

    /// Reads a policy's waves and windows.
    ///
    /// # Errors
    /// Everything that is wrong with them, with fields.
    pub fn read(policy: &RolloutPolicy) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut waves = Vec::new();
        for (index, wave) in policy.spec.waves.iter().enumerate() {
            match Wave::of(wave) {
                Ok(wave) => waves.push(wave),
                Err(problem) => problems.push(Problem::new(
                    format!("spec.waves[{index}].{}", problem.field),
                    problem.reason,
                )),
            }
        }
        match Windows::of(&policy.spec.windows) {
            Ok(windows) if problems.is_empty() => Ok(Schedule { waves, windows }),
            Ok(_) => Err(problems),
            Err(found) => Err(problems.into_iter().chain(found).collect()),
        }
    }

    /// The number of the wave that a node belongs to; that after the last for a node of none.
    pub fn wave_of(&self, node: &NodeView) -> usize {
        let selects =
            |wave: &Wave| selector::matches(&wave.selector, &node.labels).unwrap_or(false);
        let found = self.waves.iter().position(selects);
        found.unwrap_or(self.waves.len())
    }

    /// The wave whose turn it is, and what keeps the next from it. A wave without nodes is passed over.
    pub fn turn(
        &self,
        nodes: &[NodeView],
        target: &Target,
        now: Timestamp,
    ) -> (usize, Option<Between>) {
        for (number, wave) in self.waves.iter().enumerate() {
            let members: Vec<&NodeView> = nodes
                .iter()
                .filter(|node| self.wave_of(node) == number)
                .collect();
            if members.is_empty() {
                continue;
            }
            let behind: Vec<String> = members
                .iter()
                .filter(|node| !node.runs(target))
                .map(|node| node.name.clone())
                .collect();
            if !behind.is_empty() {
                return (number, Some(Between::Nodes(behind)));
            }
            if wave.pause {
                return (number, Some(Between::Pause));
            }
            let last = members.iter().filter_map(|node| node.done_since).max();
            let soaked = last.and_then(|last| last.checked_add(wave.soak).ok());
            if let Some(soaked) = soaked.filter(|soaked| *soaked > now) {
                return (number, Some(Between::Soak(soaked)));
            }
        }
        (self.waves.len(), None)
    }
}

#[cfg(test)]
mod tests;
