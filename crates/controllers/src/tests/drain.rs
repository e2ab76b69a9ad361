//! Drains as `kubectl drain` has them, through the eviction API.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use model::api::{MachineConfigPool, RolloutPolicy};
use model::condition::PoolConditionType::{NodeDegraded, Updating};
use model::keys;
use serde_json::{Value, json};

use super::fake::FakeAgent;
use super::world::{World, eventually, ignition};

/// A node whose agent has asked for a drain, with these pods on it and this policy.
async fn draining(pods: &[Value], drain: Value, budget: Option<Value>) -> (World, FakeAgent) {
    let world = World::new().await;
    if let Some(budget) = budget {
        let api: Api<PodDisruptionBudget> = Api::namespaced(world.client.clone(), "default");
        let budget = serde_json::from_value(budget).unwrap();
        api.create(&PostParams::default(), &budget).await.unwrap();
    }
    let policy = json!({"pools": [{"name": "worker"}], "drain": drain});
    let policy = RolloutPolicy::new("calm", serde_json::from_value(policy).unwrap());
    world.create(policy).await;
    for (n, change) in pods.iter().enumerate() {
        let mut pod = json!({
            "metadata": {"name": format!("pod-{n}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "worker-1", "containers": [{"name": "c", "image": "i"}]},
        });
        pod["metadata"]["finalizers"] = change["finalizers"].clone();
        pod["spec"]["volumes"] = change["volumes"].clone();
        let api: Api<Pod> = Api::namespaced(world.client.clone(), "default");
        let pod: Pod = serde_json::from_value(pod).unwrap();
        api.create(&PostParams::default(), &pod).await.unwrap();
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(
            &pod.name_any(),
            &PatchParams::default(),
            &Patch::Merge(ready),
        )
        .await
        .unwrap();
    }
    let mut agent = world.register("worker-1", &["worker"]).await;
    world
        .config("50-motd", "worker", ignition(&[("/etc/motd", "one")], &[]))
        .await;
    world.pool("worker", false).await;
    until(&world, "told", |node| {
        node.annotations().contains_key(keys::DESIRED_CONFIG)
    })
    .await;
    agent.act().await;
    (world, agent)
}

async fn until(world: &World, what: &str, test: impl Fn(&Node) -> bool) {
    eventually(what, || async {
        let node: Node = world.get("worker-1").await;
        if test(&node) {
            Ok(())
        } else {
            Err(node.metadata.annotations)
        }
    })
    .await;
}

async fn until_waits_for(world: &World, text: &str) {
    until(world, text, |node| {
        let waits = node.annotations().get("caprock.dev/drain-waits-for");
        waits.is_some_and(|waits| waits.contains(text))
    })
    .await;
}

async fn there(world: &World, pod: &str) -> bool {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    pods.get_opt(pod).await.unwrap().is_some()
}

#[tokio::test]
async fn a_drain_keeps_disruption_budgets_and_names_them() {
    let budget = json!({
        "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    });
    let (world, mut agent) = draining(&[json!({})], json!({}), Some(budget)).await;
    until_waits_for(
        &world,
        "pod `default/pod-0` may not be evicted yet: The disruption budget web needs 1 healthy pods and has 1 currently",
    )
    .await;
    // The pool says so too: nobody has to look for the node.
    world
        .until_condition("worker", Updating, "worker-1` drains, and waits: pod `default/pod-0` may not be evicted yet: The disruption budget web")
        .await;
    assert!(there(&world, "pod-0").await);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(world.client.clone(), "default");
    let change = Patch::Merge(json!({"spec": {"minAvailable": 0}}));
    budgets
        .patch("web", &PatchParams::default(), &change)
        .await
        .unwrap();
    world.play(std::slice::from_mut(&mut agent)).await;
    assert!(!there(&world, "pod-0").await);
}

#[tokio::test]
async fn where_one_pod_is_kept_by_policy_nobody_is_evicted() {
    let volumes = json!([{"name": "scratch", "emptyDir": {}}]);
    let pods = [json!({}), json!({"volumes": volumes})];
    let drain = json!({"deleteEmptyDirData": false});
    let (world, mut agent) = draining(&pods, drain, None).await;
    until_waits_for(
        &world,
        "pod `default/pod-1` has data in the `emptyDir` volume `scratch`, and `spec.drain.deleteEmptyDirData` of RolloutPolicy `calm` is false",
    )
    .await;
    assert!(there(&world, "pod-0").await && there(&world, "pod-1").await);
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    pods.delete("pod-1", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    world.play(std::slice::from_mut(&mut agent)).await;
    assert!(!there(&world, "pod-0").await);
}

#[tokio::test]
async fn an_overdue_drain_degrades_its_pool_and_goes_on() {
    let held = json!({"finalizers": ["example.com/slow"]});
    let (world, mut agent) = draining(&[held], json!({"timeout": "1s"}), None).await;
    let text = world
        .until_condition("worker", NodeDegraded, "takes longer than 1s and goes on")
        .await;
    assert!(text.contains("default/pod-0"), "{text}");
    eventually("an event", || async {
        let events = world.events("worker-1").await;
        let told = events
            .iter()
            .any(|event| event.starts_with("DrainFailed: "));
        told.then_some(()).ok_or(events)
    })
    .await;
    let pool: MachineConfigPool = world.get("worker").await;
    assert_eq!(pool.status.unwrap().degraded_machine_count, 1);
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    let gone = json!({"metadata": {"finalizers": null}});
    pods.patch("pod-0", &PatchParams::default(), &Patch::Merge(gone))
        .await
        .unwrap();
    world.play(std::slice::from_mut(&mut agent)).await;
    world.until_condition("worker", NodeDegraded, "False").await;
}

#[tokio::test]
async fn a_pod_that_never_goes_is_not_waited_for_when_the_policy_says_so() {
    let held = json!({"finalizers": ["example.com/slow"]});
    let drain = json!({"skipWaitForDeleteTimeout": "1s", "gracePeriodSeconds": 0});
    let (world, mut agent) = draining(&[held], drain, None).await;
    world.play(std::slice::from_mut(&mut agent)).await;
    assert!(there(&world, "pod-0").await);
}
