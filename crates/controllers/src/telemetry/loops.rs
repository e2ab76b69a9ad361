//! The loops' queues and looks: how long they are, how long they take, how they end, and whether they end at all.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::error::Error;

/// Upper bounds in seconds: a look at a settled object takes less than a millisecond, a build an hour.
const BUCKETS: [f64; 13] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0,
];
/// A look that takes longer hangs: each of its requests has an answer or an end within five minutes.
const LONGEST_LOOK: Duration = Duration::from_secs(900);
/// An object that waits longer is waited for by nobody: looks at different objects do not wait for each other.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

type LoopLabel = [(&'static str, &'static str); 1];

/// How long a loop may take before it counts as stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Until a look begins, and until it ends.
    WithAll,
    /// Until a look begins; it may last.
    WithQueueOnly,
}

/// The loops that run, and what those that ran have counted.
#[derive(Debug, Clone)]
pub(super) struct Loops {
    running: Arc<Mutex<BTreeMap<&'static str, Arc<Looks>>>>,
    durations: Family<LoopLabel, Histogram>,
    errors: Family<[(&'static str, &'static str); 2], Counter>,
}

/// The objects of one loop.
#[derive(Debug)]
struct Looks {
    patience: Patience,
    /// By object, since when it waits for a look, or is looked at.
    at: Mutex<At>,
}

#[derive(Debug, Default)]
struct At {
    waiting: HashMap<String, Instant>,
    under_way: HashMap<String, Instant>,
}

impl Default for Loops {
    fn default() -> Self {
        Self {
            running: Arc::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            errors: Family::default(),
        }
    }
}

impl Loops {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    pub(super) fn begin(&self, name: &'static str, patience: Patience) -> Running {
        let looks = Arc::new(Looks {
            patience,
            at: Mutex::default(),
        });
        lock(&self.running).insert(name, looks.clone());
        self.know(name);
        Running {
            name,
            looks,
            loops: self.clone(),
        }
    }

    /// What has not happened yet is 0, not unknown.
    fn know(&self, name: &'static str) {
        drop(self.durations.get_or_create(&[("loop", name)]));
        for kind in Error::KINDS {
            drop(self.errors.get_or_create(&[("loop", name), ("kind", kind)]));
        }
    }

    pub(super) fn stuck(&self, now: Instant) -> Option<String> {
        let running = lock(&self.running);
        running.iter().find_map(|(name, looks)| {
            let at = looks.at();
            let looking = (looks.patience == Patience::WithAll)
                .then(|| late(&at.under_way, now, LONGEST_LOOK))
                .flatten()
                .map(|(object, since)| ("the look at", object, since));
            let waiting = || {
                late(&at.waiting, now, LONGEST_WAIT)
                    .map(|(object, since)| ("the wait of", object, since))
            };
            let (what, object, since) = looking.or_else(waiting)?;
            Some(format!(
                "loop `{name}`: {what} `{object}` has lasted {} s",
                since.as_secs()
            ))
        })
    }
}

/// The object that takes longest, when it takes too long.
fn late(
    objects: &HashMap<String, Instant>,
    now: Instant,
    limit: Duration,
) -> Option<(&str, Duration)> {
    let (object, since) = objects.iter().min_by_key(|(_, since)| **since)?;
    let lasted = now.saturating_duration_since(*since);
    (lasted > limit).then_some((object, lasted))
}

impl Looks {
    fn at(&self) -> MutexGuard<'_, At> {
        lock(&self.at)
    }
}

/// A loop that runs.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    name: &'static str,
    looks: Arc<Looks>,
    loops: Loops,
}

impl Running {
    /// An object is to be looked at.
    pub(crate) fn queued(&self, object: &str) {
        let mut at = self.looks.at();
        if !at.waiting.contains_key(object) {
            at.waiting.insert(object.to_owned(), Instant::now());
        }
    }

    /// An object is not there any more.
    pub(crate) fn gone(&self, object: &str) {
        self.looks.at().waiting.remove(object);
    }

    /// A look at an object begins, which is under way as long as the result lives.
    pub(crate) fn look(&self, object: &str) -> Look {
        let now = Instant::now();
        let mut at = self.looks.at();
        at.waiting.remove(object);
        at.under_way.insert(object.to_owned(), now);
        Look {
            object: object.to_owned(),
            begun: now,
            running: self.clone(),
        }
    }

    /// A look failed.
    pub(crate) fn failed(&self, error: &Error) {
        let labels = [("loop", self.name), ("kind", error.kind())];
        self.loops.errors.get_or_create(&labels).inc();
    }

    /// The loop has ended.
    pub(crate) fn end(&self) {
        let mut running = lock(&self.loops.running);
        // A leader that was elected again has begun another one under this name.
        if running
            .get(self.name)
            .is_some_and(|looks| Arc::ptr_eq(looks, &self.looks))
        {
            running.remove(self.name);
        }
    }
}

/// A look that is under way.
#[derive(Debug)]
pub(crate) struct Look {
    object: String,
    begun: Instant,
    running: Running,
}

impl Drop for Look {
    fn drop(&mut self) {
        self.running.looks.at().under_way.remove(&self.object);
        let durations = &self.running.loops.durations;
        durations
            .get_or_create(&[("loop", self.running.name)])
            .observe(self.begun.elapsed().as_secs_f64());
    }
}

impl Collector for Loops {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.durations.encode(to.encode_descriptor(
            "caprock_reconcile_duration_seconds",
            "Time of one look at an object, by loop",
            None,
            MetricType::Histogram,
        )?)?;
        self.errors.encode(to.encode_descriptor(
            "caprock_reconcile_errors",
            "Looks that failed and are repeated, by loop and kind of failure",
            None,
            MetricType::Counter,
        )?)?;
        let running: Vec<(&str, usize, usize)> = lock(&self.running)
            .iter()
            .map(|(name, looks)| {
                let at = looks.at();
                (*name, at.waiting.len(), at.under_way.len())
            })
            .collect();
        let mut depth = to.encode_descriptor(
            "caprock_reconcile_queue_depth",
            "Objects that wait for a look, by loop",
            None,
            MetricType::Gauge,
        )?;
        for (name, waiting, _) in &running {
            let of_loop = [("loop", *name)];
            ConstGauge::new(*waiting as u64).encode(depth.encode_family(&of_loop)?)?;
        }
        let mut under_way = to.encode_descriptor(
            "caprock_reconcile_in_progress",
            "Looks that are under way, by loop",
            None,
            MetricType::Gauge,
        )?;
        for (name, _, looking) in &running {
            let of_loop = [("loop", *name)];
            ConstGauge::new(*looking as u64).encode(under_way.encode_family(&of_loop)?)?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no panic happens while the lock is held")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_never_ends_is_stuck() {
        let loops = Loops::default();
        let (pool, builder) = (
            loops.begin("pool", Patience::WithAll),
            loops.begin("builder", Patience::WithQueueOnly),
        );
        pool.queued("worker");
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(loops.stuck(later(200)), None);
        let told = loops.stuck(later(301)).expect("nobody looks");
        assert!(
            told.starts_with("loop `pool`: the wait of `worker` has lasted 30"),
            "{told}"
        );
        let look = pool.look("worker");
        let build = builder.look("build");
        assert_eq!(loops.stuck(later(800)), None);
        assert!(loops.stuck(later(901)).is_some());
        drop(look);
        assert_eq!(loops.stuck(later(100_000)), None, "a build may last");
        drop(build);
        pool.queued("gone");
        pool.gone("gone");
        assert_eq!(loops.stuck(later(100_000)), None);
    }

    #[test]
    fn a_loop_that_has_ended_waits_for_nothing() {
        let loops = Loops::default();
        let first = loops.begin("pool", Patience::WithAll);
        first.queued("worker");
        let second = loops.begin("pool", Patience::WithAll);
        first.end();
        second.queued("worker");
        let later = Instant::now() + Duration::from_secs(1000);
        assert!(loops.stuck(later).is_some());
        second.end();
        assert_eq!(loops.stuck(later), None);
    }
}
