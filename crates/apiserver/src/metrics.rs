//! What `/metrics` shows, under the names that dashboards for Kubernetes know.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::store::{Scope, Store};

/// Media type of the exposition.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Upper bounds in seconds: most requests take less than a millisecond, none should take seconds.
const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// Labels of a request. Values come from what the server serves, never from the client alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

/// The metrics of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    in_flight: Gauge,
    watches: Family<ResourceLabels, Gauge>,
    objects: Family<ResourceLabels, Gauge>,
    revision: Gauge<u64, AtomicU64>,
    rejected: Counter,
}

/// Counts as long as it lives.
#[derive(Debug)]
pub(crate) struct Held(Gauge);

impl Held {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            in_flight: Gauge::default(),
            watches: Family::default(),
            objects: Family::default(),
            revision: Gauge::default(),
            rejected: Counter::default(),
        };
        let mut registry = Registry::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and code of the answer",
            metrics.requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the answer, watches apart",
            metrics.durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being served, watches apart",
            metrics.in_flight.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Open watches",
            metrics.watches.clone(),
        );
        registry.register(
            "apiserver_storage_objects",
            "Stored objects",
            metrics.objects.clone(),
        );
        registry.register(
            "apiserver_storage_revision",
            "Newest resource version",
            metrics.revision.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_rejected_requests",
            "Requests refused because their user had too many under way",
            metrics.rejected.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            ..metrics
        }
    }

    /// Counts an answered request; `took` is `None` for what lasts by intention.
    pub(crate) fn answered(&self, labels: RequestLabels, took: Option<Duration>) {
        if let Some(took) = took {
            let duration = DurationLabels {
                verb: labels.verb,
                resource: labels.resource.clone(),
            };
            self.durations
                .get_or_create(&duration)
                .observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a request as long as the answer lives.
    pub(crate) fn in_flight(&self) -> Held {
        Held::new(self.in_flight.clone())
    }

    /// Counts a watch as long as the answer lives.
    pub(crate) fn watching(&self, resource: &str) -> Held {
        let labels = ResourceLabels {
            resource: resource.into(),
        };
        Held::new(self.watches.get_or_create(&labels).clone())
    }

    /// Counts a request that was refused for being one too many.
    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }

    /// The exposition. `resources` are the places in the store to count.
    pub(crate) fn render(&self, store: &Store, resources: &[std::sync::Arc<str>]) -> String {
        self.revision.set(store.revision());
        self.objects.clear();
        for resource in resources {
            let count = store.count(&Scope::Resource(resource.clone()));
            let labels = ResourceLabels {
                resource: resource.trim_start_matches('/').into(),
            };
            self.objects
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut out = String::new();
        let registry = self
            .registry
            .lock()
            .expect("no code panics while it holds the lock of the metrics");
        encode(&mut out, &registry).expect("writing to a string does not fail");
        out
    }
}
