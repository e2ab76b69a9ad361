//! A deployment on trial: from when it is made until it was found well once, it is left for the one before when it turns
//! out to be unwell. The trial is kept where a shell script reads it, so that the way back needs no running agent.

use std::os::unix::fs::PermissionsExt;

use camino::{Utf8Path, Utf8PathBuf};
use model::file_secret;
use model::health::DEFAULT_DEADLINE;
use model::ledger::Cause;
use model::node::Target;
use model::trial::{Standing, Trial, Verdict, judge};
use model::update::Failure;

use crate::host::{Host, HostError, Sight};
use crate::os::{Deployment, DeploymentId, Deployments, OsError};
use crate::root::{Found, RootError};
use crate::state::{State, StateError, mine};

/// What counts the boots of a deployment on trial and leaves it when it takes too long.
pub(crate) const WATCH: &str = include_str!("watch.sh");

const TRIAL: &str = "/trial";
/// The script, where its units find it.
const SCRIPT: &str = "/watch.sh";
/// What the agent said last of a deployment on trial: the reason, should nobody be left to give another.
const SAID: &str = "/said";
/// Why the script left a deployment when no caprock was there to remember it.
const TAKEN_BACK: &str = "/taken-back";
/// The program that made the deployment, should the one on the path not run in it.
const RESCUE: &str = "rescue";
/// Longest reason that is kept, in bytes.
const MAX_REASON: usize = 2000;

impl State {
    /// The deployment on trial, when there is one. A damaged file is none: nothing is left because of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn trial(&self) -> Result<Option<Trial>, StateError> {
        Ok(self.text(TRIAL)?.as_deref().and_then(Trial::parse))
    }

    /// Puts a deployment on trial, in place of any other.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_trial(&self, trial: &Trial) -> Result<(), StateError> {
        self.files()
            .write(Utf8Path::new(SCRIPT), WATCH.as_bytes(), mine(0o700))?;
        self.files().write(
            Utf8Path::new(TRIAL),
            trial.to_string().as_bytes(),
            mine(0o600),
        )?;
        Ok(())
    }

    /// Ends the trial, one way or the other.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn end_trial(&self) -> Result<(), StateError> {
        for path in [TRIAL, SAID, TAKEN_BACK] {
            self.files().remove(Utf8Path::new(path))?;
        }
        Ok(())
    }

    /// Keeps what the agent says of the deployment on trial.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn say(&self, text: &str) -> Result<(), StateError> {
        let text = &text[..text.floor_char_boundary(MAX_REASON)];
        self.files()
            .write(Utf8Path::new(SAID), text.as_bytes(), mine(0o600))?;
        Ok(())
    }

    fn text(&self, path: &str) -> Result<Option<String>, RootError> {
        Ok(match self.files().find(Utf8Path::new(path))? {
            Found::File { bytes, .. } => {
                let text = String::from_utf8_lossy(&bytes);
                Some(
                    text[..text.floor_char_boundary(MAX_REASON)]
                        .trim()
                        .to_owned(),
                )
            }
            _ => None,
        })
    }
}

impl Host {
    /// Puts a deployment that was just made on trial, with the running one as the way back.
    pub(crate) fn put_on_trial(
        &self,
        made: &DeploymentId,
        before: &DeploymentId,
    ) -> Result<(), HostError> {
        let deadline = match self.state.policy()? {
            Some(policy) => policy.spec.health.deadline.map(Into::into),
            None => None,
        };
        self.keep_program()?;
        self.state.end_trial()?;
        let trial = Trial::new(
            made.to_string(),
            before.to_string(),
            deadline.unwrap_or(DEFAULT_DEADLINE),
        );
        Ok(self.state.set_trial(&trial)?)
    }

    /// The deployment that was put on trial and never booted.
    pub(crate) fn unbooted_trial(
        &self,
        booted: &DeploymentId,
    ) -> Result<Option<DeploymentId>, HostError> {
        let trial = self.state.trial()?.filter(|trial| trial.boots == 0);
        let made = trial.map(|trial| trial.deployment.parse()).transpose()?;
        Ok(made.filter(|made| made != booted))
    }

    /// Lets the next boot take the deployment that ran before the one on trial, and keeps why. Returns whether there is
    /// such a way back; the caller reboots.
    ///
    /// # Errors
    /// When the deployments cannot be put in order.
    pub(crate) fn choose_previous(&self, sight: &Sight, reason: &str) -> Result<bool, HostError> {
        let booted = sight.deployments.booted().ok_or(HostError::NotBooted)?;
        let Some(record) = &sight.record else {
            return Ok(false);
        };
        let trial = self.state.trial()?;
        let deployments = self.standing_of(&sight.deployments)?;
        let verdict = judge(Standing {
            booted: &booted.id.to_string(),
            target: &record.target(),
            trial: trial.as_ref(),
            deployments: &deployments,
            failed: sight.failure.as_ref().map(|failure| &failure.target),
        });
        let previous = match verdict {
            Verdict::Back(previous) => previous,
            Verdict::Stay(why) => {
                tracing::info!(deployment = %booted.id, "no way back: {why}");
                return Ok(false);
            }
        };
        let is_previous = |deployment: &&Deployment| deployment.id.to_string() == previous;
        // A killed run may have put the deployments in order already.
        let ordered = sight.deployments.pending().filter(is_previous).is_some();
        if !ordered && sight.deployments.rollback().filter(is_previous).is_none() {
            return Err(OsError::NoRollback.into());
        }
        self.state.set_failure(Some(&Failure {
            target: record.target(),
            secrets: file_secret::versions(&record.values),
            reason: reason[..reason.floor_char_boundary(MAX_REASON)].to_owned(),
        }))?;
        self.state
            .set_next_reboot(&sight.boot, Cause::way_back(record.target(), reason))?;
        if !ordered {
            self.os.rollback()?;
        }
        Ok(true)
    }

    fn standing_of(
        &self,
        deployments: &Deployments,
    ) -> Result<Vec<(String, Option<Target>)>, HostError> {
        let standing = |deployment: &Deployment| {
            let record = self.state.record(&deployment.id)?;
            Ok((
                deployment.id.to_string(),
                record.map(|record| record.target()),
            ))
        };
        deployments.0.iter().map(standing).collect()
    }

    /// The version that was left, and why, when this boot came after a trial that ended badly.
    pub(crate) fn left_behind(&self, booted: &DeploymentId) -> Result<Option<Failure>, HostError> {
        let Some(trial) = self.state.trial()? else {
            return Ok(None);
        };
        let left: DeploymentId = trial.deployment.parse()?;
        if left == *booted {
            return Ok(None);
        }
        let Some(record) = self.state.record(&left)? else {
            return Ok(None);
        };
        let target = record.target();
        let known = self.state.failure()?;
        if let Some(known) = known.filter(|failure| failure.target == target) {
            return Ok(Some(known));
        }
        if trial.boots == 0 {
            // It was never booted: it still waits for its reboot.
            return Ok(None);
        }
        let reason = self.state.text(TAKEN_BACK).map_err(StateError::from)?;
        let reason = reason.unwrap_or_else(|| {
            format!(
                "the node came back on deployment `{booted}` after {} boots",
                trial.boots
            )
        });
        Ok(Some(Failure {
            target,
            secrets: file_secret::versions(&record.values),
            reason,
        }))
    }

    /// Keeps a copy of the running program beside the trial.
    fn keep_program(&self) -> Result<(), HostError> {
        let Some(program) = &self.program else {
            return Ok(());
        };
        let dir = self.state.path().join(RESCUE);
        let kept = dir.join("caprock");
        let failed = |path: &Utf8Path, action: &'static str| {
            let path = path.to_owned();
            move |source| OsError::Io {
                action,
                path,
                source,
            }
        };
        let size = |path: &Utf8PathBuf| {
            path.metadata()
                .map(|found| (found.len(), found.modified().ok()))
        };
        let now = size(program).map_err(failed(program, "look at"))?;
        if size(&kept).is_ok_and(|kept| kept.0 == now.0 && kept.1 >= now.1) {
            return Ok(());
        }
        std::fs::create_dir_all(&dir).map_err(failed(&dir, "make"))?;
        let new = dir.join("caprock.new");
        std::fs::copy(program, &new).map_err(failed(&new, "write"))?;
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&new, mode).map_err(failed(&new, "write"))?;
        std::fs::File::open(&new)
            .and_then(|file| file.sync_all())
            .map_err(failed(&new, "sync"))?;
        std::fs::rename(&new, &kept).map_err(failed(&new, "rename"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
