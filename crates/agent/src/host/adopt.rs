//! The first look at a host that another operator has configured.

use camino::Utf8Path;
use model::file_secret::Values;
use model::update::Version;

use super::{Host, HostError, Sight};
use crate::configure::adopt;
use crate::root::Root;
use crate::state::{Record, Shared, State, StateError};

/// Stands for a boot before ours: what differs from now on is drift, and no reason to give the deployment up.
const BEFORE_OURS: &str = "before-caprock";

/// The take-over of the cluster that was followed last.
const TAKEOVER: &str = "/takeover.json";

impl State {
    /// The take-over of the cluster that the agent has followed last; none where Caprock always acted.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn takeover(&self) -> Result<Option<String>, StateError> {
        self.read(Utf8Path::new(TAKEOVER))
    }

    /// Says that the agent has followed a take-over: what is kept of the node is of that one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_takeover(&self, takeover: &str) -> Result<(), StateError> {
        self.write(Utf8Path::new(TAKEOVER), &takeover)
    }
}

impl Host {
    /// Takes the running deployment for one that has `version`, as another operator says. Whatever was under way before that
    /// one acted is over. Nothing outside of the agent's own state is written.
    ///
    /// # Errors
    /// When it is not booted from a deployment, or the state cannot be written.
    pub(crate) fn adopt(&self, sight: &Sight, version: &Version) -> Result<(), HostError> {
        let booted = sight.deployments.booted().ok_or(HostError::NotBooted)?;
        self.state.end_trial()?;
        self.state.forget_next_reboot()?;
        self.state.set_failure(None)?;
        self.state.keep_values(&Values::new())?;
        self.state.finish()?;
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
