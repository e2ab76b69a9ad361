//! Drift: what Caprock wrote and somebody else changed. Looking is cheap: contents are read only when the inode says that
//! something may have happened to them.

mod text;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use model::update::{Action, Policy, Update, Version};

use crate::configure::{Difference, Places, differences, managed};
use crate::error::chain;
use crate::host::{Host, HostError};
use crate::root::Root;
use crate::systemd::Job;

pub(crate) use text::describe;
pub(crate) use watch::Watch;

/// An inode that changed less than this before it was looked at may change again without looking different: clocks of
/// file systems are coarse.
const SETTLED_SECONDS: i64 = 2;

/// What an inode looks like: device, number, size, mode, owner, group, and when content and inode changed last.
type Stamp = Option<(u64, u64, u64, u32, u32, u32, (i64, i64), (i64, i64))>;

/// A version that was found in its place, and what its inodes looked like then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    config: String,
    stamps: BTreeMap<Utf8PathBuf, Stamp>,
}

/// What a look for drift found.
#[derive(Debug, Default)]
pub(crate) struct Drift {
    /// What differs.
    pub(crate) differences: Vec<Difference>,
    /// What to compare with next time, when nothing differs and nothing changed a moment ago.
    pub(crate) known: Option<Known>,
    /// Where the version has something.
    pub(crate) paths: BTreeSet<Utf8PathBuf>,
}

impl Host {
    /// Looks for drift from a version.
    pub(crate) fn drift(
        &self,
        version: &Version,
        known: Option<&Known>,
    ) -> Result<Drift, HostError> {
        let root = Root::open(&self.root)?;
        let paths: BTreeSet<Utf8PathBuf> = match known {
            Some(known) if known.config == version.name => known.stamps.keys().cloned().collect(),
            _ => managed(&root, version)?
                .into_iter()
                .map(|(path, _)| path)
                .collect(),
        };
        // Before the contents: what changes in between is seen the next time.
        let now = Known {
            config: version.name.clone(),
            stamps: paths
                .iter()
                .map(|path| (path.clone(), self.stamp(path)))
                .collect(),
        };
        if known == Some(&now) {
            return Ok(Drift {
                known: Some(now),
                paths,
                ..Drift::default()
            });
        }
        let differences = differences(&root, version)?;
        let recent = Timestamp::now().as_second() - SETTLED_SECONDS;
        let is_settled = |stamp: &Stamp| stamp.is_none_or(|stamp| stamp.7.0 < recent);
        let settled = differences.is_empty() && now.stamps.values().all(is_settled);
        Ok(Drift {
            differences,
            known: settled.then_some(now),
            paths,
        })
    }

    fn stamp(&self, path: &Utf8Path) -> Stamp {
        let real = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let found = real.symlink_metadata().ok()?;
        Some((
            found.dev(),
            found.ino(),
            found.size(),
            found.mode(),
            found.uid(),
            found.gid(),
            (found.mtime(), found.mtime_nsec()),
            (found.ctime(), found.ctime_nsec()),
        ))
    }

    /// Puts back what differs, and lets services take it up as after an update of it.
    pub(crate) fn heal(
        &self,
        version: &Version,
        differences: &[Difference],
        policy: &Policy,
    ) -> Result<(), HostError> {
        let root = Root::open(&self.root)?;
        for places in [Places::Running, Places::Shared] {
            self.write(&root, &[version], version, places)?;
        }
        let back = Update::between(&without(version, differences), version, &[], policy);
        for action in &back.actions {
            let done = match action {
                Action::DaemonReload { .. } => self.systemd.daemon_reload(),
                Action::Reload { unit, .. } => self.systemd.run(Job::Reload, unit),
                Action::Restart { unit, .. } => self.systemd.run(Job::Restart, unit),
                Action::Start { unit, .. } => self.systemd.run(Job::Start, unit),
                Action::Stop { .. } => Ok(()),
            };
            // The files are what drifted, and they are back; a service that does not take them up is its own fault.
            if let Err(error) = done {
                tracing::warn!("drift was put back: {}", chain(&error));
            }
        }
        Ok(())
    }
}

/// A version as if it said nothing of what differs: the way from there is what putting it back means.
fn without(version: &Version, differences: &[Difference]) -> Version {
    let mut rest = version.clone();
    let differs = |path: &str| differences.iter().any(|d| d.path == path);
    rest.ignition.nodes.retain(|node| !differs(&node.path));
    rest.ignition.units.retain(|unit| {
        let own = |d: &Difference| {
            d.path.components().any(|part| {
                part.as_str() == unit.name || part.as_str().strip_suffix(".d") == Some(&unit.name)
            })
        };
        !differences.iter().any(own)
    });
    rest
}

#[cfg(test)]
mod tests;
