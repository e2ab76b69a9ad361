//! What follows from changes: for running services, for the pods of the node, for the node itself.

use super::action::{Action, in_order};
use super::change::Change;
use super::policy::{Directive, Policy, Rule, unsafe_changes};
use super::reason::Reason;
use super::version::Version;
use crate::ignition::NodeKind;

/// Everything that follows.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// Why the node reboots.
    pub(super) reboot: Vec<Reason>,
    /// Why it drains.
    pub(super) drain: Vec<Reason>,
    /// What is done to services, in order.
    pub(super) actions: Vec<Action>,
}

/// What follows from going to `to`. `from` are all the versions that may be there, the current one first.
pub(super) fn follow(
    changes: &[Change],
    from: &[&Version],
    to: &Version,
    policy: &Policy,
) -> Follow {
    let none = Version::default();
    let current = from.first().copied().unwrap_or(&none);
    let mut all = Follow::default();
    let mut asked = Vec::new();
    for change in changes {
        let mut one = One {
            reason: change.reason(current, to),
            actions: Vec::new(),
            all: &mut all,
        };
        match change {
            Change::Path { path, .. } => {
                let is_file = |path: &str| {
                    from.iter().chain([&to]).any(|version| {
                        let node = version.ignition.node(path);
                        node.is_some_and(|node| matches!(node.kind, NodeKind::File { .. }))
                    })
                };
                if let Some(rule) = policy.of_path(path, is_file) {
                    let judge = || unsafe_in(path, from, to);
                    one.carry_out(&rule.directives, &rule.subject, judge);
                }
            }
            Change::Unit { name, .. } => one.unit(change, policy.of_unit(name)),
            Change::SshKeys | Change::Password => {
                one.carry_out(policy.of_keys(), "sshkey", Vec::new);
            }
            Change::Image { .. }
            | Change::KernelArguments { .. }
            | Change::Extensions { .. }
            | Change::ExtensionsImage { .. }
            | Change::KernelType { .. }
            | Change::Fips(_) => one.all.reboot.push(one.reason.clone()),
        }
        asked.push(one.actions);
    }
    all.actions = in_order(asked);
    if !all.reboot.is_empty() {
        // Everything starts anew then, and a reboot drains anyway.
        all.actions.clear();
        all.drain.clear();
    }
    all
}

/// What is unsafe about the change of a registry configuration, from whatever may be there.
fn unsafe_in(path: &str, from: &[&Version], to: &Version) -> Vec<String> {
    let contents = |version: &Version| {
        let node = version.ignition.node(path);
        node.and_then(|node| node.contents().map(<[u8]>::to_vec))
    };
    let after = contents(to);
    let mut found: Vec<String> = Vec::new();
    for before in from.iter().map(|version| contents(version)) {
        for change in unsafe_changes(before.as_deref(), after.as_deref()) {
            if !found.contains(&change) {
                found.push(change);
            }
        }
    }
    found
}

/// What one change asks for.
struct One<'a> {
    reason: Reason,
    actions: Vec<Action>,
    all: &'a mut Follow,
}

impl One<'_> {
    fn carry_out(
        &mut self,
        directives: &[Directive],
        subject: &str,
        judge: impl Fn() -> Vec<String>,
    ) {
        self.reason.policy = Some(subject.to_owned());
        let reasons = vec![self.reason.clone()];
        for directive in directives {
            match directive {
                Directive::None => {}
                Directive::DaemonReload => self.actions.push(Action::DaemonReload {
                    reasons: reasons.clone(),
                }),
                Directive::Reload(unit) => self.actions.push(Action::Reload {
                    unit: unit.clone(),
                    reasons: reasons.clone(),
                }),
                Directive::Restart(unit) => self.actions.push(Action::Restart {
                    unit: unit.clone(),
                    reasons: reasons.clone(),
                }),
                Directive::Drain => self.all.drain.push(self.reason.clone()),
                Directive::Reboot => self.all.reboot.push(self.reason.clone()),
                Directive::Registries => {
                    self.actions.push(Action::Reload {
                        unit: "crio.service".to_owned(),
                        reasons: reasons.clone(),
                    });
                    let details = judge();
                    if !details.is_empty() {
                        self.all.drain.push(Reason {
                            details,
                            ..self.reason.clone()
                        });
                    }
                }
            }
        }
    }

    /// A unit does what its config says, unless a policy says what else, or `None`.
    fn unit(&mut self, change: &Change, rule: Option<&Rule>) {
        let Change::Unit {
            name,
            text,
            was_enabled,
            enabled,
            stopped,
            ..
        } = change
        else {
            return;
        };
        if let Some(rule) = rule {
            self.carry_out(&rule.directives, &rule.subject, Vec::new);
            if rule.directives == [Directive::None] {
                return;
            }
        }
        let reasons = vec![self.reason.clone()];
        let unit = name.clone();
        // A template has no process of its own.
        let starts = *enabled && !was_enabled;
        if name.contains("@.") {
        } else if *stopped {
            self.actions.push(Action::Stop {
                unit,
                reasons: reasons.clone(),
            });
        } else if starts {
            self.actions.push(Action::Start {
                unit,
                anew: *text,
                reasons: reasons.clone(),
            });
        } else if *text && rule.is_none() {
            self.actions.push(Action::Restart {
                unit,
                reasons: reasons.clone(),
            });
        }
        // systemd must know the new text before anything is done with the unit, whether or not a policy says so.
        if rule.is_none() || !self.actions.is_empty() {
            self.actions.insert(0, Action::DaemonReload { reasons });
        }
    }
}
