//! What the loops tell of themselves: metrics, whether they are stuck, and whether they are ready.
//!
//! Figures of objects come from the local copy, or from what a loop has just decided; a scrape asks the API nothing.

pub(crate) mod builds;
mod fleet;
mod loops;
pub(crate) mod nodes;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kube::runtime::reflector::ObjectRef;
use model::rollout::{Plan, Seen};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use builds::Builds;
use fleet::Fleet;
pub(crate) use loops::Running;
use loops::{Loops, Patience};
use nodes::Nodes;

use crate::cache::Cache;

/// Metrics and health of the loops of one process; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    loops: Loops,
    builds: Builds,
    nodes: Nodes,
    fleet: Fleet,
    leading: Gauge,
    /// Whether every copy held once what the API held.
    synced: AtomicBool,
}

impl Telemetry {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.loops.register(registry);
        self.inner.builds.register(registry);
        self.inner.nodes.register(registry);
        registry.register(
            "caprock_leader",
            "Whether this process acts: 1 for the controller that leads",
            self.inner.leading.clone(),
        );
        registry.register_collector(Box::new(self.clone()));
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

    /// Every copy held once what the API held.
    pub(crate) fn synced(&self, cache: &Cache) {
        // Of loops that run twice in one process the first tell: that is for tests alone.
        self.inner.fleet.cache.get_or_init(|| cache.clone());
        self.inner.synced.store(true, Ordering::Relaxed);
    }

    /// Counts this process as leading as long as the result lives.
    pub(crate) fn leading(&self) -> Leading {
        self.inner.leading.set(1);
        Leading(self.clone())
    }

    /// The builder's counters.
    pub(crate) fn builds(&self) -> &Builds {
        &self.inner.builds
    }

    /// The counters of what happened to nodes.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.inner.nodes
    }

    /// What a look at a pool found and decided.
    pub(crate) fn pool(&self, pool: &str, seen: &Seen, plan: &Plan) {
        self.inner.fleet.saw(pool, seen, plan);
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

impl Collector for Telemetry {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let fleet = &self.inner.fleet;
        if let Some(cache) = fleet.cache.get() {
            let nodes = &cache.nodes;
            let is_there = |name: &str| nodes.get(&ObjectRef::new(name)).is_some();
            self.inner.nodes.retain(is_there);
        }
        fleet.encode(self.inner.leading.get() == 1, &mut to)
    }
}
