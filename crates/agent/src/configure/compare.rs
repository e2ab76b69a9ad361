//! What is on the disk beside what should be.

use camino::{Utf8Path, Utf8PathBuf};
use model::update::Version;

use super::accounts::Accounts;
use super::{ConfigureError, Places, entries};
use crate::root::{Found, Root};

/// Something that is not as a version says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Where.
    pub path: Utf8PathBuf,
    /// What the version says.
    pub wanted: Found,
    /// What is there.
    pub found: Found,
    /// Whether its content comes from a Secret, and is shown to nobody.
    pub secret: bool,
}

/// Everything that a version says of files, with what it says.
///
/// # Errors
/// When the accounts of the root cannot be read.
pub(crate) fn managed(
    root: &Root,
    to: &Version,
) -> Result<Vec<(Utf8PathBuf, Found)>, ConfigureError> {
    let accounts = Accounts::read(root)?;
    let mut all = Vec::new();
    for places in [Places::Running, Places::Shared] {
        for (path, entry) in entries::of(to, &accounts, places)? {
            all.push((path, root.attainable(&entry.found())));
        }
    }
    Ok(all)
}

/// Paths of `to` whose content on disk is not what the version says.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn differences(root: &Root, to: &Version) -> Result<Vec<Difference>, ConfigureError> {
    let mut differing = Vec::new();
    for (path, wanted) in managed(root, to)? {
        let found = root.find(&path)?;
        let node = to.ignition.node(path.as_str());
        if found != wanted && !is_looser_directory(root, &path, &wanted)? {
            differing.push(Difference {
                path,
                wanted,
                found,
                secret: node.is_some_and(|node| node.secret().is_some()),
            });
        }
    }
    Ok(differing)
}

/// A directory that exists is enough, or a link to one: its mode may be refined by the package that uses it.
fn is_looser_directory(
    root: &Root,
    path: &Utf8Path,
    wanted: &Found,
) -> Result<bool, ConfigureError> {
    Ok(matches!(wanted, Found::Directory { .. }) && root.is_directory(path)?)
}
