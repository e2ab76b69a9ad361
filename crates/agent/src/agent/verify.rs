//! Proves, after a boot or a live change, that the node is well, and takes back what never was.

use std::time::{Duration, Instant};

use model::deadline::REBOOT_BEGINS;
use model::health;
use model::problem::summary;
use model::update::{Plan, Version};

use super::observe::Observed;
use super::{Agent, Next};
use crate::error::AgentError;
use crate::host::{Health, TakenBack, soft_since};
use crate::machine::Machine;
use crate::progress::Doing;

/// Between two looks at what is still coming up: often at first, and seldom when it takes long.
const RECHECK: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(5));

impl<M: Machine> Agent<M> {
    /// Proves that the node is well, within the deadline; takes back what never was.
    pub(super) async fn verify(
        &mut self,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<Next, AgentError> {
        let version = match plan.stuck {
            None => observed.desired.clone(),
            Some(_) => observed.sight.current.clone(),
        };
        let version = version.unwrap_or_default();
        let wanted = self.wanted_health()?;
        let (target, now) = (version.target(), Instant::now());
        let since = match &self.waiting {
            Some((waiting, since)) if *waiting == target => *since,
            _ => now,
        };
        self.waiting = Some((target.clone(), since));
        let reason = match self.look_at_health(observed, version, &wanted).await? {
            Health::Well => {
                self.waiting = None;
                let sight = observed.sight.clone();
                self.host.run(move |host| host.confirm(&sight)).await?;
                return Ok(Next::Now);
            }
            Health::Waiting(why) if since.elapsed() < wanted.deadline => {
                if since.elapsed() >= self.settings.uneventful {
                    self.say_why_it_waits(observed, plan, why).await?;
                }
                let wait = (since.elapsed() / 10).clamp(RECHECK.0, RECHECK.1);
                return Ok(Next::Within(wait));
            }
            Health::Waiting(why) => {
                format!(
                    "{why}, {} seconds after verification began",
                    wanted.deadline.as_secs()
                )
            }
            Health::Unwell(why) => why,
        };
        self.settings.telemetry.verification_failed();
        let text = format!("rendered config `{}`: {reason}", target.config);
        let (sight, told) = (observed.sight.clone(), text.clone());
        let policy = observed.policy.clone();
        let taken_back = self
            .host
            .run(move |host| host.take_back(&sight, &told, &policy))
            .await?;
        if taken_back != TakenBack::Nothing {
            self.settings.telemetry.rolled_back();
        }
        if taken_back == TakenBack::Rebooting {
            let failed = Doing::Failed {
                step: Some(model::update::Step::Verify),
                reason: format!("{text}; going back to the previous deployment"),
            };
            self.report(observed, plan, &failed).await?;
            tokio::time::sleep(REBOOT_BEGINS).await;
        }
        Err(AgentError::Unwell(text))
    }

    /// What the pool's policy asks for.
    fn wanted_health(&self) -> Result<health::Health, AgentError> {
        let unspoken = || health::Health {
            deadline: self.settings.verify_deadline,
            ..health::Health::default()
        };
        let Some(policy) = self.host.state().policy()? else {
            return Ok(unspoken());
        };
        let wanted = health::Health::of(&policy.spec.health).map_err(|problems| {
            let name = policy.metadata.name.as_deref().unwrap_or_default();
            AgentError::Object {
                object: format!("RolloutPolicy `{name}`"),
                problem: summary(&problems),
            }
        })?;
        Ok(match policy.spec.health.deadline {
            Some(_) => wanted,
            None => health::Health {
                probes: wanted.probes,
                ..unspoken()
            },
        })
    }

    async fn look_at_health(
        &self,
        observed: &Observed,
        version: Version,
        wanted: &health::Health,
    ) -> Result<Health, AgentError> {
        let (sight, policy) = (observed.sight.clone(), observed.policy.clone());
        let own = self
            .host
            .run(move |host| host.check(&sight, &version, &policy))
            .await?;
        if own != Health::Well {
            return Ok(own);
        }
        let boot = self.host.facts().info.boot_id;
        let since = soft_since(&observed.sight.boot);
        if let Some(why) = health::unready(&observed.node, &boot, since) {
            return Ok(Health::Waiting(why));
        }
        Ok(self.host.probe(&wanted.probes).await)
    }

    /// Tells people, and whoever may have to take the deployment back, what is not there yet.
    async fn say_why_it_waits(
        &self,
        observed: &Observed,
        plan: &Plan,
        why: String,
    ) -> Result<(), AgentError> {
        if self.host.state().is_on_trial()? {
            self.host.state().say(&why)?;
        }
        let waiting = Doing::Waiting {
            step: model::update::Step::Verify,
            why,
        };
        self.report(observed, plan, &waiting).await
    }
}
