//! What a boot completes: the configuration of a deployment whose making was cut short, and the places that deployments
//! share, which follow the one that is booted.

use jiff::Timestamp;
use model::file_secret;
use model::ledger::Cause;
use model::node::Target;
use model::update::{Failure, Version};

use crate::configure::Places;
use crate::host::{Host, HostError, former};
use crate::os::{Deployment, Role};
use crate::root::Root;
use crate::state::{Journal, Record, Shared};

impl Host {
    /// Finishes what the boot needs: the configuration of a deployment whose making was cut short, and the places that
    /// deployments share. Run early in boot, and again when the agent starts.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(crate) fn complete_boot(&self) -> Result<(), HostError> {
        let deployments = self.os.status()?;
        let booted = deployments.booted().ok_or(HostError::NotBooted)?.clone();
        let boot = self.boot()?;
        let left = self.left_behind(&booted.id)?;
        let cause = left.as_ref().map_or(Cause::NotAsked, |failure| {
            Cause::way_back(&failure.target, &failure.reason)
        });
        self.state
            .note_boot(&boot, Timestamp::now(), &booted.id, cause)?;
        if let Some(failure) = left {
            self.state.set_failure(Some(&failure))?;
            self.state.end_trial()?;
        }
        self.state.sweep()?;
        let root = Root::open(&self.root)?;
        self.complete_staged(&root, &booted)?;
        match self.state.journal()? {
            Some(journal @ Journal::Deploy { .. }) => {
                self.complete_deployment(&root, &booted, &journal)?;
            }
            Some(journal @ Journal::Reboot { .. }) => self.arrive(&booted, &boot, &journal)?,
            Some(journal @ Journal::Apply { .. }) => {
                self.undo_unfinished(&booted, &boot, &journal)?
            }
            None => {}
        }
        // While a live change is under way these places are half written by it.
        match self.state.journal()? {
            Some(Journal::Apply { .. }) => Ok(()),
            Some(Journal::Deploy { .. } | Journal::Reboot { .. }) | None => {
                self.complete_shared(&root, &booted)
            }
        }
    }

    /// Configures the booted deployment when it was staged and shutdown did not come to it.
    fn complete_staged(&self, root: &Root, booted: &Deployment) -> Result<(), HostError> {
        let Some(staged) = self.state.staged(&booted.id)? else {
            return Ok(());
        };
        if booted.role != Role::Booted || self.state.record(&booted.id)?.is_some() {
            return Ok(());
        }
        let record = self.complete(root, booted, &staged.target(), staged.from.as_deref())?;
        Ok(self.state.settle_staged(&booted.id, &record)?)
    }

    /// Writes the configuration of the running deployment, and lets the boot under way take notice. Returns the record of
    /// what was written.
    fn complete(
        &self,
        root: &Root,
        booted: &Deployment,
        target: &Target,
        from: Option<&str>,
    ) -> Result<Record, HostError> {
        let Some(to) = self.state.version_to_write(target)? else {
            return Ok(Record::of(target));
        };
        tracing::warn!(%target, "completing a deployment that was booted before it was configured");
        let from = former(&self.state, from)?;
        self.write(root, &[&from], &to, Places::Running)?;
        // The boot under way was planned without the units that came only now.
        self.systemd.daemon_reload()?;
        self.systemd.start_missing()?;
        let record = Record::written(&to);
        self.state.set_record(&booted.id, &record)?;
        if let Some(previous) = self.os.status()?.rollback() {
            self.put_on_trial(&booted.id, &previous.id)?;
        }
        Ok(record)
    }

    /// Configures the booted deployment when it is the one that the journal says was being made.
    fn complete_deployment(
        &self,
        root: &Root,
        booted: &Deployment,
        journal: &Journal,
    ) -> Result<(), HostError> {
        let Journal::Deploy {
            from,
            digest,
            before,
            ..
        } = journal
        else {
            return Ok(());
        };
        if before.contains(&booted.id) || booted.image != Some(*digest) {
            return Ok(());
        }
        if self.state.record(&booted.id)?.is_none() {
            self.complete(root, booted, &journal.target(), from.as_deref())?;
        }
        Ok(self.state.finish()?)
    }

    /// Takes back a live change that an earlier boot did not finish. One of this boot is taken up by the agent, which
    /// knows which way it is to go.
    fn undo_unfinished(
        &self,
        booted: &Deployment,
        boot: &str,
        journal: &Journal,
    ) -> Result<(), HostError> {
        let Journal::Apply { boot: begun_in, .. } = journal else {
            return Ok(());
        };
        let Some(record) = self.state.record(&booted.id)? else {
            return Ok(());
        };
        if begun_in != boot
            && let Some(back) = self.state.version_of(&record)?
            && let Some(half) = self.state.version(&journal.target())?
        {
            tracing::warn!(target = %journal.target(), "taking back a change that was cut short");
            self.undo_after_boot(&back, &half)?;
        }
        Ok(())
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
            let known = self.state.failure()?;
            // Who took the deployment back knows better why.
            if known.is_none_or(|failure| failure.target != target) {
                let mut reason =
                    format!("the node came back on deployment `{}` instead", booted.id);
                if !self.state.all_staged()?.is_empty() {
                    reason += "; the new one was to be made at shutdown: see `journalctl -b -1 -u \
                        ostree-finalize-staged.service` on the node, then desire another version or this one again";
                }
                self.state.set_failure(Some(&Failure {
                    target,
                    secrets: file_secret::versions(&self.state.values()?),
                    reason,
                }))?;
            }
        }
        Ok(self.state.finish()?)
    }

    /// Lets the shared places follow the booted deployment.
    fn complete_shared(&self, root: &Root, booted: &Deployment) -> Result<(), HostError> {
        let Some(record) = self.state.record(&booted.id)? else {
            return Ok(());
        };
        let shared = self.state.shared()?;
        let following = Shared::following(&record.config, record.values.clone());
        if shared == following {
            return Ok(());
        }
        let Some(to) = self.state.version_of(&record)? else {
            return Ok(());
        };
        let from = shared
            .writers()
            .map(|config| former(&self.state, Some(config)))
            .collect::<Result<Vec<_>, _>>()?;
        self.state.set_shared(&Shared {
            towards: following.config.clone(),
            ..shared
        })?;
        let from: Vec<&Version> = from.iter().collect();
        self.write(root, &from, &to, Places::Shared)?;
        Ok(self.state.set_shared(&following)?)
    }
}
