//! The pool and node loops, with agents that follow the protocol.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use model::api::{MachineConfigNode, MachineConfigPool, RolloutPolicy};
use model::condition::PoolConditionType;
use model::condition::PoolConditionType::{Degraded, NodeDegraded, Updated, Updating};
use model::keys;
use serde_json::json;

use super::fake::FakeAgent;
use super::world::{World, eventually, ignition};

async fn worker_pool(world: &World, paused: bool) {
    world
        .config("50-motd", "worker", ignition(&[("/etc/motd", "one")], &[]))
        .await;
    world.pool("worker", paused).await;
}

/// Waits until `worker-1` is told where to go.
async fn until_told(world: &World) {
    eventually("told", || async {
        let node: Node = world.get("worker-1").await;
        let told = node.annotations().contains_key(keys::DESIRED_CONFIG);
        if told { Ok(()) } else { Err("not yet") }
    })
    .await;
}

#[tokio::test]
async fn nodes_are_taken_to_the_config_and_the_pool_says_so() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    let mut agents = [
        world.register("worker-1", &["worker"]).await,
        world.register("worker-2", &["worker"]).await,
    ];
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    let pool: MachineConfigPool = world.get("worker").await;
    let status = pool.status.unwrap();
    let counted = [
        status.machine_count,
        status.updated_machine_count,
        status.ready_machine_count,
        status.unavailable_machine_count,
        status.degraded_machine_count,
    ];
    assert_eq!(counted, [2, 2, 2, 0, 0]);
    assert_eq!(status.configuration, pool.spec.configuration);
    for agent in &agents {
        assert_eq!(agent.reached.len(), 1);
        let node: MachineConfigNode = world.get(agent.name()).await;
        assert_eq!(
            node.spec.config_version.desired,
            pool.spec.configuration.name
        );
        assert_eq!(node.spec.pool.name, "worker");
        assert_eq!(node.owner_references()[0].kind, "Node");
        let node: Node = world.get(agent.name()).await;
        assert_ne!(node.spec.unwrap().unschedulable, Some(true));
    }
    let expected = [
        ("RenderedConfigGenerated", 1),
        ("SetDesiredConfig", 2),
        ("RolloutCompleted", 1),
    ];
    eventually("events", || async {
        let events = world.events("worker").await;
        let count = |reason: &str| {
            events
                .iter()
                .filter(|event| event.starts_with(reason))
                .count()
        };
        let told = expected
            .iter()
            .all(|(reason, times)| count(reason) == *times);
        if told { Ok(()) } else { Err(events) }
    })
    .await;
}

/// An agent from before agents told their version, one that does, and one from the future, in one pool.
#[tokio::test]
async fn old_and_new_agents_are_updated_side_by_side() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    let mut agents = Vec::new();
    for n in 1..=3 {
        agents.push(world.register(&format!("worker-{n}"), &["worker"]).await);
    }
    for (node, version) in [("worker-2", model::skew::VERSION), ("worker-3", "99.0.0")] {
        let told = json!({"metadata": {"annotations": {keys::VERSION: version}}});
        world.merge::<Node>(node, told).await;
    }
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    let skew = PoolConditionType::VersionSkew;
    let told = world.until_condition("worker", skew, "True").await;
    assert!(
        told.contains("`worker-3` at 99.0.0") && !told.contains("worker-2"),
        "{told}"
    );
    for agent in agents {
        assert_eq!(agent.reached.len(), 1);
    }
}

#[tokio::test]
async fn one_node_at_a_time() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    let mut agents = Vec::new();
    for n in 1..=4 {
        agents.push(world.register(&format!("worker-{n}"), &["worker"]).await);
    }
    let mut arrived = 0;
    while arrived < agents.len() {
        arrived = 0;
        for agent in &mut agents {
            arrived += usize::from(agent.act().await);
        }
        let nodes: Vec<Node> = world.list().await;
        let under_way = nodes.iter().filter(|node| {
            let get = |key: &str| node.annotations().get(key);
            get(keys::DESIRED_CONFIG).is_some()
                && (get(keys::DESIRED_CONFIG) != get(keys::CURRENT_CONFIG)
                    || get(keys::STATE).map(String::as_str) != Some("Done"))
        });
        assert!(under_way.count() <= 1);
    }
    world.until_updated("worker").await;
}

#[tokio::test]
async fn a_paused_pool_writes_nothing_and_goes_on_when_unpaused() {
    let world = World::new().await;
    worker_pool(&world, true).await;
    let agent = world.register("worker-1", &["worker"]).await;
    world
        .until_condition("worker", Updating, "False Paused")
        .await;
    world.until_condition("worker", Updated, "False").await;
    let node: Node = world.get("worker-1").await;
    assert!(!node.annotations().contains_key(keys::DESIRED_CONFIG));
    let change = json!({"spec": {"paused": false}});
    world.merge::<MachineConfigPool>("worker", change).await;
    world.play(&mut [agent]).await;
    world.until_updated("worker").await;
}

#[tokio::test]
async fn a_node_moves_between_pools_by_label() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    let mut agents = [world.register("worker-1", &["worker"]).await];
    world.play(&mut agents).await;
    world
        .config(
            "60-issue",
            "automount",
            ignition(&[("/etc/issue", "x")], &[]),
        )
        .await;
    world.pool("automount", false).await;
    let labels = json!({"metadata": {"labels": {
        "node-role.kubernetes.io/worker": null,
        "node-role.kubernetes.io/automount": "",
    }}});
    world.merge::<Node>("worker-1", labels).await;
    eventually("told", || async {
        let node: Node = world.get("worker-1").await;
        let told = node.annotations()[keys::DESIRED_CONFIG].clone();
        if told.starts_with("rendered-automount-") {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    world.play(&mut agents).await;
    world.until_updated("automount").await;
    world.until_updated("worker").await;
    eventually("followed", || async {
        let node: MachineConfigNode = world.get("worker-1").await;
        if node.spec.pool.name == "automount" {
            Ok(())
        } else {
            Err(node.spec)
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_in_two_custom_pools_is_left_alone_and_both_say_why() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    world.pool("infra", false).await;
    world.pool("automount", false).await;
    world.register("worker-1", &["infra", "automount"]).await;
    for pool in ["infra", "automount"] {
        let text = world
            .until_condition(pool, NodeDegraded, "True ContestedNodes")
            .await;
        assert!(text.contains("`automount` and `infra`"), "{text}");
    }
    let node: Node = world.get("worker-1").await;
    assert!(!node.annotations().contains_key(keys::DESIRED_CONFIG));
}

#[tokio::test]
async fn a_bad_max_unavailable_is_named_and_starts_no_node() {
    let world = World::new().await;
    worker_pool(&world, true).await;
    let agent = world.register("worker-1", &["worker"]).await;
    let bad = json!({"spec": {"maxUnavailable": "half", "paused": false}});
    world.merge::<MachineConfigPool>("worker", bad).await;
    let text = world
        .until_condition("worker", Degraded, "`spec.maxUnavailable`")
        .await;
    assert!(text.contains("`half`"), "{text}");
    let node: Node = world.get("worker-1").await;
    assert!(!node.annotations().contains_key(keys::DESIRED_CONFIG));
    let good = json!({"spec": {"maxUnavailable": "50%"}});
    world.merge::<MachineConfigPool>("worker", good).await;
    world.play(&mut [agent]).await;
    world.until_updated("worker").await;
    world.until_condition("worker", Degraded, "False").await;
}

/// A worker at its first config.
async fn settled_worker(world: &World) -> FakeAgent {
    worker_pool(world, false).await;
    let mut agents = [world.register("worker-1", &["worker"]).await];
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    let [agent] = agents;
    agent
}

/// The node, once it was told to go to a second config, which takes a reboot.
async fn told_to_reboot(world: &World, agent: &FakeAgent) -> Node {
    let quiet = json!({"kernelArguments": ["quiet"]});
    world.config("60-quiet", "worker", quiet).await;
    let before = &agent.reached[0].0;
    eventually("told", || async {
        let node: Node = world.get(agent.name()).await;
        let desired = node.annotations().get(keys::DESIRED_CONFIG).cloned();
        match desired.filter(|desired| desired != before) {
            Some(_) => Ok(node),
            None => Err("not yet"),
        }
    })
    .await
}

#[tokio::test]
async fn a_drain_that_needs_nothing_first_comes_with_what_the_node_is_told() {
    let world = World::new().await;
    let mut agent = settled_worker(&world).await;
    let node = told_to_reboot(&world, &agent).await;
    let get = |key: &str| node.annotations().get(key).cloned().unwrap_or_default();
    let drain = format!("drain-{}", get(keys::DESIRED_CONFIG));
    assert_eq!(get(keys::DESIRED_DRAIN), drain);
    assert_eq!(get(keys::LAST_APPLIED_DRAIN), drain, "it has no pods");
    assert_eq!(get(keys::STATE), "Working");
    assert_eq!(node.spec.unwrap().unschedulable, Some(true));
    world.play(std::slice::from_mut(&mut agent)).await;
    world.until_updated("worker").await;
    let node: Node = world.get("worker-1").await;
    assert_ne!(node.spec.unwrap().unschedulable, Some(true));
    let events = world.events("worker-1").await;
    let asked = |event: &&String| event.starts_with("AskedForDrain: ");
    assert_eq!(events.iter().filter(asked).count(), 1, "{events:?}");
}

#[tokio::test]
async fn pods_go_before_a_drain_that_came_with_what_the_node_is_told_is_answered() {
    let world = World::new().await;
    let mut agent = settled_worker(&world).await;
    let pod = json!({"metadata": {"name": "p", "finalizers": ["test/stays"]}, "spec": {
        "nodeName": "worker-1", "containers": [{"name": "c", "image": "i"}],
    }});
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    let pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let node = told_to_reboot(&world, &agent).await;
    let get = |key: &str| node.annotations().get(key).cloned().unwrap_or_default();
    assert!(get(keys::DESIRED_DRAIN).starts_with("drain-"));
    assert_ne!(get(keys::LAST_APPLIED_DRAIN), get(keys::DESIRED_DRAIN));
    assert_eq!(node.spec.unwrap().unschedulable, Some(true));
    let stays = json!({"metadata": {"finalizers": null}});
    let gone = Patch::Merge(stays);
    pods.patch("p", &PatchParams::default(), &gone)
        .await
        .unwrap();
    world.play(std::slice::from_mut(&mut agent)).await;
    world.until_updated("worker").await;
}

#[tokio::test]
async fn a_foreign_cordon_stays_after_the_update() {
    let world = World::new().await;
    worker_pool(&world, true).await;
    let mut agent = world.register("worker-1", &["worker"]).await;
    // Told while it served, cordoned by somebody before its agent asked for the drain.
    let told = json!({"spec": {"paused": false}});
    world.merge::<MachineConfigPool>("worker", told).await;
    until_told(&world).await;
    let cordon = json!({"spec": {"unschedulable": true}});
    world.merge::<Node>("worker-1", cordon).await;
    while !agent.act().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let node: Node = world.get("worker-1").await;
    assert_eq!(node.spec.unwrap().unschedulable, Some(true));
}

#[tokio::test]
async fn a_failed_node_is_counted_and_told_about() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    let mut agents: Vec<FakeAgent> = vec![world.register("worker-1", &["worker"]).await];
    world.play(&mut agents).await;
    let failed = json!({"metadata": {"annotations": {
        keys::STATE: "Degraded", keys::REASON: "`/etc/motd` differs",
    }}});
    world.merge::<Node>("worker-1", failed).await;
    let text = world.until_condition("worker", Degraded, "True").await;
    assert!(
        text.contains("node `worker-1` reports: `/etc/motd` differs"),
        "{text}"
    );
    let pool: MachineConfigPool = world.get("worker").await;
    assert_eq!(pool.status.unwrap().degraded_machine_count, 1);
}

#[tokio::test]
async fn a_pool_halts_at_its_failure_budget() {
    let world = World::new().await;
    let policy = json!({"pools": [{"name": "worker"}], "failureBudget": 0});
    let policy = RolloutPolicy::new("careful", serde_json::from_value(policy).unwrap());
    world.create(policy).await;
    worker_pool(&world, false).await;
    let names = ["worker-1", "worker-2", "worker-3"];
    for name in names {
        world.register(name, &["worker"]).await;
    }
    let told = || async {
        let mut told = Vec::new();
        for name in names {
            let node: Node = world.get(name).await;
            if node.annotations().contains_key(keys::DESIRED_CONFIG) {
                told.push(name);
            }
        }
        told
    };
    // One slot: one node is told, comes back on what it ran before, and keeps the slot. Which one depends on what the
    // controller had seen of them.
    let first = eventually("one is told", || async {
        match told().await.first() {
            Some(first) => Ok(*first),
            None => Err(world.condition("worker", Updating).await),
        }
    })
    .await;
    let failed = json!({"metadata": {"annotations": {
        keys::CURRENT_CONFIG: "rendered-before",
        keys::STATE: "Degraded",
        keys::REASON: "was taken back: unit `autofs.service` failed",
    }}});
    world.merge::<Node>(first, failed).await;
    world.until_condition("worker", Degraded, "True").await;
    assert_eq!(told().await, [first], "a failed node keeps its slot");
    // More slots do not help: the budget is spent.
    let wide = json!({"spec": {"maxUnavailable": 3}});
    world.merge::<MachineConfigPool>("worker", wide).await;
    world
        .until_condition("worker", Updating, "1 failed and 0 may")
        .await;
    assert_eq!(told().await, [first]);
    let budget = json!({"spec": {"failureBudget": 1}});
    world.merge::<RolloutPolicy>("careful", budget).await;
    eventually("the others are told", || async {
        match told().await {
            told if told.len() == names.len() => Ok(()),
            told => Err((told, world.condition("worker", Updating).await)),
        }
    })
    .await;
    let broken = json!({"spec": {"failureBudget": "few"}});
    world.merge::<RolloutPolicy>("careful", broken).await;
    world
        .until_condition("worker", Degraded, "`spec.failureBudget`: expected a count")
        .await;
}

#[tokio::test]
async fn drains_wait_for_a_window() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    let mut agents = [world.register("worker-1", &["worker"]).await];
    world.play(&mut agents).await;
    // Whenever this runs, the window is far away.
    let opens = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(12);
    let windows =
        json!([{"name": "later", "start": opens.strftime("%H:%M").to_string(), "duration": "1m"}]);
    let policy = json!({"pools": [{"name": "worker"}], "windows": windows});
    let policy = RolloutPolicy::new("calm", serde_json::from_value(policy).unwrap());
    world.create(policy).await;
    world
        .config("60-quiet", "worker", json!({"kernelArguments": ["quiet"]}))
        .await;
    let held = "they drain, and window `later` opens at";
    world.until_condition("worker", Updating, held).await;
    world
        .merge::<RolloutPolicy>("calm", json!({"spec": {"windows": null}}))
        .await;
    let until_told = || {
        eventually("told", || async {
            let node: Node = world.get("worker-1").await;
            let get = |key| node.annotations().get(key).cloned();
            let (desired, current) = (get(keys::DESIRED_CONFIG), get(keys::CURRENT_CONFIG));
            match desired != current {
                true => Ok(()),
                false => Err(desired),
            }
        })
    };
    until_told().await;
    world.play(&mut agents).await;
    world.until_updated("worker").await;

    // So does a change that drains nothing, where it brings along what a node has held back.
    world
        .merge::<RolloutPolicy>("calm", json!({"spec": {"windows": windows}}))
        .await;
    let held_back =
        |value: serde_json::Value| json!({"metadata": {"annotations": {keys::HELD_BACK: value}}});
    let told = held_back(json!(r#"{"sssd-bind/bind.conf":"2"}"#));
    world.merge::<Node>("worker-1", told).await;
    world
        .config("70-live", "worker", ignition(&[("/etc/live", "one")], &[]))
        .await;
    world.until_condition("worker", Updating, held).await;
    world
        .merge::<Node>("worker-1", held_back(serde_json::Value::Null))
        .await;
    until_told().await;
    // These agents drain for anything.
    world
        .merge::<RolloutPolicy>("calm", json!({"spec": {"windows": null}}))
        .await;
    world.play(&mut agents).await;
    world.until_updated("worker").await;

    // What a node finds out by itself waits as well.
    world
        .merge::<RolloutPolicy>("calm", json!({"spec": {"windows": windows}}))
        .await;
    world.until_condition("worker", Updated, "True").await;
    let asks = json!({"metadata": {"annotations": {keys::DESIRED_DRAIN: "drain-own"}}});
    world.merge::<Node>("worker-1", asks).await;
    let annotation = |key: &'static str| {
        let world = &world;
        async move {
            let node: Node = world.get("worker-1").await;
            node.annotations().get(key).cloned().unwrap_or_default()
        }
    };
    eventually("waits for the window", || async {
        let waits = annotation("caprock.dev/drain-waits-for").await;
        match waits.starts_with("window `later`, which opens at ") {
            true => Ok(()),
            false => Err(waits),
        }
    })
    .await;
    assert_ne!(annotation(keys::LAST_APPLIED_DRAIN).await, "drain-own");
    world
        .merge::<RolloutPolicy>("calm", json!({"spec": {"windows": null}}))
        .await;
    eventually("drained", || async {
        let applied = annotation(keys::LAST_APPLIED_DRAIN).await;
        match applied == "drain-own" {
            true => Ok(()),
            false => Err(applied),
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_agent_makes_its_node_not_ready() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    world.register("worker-1", &["worker"]).await;
    world.beat("worker-1", Duration::from_secs(1)).await;
    let message = eventually("not ready", || async {
        let node: Node = world.get("worker-1").await;
        let conditions = node.status.unwrap().conditions.unwrap();
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready").unwrap();
        if ready.status == "Unknown" {
            Ok(ready.message.unwrap())
        } else {
            Err(ready)
        }
    })
    .await;
    assert!(message.contains("silent"), "{message}");
    eventually("counted", || async {
        let pool: MachineConfigPool = world.get("worker").await;
        let status = pool.status.unwrap();
        if status.unavailable_machine_count == 1 {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
}

#[tokio::test]
async fn a_drain_waits_for_pods_and_says_for_which() {
    let world = World::new().await;
    worker_pool(&world, false).await;
    let mut agent = world.register("worker-1", &["worker"]).await;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    let pod = |name: &str, kind: &str| -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name,
                // Keeps it there until the test lets it go.
                "finalizers": ["example.com/slow"],
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true,
                }],
            },
            "spec": {"nodeName": "worker-1", "containers": [{"name": "c", "image": "i"}]},
        }))
        .unwrap()
    };
    for pod in [pod("web", "ReplicaSet"), pod("daemon", "DaemonSet")] {
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    // It asks for the drain, which goes on by itself then.
    until_told(&world).await;
    agent.act().await;
    eventually("waits", || async {
        let node: Node = world.get("worker-1").await;
        let waits = node
            .annotations()
            .get("caprock.dev/drain-waits-for")
            .cloned();
        match waits {
            Some(text) if text.contains("default/web") && !text.contains("daemon") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let gone = json!({"metadata": {"finalizers": null}});
    pods.patch("web", &PatchParams::default(), &Patch::Merge(gone))
        .await
        .unwrap();
    world.play(std::slice::from_mut(&mut agent)).await;
    let node: Node = world.get("worker-1").await;
    for key in ["drain-waits-for", "drain-since", "cordoned-by"] {
        assert!(
            !node
                .annotations()
                .contains_key(&format!("caprock.dev/{key}"))
        );
    }
    assert!(pods.get_opt("daemon").await.unwrap().is_some());
}
