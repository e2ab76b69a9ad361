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

mod originals;

mod staged;

use camino::{Utf8Path, Utf8PathBuf};
use model::api::{MachineConfigSpec, RolloutPolicy};
use model::file_secret::{SecretVersions, Values};
use model::node::Target;
use model::update::{Failure, Version};
use oci::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::os::DeploymentId;
use crate::root::{Access, Found, Root, RootError, is_temporary};
use crate::systemd::Job;

pub(crate) use originals::{CoreOriginal, Enablement, Original, Originals};

pub use staged::Staged;
use staged::staged_path;

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
    /// It is not what the agent wrote.
    #[error("`{path}` in the state directory is damaged; remove it")]
    Damaged {
        /// The file, relative to the state directory.
        path: Utf8PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A rendered config that was kept cannot be read any more.
    #[error("rendered config `{name}` cannot be used: {problems}")]
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

/// What a deployment was configured with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
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
    pub fn of(target: &Target) -> Self {
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
    pub fn written(version: &Version) -> Self {
        Self {
            values: version.ignition.values(),
            ..Self::of(&version.target())
        }
    }

    /// It and what it replaced.
    fn all(mut self) -> impl Iterator<Item = Record> {
        let replaced = self.replaced.take();
        std::iter::once(self).chain(replaced.map(|record| *record))
    }

    /// The version's name.
    #[must_use]
    pub fn target(&self) -> Target {
        Target {
            config: self.config.clone(),
            image: self.image.clone(),
        }
    }
}

/// A unit that a live change concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concerned {
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
pub enum Journal {
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
    pub fn target(&self) -> Target {
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

#[derive(Serialize, Deserialize)]
struct StoredFailure {
    config: String,
    image: Option<String>,
    #[serde(default, skip_serializing_if = "SecretVersions::is_empty")]
    secrets: SecretVersions,
    reason: String,
}

/// Which rendered configs the places that deployments share were written by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
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

/// The state directory.
#[derive(Debug)]
pub struct State {
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
    pub fn open(dir: &Utf8Path) -> Result<Self, StateError> {
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
    pub fn policy(&self) -> Result<Option<RolloutPolicy>, StateError> {
        self.read(Utf8Path::new("/policy.json"))
    }

    /// Keeps the policy of the node's pool, or that it has none: a boot without the server is judged by it too.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_policy(&self, policy: Option<&RolloutPolicy>) -> Result<(), StateError> {
        let path = Utf8Path::new("/policy.json");
        match policy {
            Some(policy) => self.write(path, policy),
            None => Ok(self.root.remove(path).map(drop)?),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        self.root.path()
    }

    /// Keeps a rendered config. One that is kept already is replaced by the same.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_config(&self, name: &str, spec: &MachineConfigSpec) -> Result<(), StateError> {
        self.write(&config_path(name), spec)
    }

    /// A rendered config that was kept.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn config(&self, name: &str) -> Result<Option<MachineConfigSpec>, StateError> {
        self.read(&config_path(name))
    }

    /// Content from Secrets for the files of the version that the node goes to.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn values(&self) -> Result<Values, StateError> {
        Ok(self.read(Utf8Path::new(VALUES))?.unwrap_or_default())
    }

    /// Keeps that content: what a boot completes is completed without the server.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_values(&self, values: &Values) -> Result<(), StateError> {
        match values.is_empty() {
            true => self.remove(Utf8Path::new(VALUES)),
            false => self.write(Utf8Path::new(VALUES), values),
        }
    }

    /// The version that a record is of, with the content from Secrets that was written; none when its config is gone.
    ///
    /// # Errors
    /// When its config cannot be read.
    pub fn version_of(&self, record: &Record) -> Result<Option<Version>, StateError> {
        let version = self.version(&record.target())?;
        Ok(version.map(|version| version.filled(&record.values)))
    }

    /// A version that is to be written now, with the content from Secrets that is known.
    ///
    /// # Errors
    /// When its config cannot be read.
    pub fn version_to_write(&self, target: &Target) -> Result<Option<Version>, StateError> {
        let Some(version) = self.version(target)? else {
            return Ok(None);
        };
        Ok(Some(version.filled(&self.values()?)))
    }

    /// The version of a name, when its config is kept; without content from Secrets.
    ///
    /// # Errors
    /// When its config cannot be read.
    pub fn version(&self, target: &Target) -> Result<Option<Version>, StateError> {
        let Some(spec) = self.config(&target.config)? else {
            return Ok(None);
        };
        version(target, &spec).map(Some)
    }

    /// What a deployment was configured with; none when it was not by us, or not completely.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn record(&self, id: &DeploymentId) -> Result<Option<Record>, StateError> {
        self.read(&record_path(id))
    }

    /// Says that a deployment is completely configured.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_record(&self, id: &DeploymentId, record: &Record) -> Result<(), StateError> {
        self.write(&record_path(id), record)
    }

    /// The step that was started and not finished.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn journal(&self) -> Result<Option<Journal>, StateError> {
        self.read(Utf8Path::new("/journal.json"))
    }

    /// Says which step starts now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self, journal: &Journal) -> Result<(), StateError> {
        self.write(Utf8Path::new("/journal.json"), journal)
    }

    /// Says that the step is finished.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&self) -> Result<(), StateError> {
        self.root.remove(Utf8Path::new("/journal.json"))?;
        Ok(())
    }

    /// The version that was taken back last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn failure(&self) -> Result<Option<Failure>, StateError> {
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
    pub fn set_failure(&self, failure: Option<&Failure>) -> Result<(), StateError> {
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

    /// Which rendered configs the shared places were written by.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn shared(&self) -> Result<Shared, StateError> {
        Ok(self
            .read(Utf8Path::new("/shared.json"))?
            .unwrap_or_default())
    }

    /// Says which rendered config the shared places follow, or are about to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_shared(&self, shared: &Shared) -> Result<(), StateError> {
        self.write(Utf8Path::new("/shared.json"), shared)
    }

    /// Removes records of deployments that are gone, and configs that nothing refers to any more.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn collect(&self, deployments: &[DeploymentId], keep: &[&str]) -> Result<(), StateError> {
        let mut configs: Vec<String> = keep.iter().map(|name| (*name).to_owned()).collect();
        configs.extend(self.shared()?.writers().cloned());
        let journal = self.journal()?;
        configs.extend(journal.as_ref().map(|journal| journal.target().config));
        if let Some(Journal::Deploy { from, .. }) = journal {
            configs.extend(from);
        }
        let mut kept: Vec<Utf8PathBuf> = deployments.iter().map(record_path).collect();
        kept.extend(deployments.iter().map(staged_path));
        for dir in ["/deployments", "/staged"] {
            for path in self.list(dir)? {
                if !kept.contains(&path) {
                    self.root.remove(&path)?;
                }
            }
        }
        for id in deployments {
            let records = self.record(id)?.into_iter().flat_map(Record::all);
            configs.extend(records.map(|record| record.config));
        }
        for (_, staged) in self.all_staged()? {
            configs.push(staged.config);
            configs.extend(staged.from);
        }
        let kept: Vec<Utf8PathBuf> = configs.iter().map(|name| config_path(name)).collect();
        for path in self.list("/configs")? {
            if !kept.contains(&path) {
                self.root.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Every version that a deployment, the shared places or a started step refer to.
    pub(crate) fn versions(
        &self,
        deployments: &[DeploymentId],
    ) -> Result<Vec<Version>, StateError> {
        let mut targets = Vec::new();
        for id in deployments {
            let records = self.record(id)?.into_iter().flat_map(Record::all);
            targets.extend(records.map(|record| record.target()));
        }
        targets.extend(self.shared()?.writers().map(|config| Target {
            config: config.clone(),
            image: None,
        }));
        targets.extend(self.journal()?.map(|journal| journal.target()));
        targets.extend(self.all_staged()?.iter().map(|(_, staged)| staged.target()));
        targets
            .iter()
            .filter_map(|target| self.version(target).transpose())
            .collect()
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

fn record_path(id: &DeploymentId) -> Utf8PathBuf {
    Utf8Path::new("/deployments").join(format!("{id}.json"))
}

#[cfg(test)]
mod tests;
