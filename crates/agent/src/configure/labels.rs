//! SELinux labels for what is new on a host. The policy of the root that is written decides, through the system's own
//! `matchpathcon`: rules, substitutions and home directories are its business.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};

use super::ConfigureError;
use super::entries::{Entry, What};
use crate::command::Command;
use crate::root::{Found, Keep, Root, RootError};

/// Exists where the kernel enforces or watches a policy.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// What `matchpathcon` says of a path that no rule speaks of.
const NONE: &str = "<<none>>";

/// Where a root's rules are; nothing on a host without SELinux.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels {
    rules: Option<Utf8PathBuf>,
}

impl Labels {
    /// The rules of a root.
    pub(super) fn of(root: &Root) -> Result<Self, RootError> {
        if !Utf8Path::new(SELINUX).exists() {
            return Ok(Self::default());
        }
        Self::by_config(root)
    }

    /// The rules that a root's own configuration names, whatever the kernel does.
    pub(super) fn by_config(root: &Root) -> Result<Self, RootError> {
        let Found::File { bytes, .. } = root.find(Utf8Path::new("/etc/selinux/config"))? else {
            return Ok(Self::default());
        };
        let text = String::from_utf8_lossy(&bytes);
        let setting = |name: &str| {
            let mut values = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
            values.next_back().map(str::trim)
        };
        let policy = setting("SELINUXTYPE").filter(|name| !name.contains('/'));
        let rules = policy.map(|policy| {
            let place = format!("etc/selinux/{policy}/contexts/files/file_contexts");
            root.path().join(place)
        });
        Ok(Self {
            rules: rules.filter(|_| setting("SELINUX") != Some("disabled")),
        })
    }

    /// How each of `new` is to be labelled.
    pub(super) fn look_up(
        &self,
        new: &BTreeMap<&Utf8PathBuf, &Entry>,
    ) -> Result<BTreeMap<Utf8PathBuf, Keep>, ConfigureError> {
        let Some(rules) = &self.rules else {
            return Ok(BTreeMap::new());
        };
        let mut by_kind: BTreeMap<&str, Vec<&Utf8PathBuf>> = BTreeMap::new();
        for (path, entry) in new {
            let kind = match entry.what {
                What::File { .. } => "file",
                What::Directory { .. } | What::Parent { .. } => "dir",
                What::Link { .. } => "lnk_file",
            };
            by_kind.entry(kind).or_default().push(path);
        }
        let mut labels = BTreeMap::new();
        for (kind, paths) in by_kind {
            let said = Command::new("matchpathcon")
                .args(["-n", "-N", "-m", kind, "-f", rules.as_str()])
                .args(paths.iter().map(|path| path.as_str()))
                .run()?;
            let lines: Vec<&str> = said.lines().map(str::trim).collect();
            if lines.len() != paths.len() {
                return Err(ConfigureError::Labels {
                    rules: rules.clone(),
                    expected: paths.len(),
                    found: lines.len(),
                });
            }
            let said = paths.into_iter().zip(lines);
            labels.extend(
                said.filter(|(_, label)| *label != NONE)
                    .map(|(path, label)| (path.clone(), Keep::Labelled(label.to_owned()))),
            );
        }
        Ok(labels)
    }
}
