//! Files whose content comes from a Secret: who is given it, and what a pool says that cannot have it.

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use model::api::MachineConfigPool;
use model::condition::PoolConditionType::{Degraded, FilesDegraded, Updating};
use model::file_secret::Values;
use model::keys;
use serde_json::{Value, json};

use super::fake::FakeAgent;
use super::world::{World, eventually};

const BIND: &str = "/etc/sssd/conf.d/bind.conf";

async fn secret(world: &World, name: &str, labels: Value, key: &str, value: &str) {
    let object = json!({
        "metadata": {"name": name, "labels": labels},
        "stringData": {key: value, "other": "not asked for"},
    });
    secrets(world, keys::NAMESPACE)
        .create(
            &PostParams::default(),
            &serde_json::from_value(object).unwrap(),
        )
        .await
        .unwrap();
}

fn secrets(world: &World, namespace: &str) -> Api<Secret> {
    Api::namespaced(world.client.clone(), namespace)
}

async fn change(world: &World, change: Value) {
    secrets(world, keys::NAMESPACE)
        .patch("sssd-bind", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}

fn from_secret(path: &str, from: &str) -> Value {
    let file = json!({"path": path, "mode": 384, "contents": {"source": format!("secret:{from}")}});
    json!({"config": {"ignition": {"version": "3.4.0"}, "storage": {"files": [file]}}})
}

/// What a node is given, as `NAME/KEY=value`.
async fn given(world: &World, node: &str) -> Vec<String> {
    let found = secrets(world, keys::NODE_SECRET_NAMESPACE);
    let found = found.get_opt(node).await.unwrap();
    let data = found.and_then(|secret| secret.data).unwrap_or_default();
    let Some(json) = data.get(keys::NODE_FILES_KEY) else {
        return Vec::new();
    };
    let values: Values = serde_json::from_slice(&json.0).unwrap();
    let shown = values.iter();
    shown
        .map(|(from, value)| format!("{from}={}", String::from_utf8_lossy(&value.bytes)))
        .collect()
}

async fn until_given(world: &World, node: &str, expected: &[&str]) {
    eventually("the node is given its files", || async {
        let seen = given(world, node).await;
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// Two pools, each with a file from a Secret of its own, and a node of each that runs its pool's config.
async fn two_pools(world: &World) -> [FakeAgent; 2] {
    let label = json!({"caprock.dev/node-files": "true"});
    secret(world, "sssd-bind", label.clone(), "bind.conf", "one").await;
    secret(world, "other", label, "k", "theirs").await;
    for (pool, config, path, from) in [
        ("worker", "50-bind", BIND, "sssd-bind/bind.conf"),
        ("infra", "50-other", "/etc/other", "other/k"),
    ] {
        world.config(config, pool, from_secret(path, from)).await;
        world.pool(pool, false).await;
    }
    let mut agents = [
        world.register("worker-1", &["worker"]).await,
        world.register("infra-1", &["worker", "infra"]).await,
    ];
    world.play(&mut agents).await;
    until_given(world, "worker-1", &["sssd-bind/bind.conf=one"]).await;
    agents
}

#[tokio::test]
async fn a_node_is_given_what_its_configs_ask_for() {
    let world = World::new().await;
    let agents = two_pools(&world).await;
    until_given(
        &world,
        "infra-1",
        &["other/k=theirs", "sssd-bind/bind.conf=one"],
    )
    .await;
    change(&world, json!({"stringData": {"bind.conf": "two"}})).await;
    until_given(&world, "worker-1", &["sssd-bind/bind.conf=two"]).await;
    // Nobody is told to do anything, and nothing but the node's own Secret has the value.
    assert_eq!(agents.map(|agent| agent.reached.len()), [1, 1]);
    let said = format!("{:?}", world.events("worker").await);
    assert!(!said.contains("two"), "{said}");
    change(&world, json!({"metadata": {"labels": null}})).await;
    until_given(&world, "worker-1", &[]).await;
}

#[tokio::test]
async fn a_node_that_names_the_config_of_another_pool_is_given_nothing() {
    let world = World::new().await;
    two_pools(&world).await;
    // Nobody puts the annotation right while the pool is paused.
    let pools: Api<MachineConfigPool> = Api::all(world.client.clone());
    let paused = json!({"spec": {"paused": true}});
    pools
        .patch("worker", &PatchParams::default(), &Patch::Merge(paused))
        .await
        .unwrap();
    let theirs = pools.get("infra").await.unwrap().spec.configuration.name;
    let claim = json!({"metadata": {"annotations": {keys::DESIRED_CONFIG: theirs}}});
    let nodes: Api<Node> = Api::all(world.client.clone());
    nodes
        .patch("worker-1", &PatchParams::default(), &Patch::Merge(claim))
        .await
        .unwrap();
    until_given(&world, "worker-1", &[]).await;
}

#[tokio::test]
async fn no_node_starts_towards_a_file_that_it_cannot_have() {
    let world = World::new().await;
    world
        .config(
            "50-bind",
            "worker",
            from_secret(BIND, "sssd-bind/bind.conf"),
        )
        .await;
    world.pool("worker", false).await;
    let agent = world.register("worker-1", &["worker"]).await;
    let told = "True SecretUnavailable: MachineConfig `50-bind`: `/etc/sssd/conf.d/bind.conf` takes its content from key \
        `bind.conf` of Secret `openshift-machine-config-operator/sssd-bind`, which ";
    world
        .until_condition(
            "worker",
            FilesDegraded,
            &format!("{told}does not exist; create it"),
        )
        .await;
    world
        .until_condition("worker", Updating, "SecretUnavailable")
        .await;
    world
        .until_condition("worker", Degraded, "FilesDegraded: MachineConfig")
        .await;
    secret(&world, "sssd-bind", json!({}), "bind", "one").await;
    world
        .until_condition("worker", FilesDegraded, &format!("{told}is not for nodes"))
        .await;
    change(
        &world,
        json!({"metadata": {"labels": {"caprock.dev/node-files": "true"}}}),
    )
    .await;
    world
        .until_condition("worker", FilesDegraded, &format!("{told}has no such key"))
        .await;
    assert!(agent.reached.is_empty());
    change(&world, json!({"stringData": {"bind.conf": "one"}})).await;
    world.play(&mut [agent]).await;
    world.until_updated("worker").await;
    world
        .until_condition("worker", FilesDegraded, "False AsExpected")
        .await;
    // Who has it keeps it, and the pool says that a new node would not get it.
    secrets(&world, keys::NAMESPACE)
        .delete("sssd-bind", &DeleteParams::default())
        .await
        .unwrap();
    world
        .until_condition("worker", FilesDegraded, &format!("{told}does not exist"))
        .await;
    world.until_updated("worker").await;
}
