//! What a boot completes: the configuration of a deployment whose making was cut short, and the places that deployments
//! share, which follow the one that is booted.

use jiff::Timestamp;
use model::node::Target;
use model::update::{Failure, Version};

use crate::configure::Places;
use crate::host::{Host, HostError};
use crate::os::Deployment;
use crate::root::Root;
use crate::state::{Journal, Record};

impl Host {
    /// Finishes what the boot needs: the configuration of a deployment whose making was cut short, and the places that
    /// deployments share. Run early in boot, and again when the agent starts.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn complete_boot(&self) -> Result<(), HostError> {
        let deployments = self.os.status()?;
        let booted = deployments.booted().ok_or(HostError::NotBooted)?.clone();
        let boot = self.boot()?;
        self.state
            .note_boot(&boot, Timestamp::now(), Some(&booted.id))?;
        let root = Root::open(&self.root)?;
        let mut changed = false;
        match self.state.journal()? {
            Some(journal @ Journal::Deploy { .. }) => {
                changed |= self.complete_deployment(&root, &booted, &journal)?
            }
            Some(journal @ Journal::Reboot { .. }) => self.arrive(&booted, &boot, &journal)?,
            Some(Journal::Apply { .. }) | None => {}
        }
        changed |= self.complete_shared(&root, &booted)?;
        if changed {
            self.systemd.daemon_reload()?;
            self.systemd.start_missing()?;
        }
        Ok(())
    }

    /// Configures the booted deployment when it is the one that the journal says was being made.
    fn complete_deployment(
        &self,
        root: &Root,
        booted: &Deployment,
        journal: &Journal,
    ) -> Result<bool, HostError> {
        let Journal::Deploy {
            from,
            digest,
            before,
            ..
        } = journal
        else {
            return Ok(false);
        };
        if before.contains(&booted.id) || booted.image != Some(*digest) {
            return Ok(false);
        }
        let mut changed = false;
        if self.state.record(&booted.id)?.is_none()
            && let Some(to) = self.state.version(&journal.target())?
        {
            tracing::warn!(target = %journal.target(), "completing a deployment that was booted before it was configured");
            let from = self.former(from.as_deref())?;
            changed = self.write(root, &[&from], &to, Places::Running)?;
            self.state
                .set_record(&booted.id, &Record::of(&journal.target()))?;
        }
        self.state.finish()?;
        Ok(changed)
    }

    /// Compares the deployment that booted with the one that was asked for.
    fn arrive(&self, booted: &Deployment, boot: &str, journal: &Journal) -> Result<(), HostError> {
        let Journal::Reboot { boot: asked_in, .. } = journal else {
            return Ok(());
        };
        if asked_in == boot {
            return Ok(());
        }
        let target = journal.target();
        if self
            .state
            .record(&booted.id)?
            .is_none_or(|record| record.target() != target)
        {
            let reason = format!("the node came back on deployment `{}` instead", booted.id);
            self.state.set_failure(Some(&Failure { target, reason }))?;
        }
        Ok(self.state.finish()?)
    }

    /// Lets the shared places follow the booted deployment.
    fn complete_shared(&self, root: &Root, booted: &Deployment) -> Result<bool, HostError> {
        let Some(record) = self.state.record(&booted.id)? else {
            return Ok(false);
        };
        let shared = self.state.shared()?;
        if shared.as_ref() == Some(&record.config) {
            return Ok(false);
        }
        let Some(to) = self.state.version(&record.target())? else {
            return Ok(false);
        };
        let from = self.former(shared.as_deref())?;
        let changed = self.write(root, &[&from], &to, Places::Shared)?;
        self.state.set_shared(&record.config)?;
        Ok(changed)
    }

    fn former(&self, config: Option<&str>) -> Result<Version, HostError> {
        let Some(config) = config else {
            return Ok(Version::default());
        };
        let target = Target {
            config: config.to_owned(),
            image: None,
        };
        Ok(self.state.version(&target)?.unwrap_or_default())
    }
}
