//! The steps, and what is said and done when none is left.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::deadline::REBOOT_BEGINS;
use model::ledger::Cause;
use model::update::{Plan, Reason, Step, Version, rebuild};
use oci::Digest;

use super::observe::Observed;
use super::{Agent, IDLE, Next};
use crate::error::{AgentError, chain};
use crate::host::{HostError, digest_in};
use crate::machine::Machine;
use crate::os::Progress;
use crate::program;
use crate::progress::Doing;

/// Between two reports of how far a pull is: each is a write that every watcher sees.
const TELL_PROGRESS: Duration = Duration::from_secs(10);

/// A rendered config that somebody removed is made again by its controller within a moment, and nobody tells the node.
const UNTIL_MADE_AGAIN: Duration = Duration::from_secs(5);

impl<M: Machine> Agent<M> {
    /// Nothing is left to do: says so, and cleans up once.
    pub(super) async fn settle(
        &mut self,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<Next, AgentError> {
        let doing = match (&plan.stuck, &plan.target) {
            (Some(why), _) => Doing::Failed {
                step: None,
                reason: why.clone(),
            },
            (None, Some(_)) => self.drift(observed).await?.unwrap_or(Doing::Settled),
            (None, None) => Doing::WaitingForTarget,
        };
        self.report(observed, plan, &doing).await?;
        if doing == Doing::Settled && !self.clean {
            if observed.sight.failure.is_some() {
                self.host.state().set_failure(None)?;
            }
            let next = observed
                .layering
                .as_ref()
                .and_then(|layering| layering.image.as_deref());
            let images: Vec<Digest> = next.and_then(digest_in).into_iter().collect();
            let config = plan
                .target
                .as_ref()
                .map(|target| target.config.clone())
                .unwrap_or_default();
            self.host
                .run(move |host| host.clean(&images, &[&config]))
                .await?;
            self.clean = true;
        }
        if doing == Doing::Settled && self.settings.notifier.is_heard() && program::was_replaced() {
            tracing::info!("the program was replaced; the new one takes over");
            return Ok(Next::Never);
        }
        Ok(Next::Within(match observed.gone {
            Some(_) => UNTIL_MADE_AGAIN,
            None => IDLE,
        }))
    }

    pub(super) async fn act(
        &mut self,
        step: &Step,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<Next, AgentError> {
        let sight = observed.sight.clone();
        let version = || observed.desired.clone().unwrap_or_default();
        match step {
            Step::Pull { image } => {
                self.pull(image.clone(), step, observed, plan).await?;
            }
            Step::Drain { .. } | Step::Uncordon { .. } => {
                // A short wait ends by a change; a long one is told of.
                return Ok(Next::Within(match self.has_lasted(step) {
                    true => IDLE,
                    false => self.settings.uneventful.min(IDLE),
                }));
            }
            Step::Deploy => {
                let to = version();
                let image = to.image().and_then(digest_in).or(sight.booted_image());
                let image = image.ok_or_else(|| HostError::NoImage(to.name.clone()))?;
                let made = self.host.run(move |host| host.deploy(&sight, &to, image));
                self.patiently(made, step, observed, plan).await?;
            }
            Step::Discard => {
                let keep = version().name;
                self.host
                    .run(move |host| host.discard(&sight, &keep))
                    .await?;
            }
            Step::Reboot | Step::SoftReboot => {
                let (target, cause) = (version().target(), cause(observed, plan));
                let soft = *step == Step::SoftReboot;
                self.host
                    .run(move |host| match soft {
                        true => host.soft_reboot(&sight, &target, cause),
                        false => host.reboot(&sight, &target, cause),
                    })
                    .await?;
                tokio::time::sleep(REBOOT_BEGINS).await;
                // The next attempt is a reboot.
                self.soft_failed |= soft;
                let seconds = REBOOT_BEGINS.as_secs();
                return Err(AgentError::Unwell(format!(
                    "the node did not reboot within {seconds} seconds"
                )));
            }
            Step::Apply { actions } => {
                // What cannot be done does not leave what it half did.
                let back = plan.stuck.as_ref().and(observed.sight.current.clone());
                let (to, actions) = (back.unwrap_or_else(version), actions.clone());
                let applied = self.host.run(move |host| host.apply(&sight, &to, &actions));
                self.patiently(applied, step, observed, plan).await?;
            }
            Step::Verify => return self.verify(observed, plan).await,
        }
        Ok(Next::Now)
    }

    /// Waits for the end of a step, and tells of it when it takes long.
    async fn patiently<T>(
        &self,
        work: impl Future<Output = Result<T, AgentError>>,
        step: &Step,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<T, AgentError> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(self.settings.uneventful) => {}
        }
        // It goes on without anybody knowing.
        if let Err(error) = self.report(observed, plan, &self.doing(step, plan)).await {
            tracing::debug!("{}", chain(&error));
        }
        work.await
    }

    /// Brings an image onto the disk, and says now and then how far that is.
    async fn pull(
        &self,
        image: String,
        step: &Step,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<(), AgentError> {
        let arrived = Arc::new(Mutex::new(Progress::default()));
        let (sink, telemetry) = (arrived.clone(), self.settings.telemetry.clone());
        let tell = move |progress: Progress| {
            let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
            telemetry.pulled(progress.bytes.saturating_sub(seen.bytes));
            *seen = progress;
        };
        let pulled = self.host.pull(image, self.registry(), tell);
        let mut pulled = std::pin::pin!(self.patiently(pulled, step, observed, plan));
        let mut told = Progress::default();
        loop {
            tokio::select! {
                done = &mut pulled => return done,
                () = tokio::time::sleep(TELL_PROGRESS) => {}
            }
            let progress = *arrived.lock().unwrap_or_else(PoisonError::into_inner);
            if progress == told {
                continue;
            }
            told = progress;
            let doing = Doing::Fetching {
                step: step.clone(),
                progress,
            };
            // The pull goes on without anybody knowing how far it is.
            if let Err(error) = self.report(observed, plan, &doing).await {
                tracing::debug!("{}", chain(&error));
            }
        }
    }
}

/// Why the node reboots: from what made the update a reboot to what asked for it.
fn cause(observed: &Observed, plan: &Plan) -> Cause {
    let target = plan.target.as_ref().map(ToString::to_string);
    let nothing = Version::default();
    let from = observed.sight.current.as_ref().unwrap_or(&nothing);
    let to = observed.desired.as_ref().unwrap_or(&nothing);
    let own = |reason: &&Reason| reason.object != to.name;
    let named = |reason: &Reason| match own(&reason) {
        true => format!("{reason} (MachineConfig `{}`)", reason.object),
        false => reason.to_string(),
    };
    let reboot: Vec<String> = plan.update.reboot.iter().map(named).collect();
    // Why there is another image, as far as MachineConfigs are why.
    let rebuilt = to.layered_image.as_ref().map(|_| rebuild(from, to, ""));
    let rebuilt = rebuilt.unwrap_or_default();
    let rebuilt = rebuilt.iter().filter(own).map(named);
    let rebuilt: Vec<String> = rebuilt.filter(|link| !reboot.contains(link)).collect();
    let layering = observed.layering.as_ref();
    let build = layering.and_then(|layering| layering.build.as_ref());
    let layering = layering
        .filter(|_| build.is_some())
        .map(|layering| format!("MachineOSConfig `{}`", layering.name));
    let build = build.map(|build| format!("MachineOSBuild `{build}`"));
    let pool = observed
        .progress
        .as_ref()
        .map(|progress| format!("MachineConfigPool `{}`", progress.spec.pool.name));
    let asked = [build, layering, pool].into_iter().flatten();
    let links = reboot.into_iter().chain(rebuilt).chain(asked);
    Cause::update(target.unwrap_or_default(), plan.update.reboots_for(), links)
}
