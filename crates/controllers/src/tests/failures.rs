//! Failures in the middle of a roll-out, with two controllers, two builders and several agents, each on its own way to
//! the API server: it completes, exactly once per node.
//!
//! What is asserted was recorded, by the hosts (which reboots there were) and by a watch of the Nodes from the first write
//! to the last; nothing depends on how long something took.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use model::build_state::BuildState;
use model::keys;
use model::node::NodeView;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake::FakeAgent;
use super::link::{Link, Way};
use super::world::{BASE, World, eventually, ignition};
use crate::leader::Candidate;
use crate::lease::{Terms, holder};
use crate::{BuilderParts, Parts, run_parts};

const NODES: usize = 6;
const MAX_UNAVAILABLE: usize = 2;
/// A leader that is replaced too soon, on a machine that is busy, does no harm.
const TO_LEAD: Terms = Terms {
    duration: Duration::from_secs(3),
    renew_every: Duration::from_millis(200),
    give_up_after: Duration::from_secs(2),
};
const TO_BUILD: Terms = Terms {
    duration: Duration::from_secs(12),
    renew_every: Duration::from_millis(200),
    give_up_after: Duration::from_secs(10),
};

/// A controller or a builder, as a process of its own.
struct Process {
    identity: &'static str,
    link: Link,
    running: JoinHandle<()>,
}

impl Process {
    fn start(world: &World, identity: &'static str, is_builder: bool) -> Self {
        let link = Link::default();
        let client = link.client(&world.server);
        let candidate = Candidate {
            client: client.clone(),
            identity: identity.to_owned(),
            terms: TO_LEAD,
        };
        let builder = BuilderParts {
            engine: world.builder.clone(),
            identity: identity.to_owned(),
            terms: TO_BUILD,
            parallel_builds: std::num::NonZeroU32::MIN,
        };
        let parts = Parts {
            telemetry: Default::default(),
            registries: (!is_builder).then(|| world.registries.clone()),
            candidate: (!is_builder).then_some(candidate),
            builder: is_builder.then_some(builder),
        };
        let running = run_parts(client, parts, CancellationToken::new());
        Process {
            identity,
            link,
            running: tokio::spawn(async move { running.await.unwrap() }),
        }
    }

    /// As a crash: in the middle of whatever it does.
    async fn kill(self) {
        self.running.abort();
        assert!(self.running.await.unwrap_err().is_cancelled());
    }
}

/// A node with its agent, which acts until it is told to stop.
struct Machine {
    link: Link,
    living: JoinHandle<FakeAgent>,
}

async fn live(mut agent: FakeAgent, stop: CancellationToken) -> FakeAgent {
    while !stop.is_cancelled() {
        // What an API that is away does not take is told at the next look.
        let _told = stop.run_until_cancelled(agent.try_act()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    agent
}

/// Every version of every Node, in the order of the API.
#[derive(Clone, Default)]
struct History(Arc<Mutex<Vec<Node>>>);

impl History {
    async fn record(&self, client: Client) {
        let nodes: Api<Node> = Api::all(client);
        let list = nodes.list(&ListParams::default()).await.unwrap();
        let mut seen = list.metadata.resource_version.unwrap();
        self.0.lock().unwrap().extend(list.items);
        loop {
            // The server may be away; what it did meanwhile is told from where this watch ended.
            if let Ok(changes) = nodes.watch(&WatchParams::default(), &seen).await {
                let mut changes = changes.boxed();
                while let Ok(Some(change)) = changes.try_next().await {
                    match change {
                        WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                            seen = node.resource_version().unwrap();
                            self.0.lock().unwrap().push(node);
                        }
                        WatchEvent::Bookmark(mark) => seen = mark.metadata.resource_version,
                        WatchEvent::Deleted(node) => panic!("{node:?} was deleted"),
                        WatchEvent::Error(error) => panic!("the history has a gap: {error:?}"),
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn knows(&self, version: &str) -> bool {
        let all = self.0.lock().unwrap();
        all.iter()
            .any(|node| node.resource_version().as_deref() == Some(version))
    }

    /// At no moment were more nodes away than may be; each was told once, cordoned once and uncordoned once.
    fn check(&self) {
        let mut now: BTreeMap<String, Node> = BTreeMap::new();
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut cordons: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for node in self.0.lock().unwrap().iter() {
            let name = node.name_any();
            let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
            let all = cordons.entry(name.clone()).or_insert_with(|| vec![false]);
            if all.last() != Some(&cordoned) {
                all.push(cordoned);
            }
            let desired = node.annotations().get(keys::DESIRED_CONFIG).cloned();
            let all = told.entry(name.clone()).or_default();
            if desired.as_ref() != all.last() {
                all.extend(desired);
            }
            now.insert(name, node.clone());
            let away = now
                .values()
                .filter(|node| NodeView::of(node).is_unavailable());
            assert!(away.count() <= MAX_UNAVAILABLE, "{now:#?}");
        }
        assert_eq!(now.len(), NODES);
        for (node, told) in told {
            assert_eq!(told.len(), 1, "{node} was told {told:?}");
        }
        for (node, cordons) in cordons {
            assert_eq!(cordons, [false, true, false], "cordons of {node}");
        }
    }
}

struct Rollout {
    world: World,
    controllers: Vec<Process>,
    builders: Vec<Process>,
    machines: Vec<Machine>,
    history: History,
    recording: JoinHandle<()>,
    stop: CancellationToken,
}

impl Rollout {
    /// Everything runs, and the pool with its image is made.
    async fn begin() -> Self {
        Self::begin_in(World::without_loops()).await
    }

    async fn begin_in(world: World) -> Self {
        let (stop, history) = (CancellationToken::new(), History::default());
        let mut machines = Vec::new();
        for n in 1..=NODES {
            let name = format!("worker-{n}");
            world.register(&name, &["worker"]).await;
            let link = Link::default();
            let agent = FakeAgent::new(&link.client(&world.server), &name);
            let living = tokio::spawn(live(agent, stop.clone()));
            machines.push(Machine { link, living });
        }
        let (recorder, client) = (history.clone(), world.client.clone());
        let recording = tokio::spawn(async move { recorder.record(client).await });
        eventually("the history begins", || async {
            let begun = history.0.lock().unwrap().len();
            if begun == NODES { Ok(()) } else { Err(begun) }
        })
        .await;
        let rollout = Rollout {
            controllers: ["controller-a", "controller-b"]
                .map(|identity| Process::start(&world, identity, false))
                .into(),
            builders: ["builder-a", "builder-b"]
                .map(|identity| Process::start(&world, identity, true))
                .into(),
            world,
            machines,
            history,
            recording,
            stop,
        };
        let world = &rollout.world;
        let mut spec = ignition(&[("/etc/motd", "one")], &[]);
        spec["osImageURL"] = json!(BASE);
        world.config("50-image", "worker", spec).await;
        world.pool("worker", true).await;
        world
            .os_config("worker", "FROM configs AS final\nRUN true\n")
            .await;
        let begin = json!({"spec": {"paused": false, "maxUnavailable": MAX_UNAVAILABLE}});
        world
            .merge::<model::api::MachineConfigPool>("worker", begin)
            .await;
        rollout
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        let processes = self.controllers.iter().chain(&self.builders);
        let of_processes = processes.map(|process| &process.link);
        of_processes.chain(self.machines.iter().map(|machine| &machine.link))
    }

    /// Waits until so many nodes were told.
    async fn until_told(&self, count: usize) {
        self.until_nodes("told", count, |node| {
            node.annotations().contains_key(keys::DESIRED_CONFIG)
        })
        .await;
    }

    /// Waits until so many nodes are where they should be.
    async fn until_arrived(&self, count: usize) {
        self.until_nodes("arrived", count, |node| {
            node.annotations().get(keys::STATE).map(String::as_str) == Some("Done")
        })
        .await;
    }

    async fn until_nodes(&self, what: &str, count: usize, test: impl Fn(&Node) -> bool) {
        let nodes = self.world.all::<Node>();
        eventually(&format!("{count} nodes are {what}"), || async {
            let list = nodes.list(&ListParams::default()).await;
            let found = list.map(|list| list.iter().filter(|node| test(node)).count());
            match found {
                Ok(found) if found >= count => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// The controller that leads, taken out of the others.
    async fn leader(&mut self) -> Process {
        let leases: Api<Lease> = Api::namespaced(self.world.client.clone(), keys::NAMESPACE);
        let at = eventually("somebody leads", || async {
            let lease = leases.get_opt(keys::CONTROLLER_LEASE).await.unwrap();
            let leads = lease.as_ref().and_then(|lease| holder(lease));
            self.controllers
                .iter()
                .position(|process| Some(process.identity) == leads)
                .ok_or(lease.clone())
        })
        .await;
        self.controllers.remove(at)
    }

    /// Waits until all is done, and checks how it was done.
    async fn arrive(self) {
        self.until_arrived(NODES).await;
        self.world.until_updated("worker").await;
        self.stop.cancel();
        for machine in self.machines {
            let agent = machine.living.await.unwrap();
            assert_eq!(agent.reached.len(), 1, "reboots of {agent:?}");
        }
        let nodes: Vec<Node> = self.world.list().await;
        for node in nodes {
            let version = node.resource_version().unwrap();
            eventually("the history is whole", || async {
                assert!(!self.recording.is_finished(), "the history ended");
                self.history.knows(&version).then_some(()).ok_or(&version)
            })
            .await;
        }
        self.history.check();
        let builds = self.world.builds().await;
        assert_eq!(builds.len(), 1, "{builds:?}");
        assert!(matches!(
            BuildState::of(&builds[0]),
            BuildState::Succeeded { .. }
        ));
        assert_eq!(self.world.builder.pushed().len(), 1);
        self.recording.abort();
    }
}

/// 500, 429 with Retry-After, 409, 410 on watches, watches that are cut, and writes that take effect unheard.
async fn an_api_that_answers_badly(seed: u64) {
    let rollout = Rollout::begin().await;
    for (n, link) in (0..).zip(rollout.links()) {
        link.trouble(seed + n, 4);
    }
    rollout.until_arrived(NODES).await;
    let met: u64 = rollout.links().map(Link::calm).sum();
    assert!(met > 10, "only {met} requests went wrong");
    assert_eq!(rollout.world.builder.requests().len(), 1);
    rollout.arrive().await;
}

#[tokio::test]
async fn an_api_that_answers_badly_delays_a_roll_out() {
    an_api_that_answers_badly(1).await;
}

#[tokio::test]
async fn an_api_that_answers_badly_in_another_order() {
    an_api_that_answers_badly(1000).await;
}

#[tokio::test]
async fn a_leader_that_dies_is_followed_by_another() {
    let mut rollout = Rollout::begin().await;
    for (count, next) in [(1, "controller-c"), (3, "controller-d")] {
        rollout.until_told(count).await;
        rollout.leader().await.kill().await;
        rollout
            .controllers
            .push(Process::start(&rollout.world, next, false));
    }
    assert_eq!(rollout.world.builder.requests().len(), 1);
    rollout.arrive().await;
}

async fn a_leader_behind_a_partition(way: Way) {
    let mut rollout = Rollout::begin().await;
    rollout.until_told(1).await;
    let former = rollout.leader().await;
    former.link.set(way);
    // Another one leads and goes on; then the former one comes back.
    let next = rollout.leader().await;
    rollout.until_told(4).await;
    former.link.set(Way::Open);
    rollout.controllers.extend([former, next]);
    rollout.arrive().await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_is_followed_and_comes_back() {
    a_leader_behind_a_partition(Way::Cut).await;
}

#[tokio::test]
async fn a_leader_whose_connections_are_half_open_is_followed_and_comes_back() {
    a_leader_behind_a_partition(Way::Silent).await;
    a_leader_behind_a_partition(Way::Deaf).await;
}

#[tokio::test]
async fn agents_that_are_cut_off_go_on_where_they_were() {
    let rollout = Rollout::begin().await;
    rollout.until_told(2).await;
    let ways = [
        Way::Cut,
        Way::Silent,
        Way::Deaf,
        Way::Cut,
        Way::Silent,
        Way::Deaf,
    ];
    for (machine, way) in rollout.machines.iter().zip(ways) {
        machine.link.set(way);
    }
    // How long the partition lasts; whatever happens meanwhile is in the history.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for machine in &rollout.machines {
        machine.link.set(Way::Open);
    }
    rollout.arrive().await;
}

#[tokio::test]
async fn a_builder_that_dies_in_a_build_is_followed_by_another() {
    let world = World::without_loops();
    world.builder.hold();
    let mut rollout = Rollout::begin_in(world).await;
    let building = |state: &BuildState| matches!(state, BuildState::Building { .. });
    let build = rollout.world.until_build("building", building).await;
    rollout.world.builder.until_asked(1).await;
    let leases: Api<Lease> = Api::namespaced(rollout.world.client.clone(), keys::NAMESPACE);
    let claim = leases.get(&build.name_any()).await.unwrap();
    let dead = rollout
        .builders
        .iter()
        .position(|builder| Some(builder.identity) == holder(&claim))
        .unwrap();
    rollout.builders.remove(dead).kill().await;
    rollout.world.builder.until_asked(2).await;
    rollout.world.builder.let_go();
    rollout.arrive().await;
}

#[tokio::test]
async fn an_api_server_that_restarts_is_found_again() {
    let rollout = Rollout::begin().await;
    for told in [1, 3, 5] {
        rollout.until_told(told).await;
        rollout.world.restart_server().await;
    }
    assert_eq!(rollout.world.builder.requests().len(), 1);
    rollout.arrive().await;
}
