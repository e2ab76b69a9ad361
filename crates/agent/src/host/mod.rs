//! One node's own side: what is on it, and the steps that change it. Every step says in the journal that it starts,
//! and each is safe to run again after a kill at any point.

mod adopt;
mod apply;
mod check;
mod deploy;
mod finalize;
mod machine;

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use model::update::{Failure, Version};
use oci::Digest;
use thiserror::Error;

use crate::command::CommandError;
use crate::configure::{ConfigureError, Places, configure, forget_originals};
use crate::error::AgentError;
use crate::os::{Deployments, Os, OsError};
use crate::root::{Found, Root, RootError};
use crate::state::{Journal, Record, State, StateError, mine};
use crate::systemd::{Systemd, SystemdError};

pub(crate) use crate::os::digest_in;
pub(crate) use check::Health;
pub(crate) use deploy::TakenBack;
pub(crate) use finalize::finalize;
pub(crate) use finalize::former;

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
    /// The host's tool for authorities.
    #[error("the host's programs were not told of new authorities")]
    Trust(#[source] Box<CommandError>),
    /// The next deployment cannot be started without a new kernel.
    #[error("no soft reboot: {0}")]
    NoSoftReboot(String),
    /// The host does not run from a deployment.
    #[error("this host is not booted from an ostree deployment")]
    NotBooted,
    /// The version names no image and none is booted that we know.
    #[error("rendered config `{0}` names no image, and the booted one is unknown")]
    NoImage(String),
}

impl HostError {
    /// Whether the disk is full: what goes away by itself when there is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            HostError::Configure(error) => error.is_full(),
            HostError::State(error) => error.is_full(),
            HostError::Root(error) => error.is_full(),
            HostError::Os(_)
            | HostError::Systemd(_)
            | HostError::Trust(_)
            | HostError::NotBooted
            | HostError::NoSoftReboot(_)
            | HostError::NoImage(_) => false,
        }
    }
}

/// What a look at the node shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// Deployments of the host.
    pub deployments: Deployments,
    /// What the running deployment was configured with.
    pub record: Option<Record>,
    /// The version behind the record.
    pub current: Option<Version>,
    /// A version that was half written to the running deployment.
    pub interrupted: Option<Version>,
    /// What the next boot's deployment was configured with, when that is complete, or will be when it is made.
    pub pending: Option<Record>,
    /// Whether a deployment that never booted was made for us, or begun.
    pub unbooted: bool,
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
    pub(crate) fn verified(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.verified.as_ref() == Some(&self.boot))
    }

    /// Digest of the booted image.
    #[must_use]
    pub(crate) fn booted_image(&self) -> Option<Digest> {
        self.deployments.booted().and_then(|booted| booted.image)
    }

    /// Whether an image is the booted one, by whichever of its digests it is named; none when the host does not know.
    #[must_use]
    pub(crate) fn has_booted(&self, image: &Digest) -> Option<bool> {
        let booted = self.deployments.booted()?;
        booted.image.map(|_| booted.is_of(image))
    }

    /// The booted image by the digest that one of these versions names it by, else by its own: whoever compares versions
    /// sees no other image where there is none.
    #[must_use]
    pub(crate) fn booted_as(&self, versions: &[Option<&Version>]) -> Option<Digest> {
        let names = versions.iter().copied().flatten();
        let mut names = names.filter_map(|version| digest_in(version.image()?));
        let named = names.find(|name| self.has_booted(name) == Some(true));
        named.or(self.booted_image())
    }
}

/// This node.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) os: Arc<dyn Os>,
    pub(crate) systemd: Arc<dyn Systemd>,
    pub(crate) state: Arc<State>,
    pub(crate) root: Utf8PathBuf,
    run_dir: Utf8PathBuf,
    /// The running program, of which a copy is kept for the way back; none in tests.
    pub(crate) program: Option<Utf8PathBuf>,
}

impl Host {
    /// A host with its running root, and a directory for markers that do not survive a reboot.
    #[must_use]
    pub(crate) fn new(
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
            program: None,
        }
    }

    /// Keeps a copy of the running program for the way back from a deployment in which it does not run.
    #[must_use]
    pub(crate) fn with_program(mut self, program: impl Into<Utf8PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Runs a blocking step on a thread of its own.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Host) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, AgentError> {
        let host = self.clone();
        let done = tokio::task::spawn_blocking(move || step(&host))
            .await
            .map_err(AgentError::CutShort)?;
        Ok(done?)
    }

    /// The operating system's images and deployments.
    #[must_use]
    pub(crate) fn os(&self) -> &dyn Os {
        &*self.os
    }

    /// What the agent keeps on disk.
    #[must_use]
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Looks at the node.
    ///
    /// # Errors
    /// When it is not booted from a deployment, or cannot be looked at.
    pub(crate) fn look(&self) -> Result<Sight, HostError> {
        let deployments = self.os.status()?;
        let booted = deployments.booted().ok_or(HostError::NotBooted)?;
        let record = self.state.record(&booted.id)?;
        let current = record
            .as_ref()
            .map(|record| self.state.version_of(record))
            .transpose()?
            .flatten();
        let pending = match deployments.pending() {
            Some(pending) => match self.state.record(&pending.id)? {
                None => {
                    let staged = self.state.staged(&pending.id)?;
                    staged.map(|staged| Record::of(&staged.target()))
                }
                record => record,
            },
            None => None,
        };
        let (boot, journal) = (self.boot()?, self.state.journal()?);
        let to_come = match &journal {
            Some(Journal::Deploy { .. }) => true,
            Some(Journal::Reboot { boot: asked_in, .. }) => *asked_in == boot,
            Some(Journal::Apply { .. }) | None => false,
        };
        let interrupted = match journal {
            Some(journal @ Journal::Apply { .. }) => self.state.version(&journal.target())?,
            Some(Journal::Deploy { .. } | Journal::Reboot { .. }) | None => None,
        };
        Ok(Sight {
            kernel_arguments: self.os.kernel_arguments()?,
            failure: self.state.failure()?,
            unbooted: to_come || self.unbooted_trial(&booted.id)?.is_some(),
            boot,
            deployments,
            // A record without its config is worth nothing: the node starts over from its first config.
            record: record.filter(|_| current.is_some()),
            current,
            interrupted,
            pending,
        })
    }

    /// Begins a boot: what runs early in each one calls it. A marker of an earlier start of everything but the kernel gives
    /// way to a new one, since a soft reboot keeps `/run`.
    ///
    /// # Errors
    /// When systemd does not answer, or the marker cannot be written.
    pub(crate) fn begin_boot(&self) -> Result<(), HostError> {
        let started = self.systemd.started()?;
        std::fs::create_dir_all(&self.run_dir).map_err(|source| StateError::Create {
            path: self.run_dir.clone(),
            source,
        })?;
        let root = Root::open(&self.run_dir)?;
        let before = match root.find(Utf8Path::new(STARTED))? {
            Found::File { bytes, .. } => Some(bytes),
            _ => None,
        };
        if before.is_some_and(|before| before != started.as_bytes()) {
            let marker = marker() + SOFT;
            root.write(Utf8Path::new(BOOT), marker.as_bytes(), mine(0o644))?;
        }
        root.write(Utf8Path::new(STARTED), started.as_bytes(), mine(0o644))?;
        Ok(())
    }

    /// Whether this boot was begun by what runs early in each: then it will notice the next one too.
    pub(crate) fn notices_boots(&self) -> bool {
        self.run_dir.join(STARTED.trim_start_matches('/')).exists()
    }

    /// Marker of this boot: made at the first look and gone with it. The kernel's own would be shared by nodes that
    /// are containers on one machine.
    pub(crate) fn boot(&self) -> Result<String, HostError> {
        std::fs::create_dir_all(&self.run_dir).map_err(|source| StateError::Create {
            path: self.run_dir.clone(),
            source,
        })?;
        let root = Root::open(&self.run_dir)?;
        let path = Utf8Path::new(BOOT);
        if let Found::File { bytes, .. } = root.find(path)? {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        let marker = marker();
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

    /// Removes images, records and configs that nothing refers to any more.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(crate) fn clean(
        &self,
        keep_images: &[Digest],
        keep_configs: &[&str],
    ) -> Result<(), HostError> {
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

/// Marker of the boot that runs, and the start of userspace that it is for.
const BOOT: &str = "/boot";
const STARTED: &str = "/started";
/// How the marker of a boot ends that kept the kernel.
const SOFT: &str = "-soft";

fn marker() -> String {
    let now = Timestamp::now();
    format!("{:x}-{:x}", now.as_nanosecond(), std::process::id())
}

/// Whether the boot of a marker kept the kernel.
pub(crate) fn is_soft(boot: &str) -> bool {
    boot.ends_with(SOFT)
}

/// When the boot of a marker began, if it kept the kernel.
pub(crate) fn soft_since(boot: &str) -> Option<Timestamp> {
    let began = boot.strip_suffix(SOFT)?.split('-').next()?;
    Timestamp::from_nanosecond(i128::from_str_radix(began, 16).ok()?).ok()
}
