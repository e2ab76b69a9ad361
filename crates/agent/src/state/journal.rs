//! The step that was started and not finished.

use camino::Utf8Path;
use model::node::Target;
use oci::Digest;
use serde::{Deserialize, Serialize};

use super::{State, StateError};
use crate::os::DeploymentId;
use crate::systemd::Job;

/// A unit that a live change concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Concerned {
    /// Its name.
    pub unit: String,
    /// Whether it was running before.
    pub running: bool,
    /// How it takes up another configuration.
    pub job: Job,
}

/// A step that must be finished or undone after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "lowercase")]
pub(crate) enum Journal {
    /// Files and units of the running deployment are being written.
    Apply {
        /// Rendered config that is written.
        config: String,
        /// Layered image that goes with it.
        image: Option<String>,
        /// Boot in which that began.
        #[serde(default)]
        boot: String,
        /// Units that it concerns, as they were before.
        #[serde(default)]
        units: Vec<Concerned>,
    },
    /// A deployment is being made and configured.
    Deploy {
        /// Rendered config that it gets.
        config: String,
        /// Layered image that goes with it.
        image: Option<String>,
        /// Rendered config of the deployment whose `/etc` it starts from.
        from: Option<String>,
        /// Digest of the image that is deployed.
        digest: Digest,
        /// Deployments that were there before: any other one of this image is the new one.
        before: Vec<DeploymentId>,
    },
    /// A reboot was asked for.
    Reboot {
        /// Rendered config of the deployment that is to boot.
        config: String,
        /// Layered image that goes with it.
        image: Option<String>,
        /// Boot in which it was asked for.
        boot: String,
    },
}

impl Journal {
    /// The version that is being applied.
    #[must_use]
    pub(crate) fn target(&self) -> Target {
        match self {
            Journal::Apply { config, image, .. }
            | Journal::Deploy { config, image, .. }
            | Journal::Reboot { config, image, .. } => Target {
                config: config.clone(),
                image: image.clone(),
            },
        }
    }
}

impl State {
    /// The step that was started and not finished.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn journal(&self) -> Result<Option<Journal>, StateError> {
        self.read(Utf8Path::new("/journal.json"))
    }

    /// Says which step starts now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn begin(&self, journal: &Journal) -> Result<(), StateError> {
        self.write(Utf8Path::new("/journal.json"), journal)
    }

    /// Says that the step is finished.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn finish(&self) -> Result<(), StateError> {
        self.root.remove(Utf8Path::new("/journal.json"))?;
        Ok(())
    }
}
