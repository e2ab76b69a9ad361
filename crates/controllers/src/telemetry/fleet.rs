//! How pools, nodes and builds are, at each scrape: from the local copy and from what the pool loop decided last. Only
//! the controller that leads tells, so that nothing is counted twice.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use jiff::Timestamp;
use kube::ResourceExt;
use model::api::{MachineConfigNode, MachineConfigPool, MachineConfigPoolStatus, MachineOSBuild};
use model::build_state::BuildState;
use model::drain::{DRAIN_SINCE, DRAIN_WAITS_FOR};
use model::explain;
use model::node::{NodeView, Phase, annotation};
use model::rollout::{Plan, Seen};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::cache::Cache;

/// Nodes whose drain is told of by name: more are under way only where `maxUnavailable` says so.
const MAX_DRAINS: usize = 100;
/// All of them, so that those of no build are 0.
const BUILD_STATES: [&str; 7] = [
    "new",
    "prepared",
    "building",
    "retrying",
    "succeeded",
    "failed",
    "interrupted",
];

/// What the pool loop knows of the fleet.
#[derive(Default)]
pub(super) struct Fleet {
    pub(super) cache: OnceLock<Cache>,
    pools: Mutex<BTreeMap<String, Figures>>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

/// A pool as the last look at it found it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Figures {
    by_phase: BTreeMap<&'static str, usize>,
    /// Nodes that wait for a turn, and why.
    waiting: Option<(&'static str, usize)>,
    /// Nodes that were told what to run: whether their agents answer shows with time alone.
    told: Vec<NodeView>,
}

impl Figures {
    fn of(seen: &Seen, plan: &Plan) -> Self {
        let mut by_phase: BTreeMap<&'static str, usize> =
            Phase::ALL.iter().map(|phase| (phase.as_str(), 0)).collect();
        for node in &seen.nodes {
            *by_phase.entry(node.phase().as_str()).or_default() += 1;
        }
        let waiting = plan.hold.as_ref().map(|hold| {
            let target = seen.target();
            let told = |name: &str| plan.assign.iter().any(|told| told.node == name);
            let waits = seen
                .nodes
                .iter()
                .filter(|node| node.desired != target || target.is_none())
                .filter(|node| !told(&node.name));
            (hold.word(), waits.count())
        });
        let is_told = |node: &&NodeView| matches!(node.phase(), Phase::Pending | Phase::Working);
        let told = seen.nodes.iter().filter(is_told).cloned().collect();
        Self {
            by_phase,
            waiting,
            told,
        }
    }

    /// Of how many nodes the agents do not answer.
    fn unanswered(
        &self,
        progress: impl Fn(&str) -> Option<Arc<MachineConfigNode>>,
        now: Timestamp,
    ) -> usize {
        let is_silent = |node: &&NodeView| {
            explain::unanswered(node, progress(&node.name).as_deref(), now).is_some()
        };
        self.told.iter().filter(is_silent).count()
    }
}

impl Fleet {
    pub(super) fn saw(&self, pool: &str, seen: &Seen, plan: &Plan) {
        self.lock().insert(pool.to_owned(), Figures::of(seen, plan));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Figures>> {
        self.pools
            .lock()
            .expect("no panic happens while the lock is held")
    }

    pub(super) fn encode(&self, leads: bool, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let cache = self.cache.get().filter(|_| leads);
        let pools = cache.map(|cache| cache.pools.state()).unwrap_or_default();
        self.lock()
            .retain(|name, _| pools.iter().any(|pool| pool.name_any() == *name));
        self.encode_figures(cache, to)?;
        encode_machines(&pools, to)?;
        encode_conditions(&pools, to)?;
        encode_certificates(&pools, to)?;
        encode_builds(cache, to)?;
        encode_drains(cache, to)
    }

    fn encode_figures(&self, cache: Option<&Cache>, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let pools = self.lock().clone();
        let mut nodes = family(
            to,
            "caprock_pool_nodes",
            "Nodes of a pool by phase of their update: new, done, pending, working, failing, degraded",
        )?;
        for (pool, figures) in &pools {
            for (phase, count) in &figures.by_phase {
                put(
                    &mut nodes,
                    &[("pool", pool), ("phase", phase)],
                    *count as f64,
                )?;
            }
        }
        let mut waiting = family(
            to,
            "caprock_pool_waiting_nodes",
            "Nodes of a pool that wait for their update, by what they wait for",
        )?;
        for (pool, figures) in &pools {
            if let Some((reason, count)) = figures.waiting {
                put(
                    &mut waiting,
                    &[("pool", pool), ("reason", reason)],
                    count as f64,
                )?;
            }
        }
        let mut unanswered = family(
            to,
            "caprock_pool_unanswered_nodes",
            "Nodes of a pool that were told to update three minutes ago or longer, and whose agents have not begun",
        )?;
        let progress = |name: &str| Cache::get(&cache?.machine_config_nodes, name);
        for (pool, figures) in &pools {
            let count = figures.unanswered(progress, Timestamp::now());
            put(&mut unanswered, &[("pool", pool)], count as f64)?;
        }
        Ok(())
    }
}

fn family<'a>(
    to: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    to.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn put(to: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: f64) -> fmt::Result {
    let labels: Vec<(String, String)> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    ConstGauge::new(value).encode(to.encode_family(&labels)?)
}

fn encode_machines(
    pools: &[Arc<MachineConfigPool>],
    to: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    type Count = fn(&MachineConfigPoolStatus) -> i32;
    let counts: [(&str, &str, Count); 5] = [
        ("caprock_pool_machines", "Machines of a pool", |pool| {
            pool.machine_count
        }),
        (
            "caprock_pool_updated_machines",
            "Machines of a pool that run its target",
            |pool| pool.updated_machine_count,
        ),
        (
            "caprock_pool_ready_machines",
            "Machines of a pool that run its target and serve",
            |pool| pool.ready_machine_count,
        ),
        (
            "caprock_pool_unavailable_machines",
            "Machines of a pool that do not serve, or may stop at any moment for an update",
            |pool| pool.unavailable_machine_count,
        ),
        (
            "caprock_pool_degraded_machines",
            "Machines of a pool whose agent reports a fault",
            |pool| pool.degraded_machine_count,
        ),
    ];
    for (name, help, count) in counts {
        let mut family = family(to, name, help)?;
        for pool in pools {
            if let Some(status) = &pool.status {
                put(
                    &mut family,
                    &[("pool", &pool.name_any())],
                    count(status).into(),
                )?;
            }
        }
    }
    let mut paused = family(to, "caprock_pool_paused", "Whether a pool is paused")?;
    for pool in pools {
        let is_paused = f64::from(u8::from(pool.spec.paused));
        put(&mut paused, &[("pool", &pool.name_any())], is_paused)?;
    }
    Ok(())
}

fn encode_conditions(
    pools: &[Arc<MachineConfigPool>],
    to: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut conditions = family(
        to,
        "caprock_pool_condition",
        "Conditions of a pool: 1 when True, with their reason",
    )?;
    let each = |pool: &MachineConfigPool| {
        let conditions = pool.status.as_ref().map(|status| status.conditions.clone());
        conditions.unwrap_or_default()
    };
    for pool in pools {
        let name = pool.name_any();
        for condition in each(pool) {
            let labels = [
                ("pool", name.as_str()),
                ("type", &condition.type_),
                ("reason", &condition.reason),
            ];
            let holds = f64::from(u8::from(condition.status == "True"));
            put(&mut conditions, &labels, holds)?;
        }
    }
    let mut since = family(
        to,
        "caprock_pool_condition_last_transition_timestamp_seconds",
        "When a condition of a pool changed last, since the Unix epoch",
    )?;
    for pool in pools {
        let name = pool.name_any();
        for condition in each(pool) {
            if let Some(at) = condition.last_transition_time {
                let labels = [("pool", name.as_str()), ("type", &condition.type_)];
                put(&mut since, &labels, at.0.as_second() as f64)?;
            }
        }
    }
    Ok(())
}

/// All pools name the same bundles.
fn encode_certificates(
    pools: &[Arc<MachineConfigPool>],
    to: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut ends: BTreeMap<String, f64> = BTreeMap::new();
    for status in pools.iter().filter_map(|pool| pool.status.as_ref()) {
        for expiry in &status.cert_expirys {
            if let Some(end) = &expiry.expiry {
                let first = ends.entry(expiry.bundle.clone()).or_insert(f64::INFINITY);
                *first = first.min(end.0.as_second() as f64);
            }
        }
    }
    let mut family = family(
        to,
        "caprock_trusted_certificate_expiry_timestamp_seconds",
        "End of the certificate that ends first in a bundle that nodes trust, since the Unix epoch",
    )?;
    for (bundle, end) in ends {
        put(&mut family, &[("bundle", &bundle)], end)?;
    }
    Ok(())
}

fn state(build: &MachineOSBuild) -> &'static str {
    match BuildState::of(build) {
        BuildState::New => "new",
        BuildState::Prepared => "prepared",
        BuildState::Building { retrying: true, .. } => "retrying",
        BuildState::Building {
            retrying: false, ..
        } => "building",
        BuildState::Succeeded { .. } => "succeeded",
        BuildState::Failed { .. } => "failed",
        BuildState::Interrupted { .. } => "interrupted",
    }
}

fn encode_builds(cache: Option<&Cache>, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let builds = cache.map(|cache| cache.builds.state()).unwrap_or_default();
    let mut by_state: BTreeMap<&str, usize> = BTreeMap::new();
    if cache.is_some() {
        by_state.extend(BUILD_STATES.map(|state| (state, 0)));
    }
    let mut oldest: Option<Timestamp> = None;
    for build in &builds {
        let state = state(build);
        *by_state.entry(state).or_default() += 1;
        if let ("new" | "prepared", Some(made)) = (state, build.creation_timestamp()) {
            oldest = Some(oldest.map_or(made.0, |before| before.min(made.0)));
        }
    }
    let mut counts = family(to, "caprock_builds", "MachineOSBuilds by state")?;
    for (state, count) in by_state {
        put(&mut counts, &[("state", state)], count as f64)?;
    }
    let mut waiting = family(
        to,
        "caprock_build_waiting_since_timestamp_seconds",
        "When the MachineOSBuild was made that has waited longest for a builder, since the Unix epoch",
    )?;
    if let Some(oldest) = oldest {
        put(&mut waiting, &[], oldest.as_second() as f64)?;
    }
    Ok(())
}

fn encode_drains(cache: Option<&Cache>, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let nodes = cache.map(|cache| cache.nodes.state()).unwrap_or_default();
    let (mut drains, mut closed) = (Vec::new(), 0_u32);
    for node in &nodes {
        let since = annotation(node, DRAIN_SINCE).and_then(|at| at.parse::<Timestamp>().ok());
        match since {
            Some(since) => drains.push((node.name_any(), since)),
            None if annotation(node, DRAIN_WAITS_FOR).is_some() => closed += 1,
            None => {}
        }
    }
    drains.sort_by_key(|(_, since)| *since);
    let mut count = family(to, "caprock_drains", "Nodes that are being drained")?;
    if cache.is_some() {
        put(&mut count, &[], drains.len() as f64)?;
    }
    let mut waiting = family(
        to,
        "caprock_drains_waiting_for_window",
        "Nodes whose drain waits for a maintenance window",
    )?;
    if cache.is_some() {
        put(&mut waiting, &[], closed.into())?;
    }
    let mut since = family(
        to,
        "caprock_node_drain_start_timestamp_seconds",
        "When the drain of a node began that is under way, since the Unix epoch; the oldest ones",
    )?;
    for (node, at) in drains.iter().take(MAX_DRAINS) {
        put(&mut since, &[("node", node)], at.as_second() as f64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use jiff::SignedDuration;
    use k8s_openapi::api::core::v1::Node;
    use model::keys;
    use serde_json::json;

    #[test]
    fn an_agent_that_does_not_answer_is_counted_when_it_had_time_to() {
        let now = Timestamp::constant(1_700_000_000, 0);
        let node = |minutes: i64, state: &str, drained: bool| {
            let told = now - SignedDuration::from_mins(minutes);
            let mut annotations = json!({
                keys::CURRENT_CONFIG: "a", keys::DESIRED_CONFIG: "b", keys::STATE: state, keys::TOLD_AT: told,
                keys::DESIRED_DRAIN: "drain-b",
            });
            if drained {
                annotations[keys::LAST_APPLIED_DRAIN] = json!("drain-b");
            }
            let object = json!({"metadata": {"name": "n", "annotations": annotations}});
            NodeView::of(&serde_json::from_value::<Node>(object).unwrap())
        };
        let at = |step: &str| {
            let object = json!({
                "metadata": {"name": "n"},
                "spec": {"node": {"name": "n"}, "pool": {"name": "p"}, "configVersion": {"desired": "b"}},
                "status": {"conditions": [{
                    "type": step, "status": "Unknown", "reason": "R", "message": "", "lastTransitionTime": now,
                }]},
            });
            Some(Arc::new(serde_json::from_value(object).unwrap()))
        };
        let check = |node: NodeView, progress: Option<Arc<MachineConfigNode>>, silent: usize| {
            let figures = Figures {
                by_phase: BTreeMap::new(),
                waiting: None,
                told: vec![node.clone()],
            };
            let found = figures.unanswered(|_| progress.clone(), now);
            assert_eq!(found, silent, "{node:?} {progress:?}");
        };
        check(node(2, "Done", false), None, 0);
        check(node(3, "Done", false), None, 1);
        check(node(9, "Done", false), at("ImagePulledFromRegistry"), 0);
        // Its drain was asked for when it was told.
        check(node(9, "Working", false), None, 0);
        check(node(9, "Working", true), None, 1);
        check(node(9, "Working", true), at("AppliedFilesAndOS"), 0);
    }
}
