//! The configuration of deployments that are made at shutdown: written when they have been made, and, should that have
//! failed, early in the boot that follows.

use camino::Utf8Path;
use model::update::Version;

use super::HostError;
use crate::configure::{Places, configure};
use crate::os::deployment_root;
use crate::root::Root;
use crate::state::{Record, State};

/// Configures every staged deployment that has got its `/etc`: what runs at shutdown after the host's own tools have
/// made it. Needs neither them nor the network. Says how many there were.
///
/// # Errors
/// When something cannot be read or written; the next boot completes it.
pub(crate) fn finalize(state: &State, sysroot: &Utf8Path) -> Result<usize, HostError> {
    let mut done = 0;
    for (id, staged) in state.all_staged()? {
        let path = deployment_root(sysroot, &staged.os, &id);
        if !path.join("etc").is_dir() {
            tracing::warn!(deployment = %id, "is staged and was not made");
            continue;
        }
        let Some(to) = state.version_to_write(&staged.target())? else {
            continue;
        };
        let from = former(state, staged.from.as_deref())?;
        let root = Root::open(&path)?;
        configure(&root, state, &[&from], &to, Places::NewDeployment)?;
        root.sync()?;
        state.settle_staged(&id, &Record::written(&to))?;
        tracing::info!(deployment = %id, config = %staged.config, "configured the deployment of the next boot");
        done += 1;
    }
    Ok(done)
}

/// The version of a config that was kept; an empty one where there was none.
pub(crate) fn former(state: &State, config: Option<&str>) -> Result<Version, HostError> {
    let Some(config) = config else {
        return Ok(Version::default());
    };
    let target = model::node::Target {
        config: config.to_owned(),
        image: None,
    };
    Ok(state.version(&target)?.unwrap_or_default())
}
