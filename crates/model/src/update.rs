//! What takes a node from one version (rendered config and image) to another: what changes, whether it disturbs the
//! node, and why.
//!
//! Versions are compared by meaning. Contents are decoded, defaults are filled in and order is ignored, so that another
//! spelling of the same file, a spelled-out default or a repeated kernel argument is no change and reboots nothing.

mod action;
mod change;
mod compare;
mod follow;
mod listed;
mod obstacle;
mod policy;
mod reason;
mod rebuild;
mod steps;
mod values;
mod version;

use std::fmt;

use crate::ledger::Why;
use crate::problem::Problem;
use crate::render::field;

pub use action::{Action, by_own_names};
pub use change::{Change, Edit};
pub use listed::{Because, Listed};
pub use policy::{Policy, problems as policy_problems};
pub use reason::Reason;
pub use rebuild::rebuild;
pub use steps::{DrainRequest, Failure, Plan, Seen, Step, plan};
pub use values::{hold_back, with_held_back};
pub use version::{Version, same_image};

/// How much an update disturbs a node; the more, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disruption {
    /// Nothing that runs is touched.
    None,
    /// systemd reads its units again.
    DaemonReload,
    /// A service reads its configuration again.
    Reload,
    /// A service is started, stopped or restarted.
    Restart,
    /// The node drains while the change is made.
    Drain,
    /// The node drains, and everything but the kernel starts anew.
    SoftReboot,
    /// The node drains and reboots.
    Reboot,
}

impl Disruption {
    /// The word for it in plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Disruption::None => "no disruption",
            Disruption::DaemonReload => "daemon-reload",
            Disruption::Reload => "reload",
            Disruption::Restart => "restart",
            Disruption::Drain => "drain",
            Disruption::SoftReboot => "soft reboot",
            Disruption::Reboot => "reboot",
        }
    }

    /// The word that policies and programs have for it.
    pub fn name(self) -> &'static str {
        match self {
            Disruption::None => "None",
            Disruption::DaemonReload => "DaemonReload",
            Disruption::Reload => "Reload",
            Disruption::Restart => "Restart",
            Disruption::Drain => "Drain",
            Disruption::SoftReboot => "SoftReboot",
            Disruption::Reboot => "Reboot",
        }
    }
}

impl fmt::Display for Disruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The difference between two versions, and what it takes to make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Everything that differs.
    pub changes: Vec<Change>,
    /// Why each of them does, in the same order.
    pub reasons: Vec<Reason>,
    /// What follows for running services, in order. Empty when the node reboots: everything starts anew then.
    pub actions: Vec<Action>,
    /// Why the node drains although it does not reboot; empty when it does neither.
    pub drain: Vec<Reason>,
    /// Why the node reboots; empty when it does not.
    pub reboot: Vec<Reason>,
    /// How much the whole disturbs the node.
    pub disruption: Disruption,
    /// What this node cannot do, each with the field and the remedy.
    pub obstacles: Vec<Problem>,
}

impl Update {
    /// What takes a node from `from` to `to` under a policy. `interrupted` are versions that may be half there because
    /// applying them was cut short: whatever they touched counts as changed.
    pub fn between(
        from: &Version,
        to: &Version,
        interrupted: &[&Version],
        policy: &Policy,
    ) -> Update {
        let mut changes = compare::between(from, to);
        for half in interrupted {
            for change in compare::between(half, to) {
                if change.is_live()
                    && !changes
                        .iter()
                        .any(|known| known.subject() == change.subject())
                {
                    changes.push(change);
                }
            }
        }
        let mut there = vec![from];
        there.extend(interrupted);
        let follow::Follow {
            reboot,
            drain,
            actions,
        } = follow::follow(&changes, &there, to, policy);
        let disruption = match (&*reboot, &*drain) {
            ([_, ..], _) => Disruption::Reboot,
            ([], [_, ..]) => Disruption::Drain,
            ([], []) => {
                let parts = actions.iter().map(Action::disruption);
                parts.max().unwrap_or(Disruption::None)
            }
        };
        Update {
            reasons: changes
                .iter()
                .map(|change| change.reason(from, to))
                .collect(),
            obstacles: obstacle::obstacles(from, to, &changes),
            changes,
            actions,
            drain,
            reboot,
            disruption,
        }
    }

    /// The same update with a soft reboot in the place of a reboot, if nothing but the image asks for one: the kernel
    /// and its arguments stay. Only the host can know whether the new image has the kernel that runs.
    pub fn softened(self) -> Update {
        match self.can_be_soft() {
            true => Update {
                disruption: Disruption::SoftReboot,
                ..self
            },
            false => self,
        }
    }

    /// The same update on a host that puts packages on top of its image by itself.
    pub fn with_packages(mut self) -> Self {
        let packages = [field::EXTENSIONS, field::KERNEL_TYPE];
        self.obstacles
            .retain(|obstacle| !packages.contains(&obstacle.field.as_str()));
        self
    }

    /// Whether nothing but the image asks for the reboot.
    pub fn can_be_soft(&self) -> bool {
        let only_the_image = self
            .changes
            .iter()
            .all(|change| change.is_live() || matches!(change, Change::Image { .. }));
        let policies = self.reboot.iter().any(|reason| reason.policy.is_some());
        self.disruption == Disruption::Reboot && only_the_image && !policies
    }

    /// What makes it a reboot, when it is one.
    pub fn reboots_for(&self) -> Why {
        let any = |test: fn(&Change) -> bool| self.changes.iter().any(test);
        if any(|change| matches!(change, Change::Image { .. })) {
            Why::Image
        } else if any(|change| matches!(change, Change::KernelArguments { .. })) {
            Why::KernelArguments
        } else if self.reboot.iter().any(|reason| reason.policy.is_some()) {
            Why::Policy
        } else {
            Why::Other
        }
    }

    /// Whether the versions mean the same.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// `new image, 3 files, 2 units → reboot (image …)`; the alternate form leaves out why.
impl fmt::Display for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changes");
        }
        f.write_str(&change::summary(&self.changes))?;
        write!(f, " → {}", self.disruption)?;
        if f.alternate() {
            return Ok(());
        }
        let why = match self.disruption {
            Disruption::Reboot | Disruption::SoftReboot => join(self.reboot.iter()),
            Disruption::Drain if self.actions.is_empty() => join(self.drain.iter()),
            Disruption::Drain => {
                format!("{}; {}", join(self.drain.iter()), join(self.actions.iter()))
            }
            Disruption::None
            | Disruption::DaemonReload
            | Disruption::Reload
            | Disruption::Restart => join(self.actions.iter()),
        };
        if !why.is_empty() {
            write!(f, " ({why})")?;
        }
        Ok(())
    }
}

/// Everything that differs between two versions, each with why.
pub fn changes(from: &Version, to: &Version) -> Vec<(Change, Reason)> {
    let with_reason = |change: Change| {
        let reason = change.reason(from, to);
        (change, reason)
    };
    compare::between(from, to)
        .into_iter()
        .map(with_reason)
        .collect()
}

fn join<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
