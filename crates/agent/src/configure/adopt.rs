//! What was at each path before the Machine Config Operator wrote there, as far as it has kept that: what it wrote is
//! ours from now on, and must not come back as if it had been there before.

use camino::{Utf8Path, Utf8PathBuf};
use model::update::Version;

use super::accounts::Accounts;
use super::entries::{self, What};
use super::originals::vendor;
use super::{ConfigureError, Places};
use crate::root::{Attributes, Found, Root};
use crate::state::{Enablement, Original, State};

/// Where its daemon keeps files of the image that it wrote over, each below its own path.
const KEPT: &str = "/etc/machine-config-daemon/orig";
const KEPT_ENDS: &str = ".mcdorig";

/// Takes over every path of `version` that was not ours before. Writes the agent's own state alone.
///
/// # Errors
/// When something cannot be read, or the state cannot be written.
pub(crate) fn adopt(root: &Root, state: &State, version: &Version) -> Result<(), ConfigureError> {
    let accounts = Accounts::read(root)?;
    let mut originals = state.originals()?;
    let mut entries = entries::of(version, &accounts, Places::Running)?;
    entries.append(&mut entries::of(version, &accounts, Places::Shared)?);
    for (path, entry) in entries {
        // What only leads to something else was never written.
        let leads = matches!(entry.what, What::Parent { .. });
        if leads || originals.paths.contains_key(&path) {
            continue;
        }
        let original = before(root, state, &path)?;
        originals.paths.insert(path, original);
    }
    for unit in &version.ignition.units {
        if unit.enabled.is_some() && !originals.units.contains_key(&unit.name) {
            originals.units.insert(unit.name.clone(), Enablement::Image);
        }
    }
    Ok(state.set_originals(&originals)?)
}

/// Its own rule: what the image does not bring goes.
fn before(root: &Root, state: &State, path: &Utf8Path) -> Result<Original, ConfigureError> {
    let (brought, _) = vendor(root, path)?;
    if brought == Found::Nothing {
        return Ok(Original::Nothing);
    }
    Ok(match root.find(&kept(path))? {
        Found::File { bytes, access } => Original::File {
            content: state.keep_content(&bytes)?,
            access,
            attributes: Attributes::default(),
        },
        Found::Nothing | Found::Directory { .. } | Found::Link { .. } | Found::Other => {
            Original::Image
        }
    })
}

fn kept(path: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{KEPT}{path}{KEPT_ENDS}"))
}
