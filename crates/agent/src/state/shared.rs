//! Which rendered configs the places that deployments share follow.

use camino::Utf8Path;
use model::file_secret::Values;
use serde::{Deserialize, Serialize};

use super::{State, StateError};

/// Which rendered configs the places that deployments share were written by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shared {
    /// The one that they follow completely; none before the first.
    pub config: Option<String>,
    /// The one that they are being brought to.
    #[serde(default)]
    pub towards: Option<String>,
    /// Content from Secrets that goes with the one that they follow.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub values: Values,
}

impl Shared {
    /// They follow one completely; the empty name is what was there before any.
    pub(crate) fn following(config: &str, values: Values) -> Self {
        Self {
            config: Some(config.to_owned()).filter(|name| !name.is_empty()),
            towards: None,
            values,
        }
    }

    /// All that may have written there.
    pub(crate) fn writers(&self) -> impl Iterator<Item = &String> {
        self.config.iter().chain(&self.towards)
    }
}

impl State {
    /// Which rendered configs the shared places were written by.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn shared(&self) -> Result<Shared, StateError> {
        Ok(self
            .read(Utf8Path::new("/shared.json"))?
            .unwrap_or_default())
    }

    /// Says which rendered config the shared places follow, or are about to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_shared(&self, shared: &Shared) -> Result<(), StateError> {
        self.write(Utf8Path::new("/shared.json"), shared)
    }
}
