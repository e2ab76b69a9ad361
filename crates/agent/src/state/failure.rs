//! The version that was taken back last.

use camino::Utf8Path;
use model::file_secret::SecretVersions;
use model::node::Target;
use model::update::Failure;
use serde::{Deserialize, Serialize};

use super::{State, StateError};

#[derive(Serialize, Deserialize)]
struct StoredFailure {
    config: String,
    image: Option<String>,
    #[serde(default, skip_serializing_if = "SecretVersions::is_empty")]
    secrets: SecretVersions,
    reason: String,
}

impl State {
    /// The version that was taken back last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn failure(&self) -> Result<Option<Failure>, StateError> {
        let stored: Option<StoredFailure> = self.read(Utf8Path::new("/failure.json"))?;
        Ok(stored.map(|stored| Failure {
            target: Target {
                config: stored.config,
                image: stored.image,
            },
            secrets: stored.secrets,
            reason: stored.reason,
        }))
    }

    /// Remembers, or forgets, the version that was taken back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_failure(&self, failure: Option<&Failure>) -> Result<(), StateError> {
        let path = Utf8Path::new("/failure.json");
        let Some(failure) = failure else {
            self.root.remove(path)?;
            return Ok(());
        };
        let stored = StoredFailure {
            config: failure.target.config.clone(),
            image: failure.target.image.clone(),
            secrets: failure.secrets.clone(),
            reason: failure.reason.clone(),
        };
        self.write(path, &stored)
    }
}
