//! The `rpm-ostree` backend: runs `rpm-ostree`, whose daemon does one transaction at a time, and reads its status.
//! Images are staged; the deployment is made at shutdown.

mod packages;
mod status;

use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use oci::{Client, Digest};

use super::image_store::{ImageStore, staged_of};
use super::sysroot::Sysroot;
use super::tools::Tools;
use super::{
    Deployment, DeploymentId, Deployments, KernelArguments, Os, OsError, PackageChanges,
    ProgressSink, Role, SoftReboot,
};
use crate::command::Command;

use status::Status;

/// How long somebody else's transaction may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until it is cancelled.
    pub wait: Duration,
    /// Until it must have ended after that.
    pub cancel: Duration,
    /// Between two looks.
    pub look: Duration,
}

impl Default for Patience {
    /// Longer than an update of the host by itself takes on slow lines, where it should not be cut off.
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(900),
            cancel: Duration::from_secs(60),
            look: Duration::from_secs(1),
        }
    }
}

/// A host that rpm-ostree updates.
#[derive(Debug)]
pub struct RpmOstree {
    store: ImageStore,
    patience: Patience,
}

impl RpmOstree {
    /// The host whose sysroot and running root are at `root`.
    #[must_use]
    pub fn new(root: &Utf8Path, tools: Tools, patience: Patience) -> Self {
        Self {
            store: ImageStore {
                sysroot: Sysroot(root.to_owned()),
                tools,
            },
            patience,
        }
    }

    fn tool(&self, verb: &str) -> Command {
        self.store.tools.command("rpm-ostree").arg(verb)
    }

    fn seen(&self) -> Result<Status, OsError> {
        Status::parse(&self.tool("status").arg("--json").run()?)
    }

    /// The status when no transaction is under way. One of an earlier run of ours may be: it may end as we want it. One
    /// that takes too long is cancelled.
    fn idle(&self) -> Result<Status, OsError> {
        let Patience { wait, cancel, look } = self.patience;
        let started = Instant::now();
        let mut cancelled = false;
        loop {
            let seen = self.seen()?;
            let Some(doing) = seen.transaction.clone() else {
                return Ok(seen);
            };
            let waited = started.elapsed();
            if waited >= wait + cancel {
                return Err(OsError::Busy {
                    doing: format!("the transaction `{doing}` of rpm-ostree"),
                    seconds: waited.as_secs(),
                    look: "rpm-ostree status",
                });
            }
            if waited >= wait && !cancelled {
                tracing::warn!(%doing, seconds = waited.as_secs(), "cancelling a transaction that does not end");
                self.tool("cancel").run()?;
                cancelled = true;
            }
            std::thread::sleep(look);
        }
    }

    /// A rebase to what is staged already is an error to the tool, and what another attempt left is in its way.
    fn unstage(&self, seen: &Status) -> Result<(), OsError> {
        if seen.deployments.0.iter().any(|d| d.role == Role::Staged) {
            self.tool("cleanup").arg("--pending").run()?;
        }
        Ok(())
    }

    /// Rebases, in one transaction with the packages, but for kernels: those are changed in the new image.
    fn stage(
        &self,
        seen: &Status,
        image: &Digest,
        pull_spec: Option<&str>,
        packages: &PackageChanges,
    ) -> Result<(), OsError> {
        let (reference, verified) = self.store.origin(image, pull_spec)?;
        self.unstage(seen)?;
        let left = self.left(&seen.booted, packages)?;
        let together = match left.swaps_kernels() {
            true => Vec::new(),
            false => left.options(),
        };
        let done = self
            .tool("rebase")
            // Older versions want the first; the second is for hosts that an update agent of their own drives.
            .args(["--experimental", "--bypass-driver"])
            .args(together)
            .arg(verified.image_reference(&reference))
            .run();
        let Err(error) = done else {
            return Ok(());
        };
        // The connection to the daemon may have broken while it went on.
        if staged_of(self.idle()?.deployments, image).is_ok() {
            return Ok(());
        }
        Err(error.into())
    }
}

impl Os for RpmOstree {
    fn status(&self) -> Result<Deployments, OsError> {
        Ok(self.seen()?.deployments)
    }

    fn has(&self, image: &Digest) -> Result<bool, OsError> {
        self.store.has(image)
    }

    fn pull(
        &self,
        image: &str,
        client: &Client,
        progress: ProgressSink<'_>,
    ) -> Result<Digest, OsError> {
        self.store.pull(image, client, progress)
    }

    fn deploy(
        &self,
        image: &Digest,
        pull_spec: Option<&str>,
        arguments: &KernelArguments,
        packages: &PackageChanges,
    ) -> Result<Deployment, OsError> {
        let seen = self.idle()?;
        let booted = seen.deployments.booted();
        let is_booted = booted.is_some_and(|booted| booted.is_of(image));
        match seen.deployments.booted() {
            Some(booted) if is_booted && self.left(&seen.booted, packages)?.is_empty() => {
                self.store
                    .stage_booted(booted, &seen.deployments, arguments)?;
            }
            _ => {
                let is_next = staged_of(seen.deployments.clone(), image).is_ok();
                if is_booted && !is_next {
                    self.unstage(&seen)?;
                } else if !is_next {
                    self.stage(&seen, image, pull_spec, packages)?;
                }
                self.change_packages(packages)?;
                self.store.change_arguments(arguments)?;
            }
        }
        staged_of(self.idle()?.deployments, image)
    }

    fn adds_packages(&self) -> bool {
        true
    }

    fn root_of(&self, deployment: &Deployment) -> Utf8PathBuf {
        self.store.sysroot.root_of(deployment)
    }

    fn kernel_arguments(&self) -> Result<Vec<String>, OsError> {
        self.store.sysroot.kernel_arguments(&self.status()?)
    }

    fn soft_reboot(&self) -> Result<Option<SoftReboot>, OsError> {
        self.store.tools.soft_reboot()
    }

    fn discard(&self, deployment: &DeploymentId) -> Result<(), OsError> {
        if !self.idle()?.deployments.is_next(deployment) {
            return Ok(());
        }
        let done = self.tool("cleanup").arg("--pending").run();
        match done {
            // The connection to the daemon may have broken while it went on.
            Err(error) if self.idle()?.deployments.is_next(deployment) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn rollback(&self) -> Result<(), OsError> {
        let seen = self.idle()?;
        let next = seen.deployments.0.first().map(|d| d.role);
        // The command changes there and back again.
        if next == Some(Role::Pending) {
            return Ok(());
        }
        if seen.deployments.rollback().is_none() {
            return Err(OsError::NoRollback);
        }
        if next == Some(Role::Staged) {
            self.tool("cleanup").arg("--pending").run()?;
        }
        let done = self.tool("rollback").run();
        let next = self.idle()?.deployments.0.first().map(|d| d.role);
        match done {
            Err(error) if next != Some(Role::Pending) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn cleanup(&self, keep: &[Digest]) -> Result<(), OsError> {
        let seen = self.idle()?;
        self.store.cleanup(&seen.deployments, keep)
    }
}
