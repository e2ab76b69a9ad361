#![allow(clippy::unwrap_used)]
use k8s_openapi::api::core::v1::Node;
use model::api::{MachineConfig, MachineConfigPool, MachineOSConfig};
use model::render::Defaults;
use model::update::Policy;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::pool::PoolPlan;
use super::text;
use crate::manifests::Manifests;
use crate::side;

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn config(name: &str, files: &[(&str, &str)]) -> MachineConfig {
    let files: Vec<Value> = files
        .iter()
        .map(|(path, text)| json!({"path": path, "contents": {"source": format!("data:,{text}")}}))
        .collect();
    object(json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfig",
        "metadata": {"name": name, "labels": {"machineconfiguration.openshift.io/role": "worker"}},
        "spec": {"osImageURL": format!("r.example/os/base@sha256:{}", "a".repeat(64)),
                 "config": {"ignition": {"version": "3.4.0"}, "storage": {"files": files}}},
    }))
}

fn pool(paused: bool) -> MachineConfigPool {
    object(json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfigPool",
        "metadata": {"name": "worker"},
        "spec": {
            "machineConfigSelector": {"matchLabels": {"machineconfiguration.openshift.io/role": "worker"}},
            "nodeSelector": {"matchLabels": {"node-role.kubernetes.io/worker": ""}},
            "maxUnavailable": 2,
            "paused": paused,
        },
    }))
}

fn node(name: &str, config: &str) -> Node {
    let prefix = "machineconfiguration.openshift.io";
    object(json!({
        "metadata": {
            "name": name,
            "labels": {"node-role.kubernetes.io/worker": ""},
            "annotations": {
                format!("{prefix}/currentConfig"): config,
                format!("{prefix}/desiredConfig"): config,
                format!("{prefix}/state"): "Done",
            },
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
}

/// A cluster whose three nodes have what its pool says.
fn cluster(paused: bool) -> Cluster {
    let sources = [config("10-motd", &[("/etc/motd", "1"), ("/etc/gone", "")])];
    let mut pool = pool(paused);
    let rendered = model::render::render(&pool, &sources, &Defaults::default()).unwrap();
    pool.spec.configuration = rendered.configuration();
    let name = rendered.name().to_owned();
    let [source] = sources;
    Cluster {
        pools: vec![pool],
        nodes: ["w1", "w2", "w3"]
            .iter()
            .map(|node_name| node(node_name, &name))
            .collect(),
        configs: [("10-motd".to_owned(), source), (name, rendered.config)].into(),
        images: Default::default(),
        builds: Vec::new(),
        policy: Policy::default(),
        rollouts: Vec::new(),
        defaults: Defaults::default(),
    }
}

fn plans(now: &Cluster, manifests: Option<Manifests>) -> Vec<PoolPlan> {
    let applied = manifests.is_some();
    let then = match manifests {
        Some(manifests) => now.clone().with(manifests),
        None => now.clone(),
    };
    let plan = |pool| {
        PoolPlan::new(
            now,
            &then,
            pool,
            applied,
            "2026-07-01T12:00:00Z".parse().unwrap(),
        )
        .unwrap()
    };
    then.pools.iter().map(plan).collect()
}

/// Names of rendered configs hold digests.
fn stable(text: String) -> String {
    let name = side::rendered(
        &pool(false),
        &[config("10-motd", &[("/etc/motd", "1"), ("/etc/gone", "")])],
        &Defaults::default(),
    )
    .unwrap()
    .name;
    let mut stable = String::new();
    for line in text.replace(&name, "rendered-worker-NOW").lines() {
        match line.split_once("rendered-worker-") {
            Some((before, after)) if after.len() >= 32 && !after.starts_with("NOW") => {
                stable.push_str(&format!("{before}rendered-worker-NEXT{}\n", &after[32..]));
            }
            _ => stable.push_str(&format!("{line}\n")),
        }
    }
    stable
}

#[test]
fn a_settled_pool_has_nothing_to_do() {
    insta::assert_snapshot!(stable(text::pools(&plans(&cluster(false), None))), @r"
    pool worker: rendered-worker-NOW
      w1 w2 w3: nothing changes
    ");
}

#[test]
fn manifests_are_planned_as_if_they_were_applied() {
    let manifests = Manifests {
        configs: vec![
            config("10-motd", &[("/etc/motd", "2")]),
            config("20-sssd", &[("/etc/sssd/sssd.conf", "x")]),
        ],
        ..Manifests::default()
    };
    let plans = plans(&cluster(false), Some(manifests));
    insta::assert_snapshot!(stable(text::pools(&plans)), @r"
    pool worker: rendered-worker-NEXT
      order, 2 at a time: w1 w2, then w3
      w1 w2 w3: 3 files → restart
        restart sssd.service  because +file /etc/sssd/sssd.conf (20-sssd, policy /etc/sssd)
        ~file /etc/motd (10-motd)
        +file /etc/sssd/sssd.conf (20-sssd)
        -file /etc/gone (10-motd)
    ");
    assert_eq!(plans[0].batches, [vec!["w1", "w2"], vec!["w3"]]);
    let json = json!(plans);
    assert_eq!(json[0]["nodes"][0]["disruption"], "Restart");
    assert_eq!(
        json[0]["nodes"][0]["actions"][0]["reason"]["object"],
        "20-sssd"
    );
}

#[test]
fn a_new_layered_image_is_built_first() {
    let image: MachineOSConfig = object(json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineOSConfig",
        "metadata": {"name": "worker"},
        "spec": {
            "machineConfigPool": {"name": "worker"},
            "imageBuilder": {"imageBuilderType": "Job"},
            "renderedImagePushSpec": "r.example/os/worker:latest",
            "containerFile": [{"content": "FROM configs AS final\n"}],
        },
    }));
    let manifests = Manifests {
        images: vec![image],
        ..Manifests::default()
    };
    insta::assert_snapshot!(stable(text::pools(&plans(&cluster(true), Some(manifests)))), @r"
    pool worker (paused): rendered-worker-NOW
      new image: the pool gets a layered image (worker)
      waits for a new image to be built
      order, 2 at a time: w1 w2, then w3
      w1 w2 w3: new image → reboot
        reboot  because image base@aaaaaaaaaaaa → worker:latest (to be built) (rendered-worker-NOW)
        image base@aaaaaaaaaaaa → worker:latest (to be built) (rendered-worker-NOW)
    ");
}

#[test]
fn waves_and_windows_are_told() {
    let mut quiet = config("20-quiet", &[]);
    quiet.spec.kernel_arguments = vec!["quiet".to_owned()];
    let policy = json!({
        "apiVersion": "caprock.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": "worker"},
        "spec": {
            "pools": [{"name": "worker"}],
            "waves": [
                {"name": "nobody", "nodeSelector": {"matchLabels": {"nobody": ""}}, "pause": true},
                {"name": "canary", "nodeSelector": {"matchLabels": {"canary": ""}}, "soak": "90m"},
            ],
            "windows": [{"name": "night", "start": "22:00", "duration": "4h"}],
        },
    });
    let mut cluster = cluster(false);
    let labels = cluster.nodes[2].metadata.labels.as_mut().unwrap();
    labels.insert("canary".to_owned(), String::new());
    let manifests = Manifests {
        configs: vec![quiet],
        rollouts: vec![object(policy)],
        ..Manifests::default()
    };
    let plans = plans(&cluster, Some(manifests));
    insta::assert_snapshot!(stable(text::pools(&plans)), @r"
    pool worker: rendered-worker-NEXT
      waits for window `night`, which opens at Wed 2026-07-01 22:00 UTC, before nodes that drain are told
      wave canary: w3, then has to stay well for 1h 30m
      order, 2 at a time: w3, then w1 w2
      w1 w2 w3: 1 kernel argument → reboot
        reboot  because kernelArguments +quiet (20-quiet)
        kernelArguments +quiet (20-quiet)
    ");
    assert_eq!(json!(plans)[0]["waves"][0]["nodes"], json!(["w3"]));
}

#[test]
fn what_cannot_be_rendered_keeps_the_last_config() {
    let mut bad = config("20-bad", &[]);
    bad.spec.config =
        Some(json!({"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": "etc/x"}]}}));
    let manifests = Manifests {
        configs: vec![bad],
        ..Manifests::default()
    };
    insta::assert_snapshot!(stable(text::pools(&plans(&cluster(false), Some(manifests)))), @r"
    pool worker: rendered-worker-NOW
      no new configuration: cannot render pool `worker`: MachineConfig `20-bad`: `spec.config.storage.files[0].path`: expected an absolute path, found `etc/x`
      w1 w2 w3: nothing changes
    ");
}
