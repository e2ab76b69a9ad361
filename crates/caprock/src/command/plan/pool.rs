//! What would happen to one pool: its configuration, its image, and its nodes in their order.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use model::api::{MachineConfig, MachineConfigPool};
use model::health::policy_of;
use model::node::{AgentState, NodeView, Target};
use model::pool::{Membership, PoolSelector, max_unavailable, membership};
use model::problem::summary;
use model::render::Provenance;
use model::rollout::{self, Gate, Seen};
use model::schedule::{Opening, Schedule, Wave};
use model::update::{Disruption, Listed, Reason, Update, Version, rebuild, with_held_back};
use serde::Serialize;

use super::build::{self, Build};
use super::cluster::Cluster;
use crate::exit::{Failure, refused};
use crate::side;

/// What would happen to a pool.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PoolPlan {
    pub(super) pool: String,
    pub(super) paused: bool,
    /// Rendered config that the pool's nodes go to.
    pub(super) config: String,
    /// Layered image that they go to; absent without layering and before it is built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    /// The build of the layered image; absent without layering.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) build: Option<Build>,
    /// Why there is no new rendered config: the last one stays in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    /// What must come first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waits_for: Option<String>,
    /// How many nodes are worked on at once.
    pub(super) max_unavailable: usize,
    /// The waves of its RolloutPolicy that have nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) waves: Vec<WavePlan>,
    /// Names of the nodes that change, in the order in which they do; those of one batch together.
    pub(super) batches: Vec<Vec<String>>,
    pub(super) nodes: Vec<NodePlan>,
}

/// Nodes that change before those of the next wave, and what is between the two.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WavePlan {
    pub(super) wave: String,
    pub(super) nodes: Vec<String>,
    /// `1h`, when the next wave waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) soak: Option<String>,
    /// Whether the next wave waits for a person.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) pause: bool,
}

/// What would happen to a node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodePlan {
    pub(super) node: String,
    pub(super) disruption: &'static str,
    pub(super) changes: Vec<Reason>,
    pub(super) actions: Vec<Listed>,
    /// What the node cannot do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) obstacles: Vec<String>,
    /// Why it gets no update now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waits_for: Option<String>,
    /// None when what the node has cannot be found any more.
    #[serde(skip)]
    pub(super) update: Option<Update>,
}

impl PoolPlan {
    /// What would happen to `pool` when the cluster goes from `now` to `then`.
    pub(super) fn new(
        now: &Cluster,
        then: &Cluster,
        pool: &MachineConfigPool,
        applied: bool,
        at: Timestamp,
    ) -> Result<Self, Failure> {
        let name = pool.name_any();
        let current = chosen(now, pool);
        let (mut target, problem) = match (&current, applied) {
            (Some(Ok(version)), false) => (version.clone(), None),
            (Some(Err(problem)), false) => (Version::default(), Some(problem.clone())),
            (known, _) => match side::rendered(pool, &then.sources(), &then.defaults) {
                Ok(version) => (version, None),
                Err(failure) => {
                    let known = known.clone().and_then(Result::ok);
                    (known.unwrap_or_default(), Some(failure.words()))
                }
            },
        };
        let build = build_of(
            now,
            then,
            pool,
            current.and_then(Result::ok).as_ref(),
            &target,
        );
        target.layered_image = image_of(then, &name, build.as_ref());
        let members = members(then, &name)?;
        let max = max_unavailable(&name, pool.spec.max_unavailable.as_ref(), members.len())
            .map_err(refused)?;
        let applied = policy_of(&name, &then.rollouts);
        let (schedule, unreadable) = match Schedule::of(applied.map(|applied| applied.policy)) {
            Ok(schedule) => (schedule, None),
            Err(invalid) => (Schedule::default(), Some(invalid.to_string())),
        };
        let batches = batches(&target, &members, max, &schedule);
        let nodes: Vec<NodePlan> = members
            .iter()
            .map(|node| node_plan(now, then, node, &target))
            .collect();
        let waits_for = waits_for(pool, build.as_ref())
            .or(unreadable)
            .or_else(|| closed(&schedule, &nodes, at));
        Ok(PoolPlan {
            paused: pool.spec.paused,
            config: target.name.clone(),
            image: target
                .layered_image
                .clone()
                .filter(|_| build.as_ref().is_some_and(|build| !build.needed)),
            waits_for,
            waves: waves(&schedule, &members),
            build,
            problem,
            max_unavailable: max,
            batches,
            nodes,
            pool: name,
        })
    }
}

/// The rendered config that the controllers chose, if they have.
fn chosen(cluster: &Cluster, pool: &MachineConfigPool) -> Option<Result<Version, String>> {
    let live = cluster
        .pools
        .iter()
        .find(|live| live.name_any() == pool.name_any())?;
    let configuration = &live.spec.configuration;
    if configuration.name.is_empty() {
        return None;
    }
    let sources = configuration
        .source
        .iter()
        .filter_map(|source| source.name.as_ref());
    let sources: Vec<&MachineConfig> = sources
        .filter_map(|name| cluster.configs.get(name))
        .collect();
    let version = read(
        cluster,
        &Target {
            config: configuration.name.clone(),
            image: None,
        },
    );
    Some(version.map(|version| version.explained(Provenance::of(sources))))
}

fn read(cluster: &Cluster, target: &Target) -> Result<Version, String> {
    let Some(config) = cluster.configs.get(&target.config) else {
        return Err(format!(
            "there is no rendered MachineConfig `{}`",
            target.config
        ));
    };
    Version::new(&target.config, &config.spec, target.image.as_deref()).map_err(|problems| {
        format!(
            "rendered MachineConfig `{}` is not valid: {}",
            target.config,
            summary(&problems)
        )
    })
}

/// The build that the pool needs, in a pool with a layered image.
fn build_of(
    now: &Cluster,
    then: &Cluster,
    pool: &MachineConfigPool,
    current: Option<&Version>,
    target: &Version,
) -> Option<Build> {
    let name = pool.name_any();
    let config = then.images.get(&name)?;
    let mut reasons = build::differences(now.images.get(&name), Some(config));
    if let Some(current) = current {
        reasons.extend(rebuild(current, target, &build::containerfile(config)));
    }
    if reasons.is_empty() {
        return Some(build::under_way(config, &then.builds));
    }
    Some(Build {
        needed: true,
        name: None,
        state: None,
        reasons,
    })
}

/// The image that nodes go to; a name for it while it is not built.
fn image_of(then: &Cluster, pool: &str, build: Option<&Build>) -> Option<String> {
    let config = then.images.get(pool)?;
    let known = config
        .status
        .as_ref()
        .and_then(|status| status.current_image_pull_spec.clone());
    match build {
        Some(Build { needed: false, .. }) if known.is_some() => known,
        _ => Some(format!(
            "{} (to be built)",
            config.spec.rendered_image_push_spec
        )),
    }
}

/// The nodes that belong to a pool, as the controllers see it.
fn members(cluster: &Cluster, pool: &str) -> Result<Vec<NodeView>, Failure> {
    let mut selectors = Vec::new();
    for pool in &cluster.pools {
        let selector = PoolSelector::parse(&pool.name_any(), pool.spec.node_selector.as_ref());
        selectors.extend(selector.map_err(refused)?);
    }
    let mut nodes: Vec<NodeView> = cluster
        .nodes
        .iter()
        .map(NodeView::of)
        .filter(|node| membership(&node.labels, &selectors) == Membership::Member(pool.to_owned()))
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

fn waves(schedule: &Schedule, members: &[NodeView]) -> Vec<WavePlan> {
    let numbered = schedule.waves.iter().enumerate();
    let waves = numbered.map(|(number, wave)| WavePlan {
        wave: wave.name.clone(),
        nodes: members
            .iter()
            .filter(|node| schedule.wave_of(node) == number)
            .map(|node| node.name.clone())
            .collect(),
        soak: (!wave.soak.is_zero()).then(|| format!("{:#}", wave.soak)),
        pause: wave.pause,
    });
    waves.filter(|wave| !wave.nodes.is_empty()).collect()
}

/// The window that nodes which drain wait for.
fn closed(schedule: &Schedule, nodes: &[NodePlan], at: Timestamp) -> Option<String> {
    let drains = |node: &NodePlan| {
        let update = node.update.as_ref();
        update.is_none_or(|update| update.disruption >= Disruption::Drain)
    };
    match schedule.windows.at(at) {
        Opening::Closed { name, opens } if nodes.iter().any(drains) => Some(format!(
            "window `{name}`, which opens at {opens}, before nodes that drain are told"
        )),
        _ => None,
    }
}

/// Plays the roll-out to its end, with every update going well and nobody waiting for a time.
fn batches(
    target: &Version,
    members: &[NodeView],
    max: usize,
    schedule: &Schedule,
) -> Vec<Vec<String>> {
    let at_once = |wave: &Wave| Wave {
        soak: SignedDuration::ZERO,
        pause: false,
        ..wave.clone()
    };
    let mut seen = Seen {
        config: Some(target.name.clone()),
        gate: match &target.layered_image {
            Some(image) => Gate::Ready {
                image: image.clone(),
                build: String::new(),
            },
            None => Gate::NotLayered,
        },
        paused: false,
        max_unavailable: Ok(max),
        nodes: members.to_vec(),
        contested: Default::default(),
        invalid_selector: None,
        failure_budget: None,
        policy_problems: Vec::new(),
        schedule: Ok(Schedule {
            waves: schedule.waves.iter().map(at_once).collect(),
            ..Schedule::default()
        }),
        drains: Default::default(),
        missing: Vec::new(),
        now: Timestamp::UNIX_EPOCH,
    };
    let mut batches = Vec::new();
    loop {
        let plan = rollout::plan(&seen);
        if plan.assign.is_empty() {
            return batches;
        }
        let mut batch = Vec::new();
        for told in plan.assign {
            for node in seen.nodes.iter_mut().filter(|node| node.name == told.node) {
                node.desired = Some(told.to.clone());
                node.current = Some(told.to.clone());
                node.state = Some(AgentState::Done);
                node.obstacle = None;
                node.asks = false;
            }
            batch.push(told.node);
        }
        batches.push(batch);
    }
}

fn node_plan(now: &Cluster, then: &Cluster, node: &NodeView, target: &Version) -> NodePlan {
    let from = match &node.current {
        None => Ok(Version::default()),
        // What the live pool was rendered from explains what goes.
        Some(current) => read(now, current).map(|version| {
            let sources = now
                .pools
                .iter()
                .find(|pool| pool.spec.configuration.name == current.config);
            match sources.and_then(|pool| chosen(now, pool)) {
                Some(Ok(known)) => version.explained(known.provenance),
                _ => version,
            }
        }),
    };
    let update = from.map(|from| {
        // Without an update the node goes on holding it back.
        let (from, target) = match from.target() == target.target() {
            true => (from, target.clone()),
            false => with_held_back(&from, target, &node.held_back),
        };
        Update::between(&from, &target, &[], &then.policy)
    });
    let waits_for = match &update {
        Err(gone) => Some(format!("cannot be told beforehand: {gone}")),
        Ok(update) if update.is_empty() => None,
        Ok(_) => node.obstacle.clone(),
    };
    let update = update.ok();
    NodePlan {
        node: node.name.clone(),
        disruption: update
            .as_ref()
            .map_or("Unknown", |update| update.disruption.name()),
        changes: update
            .iter()
            .flat_map(|update| update.reasons.clone())
            .collect(),
        actions: update.iter().flat_map(Update::listed).collect(),
        obstacles: update
            .iter()
            .flat_map(|update| update.obstacles.iter().map(ToString::to_string))
            .collect(),
        waits_for,
        update,
    }
}

/// What must happen before nodes are told to go anywhere.
fn waits_for(pool: &MachineConfigPool, build: Option<&Build>) -> Option<String> {
    match build {
        Some(Build {
            needed: true,
            name: Some(name),
            state,
            ..
        }) => Some(format!(
            "build `{name}`: {}",
            state.as_deref().unwrap_or_default()
        )),
        Some(Build {
            needed: true,
            name: None,
            ..
        }) => Some("a new image to be built".to_owned()),
        _ if pool.spec.paused => Some("the pool to be unpaused (`spec.paused`)".to_owned()),
        _ => None,
    }
}
