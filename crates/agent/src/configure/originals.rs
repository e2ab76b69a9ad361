//! Takes paths over before they are written, and brings back what was there.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use model::update::Version;

use super::accounts::Accounts;
use super::entries::{Entry, What};
use super::{ConfigureError, Places, core_user, enablement};
use crate::root::{Attributes, Found, Keep, Root, RootError};
use crate::state::{Original, Originals, State};

/// Keeps what is at each path that no config has written yet. Everything is on the disk when it returns.
pub(super) fn take(
    root: &Root,
    state: &State,
    to: &Version,
    wanted: &BTreeMap<Utf8PathBuf, Entry>,
    places: Places,
) -> Result<Originals, ConfigureError> {
    let mut originals = state.originals()?;
    let before = originals.clone();
    for (path, entry) in wanted {
        if originals.paths.contains_key(path) {
            continue;
        }
        let found = root.find(path)?;
        if matches!(entry.what, What::Parent { .. }) && found != Found::Nothing {
            continue;
        }
        let original = as_original(root, state, path, found)?;
        originals.paths.insert(path.clone(), original);
    }
    if places != Places::Shared {
        enablement::take(root, to, &mut originals.units)?;
    }
    if originals != before {
        state.set_originals(&originals)?;
    }
    Ok(originals)
}

/// Keeps how user `core` is, before the first config sets something for it.
pub(super) fn take_core(
    root: &Root,
    state: &State,
    accounts: &Accounts,
) -> Result<(), ConfigureError> {
    let mut originals = state.originals()?;
    if originals.core.is_none() {
        originals.core = Some(core_user::original(root, accounts)?);
        state.set_originals(&originals)?;
    }
    Ok(())
}

fn as_original(
    root: &Root,
    state: &State,
    path: &Utf8Path,
    found: Found,
) -> Result<Original, ConfigureError> {
    let (vendor, attributes) = vendor(root, path)?;
    if found == vendor && root.attributes(path)? == attributes && found != Found::Nothing {
        return Ok(Original::Image);
    }
    Ok(match found {
        // Where the image brings something and it was removed by hand, it stays removed.
        Found::Nothing => Original::Nothing,
        Found::File { bytes, access } => Original::File {
            content: state.keep_content(&bytes)?,
            access,
            attributes: root.attributes(path)?,
        },
        Found::Directory { access } => Original::Directory {
            access,
            attributes: root.attributes(path)?,
        },
        Found::Link { target, uid, gid } => Original::Link { target, uid, gid },
        Found::Other => {
            return Err(ConfigureError::Special {
                path: path.to_owned(),
            });
        }
    })
}

/// What is to be at a path that was taken over and that no config wants any more, and with which attributes.
pub(super) fn to_bring_back(
    root: &Root,
    state: &State,
    path: &Utf8Path,
    original: &Original,
) -> Result<(Found, Keep), ConfigureError> {
    Ok(match original {
        Original::Nothing => (Found::Nothing, Keep::Present),
        Original::Image => {
            let (found, attributes) = vendor(root, path)?;
            (found, Keep::Exactly(attributes))
        }
        Original::File {
            content,
            access,
            attributes,
        } => match state.content(content)? {
            Some(bytes) => {
                let access = *access;
                (
                    Found::File { bytes, access },
                    Keep::Exactly(attributes.clone()),
                )
            }
            None => {
                tracing::warn!(%path, "what was there before is not kept any more; the image's own comes back");
                let (found, attributes) = vendor(root, path)?;
                (found, Keep::Exactly(attributes))
            }
        },
        Original::Directory { access, attributes } => {
            let access = *access;
            (
                Found::Directory { access },
                Keep::Exactly(attributes.clone()),
            )
        }
        Original::Link { target, uid, gid } => {
            let target = target.clone();
            (
                Found::Link {
                    target,
                    uid: *uid,
                    gid: *gid,
                },
                Keep::Present,
            )
        }
    })
}

/// The image's own version of a path in `/etc`, where ostree keeps it.
pub(super) fn vendor(root: &Root, path: &Utf8Path) -> Result<(Found, Attributes), RootError> {
    match path.strip_prefix("/etc") {
        Ok(rest) => {
            let path = Utf8Path::new("/usr/etc").join(rest);
            Ok((root.find(&path)?, root.attributes(&path)?))
        }
        Err(_) => Ok((Found::Nothing, Attributes::default())),
    }
}

/// Forgets what was kept for paths that none of `versions` writes: it is back in its place, and no rollback needs it.
///
/// # Errors
/// When the state directory cannot be read or written.
pub(crate) fn forget_originals(
    root: &Root,
    state: &State,
    versions: &[Version],
) -> Result<(), ConfigureError> {
    let accounts = Accounts::read(root)?;
    let mut originals = state.originals()?;
    let before = originals.clone();
    originals.paths.retain(|path, _| {
        versions
            .iter()
            .any(|version| super::entries::paths(version, &accounts).contains(path))
    });
    originals.units.retain(|name, _| {
        let units = versions
            .iter()
            .filter_map(|version| version.ignition.unit(name));
        units.into_iter().any(|unit| unit.enabled.is_some())
    });
    if !versions.iter().any(core_user::is_set) {
        originals.core = None;
    }
    if originals != before {
        state.set_originals(&originals)?;
    }
    Ok(())
}
