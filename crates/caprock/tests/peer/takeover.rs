//! A cluster is taken over as docs/migration.md says, its nodes go on under Caprock, and it is given back.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use model::api::{MachineConfig, MachineConfigPool};
use model::condition::{self, PoolConditionType};
use model::keys;
use model::node::annotation;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::served::{DEADLINE, Process};

const WORKERS: [&str; 2] = ["worker-0", "worker-1"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Cluster {
    async fn change<K>(&self, api: Api<K>, name: &str, change: Value)
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        api.patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .unwrap();
    }

    async fn pool(&self, name: &str, change: Value) {
        let pools: Api<MachineConfigPool> = Api::all(self.client.clone());
        self.change(pools, name, change).await;
    }

    async fn scale(&self, replicas: i32) {
        for name in ["machine-config-operator", "machine-config-controller"] {
            let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
                Api::namespaced(self.client.clone(), keys::NAMESPACE);
            self.change(
                deployments.clone(),
                name,
                json!({"spec": {"replicas": replicas}}),
            )
            .await;
            let status = Patch::Merge(json!({"status": {"replicas": replicas}}));
            deployments
                .patch_status(name, &PatchParams::default(), &status)
                .await
                .unwrap();
        }
        let sets: Api<k8s_openapi::api::apps::v1::DaemonSet> =
            Api::namespaced(self.client.clone(), keys::NAMESPACE);
        let nodes = replicas * 3;
        let status = json!({"currentNumberScheduled": nodes, "desiredNumberScheduled": nodes});
        sets.patch_status(
            "machine-config-daemon",
            &PatchParams::default(),
            &Patch::Merge(json!({"status": status})),
        )
        .await
        .unwrap();
    }

    fn starts(&self, line: &str) -> Process {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(&format!("{}.log", line.split(' ').next().unwrap())));
        let mut command = self.command(line);
        command.stdout(Stdio::null()).stderr(log.unwrap());
        Process(command.spawn().unwrap())
    }

    async fn node(&self, name: &str) -> Node {
        Api::all(self.client.clone()).get(name).await.unwrap()
    }

    async fn is_taken_over(&self) -> bool {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), keys::NAMESPACE);
        maps.get_opt(keys::TAKEOVER).await.unwrap().is_some()
    }

    /// What only a controller makes.
    async fn rendered(&self) -> Vec<String> {
        let configs: Api<MachineConfig> = Api::all(self.client.clone());
        let all = configs.list(&ListParams::default()).await.unwrap();
        let rendered = all.iter().map(ResourceExt::name_any);
        rendered
            .filter(|name| name.starts_with("rendered-worker-"))
            .collect()
    }

    async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !holds().await {
            if began.elapsed() > DEADLINE {
                let logs = ["controller.log", "simulate.log"]
                    .map(|log| std::fs::read_to_string(self.path(log)).unwrap_or_default());
                let status = text(&self.caprock("status").stdout);
                panic!("not in time: {what}\n{status}\n{}", logs.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until_updated(&self, pool: &str) {
        let pools: Api<MachineConfigPool> = Api::all(self.client.clone());
        self.eventually("the pool is updated", async || {
            let pool = pools.get(pool).await.unwrap();
            let status = pool.status.clone().unwrap_or_default();
            condition::is_true(&status.conditions, PoolConditionType::Updated)
                && status.configuration.name == pool.spec.configuration.name
                && status.observed_generation == pool.metadata.generation
        })
        .await;
    }
}

/// Whether a command said no, and why.
#[track_caller]
fn refused(output: &Output, why: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for why in why {
        assert!(said.contains(why), "`{why}` is not in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_taken_over_without_a_disturbance_and_given_back() {
    let cluster = Cluster::start("").await;
    for node in WORKERS {
        let mark = json!({"metadata": {"labels": {keys::SIMULATED: "worker"}}});
        cluster
            .change(Api::<Node>::all(cluster.client.clone()), node, mark)
            .await;
    }
    let theirs = cluster.rendered().await;

    // Caprock is installed, and looks on.
    let mut controller = cluster.starts("controller --identity one");
    cluster
        .eventually("the controllers stand by", async || {
            std::fs::read_to_string(cluster.path("controller.log"))
                .is_ok_and(|log| log.contains("read-only"))
        })
        .await;
    refused(
        &cluster.caprock("takeover --confirm"),
        &[
            "unmanaged: true",
            "Deployment `machine-config-controller` runs",
            "DaemonSet `machine-config-daemon` runs",
            "MachineConfigPool `worker` is not paused",
        ],
    );
    assert!(!cluster.is_taken_over().await);
    refused(
        &cluster.caprock("simulate nodes --count 1 --pool worker"),
        &["read-only", "the Machine Config Operator acts"],
    );

    // As the guide has it.
    for pool in ["master", "worker"] {
        cluster.pool(pool, json!({"spec": {"paused": true}})).await;
    }
    cluster
        .write(json!({
            "apiVersion": "config.openshift.io/v1", "kind": "ClusterVersion", "metadata": {"name": "version"},
            "spec": {"overrides": [{
                "kind": "Deployment", "group": "apps", "namespace": keys::NAMESPACE,
                "name": "machine-config-operator", "unmanaged": true,
            }]},
        }))
        .await;
    refused(&cluster.caprock("takeover --confirm"), &["runs"]);
    cluster.scale(0).await;
    refused(&cluster.caprock("takeover"), &["nothing was changed"]);
    assert!(!cluster.is_taken_over().await);
    assert_eq!(cluster.rendered().await, theirs);

    // Whoever is killed in the middle of it begins again.
    for pause in [0, 20, 60] {
        let killed = cluster.starts("takeover --confirm");
        tokio::time::sleep(Duration::from_millis(pause)).await;
        drop(killed);
    }
    let output = cluster.caprock("takeover --confirm");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(cluster.is_taken_over().await);
    let again = cluster.caprock("takeover --confirm");
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("was taken over already"));
    // So do the controllers, which would look again by themselves within half a minute.
    drop(controller);
    controller = cluster.starts("controller --identity two");
    cluster
        .eventually("pools are rendered anew", async || {
            cluster.rendered().await.len() > theirs.len()
        })
        .await;

    // Agents come to nodes that the other operator has configured.
    let _agents =
        cluster.starts("simulate nodes --count 2 --pool worker --name-prefix worker --reboot 1s");
    cluster
        .eventually("agents have taken their nodes over", async || {
            let mut told = true;
            for node in WORKERS {
                told &= annotation(&cluster.node(node).await, keys::VERSION).is_some();
            }
            told
        })
        .await;
    let plan = cluster.caprock("plan --pool worker");
    let said = text(&plan.stdout);
    assert!(
        said.contains("nothing changes") && !said.contains("reboot"),
        "{said}"
    );
    cluster
        .pool("worker", json!({"spec": {"paused": false}}))
        .await;
    cluster.until_updated("worker").await;
    for name in WORKERS {
        let node = cluster.node(name).await;
        let says = |key| annotation(&node, key).unwrap_or_default().to_owned();
        assert!(!theirs.contains(&says(keys::CURRENT_CONFIG)), "{node:?}");
        assert!(
            matches!(says(keys::REBOOTS).as_str(), "" | "[]"),
            "{node:?}"
        );
        assert!(
            says(keys::DESIRED_DRAIN).starts_with("uncordon-"),
            "{node:?}"
        );
        assert_ne!(node.spec.unwrap_or_default().unschedulable, Some(true));
    }

    // From here on it is a pool like any other.
    cluster
        .write(json!({
            "apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineConfig",
            "metadata": {"name": "70-worker-quiet", "labels": {keys::ROLE: "worker"}},
            "spec": {"kernelArguments": ["quiet"]},
        }))
        .await;
    cluster
        .eventually("both nodes have rebooted once", async || {
            let mut once = true;
            for node in WORKERS {
                let node = cluster.node(node).await;
                let reboots = annotation(&node, keys::REBOOTS).unwrap_or("[]");
                let reboots: Vec<Value> = serde_json::from_str(reboots).unwrap();
                assert!(reboots.len() < 2, "{reboots:?}");
                once &= reboots.len() == 1 && annotation(&node, keys::STATE) == Some("Done");
            }
            once
        })
        .await;
    cluster.until_updated("worker").await;

    // The other operator comes back, and nobody takes the cluster over from under it.
    cluster
        .pool("worker", json!({"spec": {"paused": true}}))
        .await;
    cluster.scale(1).await;
    refused(
        &cluster.caprock("takeover --confirm"),
        &["runs: scale it to 0"],
    );
    let status = text(&cluster.caprock("status").stdout);
    assert!(status.contains("runs again"), "{status}");
    drop(controller);
    let undone = cluster.caprock("takeover --undo");
    assert!(undone.status.success(), "{}", text(&undone.stderr));
    assert!(!cluster.is_taken_over().await);
}
