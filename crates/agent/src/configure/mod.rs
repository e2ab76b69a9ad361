//! Brings the files and units of a root to a version: the running root, or a deployment that is not booted yet.
//!
//! Idempotent and resumable: a run that was killed is simply run again. What was at a path before the first config
//! wrote there is kept, and comes back when no config wants the path any more.
//!
//! Two kinds of places are written at different times. `/etc` belongs to a deployment and is written in it, before its
//! first boot when the node reboots. `/var` and what leads there is shared by all deployments, so it follows the one
//! that is booted: early in its first boot, and back early in the first boot after a rollback.

mod accounts;
mod enablement;
mod entries;

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};
use model::update::Version;
use thiserror::Error;

use crate::command::CommandError;
use crate::root::{Access, Found, Root, RootError};
use crate::state::{State, StateError};
use accounts::Accounts;
use entries::{Entry, What};

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
    /// A path of `/etc` leads out of it.
    #[error("`{path}` leads to `{real}`, which is not part of the deployment")]
    Outside {
        /// The path.
        path: Utf8PathBuf,
        /// Its real directory.
        real: Utf8PathBuf,
    },
}

/// Which places are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
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

/// Brings the `places` of `root` to the version `to`. `from` are the versions that were, wholly or half, written there
/// before. Returns whether anything changed. The caller syncs.
///
/// # Errors
/// When something cannot be written. What was written stays; the next call goes on from there.
pub fn configure(
    root: &Root,
    state: &State,
    from: &[&Version],
    to: &Version,
    places: Places,
) -> Result<bool, ConfigureError> {
    let accounts = Accounts::read(root)?;
    let wanted = entries::of(to, &accounts, places)?;
    // A former version's owners may be gone with its image; its paths are what counts.
    let former = from
        .iter()
        .flat_map(|version| entries::paths(version, &accounts));
    let managed: BTreeSet<Utf8PathBuf> = former.filter(|path| places.include(path)).collect();
    let mut changed = false;
    if places != Places::Shared {
        enablement::disable(root, from, to)?;
    }
    // Deepest first, so that directories are empty when their turn comes.
    for path in managed
        .iter()
        .rev()
        .filter(|path| !wanted.contains_key(*path))
    {
        changed |= restore(root, state, path)?;
    }
    for (path, entry) in &wanted {
        if places == Places::NewDeployment {
            check_inside(root, path)?;
        }
        if !managed.contains(path) {
            keep_original(root, state, path, entry)?;
        }
        changed |= put(root, path, entry)?;
    }
    if places != Places::Shared {
        if let Some(hash) = &to.ignition.core.password_hash {
            changed |= accounts.set_password(root, accounts::CORE, hash)?;
        }
        enablement::enable(root, from, to)?;
    }
    Ok(changed)
}

/// Paths of `to` whose content on disk is not what the version says.
///
/// # Errors
/// When something cannot be read.
pub fn differences(root: &Root, to: &Version) -> Result<Vec<Utf8PathBuf>, ConfigureError> {
    let accounts = Accounts::read(root)?;
    let mut found = Vec::new();
    for places in [Places::Running, Places::Shared] {
        for (path, entry) in entries::of(to, &accounts, places)? {
            if root.find(&path)? != as_found(root, &entry)
                && !is_looser_directory(root, &path, &entry)?
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Forgets what was kept for paths that none of `versions` writes: it is back in its place, and no rollback needs it.
///
/// # Errors
/// When the state directory cannot be read or written.
pub fn forget_originals(
    root: &Root,
    state: &State,
    versions: &[Version],
) -> Result<(), ConfigureError> {
    let accounts = Accounts::read(root)?;
    let managed: BTreeSet<Utf8PathBuf> = versions
        .iter()
        .flat_map(|version| entries::paths(version, &accounts))
        .collect();
    for path in state
        .originals()?
        .iter()
        .filter(|path| !managed.contains(*path))
    {
        state.drop_original(path)?;
    }
    Ok(())
}

/// A directory that exists is enough: its mode may be refined by the package that uses it.
fn is_looser_directory(
    root: &Root,
    path: &Utf8Path,
    entry: &Entry,
) -> Result<bool, ConfigureError> {
    Ok(matches!(entry.what, What::Directory { .. })
        && matches!(root.find(path)?, Found::Directory { .. }))
}

fn as_found(root: &Root, entry: &Entry) -> Found {
    let access = |mode| root.reachable(entry.access(mode));
    match &entry.what {
        What::File { bytes, mode } => Found::File {
            bytes: bytes.clone(),
            access: access(*mode),
        },
        What::Directory { mode } => Found::Directory {
            access: access(*mode),
        },
        What::Link { target } => {
            let Access { uid, gid, .. } = access(0o777);
            Found::Link {
                target: target.clone(),
                uid,
                gid,
            }
        }
    }
}

fn put(root: &Root, path: &Utf8Path, entry: &Entry) -> Result<bool, RootError> {
    match &entry.what {
        What::File { bytes, mode } => root.write(path, bytes, entry.access(*mode)),
        What::Directory { mode } => root.directory(path, entry.access(*mode)),
        What::Link { target } => root.symlink(path, target, entry.uid, entry.gid),
    }
}

/// The image's own version of a path in `/etc`, where ostree keeps it.
fn vendor(root: &Root, path: &Utf8Path) -> Result<Found, RootError> {
    match path.strip_prefix("/etc") {
        Ok(rest) => root.find(&Utf8Path::new("/usr/etc").join(rest)),
        Err(_) => Ok(Found::Nothing),
    }
}

fn keep_original(
    root: &Root,
    state: &State,
    path: &Utf8Path,
    entry: &Entry,
) -> Result<(), ConfigureError> {
    let found = root.find(path)?;
    // What is ours already was written by a run that was killed; what the image brings comes back from there.
    if found != as_found(root, entry) && found != vendor(root, path)? {
        state.keep_original(path, &found)?;
    }
    Ok(())
}

fn restore(root: &Root, state: &State, path: &Utf8Path) -> Result<bool, ConfigureError> {
    let kept = state.original(path)?;
    let back = match &kept {
        Found::File { .. } | Found::Link { .. } => kept,
        Found::Nothing | Found::Directory { .. } | Found::Other => vendor(root, path)?,
    };
    Ok(match back {
        Found::File { bytes, access } => root.write(path, &bytes, access)?,
        Found::Link { target, uid, gid } => root.symlink(path, &target, uid, gid)?,
        Found::Directory { access } => root.directory(path, access)?,
        Found::Nothing | Found::Other => root.remove(path)?,
    })
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

impl Entry {
    fn access(&self, mode: u32) -> Access {
        Access {
            mode,
            uid: self.uid,
            gid: self.gid,
        }
    }
}

#[cfg(test)]
mod tests;
