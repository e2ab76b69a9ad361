//! The way that takes a reboot: a new deployment is made and configured beside the running one, and booted. Going back
//! is the same with the deployment that was there before.

use model::ledger::Cause;
use model::node::Target;
use model::update::Version;
use oci::Digest;

use super::{Host, HostError, Sight};
use crate::configure::Places;
use crate::os::{Deployment, Deployments, KernelArguments, OsError};
use crate::root::Root;
use crate::state::{Journal, Record};

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
        let booted = deployments.booted().ok_or(HostError::NotBooted)?;
        self.put_on_trial(&deployment.id, &booted.id)?;
        Ok(self.state.finish()?)
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
    pub fn take_back(&self, sight: &Sight, reason: &str) -> Result<TakenBack, HostError> {
        if self.take_back_live(sight, reason)? {
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
