//! The way without a reboot: files and units of the running root, and what follows for services. What fails is undone.

use model::update::{Action, Failure, Policy, Update, Version, by_own_names};

use super::{Host, HostError, Sight};
use crate::configure::{Places, prepare};
use crate::error::chain;
use crate::root::Root;
use crate::state::{Concerned, Journal, Record, Shared};
use crate::systemd::Job;

impl Host {
    /// Writes files and units of the running root and does what follows for services. A change that fails is undone; its
    /// reason is kept, unless it is a full disk, which may have room another time. The first configuration of a node has
    /// nothing to go back to and stays as far as it came.
    ///
    /// # Errors
    /// When something cannot be written, or systemd cannot do what follows.
    pub(crate) fn apply(
        &self,
        sight: &Sight,
        to: &Version,
        actions: &[Action],
    ) -> Result<(), HostError> {
        let target = to.target();
        let actions = &self.by_own_names(actions)?;
        // A half-written version that is not the one to come must be gone before its journal is.
        if sight
            .interrupted
            .as_ref()
            .is_some_and(|half| half.target() != target)
        {
            self.undo_apply(sight)?;
        }
        let units = match self.state.journal()? {
            Some(Journal::Apply { units, .. }) => units,
            Some(Journal::Deploy { .. } | Journal::Reboot { .. }) | None => {
                self.concerned(actions)?
            }
        };
        self.state.begin(&Journal::Apply {
            config: target.config.clone(),
            image: target.image.clone(),
            boot: sight.boot.clone(),
            units: units.clone(),
        })?;
        let failed = match self.change(sight, to, actions, &units) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let Some(back) = &sight.current else {
            return Err(failed);
        };
        if let Err(error) = self.bring_back(back, to, &units) {
            // The journal still says what to do: the next turn goes on, one way or the other.
            tracing::warn!(config = %to.name, "cannot undo: {}", chain(&error));
            return Err(failed);
        }
        self.state.finish()?;
        if !failed.is_full() {
            self.state.set_failure(Some(&Failure {
                target,
                secrets: to.secret_versions(),
                reason: chain(&failed),
            }))?;
        }
        Err(failed)
    }

    fn change(
        &self,
        sight: &Sight,
        to: &Version,
        actions: &[Action],
        units: &[Concerned],
    ) -> Result<(), HostError> {
        let booted = sight.deployments.booted().ok_or(HostError::NotBooted)?;
        let current = sight.current.clone().unwrap_or_default();
        let mut from = vec![&current];
        from.extend(&sight.interrupted);
        self.write_running(&from, to, || {
            for action in actions {
                if let Action::Stop { unit, .. } = action {
                    self.stop(unit)?;
                }
            }
            Ok(())
        })?;
        for action in actions {
            match action {
                Action::Stop { .. } => {}
                Action::DaemonReload { .. } => self.systemd.daemon_reload()?,
                Action::Start { unit, anew, .. } => {
                    let ran = |concerned: &Concerned| concerned.unit == *unit && concerned.running;
                    let job = match *anew && units.iter().any(ran) {
                        true => Job::Restart,
                        false => Job::Start,
                    };
                    self.systemd.run(job, unit)?;
                }
                Action::Reload { unit, .. } => self.take_up_all(unit, Job::Reload, units)?,
                Action::Restart { unit, .. } => {
                    self.take_up_all(unit, Job::Restart, units)?;
                    self.wake(unit)?;
                }
            }
        }
        let record = Record {
            replaced: sight.record.as_ref().and_then(|now| last_good(now, to)),
            ..Record::written(to)
        };
        self.state.set_record(&booted.id, &record)?;
        Ok(self.state.finish()?)
    }

    /// Brings the running root to a version. `before` runs when everything that can be made beforehand is made.
    fn write_running(
        &self,
        from: &[&Version],
        to: &Version,
        before: impl FnOnce() -> Result<(), HostError>,
    ) -> Result<(), HostError> {
        let root = Root::open(&self.root)?;
        let mut shared = self.state.shared()?;
        shared.towards = Some(to.name.clone());
        self.state.set_shared(&shared)?;
        let mut changes = Vec::new();
        // Users are there before what belongs to them.
        for places in [Places::Running, Places::Shared] {
            changes.push(prepare(&root, &self.state, from, to, places)?);
        }
        before()?;
        for change in changes {
            change.finish()?;
        }
        // Before any record may say that it is done.
        root.sync()?;
        let following = Shared::following(&to.name, to.ignition.values());
        Ok(self.state.set_shared(&following)?)
    }

    /// Brings the running root back, early in a boot, from a change that the boot before did not finish. Services start
    /// after this, with the former files.
    pub(crate) fn undo_after_boot(&self, back: &Version, half: &Version) -> Result<(), HostError> {
        self.bring_back(back, half, &[])?;
        Ok(self.state.finish()?)
    }

    /// Brings the running root back to the version that its record names.
    pub(super) fn undo_apply(&self, sight: &Sight) -> Result<(), HostError> {
        let Some(half) = &sight.interrupted else {
            return Ok(());
        };
        let units = match self.state.journal()? {
            Some(Journal::Apply { units, .. }) => units,
            Some(Journal::Deploy { .. } | Journal::Reboot { .. }) | None => Vec::new(),
        };
        let back = sight.current.clone().unwrap_or_default();
        self.bring_back(&back, half, &units)?;
        Ok(self.state.finish()?)
    }

    /// Takes back a live change that turned out badly. Returns whether there was one.
    pub(super) fn take_back_live(
        &self,
        sight: &Sight,
        reason: &str,
        policy: &Policy,
    ) -> Result<bool, HostError> {
        let (Some(booted), Some(record), Some(bad)) =
            (sight.deployments.booted(), &sight.record, &sight.current)
        else {
            return Ok(false);
        };
        let Some(replaced) = &record.replaced else {
            return Ok(false);
        };
        let (None, Some(back)) = (&record.verified, self.state.version_of(replaced)?) else {
            return Ok(false);
        };
        let actions = Update::between(bad, &back, &[], policy).actions;
        let units = self.concerned(&self.by_own_names(&actions)?)?;
        let target = back.target();
        self.state.begin(&Journal::Apply {
            config: target.config,
            image: target.image,
            boot: sight.boot.clone(),
            units: units.clone(),
        })?;
        self.bring_back(&back, bad, &units)?;
        self.state.set_record(&booted.id, replaced)?;
        self.state.set_failure(Some(&Failure {
            target: bad.target(),
            secrets: bad.secret_versions(),
            reason: reason.to_owned(),
        }))?;
        self.state.finish()?;
        Ok(true)
    }

    /// Files as `back` has them, and units as they were: running with the former files, or not running.
    fn bring_back(
        &self,
        back: &Version,
        half: &Version,
        units: &[Concerned],
    ) -> Result<(), HostError> {
        self.write_running(&[back, half], back, || {
            // What only the change had started stops while its unit file is there.
            for concerned in units.iter().filter(|concerned| !concerned.running) {
                self.stop(&concerned.unit)?;
            }
            Ok(())
        })?;
        self.systemd.daemon_reload()?;
        for concerned in units {
            // The former files are back, which is what counts; a unit that does not come back is found by its check.
            if let Err(error) = self.take_up(concerned) {
                tracing::warn!(unit = concerned.unit, "not as before: {}", chain(&error));
            }
        }
        Ok(())
    }

    /// Lets a unit that was running run with the files that are there now.
    fn take_up(&self, concerned: &Concerned) -> Result<(), HostError> {
        let Concerned { unit, running, job } = concerned;
        match (*running, self.is_running(unit)?) {
            (true, true) => Ok(self.systemd.run(*job, unit)?),
            (true, false) => Ok(self.systemd.run(Job::Start, unit)?),
            (false, _) => Ok(()),
        }
    }

    fn take_up_all(&self, unit: &str, job: Job, units: &[Concerned]) -> Result<(), HostError> {
        let meant = |concerned: &&Concerned| concerned.unit == unit && concerned.job == job;
        for concerned in units.iter().filter(meant) {
            self.take_up(concerned)?;
        }
        Ok(())
    }

    /// Starts what is to be restarted and does not run for a reason of its own: it failed, perhaps because of what now
    /// changed, or it is a oneshot, which does its work only when it is started.
    fn wake(&self, unit: &str) -> Result<(), HostError> {
        let state = self.systemd.unit(unit)?;
        let has_work = match state.active.as_str() {
            "failed" => true,
            "inactive" => state.service_type == "oneshot" && state.condition_met,
            _ => false,
        };
        match state.load.as_str() {
            "loaded" if has_work => Ok(self.systemd.run(Job::Start, unit)?),
            _ => Ok(()),
        }
    }

    fn by_own_names(&self, actions: &[Action]) -> Result<Vec<Action>, HostError> {
        by_own_names(actions, |unit| Ok(self.systemd.unit(unit)?.id))
    }

    fn concerned(&self, actions: &[Action]) -> Result<Vec<Concerned>, HostError> {
        let mut units = Vec::new();
        for action in actions {
            let (unit, job) = match action {
                Action::DaemonReload { .. } => continue,
                Action::Reload { unit, .. } => (unit, Job::Reload),
                Action::Stop { unit, .. }
                | Action::Restart { unit, .. }
                | Action::Start { unit, .. } => (unit, Job::Restart),
            };
            units.push(Concerned {
                unit: unit.clone(),
                running: self.is_running(unit)?,
                job,
            });
        }
        Ok(units)
    }

    fn is_running(&self, unit: &str) -> Result<bool, HostError> {
        let state = self.systemd.unit(unit)?;
        Ok(matches!(
            state.active.as_str(),
            "active" | "reloading" | "refreshing" | "activating"
        ))
    }

    fn stop(&self, unit: &str) -> Result<(), HostError> {
        match self.systemd.unit(unit)?.load.as_str() {
            "not-found" => Ok(()),
            _ => Ok(self.systemd.run(Job::Stop, unit)?),
        }
    }
}

/// What a deployment goes back to when the change to `to` turns out badly.
fn last_good(now: &Record, to: &Version) -> Option<Box<Record>> {
    let unproven = now.verified.is_none() && now.replaced.is_some();
    let same = now.target() == to.target() && now.values == to.ignition.values();
    if unproven || same {
        return now.replaced.clone();
    }
    Some(Box::new(now.clone()))
}
