//! What the agent tells of itself: metrics, whether it is stuck, and whether it is ready.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::notify::Notifier;

/// Metrics and health of one agent; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Who knows of the loop's promises.
    notifier: OnceLock<Notifier>,
    looked: Gauge<f64, AtomicU64>,
}

impl Telemetry {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "caprock_agent_last_look_timestamp_seconds",
            "When the agent last looked at node and objects to the end, since the Unix epoch; 0 before",
            self.inner.looked.clone(),
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

    /// A turn has ended well.
    pub(crate) fn looked(&self, now: Timestamp) {
        self.inner.looked.set(now.as_duration().as_secs_f64());
    }
}
