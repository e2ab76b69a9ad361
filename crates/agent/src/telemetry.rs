//! What the agent tells of itself: metrics, whether it is stuck, and whether it is ready.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use jiff::Timestamp;
use model::ledger::{Cause, Reboot};
use model::update::Step;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::error::AgentError;
use crate::notify::Notifier;

type Label = [(&'static str, &'static str); 1];

/// What a step is called, and what the agent does when none is left.
const STEPS: [&str; 10] = [
    "none",
    "pull",
    "drain",
    "deploy",
    "apply",
    "discard",
    "reboot",
    "soft_reboot",
    "verify",
    "uncordon",
];
/// Upper bounds in seconds: files are there at once, a pull may take hours.
const BUCKETS: [f64; 9] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0];

/// Metrics and health of one agent; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Who knows of the loop's promises.
    notifier: OnceLock<Notifier>,
    looked: Gauge<f64, AtomicU64>,
    step: Family<Label, Gauge>,
    durations: Family<Label, Histogram>,
    step_failures: Family<Label, Counter>,
    turn_failures: Family<Label, Counter>,
    degraded: Gauge,
    pulled: Counter,
    verification_failures: Counter,
    rollbacks: Counter,
    drifting: AtomicBool,
    drift_found: Counter,
    drift_healed: Counter,
    reboots: Family<Label, Gauge<f64, AtomicU64>>,
    credential: Gauge<f64, AtomicU64>,
}

impl Default for Inner {
    fn default() -> Self {
        let inner = Self {
            notifier: OnceLock::default(),
            looked: Gauge::default(),
            step: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            step_failures: Family::default(),
            turn_failures: Family::default(),
            degraded: Gauge::default(),
            pulled: Counter::default(),
            verification_failures: Counter::default(),
            rollbacks: Counter::default(),
            drifting: AtomicBool::default(),
            drift_found: Counter::default(),
            drift_healed: Counter::default(),
            reboots: Family::default(),
            credential: Gauge::default(),
        };
        // What has not happened yet is 0, not unknown.
        for step in STEPS {
            drop(inner.step.get_or_create(&[("step", step)]));
        }
        for step in &STEPS[1..] {
            drop(inner.durations.get_or_create(&[("step", *step)]));
            drop(inner.step_failures.get_or_create(&[("step", *step)]));
        }
        for kind in AgentError::KINDS {
            drop(inner.turn_failures.get_or_create(&[("kind", kind)]));
        }
        for reason in Cause::WORDS {
            drop(inner.reboots.get_or_create(&[("reason", reason)]));
        }
        inner
    }
}

impl Telemetry {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        let inner = &*self.inner;
        registry.register(
            "caprock_agent_last_look_timestamp_seconds",
            "When the agent last looked at node and objects to the end, since the Unix epoch; 0 before",
            inner.looked.clone(),
        );
        registry.register(
            "caprock_agent_step",
            "The step of an update that the agent is at: 1, the others 0",
            inner.step.clone(),
        );
        registry.register(
            "caprock_agent_step_duration_seconds",
            "Time of a turn of the agent at a step of an update",
            inner.durations.clone(),
        );
        registry.register(
            "caprock_agent_step_failures",
            "Turns at a step of an update that failed and are repeated",
            inner.step_failures.clone(),
        );
        registry.register(
            "caprock_agent_turn_failures",
            "Turns that failed and are repeated, by what failed",
            inner.turn_failures.clone(),
        );
        registry.register(
            "caprock_agent_degraded",
            "Whether the agent reports a fault of its node",
            inner.degraded.clone(),
        );
        registry.register(
            "caprock_agent_pulled_bytes",
            "Bytes of images that were fetched",
            inner.pulled.clone(),
        );
        registry.register(
            "caprock_agent_verification_failures",
            "Versions that the node did not come up well with",
            inner.verification_failures.clone(),
        );
        registry.register(
            "caprock_agent_rollbacks",
            "Ways back to the version before that the agent began",
            inner.rollbacks.clone(),
        );
        registry.register(
            "caprock_agent_drift_found",
            "Times that the node was found to differ from its configuration",
            inner.drift_found.clone(),
        );
        registry.register(
            "caprock_agent_drift_healed",
            "Times that drift was put back",
            inner.drift_healed.clone(),
        );
        registry.register(
            "caprock_agent_last_reboot_timestamp_seconds",
            "When the node last rebooted, by what the reboot was for, since the Unix epoch; 0 for never on record",
            inner.reboots.clone(),
        );
        registry.register(
            "caprock_agent_credential_expiry_timestamp_seconds",
            "End of the node's own credential, since the Unix epoch; 0 when it has none that ends",
            inner.credential.clone(),
        );
    }

    /// What does not go on and will not by itself, if anything: only a restart helps.
    pub fn stuck(&self) -> Option<String> {
        let late = self.inner.notifier.get()?.late(Instant::now())?;
        Some(format!("a step should have ended {} s ago", late.as_secs()))
    }

    /// Why the agent cannot do yet what it is there for.
    pub fn unready(&self) -> Option<String> {
        (self.inner.looked.get() == 0.0)
            .then(|| "the agent has not looked at its node yet".to_owned())
    }

    pub(crate) fn follow(&self, notifier: &Notifier) {
        // An agent that is run twice in one process keeps the first: that is for tests alone.
        self.inner.notifier.get_or_init(|| notifier.clone());
    }

    /// A turn has ended.
    pub(crate) fn turned<T>(&self, turn: &Result<T, AgentError>, now: Timestamp) {
        match turn {
            Ok(_) => {
                self.inner.looked.set(seconds(now));
            }
            Err(error) => {
                let label = [("kind", error.kind())];
                self.inner.turn_failures.get_or_create(&label).inc();
            }
        }
    }

    /// The agent is at this step.
    pub(crate) fn at(&self, step: Option<&Step>) {
        let at = step.map_or("none", name);
        for step in STEPS {
            let here = i64::from(step == at);
            self.inner.step.get_or_create(&[("step", step)]).set(here);
        }
    }

    /// A turn at a step that began then has ended.
    pub(crate) fn acted<T>(&self, step: &Step, begun: Instant, done: &Result<T, AgentError>) {
        let label = [("step", name(step))];
        let took = begun.elapsed().as_secs_f64();
        self.inner.durations.get_or_create(&label).observe(took);
        if done.is_err() {
            self.inner.step_failures.get_or_create(&label).inc();
        }
    }

    pub(crate) fn degraded(&self, degraded: bool) {
        self.inner.degraded.set(degraded.into());
    }

    pub(crate) fn pulled(&self, bytes: u64) {
        self.inner.pulled.inc_by(bytes);
    }

    pub(crate) fn verification_failed(&self) {
        self.inner.verification_failures.inc();
    }

    pub(crate) fn rolled_back(&self) {
        self.inner.rollbacks.inc();
    }

    /// Whether the node differs from its configuration now: drift that stays is found once.
    pub(crate) fn drifts(&self, drifts: bool) {
        if drifts && !self.inner.drifting.swap(drifts, Ordering::Relaxed) {
            self.inner.drift_found.inc();
        }
        self.inner.drifting.store(drifts, Ordering::Relaxed);
    }

    pub(crate) fn drift_healed(&self) {
        self.inner.drift_healed.inc();
    }

    /// The node's reboots on record.
    pub(crate) fn reboots(&self, reboots: &[Reboot]) {
        for reboot in reboots {
            let label = [("reason", reboot.cause.word())];
            let last = self.inner.reboots.get_or_create(&label).clone();
            last.set(last.get().max(seconds(reboot.at)));
        }
    }

    /// When the node's own credential ends.
    pub(crate) fn credential_ends(&self, at: Option<Timestamp>) {
        self.inner.credential.set(at.map_or(0.0, seconds));
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

fn name(step: &Step) -> &'static str {
    match step {
        Step::Pull { .. } => "pull",
        Step::Drain { .. } => "drain",
        Step::Deploy => "deploy",
        Step::Apply { .. } => "apply",
        Step::Discard => "discard",
        Step::Reboot => "reboot",
        Step::SoftReboot => "soft_reboot",
        Step::Verify => "verify",
        Step::Uncordon { .. } => "uncordon",
    }
}
