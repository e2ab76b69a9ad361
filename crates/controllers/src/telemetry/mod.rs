//! What the loops tell of themselves: metrics, whether they are stuck, and whether they are ready.
//!
//! Figures of objects come from the local copy, or from what a loop has just decided; a scrape asks the API nothing.

mod loops;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub(crate) use loops::Running;
use loops::{Loops, Patience};

/// Metrics and health of the loops of one process; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    loops: Loops,
    leading: Gauge,
    /// Whether every copy held once what the API held.
    synced: AtomicBool,
}

impl Telemetry {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.loops.register(registry);
        registry.register(
            "caprock_leader",
            "Whether this process acts: 1 for the controller that leads",
            self.inner.leading.clone(),
        );
    }

    /// What does not go on and will not by itself, if anything: only a restart helps.
    pub fn stuck(&self) -> Option<String> {
        self.inner.loops.stuck(Instant::now())
    }

    /// Why the loops cannot do yet what they are there for.
    pub fn unready(&self) -> Option<String> {
        let synced = self.inner.synced.load(Ordering::Relaxed);
        (!synced).then(|| "the local copy of the API's objects is not complete yet".to_owned())
    }

    pub(crate) fn synced(&self) {
        self.inner.synced.store(true, Ordering::Relaxed);
    }

    /// Counts this process as leading as long as the result lives.
    pub(crate) fn leading(&self) -> Leading {
        self.inner.leading.set(1);
        Leading(self.clone())
    }

    /// A loop begins, which is there as long as the result lives.
    pub(crate) fn begin(&self, name: &'static str) -> Running {
        let patience = match name {
            // A look lasts as long as the build, and its claim tells whether it goes on.
            "builder" => Patience::WithQueueOnly,
            _ => Patience::WithAll,
        };
        self.inner.loops.begin(name, patience)
    }
}

/// See [`Telemetry::leading`].
#[derive(Debug)]
pub(crate) struct Leading(Telemetry);

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.inner.leading.set(0);
    }
}
