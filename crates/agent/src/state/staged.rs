//! Deployments that the host makes at shutdown: what they are to be configured with then.

use camino::{Utf8Path, Utf8PathBuf};
use model::node::Target;
use serde::{Deserialize, Serialize};

use super::{Record, State, StateError};
use crate::os::DeploymentId;

/// What a staged deployment is to be configured with, as soon as it has an `/etc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    /// Rendered config.
    pub config: String,
    /// Layered image, as the annotation named it.
    pub image: Option<String>,
    /// Rendered config of the deployment whose `/etc` it starts from.
    pub from: Option<String>,
    /// State root that it belongs to.
    pub os: String,
}

impl Staged {
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
    /// What a staged deployment is to be configured with; none when it is not by us, or was configured.
    ///
    /// # Errors
    /// When that cannot be read.
    pub(crate) fn staged(&self, id: &DeploymentId) -> Result<Option<Staged>, StateError> {
        self.read(&staged_path(id))
    }

    /// Every staged deployment that is still to be configured.
    ///
    /// # Errors
    /// When that cannot be read.
    pub(crate) fn all_staged(&self) -> Result<Vec<(DeploymentId, Staged)>, StateError> {
        let mut found = Vec::new();
        for path in self.list("/staged")? {
            let id = path.file_stem().and_then(|name| name.parse().ok());
            if let (Some(id), Some(staged)) = (id, self.read(&path)?) {
                found.push((id, staged));
            }
        }
        Ok(found)
    }

    /// Says what a staged deployment is to be configured with.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_staged(&self, id: &DeploymentId, staged: &Staged) -> Result<(), StateError> {
        self.write(&staged_path(id), staged)
    }

    /// Says that a deployment that was staged is completely configured.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn settle_staged(
        &self,
        id: &DeploymentId,
        record: &Record,
    ) -> Result<(), StateError> {
        self.set_record(id, record)?;
        self.root.remove(&staged_path(id))?;
        Ok(())
    }
}

pub(super) fn staged_path(id: &DeploymentId) -> Utf8PathBuf {
    Utf8Path::new("/staged").join(format!("{id}.json"))
}
