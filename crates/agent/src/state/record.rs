//! What deployments were configured with.

use camino::{Utf8Path, Utf8PathBuf};
use model::file_secret::Values;
use model::node::Target;
use model::update::Version;
use serde::{Deserialize, Serialize};

use super::{State, StateError};
use crate::os::DeploymentId;

/// What a deployment was configured with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Rendered config.
    pub config: String,
    /// Layered image, as the annotation named it.
    pub image: Option<String>,
    /// Content from Secrets that its files were written with.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub values: Values,
    /// Boot in which the deployment was found well.
    #[serde(default)]
    pub verified: Option<String>,
    /// What a live change replaced that is not verified yet: where the deployment goes back to.
    #[serde(default)]
    pub replaced: Option<Box<Record>>,
}

impl Record {
    /// A record of a version that was not verified yet.
    #[must_use]
    pub(crate) fn of(target: &Target) -> Self {
        Self {
            config: target.config.clone(),
            image: target.image.clone(),
            values: Values::new(),
            verified: None,
            replaced: None,
        }
    }

    /// A record of a version that was written and not verified yet.
    #[must_use]
    pub(crate) fn written(version: &Version) -> Self {
        Self {
            values: version.ignition.values(),
            ..Self::of(&version.target())
        }
    }

    /// It and what it replaced.
    pub(super) fn all(mut self) -> impl Iterator<Item = Record> {
        let replaced = self.replaced.take();
        std::iter::once(self).chain(replaced.map(|record| *record))
    }

    /// The version's name.
    #[must_use]
    pub(crate) fn target(&self) -> Target {
        Target {
            config: self.config.clone(),
            image: self.image.clone(),
        }
    }
}

impl State {
    /// What a deployment was configured with; none when it was not by us, or not completely.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(crate) fn record(&self, id: &DeploymentId) -> Result<Option<Record>, StateError> {
        self.read(&record_path(id))
    }

    /// Says that a deployment is completely configured.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_record(&self, id: &DeploymentId, record: &Record) -> Result<(), StateError> {
        self.write(&record_path(id), record)
    }

    /// The version that a record is of, with the content from Secrets that was written; none when its config is gone.
    ///
    /// # Errors
    /// When its config cannot be read.
    pub(crate) fn version_of(&self, record: &Record) -> Result<Option<Version>, StateError> {
        let version = self.version(&record.target())?;
        Ok(version.map(|version| version.filled(&record.values)))
    }
}

pub(super) fn record_path(id: &DeploymentId) -> Utf8PathBuf {
    Utf8Path::new("/deployments").join(format!("{id}.json"))
}
