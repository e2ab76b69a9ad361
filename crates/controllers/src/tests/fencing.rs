//! What a controller that lost its lead without knowing may still do: nothing.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use model::api::MachineConfigPool;
use model::keys;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::link::{Link, Way};
use super::world::{World, eventually, ignition};
use crate::cache::{Cache, Readers};
use crate::context::Context;
use crate::event::Recorder;
use crate::{node, pool};

/// A controller that is led by a test, one look at a time.
struct Former {
    link: Link,
    ctx: Arc<Context>,
    _watches: JoinSet<&'static str>,
}

impl Former {
    async fn start(world: &World) -> Self {
        let (link, mut watches) = (Link::default(), JoinSet::new());
        let client = link.client(&world.server);
        let readers = Readers {
            controllers: true,
            builder: false,
        };
        let (cache, filled) = Cache::start(&client, readers, &mut watches);
        filled.await.unwrap();
        let ctx = Arc::new(Context {
            events: Recorder::new(client.clone(), "caprock"),
            client,
            cache,
            gates: Default::default(),
            warnings: Default::default(),
            pace: Default::default(),
            telemetry: Default::default(),
        });
        Former {
            link,
            ctx,
            _watches: watches,
        }
    }

    /// Waits until its copy of the node holds this.
    async fn sees(&self, node: &str, test: impl Fn(&Node) -> bool) {
        eventually("the former leader's copy", || async {
            let seen = Cache::get::<Node>(&self.ctx.cache.nodes, node);
            seen.filter(|seen| test(seen)).map(drop).ok_or(node)
        })
        .await;
    }

    /// Looks at everything that it knows.
    async fn look(&self) {
        for object in self.ctx.cache.pools.state() {
            let _refused = pool::reconcile(object, self.ctx.clone()).await;
        }
        for object in self.ctx.cache.nodes.state() {
            let _refused = node::reconcile(object, self.ctx.clone()).await;
        }
    }
}

async fn pod(world: &World, name: &str) -> Pod {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"nodeName": "worker-1", "containers": [{"name": "c", "image": "i"}]},
    }))
    .unwrap();
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    pods.create(&PostParams::default(), &pod).await.unwrap()
}

/// Versions of everything that a node is disturbed by. What is only told (a status, a MachineConfigNode) may be brought up
/// to date by anybody who has read the Nodes afresh.
async fn versions(world: &World) -> Vec<(String, Option<String>)> {
    let nodes: Vec<Node> = world.list().await;
    let pods = Api::<Pod>::all(world.client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    let nodes = nodes
        .iter()
        .map(|node| (node.name_any(), node.resource_version()));
    let pods = pods
        .iter()
        .map(|pod| (pod.name_any(), pod.resource_version()));
    nodes.chain(pods).collect()
}

async fn worker(world: &World) {
    world
        .config("50-motd", "worker", ignition(&[("/etc/motd", "one")], &[]))
        .await;
    world.pool("worker", false).await;
}

/// It slept with a drain before it, and wakes when the node was drained, rebooted and serves again.
#[tokio::test]
async fn who_sleeps_through_a_drain_evicts_nobody_afterwards() {
    let mut world = World::new().await;
    worker(&world).await;
    let mut agent = world.register("worker-1", &["worker"]).await;
    eventually("told", || async {
        let node: Node = world.get("worker-1").await;
        let told = node.annotations().contains_key(keys::DESIRED_CONFIG);
        told.then_some(()).ok_or("not yet")
    })
    .await;
    pod(&world, "before").await;
    let former = Former::start(&world).await;
    agent.act().await;
    former
        .sees("worker-1", |node| {
            node.annotations().contains_key("caprock.dev/cordoned-by")
        })
        .await;
    former.link.set(Way::Stale);

    world.play(std::slice::from_mut(&mut agent)).await;
    world.until_updated("worker").await;
    world.stop().await;
    pod(&world, "after").await;
    let before = versions(&world).await;
    former.look().await;
    assert_eq!(versions(&world).await, before);
}

/// It slept with a slot to give out, and wakes when that slot and all others were given out.
#[tokio::test]
async fn who_sleeps_with_a_free_slot_gives_out_none_afterwards() {
    let mut world = World::new().await;
    worker(&world).await;
    let mut agents = Vec::new();
    for name in ["worker-1", "worker-2"] {
        agents.push(world.register(name, &["worker"]).await);
    }
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    let former = Former::start(&world).await;
    // It learns of the next version, and of nothing afterwards.
    world
        .merge::<MachineConfigPool>("worker", json!({"spec": {"paused": true}}))
        .await;
    world
        .config("60-quiet", "worker", json!({"kernelArguments": ["quiet"]}))
        .await;
    let old = agents[0].reached[0].0.clone();
    eventually("the next version is rendered", || async {
        let seen = Cache::get::<MachineConfigPool>(&former.ctx.cache.pools, "worker").unwrap();
        let name = seen.spec.configuration.name.clone();
        if name != old { Ok(()) } else { Err(name) }
    })
    .await;
    let unpaused = json!({"spec": {"paused": false}});
    world.merge::<MachineConfigPool>("worker", unpaused).await;
    eventually("it sees a slot", || async {
        let seen = Cache::get::<MachineConfigPool>(&former.ctx.cache.pools, "worker").unwrap();
        (!seen.spec.paused).then_some(()).ok_or(seen)
    })
    .await;
    former.link.set(Way::Stale);
    // One node has the slot and goes no further.
    eventually("one is told", || async {
        let nodes: Vec<Node> = world.list().await;
        let told: Vec<Value> = nodes
            .iter()
            .map(|node| json!(node.annotations()[keys::DESIRED_CONFIG]))
            .collect();
        let told = told.iter().filter(|told| **told != json!(old)).count();
        if told == 1 { Ok(()) } else { Err(told) }
    })
    .await;
    world.stop().await;
    let before = versions(&world).await;
    former.look().await;
    assert_eq!(versions(&world).await, before);
    // The same where the pool it knows was paused meanwhile.
    world
        .all::<MachineConfigPool>()
        .patch(
            "worker",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"paused": true, "maxUnavailable": 2}})),
        )
        .await
        .unwrap();
    let before = versions(&world).await;
    former.look().await;
    assert_eq!(versions(&world).await, before);
}
