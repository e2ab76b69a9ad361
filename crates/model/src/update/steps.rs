//! The agent's decision: from what is seen on a node to the steps that are left.
//!
//! The same facts give the same steps. An agent that was killed looks again and goes on where it was; nothing here
//! remembers.

use std::fmt;

use super::{Action, Disruption, Policy, Reason, Update, Version, same_image};
use crate::drain;
use crate::file_secret::SecretVersions;
use crate::node::Target;

/// The two annotations by which a node asks for a drain and hears that it was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainRequest {
    /// What the node asked for last.
    pub desired: Option<String>,
    /// What was carried out last.
    pub applied: Option<String>,
}

impl DrainRequest {
    fn was_applied(&self, request: &str) -> bool {
        self.desired.as_deref() == Some(request) && self.applied.as_deref() == Some(request)
    }

    /// Whether the node may be cordoned because of us.
    fn is_held(&self) -> bool {
        let is_drain = |value: &Option<String>| {
            value
                .as_deref()
                .is_some_and(|value| value.starts_with("drain-"))
        };
        is_drain(&self.desired) || is_drain(&self.applied)
    }
}

/// A version that was tried and taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was tried.
    pub target: Target,
    /// The versions of Secrets that it was tried with; empty where that is not known.
    pub secrets: SecretVersions,
    /// Why it was taken back.
    pub reason: String,
}

impl Failure {
    /// Whether a version is the one that was tried. With another value of a Secret it is not.
    fn is_of(&self, version: &Version) -> bool {
        self.target == version.target()
            && (self.secrets.is_empty() || self.secrets == version.secret_versions())
    }
}

/// Everything that the decision is made from.
#[derive(Debug, Clone, Default)]
pub struct Seen<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// What the running deployment has; none before the first config. Its image is the booted one.
    pub current: Option<&'a Version>,
    /// A version that was being applied to the running deployment when the agent was killed.
    pub interrupted: Option<&'a Version>,
    /// What the node should have; none before a controller has said so.
    pub desired: Option<&'a Version>,
    /// Pull spec or digest of the booted image, when the host knows it.
    pub booted_image: Option<&'a str>,
    /// Arguments that the running deployment boots with.
    pub kernel_arguments: &'a [String],
    /// Whether the desired image is on the disk.
    pub image_present: bool,
    /// Whether the next boot takes a deployment of exactly the desired version, completely configured.
    pub deployed: bool,
    /// Whether a deployment that never booted was made for us, or begun: it must go when no reboot is to come.
    pub unbooted: bool,
    /// Whether the running deployment was found well since it booted or was changed.
    pub verified: bool,
    /// How far its last request to be drained or uncordoned is.
    pub drain: DrainRequest,
    /// What was tried last and taken back.
    pub failure: Option<&'a Failure>,
    /// What the node was told to go to, when there is no such configuration any more.
    pub gone: Option<&'a Target>,
    /// The image that the node's pool is about to roll out, when it is not on the disk.
    pub prefetch: Option<&'a str>,
    /// The node disruption policy in force; the defaults when there is none.
    pub policy: Option<&'a Policy>,
    /// Whether the host puts packages on top of its image: extensions, and other kernels.
    pub adds_packages: bool,
    /// Whether the host can take the desired image without a new kernel: what it says of a staged one, else whether it
    /// can do a soft reboot at all.
    pub soft_reboot: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Bring an image onto the disk. Disturbs nothing.
    Pull {
        /// Its pull spec.
        image: String,
    },
    /// Ask for cordon and drain, and wait until that is done.
    Drain {
        /// Value of the annotation.
        request: String,
        /// Whether the request is written already.
        asked: bool,
    },
    /// Make the next boot's deployment, with the desired configuration in its `/etc`.
    Deploy,
    /// Reboot into it.
    Reboot,
    /// Start everything but the kernel anew, in it.
    SoftReboot,
    /// Take away the deployment that was to boot: it is not wanted any more.
    Discard,
    /// Write files and units of the running deployment and do what follows for services.
    Apply {
        /// What follows.
        actions: Vec<Action>,
    },
    /// Prove that the running deployment is what it should be.
    Verify,
    /// Ask for the cordon to be taken off, and wait until that is done.
    Uncordon {
        /// Value of the annotation.
        request: String,
        /// Whether the request is written already.
        asked: bool,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Pull { image } => write!(f, "pull `{image}`"),
            Step::Drain { asked: false, .. } => f.write_str("ask for the drain"),
            Step::Drain {
                asked: true,
                request,
            } => write!(f, "wait for the node controller to carry out `{request}`"),
            Step::Deploy => f.write_str("make the new deployment"),
            Step::Reboot => f.write_str("reboot"),
            Step::SoftReboot => f.write_str("soft-reboot"),
            Step::Discard => f.write_str("discard the deployment that was to boot"),
            Step::Apply { .. } => f.write_str("write files and units"),
            Step::Verify => f.write_str("verify"),
            Step::Uncordon { asked: false, .. } => f.write_str("ask to be uncordoned"),
            Step::Uncordon {
                asked: true,
                request,
            } => {
                write!(f, "wait for the node controller to carry out `{request}`")
            }
        }
    }
}

/// What is left to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Name of the node.
    pub node: String,
    /// What it is going to; none while no controller has said so.
    pub target: Option<Target>,
    /// What differs.
    pub update: Update,
    /// The steps that are left; the first is next.
    pub steps: Vec<Step>,
    /// Why nothing can be done about the desired version.
    pub stuck: Option<String>,
}

impl Plan {
    /// Whether the node is where it should be and nothing is left.
    pub fn is_settled(&self) -> bool {
        self.target.is_some()
            && self.stuck.is_none()
            && self.update.is_empty()
            && self.steps.is_empty()
    }

    /// Whether the next step only brings an image onto the disk that nobody has asked this node to run yet.
    pub fn prefetches(&self) -> bool {
        self.stuck.is_none()
            && self.update.is_empty()
            && matches!(self.steps.first(), Some(Step::Pull { .. }))
    }

    /// Whether the way to the target contains a reboot that is still to come.
    pub fn reboots(&self) -> bool {
        self.steps.contains(&Step::Reboot) || self.steps.contains(&Step::SoftReboot)
    }

    /// Why a step is done: what of the update asks for it.
    pub fn reasons(&self, step: &Step) -> &[Reason] {
        match step {
            Step::Drain { .. } if self.update.reboot.is_empty() => &self.update.drain,
            Step::Pull { .. } | Step::Drain { .. } | Step::Deploy => &self.update.reboot,
            Step::Reboot | Step::SoftReboot => &self.update.reboot,
            Step::Discard | Step::Apply { .. } | Step::Verify | Step::Uncordon { .. } => {
                &self.update.reasons
            }
        }
    }
}

/// `worker-1: new image, 3 files, 2 units → reboot (why)`
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.node)?;
        match (&self.target, &self.stuck) {
            (None, _) => f.write_str("waits for a controller to choose its configuration"),
            (Some(_), Some(why)) => write!(f, "stuck: {why}"),
            (Some(_), None) => self.update.fmt(f),
        }
    }
}

/// Decides what is left to do.
pub fn plan(seen: &Seen<'_>) -> Plan {
    let prefetch = seen.prefetch.map(|image| Step::Pull {
        image: image.to_owned(),
    });
    let defaults = Policy::default();
    let policy = seen.policy.unwrap_or(&defaults);
    if let Some(gone) = seen.gone {
        return stranded(seen, gone, policy);
    }
    let Some(desired) = seen.desired else {
        return Plan {
            node: seen.node.to_owned(),
            target: None,
            update: Update::between(&Version::default(), &Version::default(), &[], policy),
            steps: prefetch.into_iter().collect(),
            stuck: None,
        };
    };
    let current = as_it_runs(seen, desired);
    let interrupted: Vec<&Version> = seen.interrupted.into_iter().collect();
    let update = Update::between(&current, desired, &interrupted, policy);
    let update = match seen.adds_packages {
        true => update.with_packages(),
        false => update,
    };
    let update = match seen.soft_reboot {
        true => update.softened(),
        false => update,
    };
    let stuck = stuck(seen, desired, &update);
    let mut steps = match (&stuck, update.disruption) {
        (Some(_), _) => seen
            .current
            .map(|current| staying(seen, current, policy))
            .unwrap_or_default(),
        (None, Disruption::Reboot) => rebooting(seen, desired, Step::Reboot),
        (None, Disruption::SoftReboot) => rebooting(seen, desired, Step::SoftReboot),
        (None, _) => live(seen, desired, &update),
    };
    // Before anything else: whatever reboots the node now must find what it runs.
    if seen.unbooted && !steps.contains(&Step::Reboot) && !steps.contains(&Step::SoftReboot) {
        steps.insert(0, Step::Discard);
    }
    if steps.is_empty() {
        steps.extend(prefetch);
    }
    Plan {
        node: seen.node.to_owned(),
        target: Some(desired.target()),
        update,
        steps,
        stuck,
    }
}

/// The plan of a node that cannot go where it was told to: it stays what it is, in service.
fn stranded(seen: &Seen<'_>, gone: &Target, policy: &Policy) -> Plan {
    let nothing = Version::default();
    let current = seen.current.unwrap_or(&nothing);
    let mut steps = seen
        .current
        .map(|current| staying(seen, current, policy))
        .unwrap_or_default();
    if seen.unbooted {
        steps.insert(0, Step::Discard);
    }
    Plan {
        node: seen.node.to_owned(),
        target: Some(gone.clone()),
        update: Update::between(current, current, &[], policy),
        steps,
        stuck: Some(format!(
            "there is no MachineConfig `{}` any more: its pool is gone, or somebody removed it; the node stays what it is \
             until a pool tells it anew",
            gone.config
        )),
    }
}

/// The current version with the image and kernel arguments that the host really runs. Arguments that no config of
/// ours speaks of stay out of it: they are the machine's own.
fn as_it_runs(seen: &Seen<'_>, desired: &Version) -> Version {
    let mut current = seen.current.cloned().unwrap_or_default();
    current
        .kernel_arguments
        .extend(desired.kernel_arguments.iter().cloned());
    current
        .kernel_arguments
        .retain(|argument| seen.kernel_arguments.contains(argument));
    if let Some(booted) = seen.booted_image {
        current.os_image_url = booted.to_owned();
        current.layered_image = current
            .layered_image
            .filter(|image| same_image(image, booted));
    }
    current
}

fn stuck(seen: &Seen<'_>, desired: &Version, update: &Update) -> Option<String> {
    let failed = seen
        .failure
        .filter(|failure| failure.is_of(desired) && !update.is_empty());
    if let Some(failure) = failed {
        return Some(format!(
            "{} was taken back: {}",
            failure.target, failure.reason
        ));
    }
    (!update.obstacles.is_empty()).then(|| {
        let problems: Vec<String> = update.obstacles.iter().map(ToString::to_string).collect();
        format!(
            "rendered config `{}`: {}",
            desired.name,
            problems.join("; ")
        )
    })
}

fn rebooting(seen: &Seen<'_>, desired: &Version, reboot: Step) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(image) = desired
        .image()
        .filter(|_| !seen.image_present && !seen.deployed)
    {
        steps.push(Step::Pull {
            image: image.to_owned(),
        });
    }
    steps.extend(drain(seen, desired));
    if !seen.deployed {
        steps.push(Step::Deploy);
    }
    steps.extend([reboot, Step::Verify, uncordon(desired)]);
    steps
}

/// The drain for a version, unless it is done.
fn drain(seen: &Seen<'_>, desired: &Version) -> Option<Step> {
    let request = drain::request(&desired.name);
    let asked = seen.drain.desired.as_ref() == Some(&request);
    (!seen.drain.was_applied(&request)).then_some(Step::Drain { request, asked })
}

fn uncordon(desired: &Version) -> Step {
    Step::Uncordon {
        request: format!("uncordon-{}", desired.name),
        asked: false,
    }
}

fn live(seen: &Seen<'_>, desired: &Version, update: &Update) -> Vec<Step> {
    let mut steps = Vec::new();
    let renamed = seen
        .current
        .is_none_or(|current| current.target() != desired.target());
    if !update.is_empty() || renamed {
        let drains = !update.drain.is_empty();
        steps.extend(drain(seen, desired).filter(|_| drains));
        steps.push(Step::Apply {
            actions: update.actions.clone(),
        });
        steps.push(Step::Verify);
        match drains {
            true => steps.push(uncordon(desired)),
            false => steps.extend(release(&seen.drain, desired)),
        }
        return steps;
    }
    settling(seen, desired)
}

/// What is left when the node stays what it is: what was half written of another version goes.
fn staying(seen: &Seen<'_>, current: &Version, policy: &Policy) -> Vec<Step> {
    let half: Vec<&Version> = seen.interrupted.into_iter().collect();
    let mut back = Update::between(current, current, &half, policy);
    // Whoever began to write had drained the node before, if it was to be.
    back.drain.clear();
    live(seen, current, &back)
}

/// What is left when nothing is to change: prove that the node is well, and give it back.
fn settling(seen: &Seen<'_>, version: &Version) -> Vec<Step> {
    let verify = (!seen.verified).then_some(Step::Verify);
    verify
        .into_iter()
        .chain(release(&seen.drain, version))
        .collect()
}

/// The way out of every cordon that was asked for, also for an update that was given up.
fn release(drain: &DrainRequest, desired: &Version) -> Option<Step> {
    let request = format!("uncordon-{}", desired.name);
    let asked = drain.desired.as_ref() == Some(&request);
    let done = asked && drain.applied.as_ref() == Some(&request);
    (!done && (asked || drain.is_held())).then_some(Step::Uncordon { request, asked })
}
