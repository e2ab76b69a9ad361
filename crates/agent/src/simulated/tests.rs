//! A simulated fleet on the real API server, with somebody who plays the controllers.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use apiserver::{ApiServer, Config, Token};
use kube::api::{Patch, PatchParams, PostParams};
use model::api::MachineConfig;
use model::keys;
use model::node::annotation;
use serde_json::{Value, json};

use super::*;

const TOKEN: &str = "a token that only tests know";
const DEADLINE: Duration = Duration::from_secs(120);

struct World {
    _dir: tempfile::TempDir,
    client: Client,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("api"));
        config.tokens = vec![Token::new("admin", &["system:masters"], TOKEN)];
        let crds = model::api::crds();
        config.crds = crds
            .iter()
            .map(|crd| serde_json::to_value(crd).unwrap())
            .collect();
        let namespaces = [keys::NAMESPACE, keys::NODE_SECRET_NAMESPACE];
        config.namespaces.extend(namespaces.map(str::to_owned));
        let server = ApiServer::open(config).unwrap();
        let client = Client::new(server.router_as(TOKEN), "default");
        World { _dir: dir, client }
    }

    async fn config(&self, name: &str, spec: Value) {
        let config = MachineConfig::new(name, serde_json::from_value(spec).unwrap());
        let api = Api::all(self.client.clone());
        api.create(&PostParams::default(), &config).await.unwrap();
    }

    /// One that needs a reboot to come from the first to the second.
    async fn with_two_configs() -> Self {
        let world = World::new();
        world.config("rendered-1", json!({})).await;
        let quiet = json!({"kernelArguments": ["quiet"]});
        world.config("rendered-2", quiet).await;
        world
    }

    async fn nodes(&self) -> Vec<Node> {
        let api: Api<Node> = Api::all(self.client.clone());
        api.list(&ListParams::default()).await.unwrap().items
    }

    async fn patch(&self, node: &str, change: Value) {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(change);
        api.patch(node, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Sends all nodes to a config, and answers what they ask for, until each says so.
    async fn until(&self, config: &str, count: usize, state: &str) -> Vec<Node> {
        let began = Instant::now();
        loop {
            let nodes = self.nodes().await;
            for node in &nodes {
                let asked = annotation(node, keys::DESIRED_DRAIN);
                let mut annotations = json!({});
                if annotation(node, keys::DESIRED_CONFIG) != Some(config) {
                    annotations[keys::DESIRED_CONFIG] = json!(config);
                }
                if asked != annotation(node, keys::LAST_APPLIED_DRAIN) {
                    annotations[keys::LAST_APPLIED_DRAIN] = json!(asked);
                }
                if annotations != json!({}) {
                    let change = json!({"metadata": {"annotations": annotations}});
                    self.patch(&node.name_any(), change).await;
                }
            }
            let there = |node: &&Node| {
                annotation(node, keys::STATE) == Some(state)
                    && annotation(node, keys::DESIRED_CONFIG) == Some(config)
                    && (state != "Done" || annotation(node, keys::CURRENT_CONFIG) == Some(config))
            };
            if nodes.len() == count && nodes.iter().filter(there).count() == count {
                return nodes;
            }
            assert!(began.elapsed() < DEADLINE, "{nodes:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn member(name: &str, fails: bool) -> Member {
    Member {
        name: name.to_owned(),
        labels: BTreeMap::from([("pool".to_owned(), "worker".to_owned())]),
        fails,
    }
}

fn fleet(members: Vec<Member>) -> Fleet {
    Fleet {
        name: "sim".to_owned(),
        members,
        reboot: Duration::from_millis(1),
        pull: Duration::ZERO,
        heartbeat: Duration::from_secs(10),
        keep: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_updates_as_real_nodes_do_and_leaves_nothing_behind() {
    let world = World::with_two_configs().await;
    let stop = CancellationToken::new();
    let members = ["sim-0", "sim-1", "sim-2"].map(|name| member(name, false));
    let running = run(
        world.client.clone(),
        fleet(members.to_vec()),
        |_| {},
        stop.clone(),
    );
    let played = async {
        let nodes = world.until("rendered-1", 3, "Done").await;
        for node in &nodes {
            assert_eq!(node.labels()[SIMULATED], "sim");
            assert_eq!(node.labels()["pool"], "worker");
        }
        let before: Vec<Value> = nodes.iter().map(boot_id).collect();
        let nodes = world.until("rendered-2", 3, "Done").await;
        let after: Vec<Value> = nodes.iter().map(boot_id).collect();
        assert_eq!(before.iter().filter(|id| after.contains(id)).count(), 0);
        stop.cancel();
    };
    let (census, ()) = tokio::join!(running, played);
    let census = census.unwrap();
    assert_eq!((census.reboots, census.failed), (3, 0));
    assert_eq!(census.to_string(), "3 run rendered-2; 3 reboots");
    assert!(world.nodes().await.is_empty());
}

fn boot_id(node: &Node) -> Value {
    serde_json::to_value(node).unwrap()["status"]["nodeInfo"]["bootID"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_goes_back_and_says_why() {
    let world = World::with_two_configs().await;
    let stop = CancellationToken::new();
    let fleet = fleet(vec![member("sim-0", true)]);
    let running = run(world.client.clone(), fleet, |_| {}, stop.clone());
    let played = async {
        world.until("rendered-1", 1, "Done").await;
        let nodes = world.until("rendered-2", 1, "Degraded").await;
        let reason = annotation(&nodes[0], keys::REASON).unwrap().to_owned();
        assert!(reason.contains("the simulation lets updates"), "{reason}");
        stop.cancel();
    };
    let (census, ()) = tokio::join!(running, played);
    assert_eq!(census.unwrap().failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_somebody_else_is_left_alone() {
    let world = World::new();
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "sim-1"}})).unwrap();
    let api = Api::all(world.client.clone());
    let made = api.create(&PostParams::default(), &node).await.unwrap();
    let members = ["sim-0", "sim-1"].map(|name| member(name, false));
    let refused = run(
        world.client.clone(),
        fleet(members.to_vec()),
        |_| {},
        CancellationToken::new(),
    );
    let words = refused.await.unwrap_err().to_string();
    assert!(
        words.starts_with("Node `sim-1`: was not made by a simulation"),
        "{words}"
    );
    assert_eq!(world.nodes().await, [made]);
}
