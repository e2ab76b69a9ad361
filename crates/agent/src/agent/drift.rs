//! What the loop does about drift: says what differs, or puts it back, as the pool's policy has it.

use jiff::Timestamp;
use model::api::DriftPolicy;
use model::update::Version;

use super::Agent;
use super::observe::Observed;
use crate::drift::{Drift, describe};
use crate::error::{AgentError, chain};
use crate::machine::Machine;
use crate::progress::Doing;

impl<M: Machine> Agent<M> {
    /// Looks for drift from the version that the node runs, when nothing else is to be done. Returns what to say of it,
    /// when there is any left.
    pub(super) async fn drift(&mut self, observed: &Observed) -> Result<Option<Doing>, AgentError> {
        let Some(version) = observed.sight.current.clone() else {
            return Ok(None);
        };
        let found = self.look_for_drift(&version).await?;
        self.listen_at(&found);
        let telemetry = &self.settings.telemetry;
        telemetry.drifts(!found.differences.is_empty());
        if found.differences.is_empty() {
            self.known = found.known;
            return Ok(None);
        }
        self.known = None;
        let text = describe(&found.differences);
        let from = format!("not as rendered config `{}` says: {text}", version.name);
        let policy = self.host.state().policy()?;
        match policy.map(|policy| policy.spec.drift).unwrap_or_default() {
            DriftPolicy::Report => Ok(Some(Doing::Drifted { reason: from })),
            DriftPolicy::Heal => self.heal(observed, version, found, &text).await,
        }
    }

    async fn heal(
        &mut self,
        observed: &Observed,
        version: Version,
        found: Drift,
        text: &str,
    ) -> Result<Option<Doing>, AgentError> {
        if let Err(pause) = self.healing.begin(Timestamp::now()) {
            let pause = Timestamp::from_second(pause.as_second()).unwrap_or(pause);
            return Ok(Some(Doing::Drifted {
                reason: format!(
                    "something keeps changing what Caprock puts back, which is tried again after {pause}: {text}"
                ),
            }));
        }
        let (to, differences) = (version.clone(), found.differences);
        let policy = observed.policy.clone();
        self.host
            .run(move |host| host.heal(&to, &differences, &policy))
            .await?;
        let left = self.look_for_drift(&version).await?;
        self.settings.telemetry.drift_healed();
        self.reporter
            .publish(
                &observed.node,
                "Warning",
                "ConfigDriftHealed",
                format!("put back: {text}"),
            )
            .await;
        Ok((!left.differences.is_empty()).then(|| Doing::Drifted {
            reason: format!("cannot be put back: {}", describe(&left.differences)),
        }))
    }

    async fn look_for_drift(&self, version: &Version) -> Result<Drift, AgentError> {
        let (version, known) = (version.clone(), self.known.clone());
        self.host
            .run(move |host| host.drift(&version, known.as_ref()))
            .await
    }

    /// Listens where the version has something. A host that lets nobody listen is looked at now and then all the same.
    fn listen_at(&mut self, found: &Drift) {
        if self
            .watch
            .as_ref()
            .is_some_and(|watch| watch.is_at(&found.paths))
        {
            return;
        }
        self.watch = match self.host.listen(&found.paths, self.changed.clone()) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!("drift is only looked for now and then: {}", chain(&error));
                None
            }
        };
    }
}
