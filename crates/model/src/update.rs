//! What takes a node from one version (rendered config and image) to another: what changes, whether it disturbs the
//! node, and why.
//!
//! Versions are compared by meaning. Contents are decoded, defaults are filled in and order is ignored, so that another
//! spelling of the same file, a spelled-out default or a repeated kernel argument is no change and reboots nothing.

mod change;
mod policy;
mod steps;

use std::collections::BTreeSet;
use std::fmt;

use crate::api::MachineConfigSpec;
use crate::ignition::{self, Config};
use crate::node::Target;
use crate::problem::Problem;

pub use change::{Change, Edit};
pub use policy::{Action, Service};
pub use steps::{DrainRequest, Failure, Plan, Seen, Step, plan};

/// A rendered config with the image that goes with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Version {
    /// Name of the rendered MachineConfig; empty for what a node had before its first.
    pub name: String,
    /// The layered image; absent where the pool has none.
    pub layered_image: Option<String>,
    /// Image of pools that have no layered one.
    pub os_image_url: String,
    /// Files, units and keys.
    pub ignition: Config,
    /// Kernel arguments, each once.
    pub kernel_arguments: Vec<String>,
    /// Extensions, sorted, each once.
    pub extensions: BTreeSet<String>,
    /// Kernel; `default` when none is chosen.
    pub kernel_type: String,
    /// FIPS mode.
    pub fips: bool,
}

impl Version {
    /// Reads a rendered config.
    ///
    /// # Errors
    /// Every problem of its Ignition config, with the field's path.
    pub fn new(
        name: &str,
        spec: &MachineConfigSpec,
        layered_image: Option<&str>,
    ) -> Result<Self, Vec<Problem>> {
        let ignition = spec
            .config
            .as_ref()
            .map(ignition::parse)
            .transpose()?
            .unwrap_or_default();
        let mut kernel_arguments: Vec<String> = Vec::new();
        for argument in spec
            .kernel_arguments
            .iter()
            .flat_map(|line| line.split_ascii_whitespace())
        {
            if !kernel_arguments.iter().any(|seen| seen == argument) {
                kernel_arguments.push(argument.to_owned());
            }
        }
        let kernel_type = match spec.kernel_type.as_str() {
            "" => "default",
            other => other,
        };
        Ok(Version {
            name: name.to_owned(),
            layered_image: layered_image.map(str::to_owned),
            os_image_url: spec.os_image_url.clone(),
            ignition: ignition.canonical(),
            kernel_arguments,
            extensions: spec.extensions.iter().cloned().collect(),
            kernel_type: kernel_type.to_owned(),
            fips: spec.fips,
        })
    }

    /// The image that a node of this version runs; none when neither pool nor config names one.
    pub fn image(&self) -> Option<&str> {
        self.layered_image
            .as_deref()
            .or(Some(self.os_image_url.as_str()))
            .filter(|image| !image.is_empty())
    }

    /// The version's name as the Node annotations have it.
    pub fn target(&self) -> Target {
        Target {
            config: self.name.clone(),
            image: self.layered_image.clone(),
        }
    }
}

/// Whether two pull specs are the same image: by digest where both have one, whatever registry it comes from.
pub fn same_image(a: &str, b: &str) -> bool {
    match (a.rsplit_once('@'), b.rsplit_once('@')) {
        (Some((_, a)), Some((_, b))) => a == b,
        _ => a == b,
    }
}

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
            Disruption::Reboot => "reboot",
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
    /// What follows for running services, in order. Empty when the node reboots: everything starts anew then.
    pub actions: Vec<Action>,
    /// How much the whole disturbs the node.
    pub disruption: Disruption,
    /// What this node cannot do, each with the field and the remedy.
    pub obstacles: Vec<Problem>,
}

impl Update {
    /// What takes a node from `from` to `to`. `interrupted` are versions that may be half there because applying them
    /// was cut short: whatever they touched counts as changed.
    pub fn between(from: &Version, to: &Version, interrupted: &[&Version]) -> Update {
        let mut changes = change::between(from, to);
        for half in interrupted {
            for change in change::between(half, to) {
                if change.is_live()
                    && !changes
                        .iter()
                        .any(|known| known.subject() == change.subject())
                {
                    changes.push(change);
                }
            }
        }
        let disruption = changes
            .iter()
            .map(|c| {
                if c.is_live() {
                    Disruption::None
                } else {
                    Disruption::Reboot
                }
            })
            .max();
        let actions = match disruption {
            Some(Disruption::Reboot) => Vec::new(),
            _ => policy::actions(&changes),
        };
        let disruption = actions
            .iter()
            .map(Action::disruption)
            .chain(disruption)
            .max()
            .unwrap_or(Disruption::None);
        Update {
            obstacles: change::obstacles(from, to, &changes),
            changes,
            actions,
            disruption,
        }
    }

    /// Whether the versions mean the same.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes because of which the node reboots.
    pub fn reasons(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| !change.is_live())
    }
}

/// `new image, 3 files, 2 units → reboot (image …)`
impl fmt::Display for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changes");
        }
        f.write_str(&change::summary(&self.changes))?;
        write!(f, " → {}", self.disruption)?;
        let why = match self.disruption {
            Disruption::Reboot => join(self.reasons()),
            _ => join(self.actions.iter()),
        };
        if !why.is_empty() {
            write!(f, " ({why})")?;
        }
        Ok(())
    }
}

fn join<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
