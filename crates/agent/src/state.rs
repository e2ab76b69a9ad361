//! What the agent keeps on disk between runs, under its state directory:
//!
//! * `configs/NAME.json`: rendered configs, by name, as long as something refers to them;
//! * `deployments/ID.json`: which version each deployment was configured with;
//! * `staged/ID.json`: which version a deployment that is made at shutdown is then configured with;
//! * `journal.json`: the step that was started and not finished;
//! * `failure.json`: the version that was tried last and taken back;
//! * `values.json`: content from Secrets for the files of the version that the node goes to;
//! * `shared.json`: which rendered config the places that deployments share follow;
//! * `reboots.json`, `next-reboot.json`: why the node rebooted, each time, and why it will;
//! * `policy.json`: the RolloutPolicy of the node's pool;
//! * `trial`, `said`, `taken-back`, `watch.sh`, `rescue/`: a deployment on trial and the way back from it;
//! * `takeover.json`: by which take-over of the cluster Caprock acted last, where another operator may;
//! * `originals.json`, `originals/`: what was at a path before the first config wrote there.
//!
//! Every file is replaced atomically and synced before the call returns.

mod failure;
mod journal;
mod originals;
mod record;
mod references;
mod shared;
mod staged;

use camino::{Utf8Path, Utf8PathBuf};
use model::api::{MachineConfigSpec, RolloutPolicy};
use model::file_secret::Values;
use model::node::Target;
use model::skew::VERSION;
use model::update::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::root::{Access, Found, Root, RootError, is_temporary};

pub(crate) use journal::{Concerned, Journal};
pub(crate) use originals::{CoreOriginal, Enablement, Original, Originals};
pub(crate) use record::Record;
pub(crate) use shared::Shared;
pub(crate) use staged::Staged;

/// A file of the state directory that cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// It cannot be read or written.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The directory cannot be made.
    #[error("cannot make the state directory `{path}`")]
    Create {
        /// The directory.
        path: Utf8PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not what this agent writes: somebody else did, or an agent that knows more.
    #[error(
        "`{path}` in the state directory is damaged, or written by a newer agent; run that agent again, or else remove it"
    )]
    Damaged {
        /// The file, relative to the state directory.
        path: Utf8PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A rendered config cannot be read. Controllers render none that they cannot read themselves, so they know more than
    /// this agent, or somebody else made it.
    #[error(
        "rendered config `{name}` cannot be used: {problems}; if the controllers are newer than this agent, {VERSION}, upgrade it"
    )]
    Config {
        /// Its name.
        name: String,
        /// Every problem, with its field.
        problems: String,
    },
}

impl StateError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            StateError::Root(error) => error.is_full(),
            StateError::Create { .. } | StateError::Damaged { .. } | StateError::Config { .. } => {
                false
            }
        }
    }
}

/// The state directory.
#[derive(Debug)]
pub(crate) struct State {
    root: Root,
}

/// Only root reads the state: configs may hold passwords.
const PRIVATE: u32 = 0o600;
const VALUES: &str = "/values.json";

impl State {
    /// Opens the directory, made when missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn open(dir: &Utf8Path) -> Result<Self, StateError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| StateError::Create {
                path: dir.to_owned(),
                source,
            })?;
        Ok(Self {
            root: Root::open(dir)?,
        })
    }

    /// Its files.
    pub(crate) fn files(&self) -> &Root {
        &self.root
    }

    /// The RolloutPolicy of the node's pool, as it was read last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn policy(&self) -> Result<Option<RolloutPolicy>, StateError> {
        self.read(Utf8Path::new("/policy.json"))
    }

    /// Keeps the policy of the node's pool, or that it has none: a boot without the server is judged by it too.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_policy(&self, policy: Option<&RolloutPolicy>) -> Result<(), StateError> {
        let path = Utf8Path::new("/policy.json");
        match policy {
            Some(policy) => self.write(path, policy),
            None => Ok(self.root.remove(path).map(drop)?),
        }
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Utf8Path {
        self.root.path()
    }

    /// Keeps a rendered config. One that is kept already is replaced by the same.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep_config(
        &self,
        name: &str,
        spec: &MachineConfigSpec,
    ) -> Result<(), StateError> {
        self.write(&config_path(name), spec)
    }

    /// A rendered config that was kept.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn config(&self, name: &str) -> Result<Option<MachineConfigSpec>, StateError> {
        self.read(&config_path(name))
    }

    /// Content from Secrets for the files of the version that the node goes to.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn values(&self) -> Result<Values, StateError> {
        Ok(self.read(Utf8Path::new(VALUES))?.unwrap_or_default())
    }

    /// Keeps that content: what a boot completes is completed without the server.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep_values(&self, values: &Values) -> Result<(), StateError> {
        match values.is_empty() {
            true => self.remove(Utf8Path::new(VALUES)),
            false => self.write(Utf8Path::new(VALUES), values),
        }
    }

    /// A version that is to be written now, with the content from Secrets that is known.
    ///
    /// # Errors
    /// When its config cannot be read.
    pub(crate) fn version_to_write(&self, target: &Target) -> Result<Option<Version>, StateError> {
        let Some(version) = self.version(target)? else {
            return Ok(None);
        };
        Ok(Some(version.filled(&self.values()?)))
    }

    /// The version of a name, when its config is kept; without content from Secrets.
    ///
    /// # Errors
    /// When its config cannot be read.
    pub(crate) fn version(&self, target: &Target) -> Result<Option<Version>, StateError> {
        let Some(spec) = self.config(&target.config)? else {
            return Ok(None);
        };
        version(target, &spec).map(Some)
    }

    /// Removes what a killed run had begun to write here. Nothing else may be writing.
    pub(crate) fn sweep(&self) -> Result<(), StateError> {
        for folder in ["/", "/configs", "/deployments", "/originals"] {
            for path in self.list(folder)? {
                if path.file_name().is_some_and(is_temporary) {
                    self.root.remove(&path)?;
                }
            }
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<Utf8PathBuf>, StateError> {
        let real = self.root.path().join(dir.trim_start_matches('/'));
        let failed = |source| StateError::Create {
            path: real.clone(),
            source,
        };
        let entries = match real.read_dir_utf8() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        entries
            .map(|entry| Ok(Utf8Path::new(dir).join(entry.map_err(failed)?.file_name())))
            .collect()
    }

    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        path: &Utf8Path,
    ) -> Result<Option<T>, StateError> {
        match self.root.find(path)? {
            Found::File { bytes, .. } => {
                serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|source| StateError::Damaged {
                        path: path.to_owned(),
                        source,
                    })
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn remove(&self, path: &Utf8Path) -> Result<(), StateError> {
        self.root.remove(path)?;
        Ok(())
    }

    pub(crate) fn write<T: Serialize>(&self, path: &Utf8Path, value: &T) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(value).expect("our own types become JSON");
        self.root.write(path, &bytes, mine(PRIVATE))?;
        Ok(())
    }
}

/// Reads a rendered config as a version.
pub(crate) fn version(target: &Target, spec: &MachineConfigSpec) -> Result<Version, StateError> {
    Version::new(&target.config, spec, target.image.as_deref()).map_err(|problems| {
        StateError::Config {
            name: target.config.clone(),
            problems: problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
        }
    })
}

/// This process's own user, with a mode.
pub(crate) fn mine(mode: u32) -> Access {
    Access {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

fn config_path(name: &str) -> Utf8PathBuf {
    // Names of objects hold no slash; one that did would only name a file of ours below `configs`.
    Utf8Path::new("/configs").join(format!("{}.json", name.replace('/', "_")))
}

#[cfg(test)]
mod tests;
