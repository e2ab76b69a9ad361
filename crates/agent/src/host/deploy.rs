//! The way that takes a reboot: a new deployment is made and configured beside the running one, and booted. Going back
//! is the same with the deployment that was there before.

use model::ledger::Cause;
use model::node::Target;
use model::update::{Policy, Version};
use oci::Digest;

use super::{Host, HostError, Sight};
use crate::configure::Places;
use crate::os::{Deployment, DeploymentId, Deployments, KernelArguments, Role};
use crate::root::Root;
use crate::state::{Journal, Record, Staged};

/// What was done about a version that is not well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
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
    pub fn deploy(&self, sight: &Sight, to: &Version, image: Digest) -> Result<(), HostError> {
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
                // A new deployment may get the name of one that is gone.
                self.state.collect(&before, &[&target.config])?;
                self.state.begin(&Journal::Deploy {
                    config: target.config.clone(),
                    image: target.image.clone(),
                    from: from.clone(),
                    digest: image,
                    before,
                })?;
                self.os.deploy(&image, to.image(), &arguments)?
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
                .set_record(&deployment.id, &Record::of(&target))?;
        }
        let booted = deployments.booted().ok_or(HostError::NotBooted)?;
        self.put_on_trial(&deployment.id, &booted.id)?;
        Ok(self.state.finish()?)
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

    /// Reboots into the next boot's deployment.
    ///
    /// # Errors
    /// When systemd refuses.
    pub fn reboot(&self, sight: &Sight, target: &Target, cause: Cause) -> Result<(), HostError> {
        self.state.set_next_reboot(&sight.boot, cause)?;
        self.state.begin(&Journal::Reboot {
            config: target.config.clone(),
            image: target.image.clone(),
            boot: sight.boot.clone(),
        })?;
        Ok(self.systemd.reboot()?)
    }

    /// Takes back what was never found well: a live change by the files from before, a deployment by the previous one.
    ///
    /// # Errors
    /// When the deployments cannot be put in order, or systemd refuses to reboot.
    pub fn take_back(
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
    let is_new =
        |d: &&Deployment| *digest == image && d.image == Some(image) && !before.contains(&d.id);
    deployments.0.iter().find(is_new).cloned()
}
