//! The `bootc` backend: runs `bootc` and reads its status. Images are staged; the deployment is made at shutdown.

mod status;

use camino::{Utf8Path, Utf8PathBuf};
use oci::{Client, Digest};

use super::image_store::{ImageStore, staged_of};
use super::sysroot::Sysroot;
use super::tools::Tools;
use super::{
    Deployment, DeploymentId, Deployments, KernelArguments, Os, OsError, PackageChanges,
    ProgressSink, Role, SoftReboot, access,
};
use crate::command::Command;

pub(super) use status::Status;

/// A host that bootc updates.
#[derive(Debug)]
pub struct Bootc {
    store: ImageStore,
}

impl Bootc {
    /// The host whose sysroot and running root are at `root`.
    #[must_use]
    pub fn new(root: &Utf8Path, tools: Tools) -> Self {
        Self {
            store: ImageStore {
                sysroot: Sysroot(root.to_owned()),
                tools,
            },
        }
    }

    fn bootc(&self, verb: &str) -> Command {
        self.store.tools.command("bootc").arg(verb)
    }

    fn seen(&self) -> Result<Status, OsError> {
        read(&self.store.tools)
    }

    /// Takes the deployment that is next away: bootc itself would only replace it.
    fn unstage(&self) -> Result<(), OsError> {
        self.store.sysroot.make_writable()?;
        self.store
            .tools
            .command("ostree")
            .args(["admin", "undeploy"])
            .arg(format!("--sysroot={}", self.store.sysroot.0))
            .arg("0")
            .run()?;
        Ok(())
    }

    fn stage(&self, image: &Digest, pull_spec: Option<&str>) -> Result<(), OsError> {
        let (reference, verified) = self.store.origin(image, pull_spec)?;
        let switch = self.bootc("switch").arg("--quiet");
        let switch = match verified {
            access::Verified::BySignature => switch.arg("--enforce-container-sigpolicy"),
            access::Verified::AsPolicySays => switch,
        };
        let done = switch.arg(reference.to_string()).run();
        // It may have staged the image and failed after that.
        if let Err(error) = done
            && !self.seen()?.has_staged(image)
        {
            return Err(error.into());
        }
        Ok(())
    }

    /// bootc changes the arguments that images bring along; those of one machine are for rpm-ostree's tool to change.
    /// `taken_up` says that the image was staged before, perhaps with other arguments than the running ones.
    fn change_arguments(
        &self,
        seen: &Status,
        taken_up: bool,
        arguments: &KernelArguments,
    ) -> Result<(), OsError> {
        let present = self.store.sysroot.kernel_arguments(&seen.deployments)?;
        let settled = arguments.add.iter().all(|a| present.contains(a))
            && !arguments.remove.iter().any(|a| present.contains(a));
        if settled && !taken_up {
            return Ok(());
        }
        if !self.store.tools.has("rpm-ostree") {
            // Then nobody has changed those of what was staged either.
            if settled {
                return Ok(());
            }
            return Err(OsError::Unsupported(
                "kernel arguments cannot change together with the image on this host: bootc leaves them to \
                 `rpm-ostree kargs`, which is not installed; put them into `/usr/lib/bootc/kargs.d` of the image"
                    .to_owned(),
            ));
        }
        self.store.change_arguments(arguments)
    }
}

/// Asks bootc.
pub(super) fn read(tools: &Tools) -> Result<Status, OsError> {
    let printed = tools
        .command("bootc")
        .args(["status", "--format=json", "--format-version=1"])
        .run()?;
    Status::parse(&printed)
}

impl Os for Bootc {
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
        packages.refuse()?;
        let seen = self.seen()?;
        match seen.deployments.booted() {
            Some(booted) if booted.is_of(image) => {
                self.store
                    .stage_booted(booted, &seen.deployments, arguments)?;
            }
            _ => {
                let taken_up = seen.has_staged(image);
                if taken_up && seen.download_only {
                    self.bootc("upgrade").arg("--from-downloaded").run()?;
                } else if !taken_up {
                    self.stage(image, pull_spec)?;
                }
                self.change_arguments(&seen, taken_up, arguments)?;
            }
        }
        staged_of(self.status()?, image)
    }

    fn root_of(&self, deployment: &Deployment) -> Utf8PathBuf {
        self.store.sysroot.root_of(deployment)
    }

    fn kernel_arguments(&self) -> Result<Vec<String>, OsError> {
        self.store.sysroot.kernel_arguments(&self.status()?)
    }

    fn soft_reboot(&self) -> Result<Option<SoftReboot>, OsError> {
        match self.seen()?.soft_reboot {
            true => self.store.tools.soft_reboot(),
            false => Ok(None),
        }
    }

    fn discard(&self, deployment: &DeploymentId) -> Result<(), OsError> {
        match self.status()?.is_next(deployment) {
            true => self.unstage(),
            false => Ok(()),
        }
    }

    fn rollback(&self) -> Result<(), OsError> {
        let seen = self.seen()?;
        // The command changes there and back again.
        if seen.rollback_queued {
            return Ok(());
        }
        if seen.deployments.rollback().is_none() {
            return Err(OsError::NoRollback);
        }
        if seen.deployments.0.iter().any(|d| d.role == Role::Staged) {
            self.unstage()?;
        }
        let done = self.bootc("rollback").run();
        match done {
            Err(error) if !self.seen()?.rollback_queued => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn cleanup(&self, keep: &[Digest]) -> Result<(), OsError> {
        self.store.cleanup(&self.status()?, keep)
    }
}
