//! The first look at a host that another operator has configured.

use model::update::Version;

use super::{Host, HostError, Sight};
use crate::configure::adopt;
use crate::root::Root;
use crate::state::{Record, Shared};

/// Stands for a boot before ours: what differs from now on is drift, and no reason to give the deployment up.
const BEFORE_OURS: &str = "before-caprock";

impl Host {
    /// Takes the running deployment for one that has `version`, as another operator says. Nothing outside of the agent's
    /// own state is written.
    ///
    /// # Errors
    /// When it is not booted from a deployment, or the state cannot be written.
    pub fn adopt(&self, sight: &Sight, version: &Version) -> Result<(), HostError> {
        let booted = sight.deployments.booted().ok_or(HostError::NotBooted)?;
        adopt(&Root::open(&self.root)?, &self.state, version)?;
        let shared = Shared::following(&version.name, version.ignition.values());
        self.state.set_shared(&shared)?;
        // Last: until it is there, all of this is done again.
        let record = Record {
            verified: Some(BEFORE_OURS.to_owned()),
            ..Record::written(version)
        };
        Ok(self.state.set_record(&booted.id, &record)?)
    }
}
