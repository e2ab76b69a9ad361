//! The way that takes a reboot: a new deployment is made and configured beside the running one, and booted. Going back
//! is the same with the deployment that was there before.

use std::time::Duration;

use model::ledger::Cause;
use model::node::Target;
use model::packages::Packages;
use model::update::{Policy, Version};
use oci::Digest;

use super::{Host, HostError, Sight};
use crate::configure::Places;
use crate::error::chain;
use crate::os::{Deployment, DeploymentId, Deployments, KernelArguments, PackageChanges, Role};
use crate::root::Root;
use crate::state::{Journal, Record, Staged};
use crate::systemd::SOFT_REBOOT;

/// How long the preparation of a soft reboot may take: it mounts, and may make a staged deployment.
const PREPARE_SOFT_REBOOT: Duration = Duration::from_secs(300);

/// What was done about a version that is not well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakenBack {
    /// Nothing: it was well before, or there is nothing to go back to.
    Nothing,
    /// The running root has the former version again.
    Live,
    /// The node reboots into the previous deployment.
    Rebooting,
}

impl Host {
    /// Makes the deployment that the next boot takes, with `to` in its `/etc`. Takes up what a killed run left.
    ///
    /// # Errors
    /// When the deployment cannot be made or configured.
    pub(crate) fn deploy(
        &self,
        sight: &Sight,
        to: &Version,
        image: Digest,
    ) -> Result<(), HostError> {
        self.undo_apply(sight)?;
        let target = to.target();
        let current = sight.current.clone().unwrap_or_default();
        let deployments = self.os.status()?;
        let made = match self.state.journal()? {
            Some(journal) if journal.target() == target => made_for(&journal, image, &deployments),
            _ => None,
        };
        let from = sight.record.as_ref().map(|record| record.config.clone());
        let deployment = match made {
            Some(deployment) => deployment,
            None => {
                // One that is only staged will be another in all but name.
                let made = deployments.0.iter().filter(|d| d.role != Role::Staged);
                let before: Vec<DeploymentId> = made.map(|d| d.id.clone()).collect();
                let arguments = self.arguments(&current, to)?;
                let packages = self.packages(&current, to)?;
                // A new deployment may get the name of one that is gone.
                self.state.collect(&before, &[&target.config])?;
                self.state.begin(&Journal::Deploy {
                    config: target.config.clone(),
                    image: target.image.clone(),
                    from: from.clone(),
                    digest: image,
                    before,
                })?;
                self.os.deploy(&image, to.image(), &arguments, &packages)?
            }
        };
        if deployment.role == Role::Staged {
            // It has no `/etc` yet; `finalize` writes that at shutdown.
            let staged = Staged {
                config: target.config,
                image: target.image,
                from,
                os: deployment.os.clone(),
            };
            self.state.set_staged(&deployment.id, &staged)?;
        } else {
            let root = Root::open(&self.os.root_of(&deployment))?;
            self.write(&root, &[&current], to, Places::NewDeployment)?;
            self.state
                .set_record(&deployment.id, &Record::written(to))?;
        }
        let booted = deployments.booted().ok_or(HostError::NotBooted)?;
        self.put_on_trial(&deployment.id, &booted.id)?;
        Ok(self.state.finish()?)
    }

    /// Takes away the deployment that was made, or begun, and never booted, with all that was kept for it. `keep` is the
    /// rendered config that the node goes to instead.
    ///
    /// # Errors
    /// When the deployments cannot be put in order; the next call goes on.
    pub(crate) fn discard(&self, sight: &Sight, keep: &str) -> Result<(), HostError> {
        let booted = sight.deployments.booted().ok_or(HostError::NotBooted)?;
        let journal = self.state.journal()?;
        let made = match &journal {
            Some(Journal::Deploy { digest, .. }) => self.journalled(*digest)?,
            Some(Journal::Apply { .. } | Journal::Reboot { .. }) | None => None,
        };
        let on_trial = self.unbooted_trial(&booted.id)?;
        for id in made.iter().chain(&on_trial) {
            tracing::info!(deployment = %id, "is not wanted any more");
            self.os.discard(id)?;
        }
        self.state.forget_next_reboot()?;
        if on_trial.is_some() {
            self.state.end_trial()?;
        }
        if let Some(Journal::Deploy { .. } | Journal::Reboot { .. }) = journal {
            self.state.finish()?;
        }
        Ok(self.state.collect(&self.os.status()?.ids(), &[keep])?)
    }

    /// The deployment of the journal, when it was made.
    fn journalled(&self, image: Digest) -> Result<Option<DeploymentId>, HostError> {
        let deployments = self.os.status()?;
        let journal = self.state.journal()?;
        let made = journal.and_then(|journal| made_for(&journal, image, &deployments));
        Ok(made.map(|made| made.id))
    }

    /// What changes in the kernel's arguments: also away with what a deployment that is staged already was to add.
    fn arguments(&self, current: &Version, to: &Version) -> Result<KernelArguments, HostError> {
        let mut gone = current.kernel_arguments.clone();
        for (_, staged) in self.state.all_staged()? {
            let version = self.state.version(&staged.target())?;
            gone.extend(version.unwrap_or_default().kernel_arguments);
        }
        gone.retain(|argument| !to.kernel_arguments.contains(argument));
        gone.sort();
        gone.dedup();
        Ok(KernelArguments {
            remove: gone,
            add: to.kernel_arguments.clone(),
        })
    }

    /// What changes in the packages on top of the image: also away with what is staged already.
    fn packages(&self, current: &Version, to: &Version) -> Result<PackageChanges, HostError> {
        let mut former = Packages::of(current);
        for (_, staged) in self.state.all_staged()? {
            let version = self.state.version(&staged.target())?;
            let Packages { added, removed } = Packages::of(&version.unwrap_or_default());
            former.added.extend(added);
            former.removed.extend(removed);
        }
        let wanted = Packages::of(to);
        let owned =
            |names: &mut dyn Iterator<Item = &&str>| names.map(|n| (*n).to_owned()).collect();
        Ok(PackageChanges {
            install: owned(&mut wanted.added.iter()),
            uninstall: owned(&mut former.added.difference(&wanted.added)),
            remove: owned(&mut wanted.removed.iter()),
            reset: owned(&mut former.removed.difference(&wanted.removed)),
        })
    }

    /// Reboots into the next boot's deployment.
    ///
    /// # Errors
    /// When systemd refuses.
    pub(crate) fn reboot(
        &self,
        sight: &Sight,
        target: &Target,
        cause: Cause,
    ) -> Result<(), HostError> {
        self.expect_boot(sight, target, cause)?;
        Ok(self.systemd.reboot()?)
    }

    /// Starts everything but the kernel anew, in the next boot's deployment, and reboots when that cannot be.
    ///
    /// # Errors
    /// When systemd refuses both.
    pub(crate) fn soft_reboot(
        &self,
        sight: &Sight,
        target: &Target,
        cause: Cause,
    ) -> Result<(), HostError> {
        self.expect_boot(sight, target, cause)?;
        if let Err(error) = self.start_anew() {
            tracing::warn!("rebooting: {}", chain(&error));
            self.systemd.reboot()?;
        }
        Ok(())
    }

    fn expect_boot(&self, sight: &Sight, target: &Target, cause: Cause) -> Result<(), HostError> {
        self.state.set_next_reboot(&sight.boot, cause)?;
        Ok(self.state.begin(&Journal::Reboot {
            config: target.config.clone(),
            image: target.image.clone(),
            boot: sight.boot.clone(),
        })?)
    }

    fn start_anew(&self) -> Result<(), HostError> {
        let unable = |why: String| HostError::NoSoftReboot(why);
        let how = self.os.soft_reboot()?;
        let how = how.ok_or_else(|| unable("the deployment takes a new kernel".to_owned()))?;
        let prepared = self.systemd.command(&how.prepare, PREPARE_SOFT_REBOOT)?;
        if prepared.status != Some(0) {
            return Err(unable(prepared.said));
        }
        let Err(error) = self.systemd.soft_reboot() else {
            return Ok(());
        };
        let reset = self.systemd.command(&how.reset, PREPARE_SOFT_REBOOT)?;
        if reset.status != Some(0) {
            tracing::warn!("a soft reboot stays prepared: {}", reset.said);
        }
        Err(error.into())
    }

    /// Whether the deployment that is next, or one that has the running kernel, can start without a new one.
    ///
    /// # Errors
    /// When systemd or the host's tools cannot say.
    pub(crate) fn can_soft_reboot(&self) -> Result<bool, HostError> {
        Ok(self.notices_boots()
            && self.systemd.unit(SOFT_REBOOT)?.load == "loaded"
            && self.os.soft_reboot()?.is_some())
    }

    /// Takes back what was never found well: a live change by the files from before, a deployment by the previous one.
    ///
    /// # Errors
    /// When the deployments cannot be put in order, or systemd refuses to reboot.
    pub(crate) fn take_back(
        &self,
        sight: &Sight,
        reason: &str,
        policy: &Policy,
    ) -> Result<TakenBack, HostError> {
        if self.take_back_live(sight, reason, policy)? {
            return Ok(TakenBack::Live);
        }
        if !self.choose_previous(sight, reason)? {
            return Ok(TakenBack::Nothing);
        }
        self.systemd.reboot()?;
        Ok(TakenBack::Rebooting)
    }
}

/// The deployment that a killed run made for this journal, when it came that far.
fn made_for(journal: &Journal, image: Digest, deployments: &Deployments) -> Option<Deployment> {
    let Journal::Deploy { digest, before, .. } = journal else {
        return None;
    };
    let is_new = |d: &&Deployment| *digest == image && d.is_of(&image) && !before.contains(&d.id);
    deployments.0.iter().find(is_new).cloned()
}
