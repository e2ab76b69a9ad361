//! Brings the files and units of a root to a version: the running root, or a deployment that is not booted yet.
//!
//! Idempotent and resumable: a run that was killed is simply run again. What was at a path before the first config
//! wrote there is kept, and comes back when no config wants the path any more. Everything that needs room is made before
//! anything takes its place, so that a full disk changes nothing.
//!
//! Two kinds of places are written at different times. `/etc` belongs to a deployment and is written in it, before its
//! first boot when the node reboots. `/var` and what leads there is shared by all deployments, so it follows the one
//! that is booted: early in its first boot, and back early in the first boot after a rollback.

mod accounts;
mod adopt;
mod compare;
mod core_user;
mod enablement;
mod entries;
mod labels;
mod originals;

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use model::file_secret::SecretKey;
use model::update::Version;
use thiserror::Error;

use crate::command::CommandError;
use crate::root::{Found, Keep, Root, RootError};
use crate::state::{CoreOriginal, Original, Originals, State, StateError};
use accounts::Accounts;
pub(crate) use adopt::adopt;
pub(crate) use compare::{Difference, differences, managed};
use entries::{Entry, What};
use labels::Labels;

pub(crate) use originals::forget_originals;

/// Why a root could not be configured.
#[derive(Debug, Error)]
pub enum ConfigureError {
    /// A file could not be read or written.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The agent's own state could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// `systemctl` failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A unit is enabled that exists nowhere.
    #[error(
        "unit `{unit}` of rendered config `{config}` is enabled but is neither in the image nor has contents; install it in the Containerfile, or give it contents"
    )]
    MissingUnit {
        /// The unit.
        unit: String,
        /// The rendered config.
        config: String,
    },
    /// The content of a file is in a Secret, and was not given to the node.
    #[error("the content of `{path}` is not known: the node was not given Secret key `{from}`")]
    NoValue {
        /// The file.
        path: String,
        /// Where its content is.
        from: SecretKey,
    },
    /// A file belongs to a user or group that the image does not have.
    #[error(
        "{kind} `{name}` of `{path}` is not in the image; create it in the Containerfile, or give a number"
    )]
    MissingOwner {
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The file.
        path: String,
    },
    /// Something that is neither file, directory nor link is in the place of one.
    #[error("`{path}` is a device, socket or pipe; remove it, or take the path out of the config")]
    Special {
        /// The path.
        path: Utf8PathBuf,
    },
    /// An account file that cannot be edited.
    #[error("`{path}` {problem}")]
    Accounts {
        /// The file.
        path: String,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// `core` cannot be made.
    #[error("user `core` cannot be created: every number from 1000 to 59999 is taken")]
    NoFreeId,
    /// The labelling tool answered something else than it was asked.
    #[error("`matchpathcon -f {rules}` named {found} labels for {expected} paths")]
    Labels {
        /// The rules.
        rules: Utf8PathBuf,
        /// Paths that were asked for.
        expected: usize,
        /// Lines that came.
        found: usize,
    },
    /// A path of `/etc` leads out of it.
    #[error("`{path}` leads to `{real}`, which is not part of the deployment")]
    Outside {
        /// The path.
        path: Utf8PathBuf,
        /// Its real directory.
        real: Utf8PathBuf,
    },
}

impl ConfigureError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            ConfigureError::Root(error) => error.is_full(),
            ConfigureError::State(error) => error.is_full(),
            ConfigureError::Command(error) => error.is_full(),
            ConfigureError::MissingUnit { .. }
            | ConfigureError::NoValue { .. }
            | ConfigureError::MissingOwner { .. }
            | ConfigureError::Special { .. }
            | ConfigureError::Accounts { .. }
            | ConfigureError::NoFreeId
            | ConfigureError::Labels { .. }
            | ConfigureError::Outside { .. } => false,
        }
    }
}

/// Which places are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Places {
    /// `/etc` of a deployment that is not booted.
    NewDeployment,
    /// `/etc` of the running deployment.
    Running,
    /// What deployments share, on the running system.
    Shared,
}

impl Places {
    fn include(self, path: &Utf8Path) -> bool {
        path.starts_with("/etc") == (self != Places::Shared)
    }
}

/// A way from what is in a root to a version, with everything that needs room on the disk made.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    root: &'a Root,
    state: &'a State,
    from: &'a [&'a Version],
    to: &'a Version,
    places: Places,
    wanted: BTreeMap<Utf8PathBuf, Entry>,
    /// Paths that no config wants any more, and what was there before.
    gone: Vec<(Utf8PathBuf, Original)>,
    /// What was there before, of everything else.
    taken: Originals,
    /// What waits beside its place.
    staged: BTreeSet<Utf8PathBuf>,
    /// Whether a directory or user was made or changed: they are put at once, for what is theirs.
    changed: bool,
}

/// Brings the `places` of `root` to the version `to`. `from` are the versions that were, wholly or half, written there
/// before. Returns whether anything changed. The caller syncs.
///
/// # Errors
/// When something cannot be written. What was written stays; the next call goes on from there.
pub(crate) fn configure(
    root: &Root,
    state: &State,
    from: &[&Version],
    to: &Version,
    places: Places,
) -> Result<bool, ConfigureError> {
    prepare(root, state, from, to, places)?.finish()
}

/// Makes everything that is to take a place, beside it. Nothing that a service reads is touched, but for directories and
/// the user that new things are to belong to.
///
/// # Errors
/// When something cannot be made: nothing but new directories and the user stays behind.
pub(crate) fn prepare<'a>(
    root: &'a Root,
    state: &'a State,
    from: &'a [&'a Version],
    to: &'a Version,
    places: Places,
) -> Result<Change<'a>, ConfigureError> {
    prepare_with(&Labels::of(root)?, root, state, from, to, places)
}

fn prepare_with<'a>(
    labels: &Labels,
    root: &'a Root,
    state: &'a State,
    from: &'a [&'a Version],
    to: &'a Version,
    places: Places,
) -> Result<Change<'a>, ConfigureError> {
    let mut changed = false;
    if places != Places::Shared && core_user::is_set(to) {
        let accounts = Accounts::read(root)?;
        originals::take_core(root, state, &accounts)?;
        changed |= core_user::make(root, &accounts)?;
    }
    let accounts = Accounts::read(root)?;
    let wanted = entries::of(to, &accounts, places)?;
    if places == Places::NewDeployment {
        for path in wanted.keys() {
            check_inside(root, path)?;
        }
    }
    if places != Places::Shared {
        enablement::check(root, &wanted, to)?;
    }
    // A former version's owners may be gone with its image; its paths are what counts.
    let former = from
        .iter()
        .flat_map(|version| entries::paths(version, &accounts));
    let managed: BTreeSet<Utf8PathBuf> = former.filter(|path| places.include(path)).collect();
    let mut taken = originals::take(root, state, to, &wanted, places)?;
    let gone: Vec<(Utf8PathBuf, Original)> = managed
        .into_iter()
        .filter(|path| !wanted.contains_key(path))
        .filter_map(|path| taken.paths.remove(&path).map(|original| (path, original)))
        .collect();
    let mut change = Change {
        root,
        state,
        from,
        to,
        places,
        wanted,
        gone,
        taken,
        staged: BTreeSet::new(),
        changed,
    };
    match change.make(labels) {
        Ok(()) => Ok(change),
        Err(error) => {
            change.discard();
            Err(error)
        }
    }
}

impl Change<'_> {
    /// Lets everything take its place, and removes what is not wanted any more. Returns whether anything changed.
    ///
    /// # Errors
    /// When something cannot be put or removed. What was done stays; preparing anew goes on from there.
    pub(crate) fn finish(self) -> Result<bool, ConfigureError> {
        let Self { root, from, to, .. } = self;
        let mut changed = self.changed;
        if self.places != Places::Shared {
            enablement::disable(root, from, to)?;
        }
        // Deepest first, so that directories are empty when their turn comes.
        for (path, original) in self.gone.iter().rev() {
            let (found, keep) = originals::to_bring_back(root, self.state, path, original)?;
            changed |= match found {
                Found::Nothing | Found::Other => root.remove(path)?,
                Found::Directory { access } => root.directory(path, access, &keep)?,
                Found::File { .. } | Found::Link { .. } => false,
            };
        }
        for path in &self.staged {
            root.put(path)?;
            changed = true;
        }
        if self.places != Places::Shared {
            changed |= set_core_user(root, from, to, self.taken.core.as_ref())?;
            enablement::enable(root, from, to, &self.taken.units)?;
        }
        Ok(changed)
    }

    /// Makes everything that is to take a place.
    fn make(&mut self, labels: &Labels) -> Result<(), ConfigureError> {
        let root = self.root;
        let mut new = BTreeMap::new();
        for (path, entry) in &self.wanted {
            if root.find(path)? == Found::Nothing {
                new.insert(path, entry);
            }
        }
        let labels = labels.look_up(&new)?;
        let was_node = |path: &Utf8PathBuf| {
            self.from
                .iter()
                .any(|version| version.ignition.node(path.as_str()).is_some())
        };
        for (path, entry) in &self.wanted {
            let label = labels.get(path).cloned().unwrap_or_default();
            match (&entry.what, entry.found(), self.taken.paths.get(path)) {
                (What::Parent { .. }, ..) if !new.contains_key(path) && !was_node(path) => {}
                // What another version made of it ends with that version.
                (What::Parent { .. }, _, Some(Original::Directory { access, attributes })) => {
                    let keep = Keep::Exactly(attributes.clone());
                    self.changed |= root.directory(path, *access, &keep)?;
                }
                (_, Found::Directory { access }, _) => {
                    self.changed |= root.directory(path, access, &label)?;
                }
                (_, found, _) => {
                    if root.stage(path, &found, &label)? {
                        self.staged.insert(path.clone());
                    }
                }
            }
        }
        for (path, original) in &self.gone {
            let (found, keep) = originals::to_bring_back(root, self.state, path, original)?;
            if matches!(found, Found::File { .. } | Found::Link { .. })
                && root.stage(path, &found, &keep)?
            {
                self.staged.insert(path.clone());
            }
        }
        Ok(())
    }

    fn discard(&self) {
        for path in self
            .wanted
            .keys()
            .chain(self.gone.iter().map(|(path, _)| path))
        {
            if let Err(error) = self.root.discard(path) {
                tracing::warn!(%error, "something that was begun stays behind");
            }
        }
    }
}

/// Password and existence of `core`.
fn set_core_user(
    root: &Root,
    from: &[&Version],
    to: &Version,
    original: Option<&CoreOriginal>,
) -> Result<bool, ConfigureError> {
    let was_set = from.iter().any(|version| core_user::is_set(version));
    match (&to.ignition.core.password_hash, original) {
        (Some(hash), _) => core_user::set_password(root, hash),
        (None, Some(original)) if was_set && core_user::is_set(to) => {
            core_user::reset_password(root, original)
        }
        (None, Some(original)) if was_set => core_user::give_back(root, original),
        (None, _) => Ok(false),
    }
}

fn check_inside(root: &Root, path: &Utf8Path) -> Result<(), ConfigureError> {
    match root.real_parent(path)? {
        Some(real) if !real.starts_with("/etc") => Err(ConfigureError::Outside {
            path: path.to_owned(),
            real,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
