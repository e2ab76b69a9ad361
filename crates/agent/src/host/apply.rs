//! The way without a reboot: files and units of the running root, and what follows for services.

use model::update::{Action, Version};

use super::{Host, HostError, Sight};
use crate::configure::Places;
use crate::root::Root;
use crate::state::{Journal, Record};
use crate::systemd::Job;

impl Host {
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

    /// Brings the running root back to the version that its record names.
    pub(super) fn undo_apply(&self, sight: &Sight) -> Result<(), HostError> {
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
}
