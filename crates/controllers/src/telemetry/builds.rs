//! What a builder did: attempts, their results and phases, steps, bytes.

use std::time::Instant;

use builder::Transfer;
use model::condition::BuildReason;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Label = [(&'static str, &'static str); 1];

/// Upper bounds in seconds: a warm rebuild takes less than one, a build with compilers an hour.
const BUCKETS: [f64; 11] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
];

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Result {
    Succeeded,
    /// Nobody but a user can mend it.
    Failed,
    /// It is tried again.
    Retried,
    /// Nobody wants it any more, or another builder has it.
    Abandoned,
}

impl Result {
    const ALL: [Self; 4] = [
        Self::Succeeded,
        Self::Failed,
        Self::Retried,
        Self::Abandoned,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Retried => "retried",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A part of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The base image is fetched and the steps are run.
    Build,
    /// Image and rendered config are compared.
    Check,
    /// What the registry has not yet is pushed.
    Push,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Build, Self::Check, Self::Push];

    fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Check => "check",
            Self::Push => "push",
        }
    }
}

fn direction(transfer: Transfer) -> &'static str {
    match transfer {
        Transfer::Fetch => "fetch",
        Transfer::Push => "push",
    }
}

/// The builder's counters.
#[derive(Debug, Clone)]
pub(crate) struct Builds {
    attempts: Family<Label, Counter>,
    failures: Family<Label, Counter>,
    durations: Family<Label, Histogram>,
    phases: Family<Label, Histogram>,
    steps: Counter,
    cached: Counter,
    bytes: Family<Label, Counter>,
}

impl Default for Builds {
    fn default() -> Self {
        let histograms = || Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> _);
        let builds = Self {
            attempts: Family::default(),
            failures: Family::default(),
            durations: histograms(),
            phases: histograms(),
            steps: Counter::default(),
            cached: Counter::default(),
            bytes: Family::default(),
        };
        // What has not happened yet is 0, not unknown.
        for result in Result::ALL {
            let label = [("result", result.as_str())];
            drop(builds.attempts.get_or_create(&label));
            drop(builds.durations.get_or_create(&label));
        }
        for phase in Phase::ALL {
            drop(builds.phases.get_or_create(&[("phase", phase.as_str())]));
        }
        for transfer in [Transfer::Fetch, Transfer::Push] {
            drop(
                builds
                    .bytes
                    .get_or_create(&[("direction", direction(transfer))]),
            );
        }
        drop(builds.failure(BuildReason::StepFailed));
        builds
    }
}

impl Builds {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "caprock_build_attempts",
            "Attempts at builds that have ended, by result",
            self.attempts.clone(),
        );
        registry.register(
            "caprock_build_failures",
            "Attempts at builds that failed, by the reason in the build's condition",
            self.failures.clone(),
        );
        registry.register(
            "caprock_build_duration_seconds",
            "Time of an attempt at a build, by result",
            self.durations.clone(),
        );
        registry.register(
            "caprock_build_phase_duration_seconds",
            "Time of a part of an attempt at a build: build, check, push",
            self.phases.clone(),
        );
        registry.register(
            "caprock_build_steps",
            "Steps of Containerfiles that were begun",
            self.steps.clone(),
        );
        registry.register(
            "caprock_build_cached_steps",
            "Steps of Containerfiles whose result was in the cache",
            self.cached.clone(),
        );
        registry.register(
            "caprock_build_transferred_bytes",
            "Bytes of blobs that builds moved from and to registries",
            self.bytes.clone(),
        );
    }

    fn failure(&self, reason: BuildReason) -> Counter {
        let label = [("reason", reason.as_str())];
        self.failures.get_or_create(&label).clone()
    }

    /// An attempt that began then has ended.
    pub(crate) fn ended(&self, result: Result, begun: Instant) {
        let label = [("result", result.as_str())];
        self.attempts.get_or_create(&label).inc();
        let took = begun.elapsed().as_secs_f64();
        self.durations.get_or_create(&label).observe(took);
    }

    /// An attempt failed of this.
    pub(crate) fn failed(&self, reason: BuildReason) {
        self.failure(reason).inc();
    }

    /// A part of an attempt that began then has ended.
    pub(crate) fn phase(&self, phase: Phase, begun: Instant) {
        let label = [("phase", phase.as_str())];
        let took = begun.elapsed().as_secs_f64();
        self.phases.get_or_create(&label).observe(took);
    }

    pub(crate) fn step(&self) {
        self.steps.inc();
    }

    pub(crate) fn cached(&self) {
        self.cached.inc();
    }

    pub(crate) fn moved(&self, transfer: Transfer, bytes: u64) {
        let label = [("direction", direction(transfer))];
        self.bytes.get_or_create(&label).inc_by(bytes);
    }
}
