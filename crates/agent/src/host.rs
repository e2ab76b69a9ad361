//! One node's own side: what is on it, and the steps that change it. Every step says in the journal that it starts,
//! and each is safe to run again after a kill at any point.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use model::node::Target;
use model::update::{Action, Failure, Version};
use oci::Digest;
use thiserror::Error;

use crate::command::Command;
use crate::configure::{ConfigureError, Places, configure, differences, forget_originals};
use crate::os::{Deployment, Deployments, KernelArguments, Os, OsError};
use crate::root::{Found, Root, RootError};
use crate::state::{Journal, Record, State, StateError, mine};
use crate::systemd::{Job, Systemd, SystemdError};
use crate::verify::{Verdict, judge};

/// Lines of a failed unit's journal that a reason shows.
const JOURNAL_LINES: &str = "5";

/// Why a step failed.
#[derive(Debug, Error)]
pub enum HostError {
    /// The operating system's deployments.
    #[error(transparent)]
    Os(#[from] OsError),
    /// Files and units.
    #[error(transparent)]
    Configure(#[from] ConfigureError),
    /// The agent's own state.
    #[error(transparent)]
    State(#[from] StateError),
    /// systemd.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A file of the host.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The host does not run from a deployment.
    #[error("this host is not booted from an ostree deployment")]
    NotBooted,
    /// The version names no image and none is booted that we know.
    #[error("rendered config `{0}` names no image, and the booted one is unknown")]
    NoImage(String),
}

/// What a look at the node shows.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// Deployments of the host.
    pub deployments: Deployments,
    /// What the running deployment was configured with.
    pub record: Option<Record>,
    /// The version behind the record.
    pub current: Option<Version>,
    /// A version that was half written to the running deployment.
    pub interrupted: Option<Version>,
    /// What the next boot's deployment was configured with, when that is complete.
    pub pending: Option<Record>,
    /// Arguments of the running kernel's deployment.
    pub kernel_arguments: Vec<String>,
    /// What was taken back last.
    pub failure: Option<Failure>,
    /// Marker of this boot.
    pub boot: String,
}

impl Sight {
    /// Whether the running deployment was found well in this boot.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.verified.as_ref() == Some(&self.boot))
    }

    /// Digest of the booted image.
    #[must_use]
    pub fn booted_image(&self) -> Option<Digest> {
        self.deployments.booted().and_then(|booted| booted.image)
    }
}

/// How well the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Everything is as it should be.
    Well,
    /// Not yet; may come.
    Waiting(String),
    /// Will not come by itself.
    Unwell(String),
}

/// This node.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) os: Arc<dyn Os>,
    pub(crate) systemd: Arc<dyn Systemd>,
    pub(crate) state: Arc<State>,
    pub(crate) root: Utf8PathBuf,
    run_dir: Utf8PathBuf,
}

impl Host {
    /// A host with its running root, and a directory for markers that do not survive a reboot.
    #[must_use]
    pub fn new(
        os: Arc<dyn Os>,
        systemd: Arc<dyn Systemd>,
        state: State,
        root: &Utf8Path,
        run_dir: &Utf8Path,
    ) -> Self {
        Self {
            os,
            systemd,
            state: Arc::new(state),
            root: root.to_owned(),
            run_dir: run_dir.to_owned(),
        }
    }

    /// The operating system's images and deployments.
    #[must_use]
    pub fn os(&self) -> &dyn Os {
        &*self.os
    }

    /// What the agent keeps on disk.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Looks at the node.
    ///
    /// # Errors
    /// When it is not booted from a deployment, or cannot be looked at.
    pub fn look(&self) -> Result<Sight, HostError> {
        let deployments = self.os.status()?;
        let booted = deployments.booted().ok_or(HostError::NotBooted)?;
        let record = self.state.record(&booted.id)?;
        let current = record
            .as_ref()
            .map(|record| self.state.version(&record.target()))
            .transpose()?
            .flatten();
        let pending = deployments
            .pending()
            .map(|pending| self.state.record(&pending.id))
            .transpose()?
            .flatten();
        let interrupted = match self.state.journal()? {
            Some(journal @ Journal::Apply { .. }) => self.state.version(&journal.target())?,
            Some(Journal::Deploy { .. } | Journal::Reboot { .. }) | None => None,
        };
        Ok(Sight {
            kernel_arguments: self.os.kernel_arguments()?,
            failure: self.state.failure()?,
            boot: self.boot()?,
            deployments,
            // A record without its config is worth nothing: the node starts over from its first config.
            record: record.filter(|_| current.is_some()),
            current,
            interrupted,
            pending,
        })
    }

    /// Marker of this boot: made at the first look and gone with it. The kernel's own would be shared by nodes that
    /// are containers on one machine.
    pub(crate) fn boot(&self) -> Result<String, HostError> {
        std::fs::create_dir_all(&self.run_dir).map_err(|source| StateError::Create {
            path: self.run_dir.clone(),
            source,
        })?;
        let root = Root::open(&self.run_dir)?;
        let path = Utf8Path::new("/boot");
        if let Found::File { bytes, .. } = root.find(path)? {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        let now = Timestamp::now();
        let marker = format!("{:x}-{:x}", now.as_nanosecond(), std::process::id());
        root.write(path, marker.as_bytes(), mine(0o644))?;
        Ok(marker)
    }

    /// Configures a root and syncs it, before any record may say that it is done: also what a killed run had written.
    pub(crate) fn write(
        &self,
        root: &Root,
        from: &[&Version],
        to: &Version,
        places: Places,
    ) -> Result<bool, HostError> {
        let changed = configure(root, &self.state, from, to, places)?;
        root.sync()?;
        Ok(changed)
    }

    /// Makes the deployment that the next boot takes, with `to` in its `/etc`. Takes up what a killed run left.
    ///
    /// # Errors
    /// When the deployment cannot be made or configured.
    pub fn deploy(&self, sight: &Sight, to: &Version, image: Digest) -> Result<(), HostError> {
        self.undo_apply(sight)?;
        let target = to.target();
        let current = sight.current.clone().unwrap_or_default();
        let deployments = self.os.status()?;
        let made = match self.state.journal()? {
            Some(journal) if journal.target() == target => made_for(&journal, image, &deployments),
            _ => None,
        };
        let deployment = match made {
            Some(deployment) => deployment,
            None => {
                let before = deployments.ids();
                // A new deployment may get the name of one that is gone.
                self.state.collect(&before, &[&target.config])?;
                self.state.begin(&Journal::Deploy {
                    config: target.config.clone(),
                    image: target.image.clone(),
                    from: sight.record.as_ref().map(|record| record.config.clone()),
                    digest: image,
                    before,
                })?;
                let gone = current
                    .kernel_arguments
                    .iter()
                    .filter(|a| !to.kernel_arguments.contains(a));
                let arguments = KernelArguments {
                    remove: gone.cloned().collect(),
                    add: to.kernel_arguments.clone(),
                };
                let id = self.os.deploy(&image, &arguments)?;
                let found = self
                    .os
                    .status()?
                    .0
                    .into_iter()
                    .find(|deployment| deployment.id == id);
                found.ok_or_else(|| OsError::Unexpected(format!("deployment `{id}` gone again")))?
            }
        };
        let root = Root::open(&self.os.root_of(&deployment))?;
        self.write(&root, &[&current], to, Places::NewDeployment)?;
        self.state
            .set_record(&deployment.id, &Record::of(&target))?;
        Ok(self.state.finish()?)
    }

    /// Brings the running root back to the version that its record names.
    fn undo_apply(&self, sight: &Sight) -> Result<(), HostError> {
        let Some(half) = &sight.interrupted else {
            return Ok(());
        };
        let back = sight.current.clone().unwrap_or_default();
        let root = Root::open(&self.root)?;
        for places in [Places::Running, Places::Shared] {
            self.write(&root, &[&back, half], &back, places)?;
        }
        self.systemd.daemon_reload()?;
        Ok(self.state.finish()?)
    }

    /// Reboots into the next boot's deployment.
    ///
    /// # Errors
    /// When systemd refuses.
    pub fn reboot(&self, sight: &Sight, target: &Target) -> Result<(), HostError> {
        self.state.begin(&Journal::Reboot {
            config: target.config.clone(),
            image: target.image.clone(),
            boot: sight.boot.clone(),
        })?;
        Ok(self.systemd.reboot()?)
    }

    /// Writes files and units of the running root and does what follows for services.
    ///
    /// # Errors
    /// When something cannot be written, or systemd cannot do what follows.
    pub fn apply(&self, sight: &Sight, to: &Version, actions: &[Action]) -> Result<(), HostError> {
        let booted = sight.deployments.booted().ok_or(HostError::NotBooted)?;
        let target = to.target();
        let current = sight.current.clone().unwrap_or_default();
        let mut from = vec![&current];
        from.extend(&sight.interrupted);
        // A half-written version that is not the one to come must be gone before its journal is.
        if sight
            .interrupted
            .as_ref()
            .is_some_and(|half| half.target() != target)
        {
            self.undo_apply(sight)?;
        }
        self.state.begin(&Journal::Apply {
            config: target.config.clone(),
            image: target.image.clone(),
        })?;
        let root = Root::open(&self.root)?;
        for action in actions {
            if let Action::Stop { unit, .. } = action {
                self.stop(unit)?;
            }
        }
        for places in [Places::Running, Places::Shared] {
            self.write(&root, &from, to, places)?;
        }
        for action in actions {
            match action {
                Action::Stop { .. } => {}
                Action::DaemonReload { .. } => self.systemd.daemon_reload()?,
                Action::Reload { unit, .. } => self.if_running(Job::Reload, unit)?,
                Action::Restart { unit, .. } => self.if_running(Job::Restart, unit)?,
                Action::Start { unit, .. } => self.systemd.run(Job::Start, unit)?,
            }
        }
        self.state.set_shared(&target.config)?;
        self.state.set_record(&booted.id, &Record::of(&target))?;
        Ok(self.state.finish()?)
    }

    fn stop(&self, unit: &str) -> Result<(), HostError> {
        match self.systemd.unit(unit)?.load.as_str() {
            "not-found" => Ok(()),
            _ => Ok(self.systemd.run(Job::Stop, unit)?),
        }
    }

    fn if_running(&self, job: Job, unit: &str) -> Result<(), HostError> {
        match self.systemd.unit(unit)?.active.as_str() {
            "active" | "reloading" => Ok(self.systemd.run(job, unit)?),
            _ => Ok(()),
        }
    }

    /// Compares the running node with a version.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn check(&self, sight: &Sight, version: &Version) -> Result<Health, HostError> {
        let wanted = version.image().and_then(digest_in);
        if let (Some(wanted), Some(booted)) = (wanted, sight.booted_image())
            && wanted != booted
        {
            return Ok(Health::Unwell(format!(
                "the booted image is `{booted}`, not `{wanted}`"
            )));
        }
        let root = Root::open(&self.root)?;
        if let Some(path) = differences(&root, version)?.first() {
            return Ok(Health::Unwell(format!(
                "`{path}` is not what rendered config `{}` says",
                version.name
            )));
        }
        let mut waiting = None;
        for unit in version
            .ignition
            .units
            .iter()
            .filter(|unit| unit.enabled == Some(true) && !unit.masked())
        {
            if unit.name.contains("@.") {
                continue;
            }
            match judge(&unit.name, &self.systemd.unit(&unit.name)?) {
                Verdict::Well => {}
                Verdict::Waiting(why) => waiting = waiting.or(Some(why)),
                Verdict::Unwell(why) => return Ok(Health::Unwell(why + &last_words(&unit.name))),
            }
        }
        Ok(waiting.map_or(Health::Well, Health::Waiting))
    }

    /// Remembers that the running deployment was found well in this boot.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn confirm(&self, sight: &Sight) -> Result<(), HostError> {
        let booted = sight.deployments.booted().ok_or(HostError::NotBooted)?;
        let Some(record) = sight.record.clone() else {
            return Ok(());
        };
        Ok(self.state.set_record(
            &booted.id,
            &Record {
                verified: Some(sight.boot.clone()),
                ..record
            },
        )?)
    }

    /// Goes back to the previous deployment, when this one was never well and that one was configured by us. Returns
    /// whether the node reboots now.
    ///
    /// # Errors
    /// When the deployments cannot be put in order, or systemd refuses to reboot.
    pub fn take_back(&self, sight: &Sight, reason: &str) -> Result<bool, HostError> {
        // A killed run may have put the deployments in order already.
        let ordered = sight.deployments.pending();
        let (Some(record), Some(other)) = (&sight.record, ordered.or(sight.deployments.rollback()))
        else {
            return Ok(false);
        };
        let previous = self.state.record(&other.id)?;
        let (None, Some(previous)) = (&record.verified, previous) else {
            return Ok(false);
        };
        if previous.target() == record.target() {
            return Ok(false);
        }
        self.state.set_failure(Some(&Failure {
            target: record.target(),
            reason: reason.to_owned(),
        }))?;
        if ordered.is_none() {
            self.os.rollback()?;
        }
        self.reboot(sight, &previous.target())?;
        Ok(true)
    }

    /// Removes images, records and configs that nothing refers to any more.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clean(&self, keep_images: &[Digest], keep_configs: &[&str]) -> Result<(), HostError> {
        self.os.cleanup(keep_images)?;
        let deployments = self.os.status()?.ids();
        self.state.collect(&deployments, keep_configs)?;
        let root = Root::open(&self.root)?;
        Ok(forget_originals(
            &root,
            &self.state,
            &self.state.versions(&deployments)?,
        )?)
    }
}

/// The deployment that a killed run made for this journal, when it came that far.
fn made_for(journal: &Journal, image: Digest, deployments: &Deployments) -> Option<Deployment> {
    let Journal::Deploy { digest, before, .. } = journal else {
        return None;
    };
    let is_new =
        |d: &&Deployment| *digest == image && d.image == Some(image) && !before.contains(&d.id);
    deployments.0.iter().find(is_new).cloned()
}

/// Digest of a pull spec that has one.
#[must_use]
pub fn digest_in(pull_spec: &str) -> Option<Digest> {
    pull_spec
        .rsplit_once('@')
        .and_then(|(_, digest)| digest.parse().ok())
}

/// The end of a unit's journal; where the journal cannot be read the reason stands alone.
fn last_words(unit: &str) -> String {
    let command = Command::new("journalctl").args([
        "--no-pager",
        "--output=cat",
        "--lines",
        JOURNAL_LINES,
        "--unit",
        unit,
    ]);
    match command.run() {
        Ok(lines) if !lines.trim().is_empty() => format!(": {}", lines.trim().replace('\n', "; ")),
        Ok(_) => String::new(),
        Err(error) => {
            tracing::debug!(%error, unit, "no journal");
            String::new()
        }
    }
}
