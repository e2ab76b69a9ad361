//! A fleet of agents on machines that are not there, against a server that is: what `bench/fleet.py` measures.

use std::collections::BTreeMap;
use std::env::var;
use std::sync::Arc;
use std::time::{Duration, Instant};

use camino::Utf8Path;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use model::api::{MachineConfig, MachineConfigPool};
use model::keys;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::fake::{Fake, Machine};
use super::kill::Life;
use super::world::base;
use crate::agent::{Agent, Settings};
use crate::host::Host;
use crate::notify::Notifier;
use crate::state::State;

const POOL: &str = "fleet";
/// How long a machine is away.
const REBOOT: Duration = Duration::from_secs(1);
/// A fleet that takes longer stands still.
const DEADLINE: Duration = Duration::from_secs(600);

/// One machine with its agent.
struct Member {
    config: Config,
    name: String,
    machine: Arc<Machine>,
}

impl Member {
    /// Runs the agent, and boots the machine when it asks for that.
    async fn live(self) {
        loop {
            let (life, agent) = self.start();
            self.machine.reboot.notified().await;
            life.end();
            agent.abort();
            tokio::time::sleep(REBOOT).await;
            while Arc::strong_count(&life) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.machine.boot();
        }
    }

    fn start(&self) -> (Arc<Life>, JoinHandle<()>) {
        let (machine, life) = (self.machine.clone(), Arc::<Life>::default());
        let fake = || {
            Arc::new(Fake {
                machine: machine.clone(),
                life: life.clone(),
            })
        };
        let state = State::open(&machine.state_dir()).unwrap();
        let host = Host::new(fake(), fake(), state, &machine.root(), &machine.run_dir());
        let settings = Settings {
            bytes_per_second: None,
            node_name: self.name.clone(),
            register: Some(BTreeMap::from([(POOL.to_owned(), String::new())])),
            registry_ca: None,
            credentials: None,
            verify_deadline: Duration::from_secs(120),
            uneventful: crate::UNEVENTFUL,
            notifier: Notifier::default(),
            telemetry: Default::default(),
        };
        let client = Client::try_from(self.config.clone()).unwrap();
        let agent = Agent::new(client, host, settings);
        (life, tokio::spawn(agent.run(CancellationToken::new())))
    }
}

async fn config(client: &Client, name: &str, spec: Value) {
    let mut config = MachineConfig::new(name, serde_json::from_value(spec).unwrap());
    config.metadata.labels = Some(BTreeMap::from([(keys::ROLE.to_owned(), POOL.to_owned())]));
    let api = Api::all(client.clone());
    api.create(&PostParams::default(), &config).await.unwrap();
}

/// Waits until all nodes are at a config that is not `before`, and returns it.
async fn until_updated(client: &Client, nodes: usize, before: &str) -> String {
    let api: Api<MachineConfigPool> = Api::all(client.clone());
    let began = Instant::now();
    loop {
        let pool = api.get(POOL).await.unwrap();
        let config = pool.spec.configuration.name;
        let status = pool.status.unwrap_or_default();
        let updated = usize::try_from(status.updated_machine_count).unwrap();
        if config != before && status.configuration.name == config && updated == nodes {
            return config;
        }
        assert!(began.elapsed() < DEADLINE, "{:?}", status.conditions);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes that the server has answered so far, by what was written.
async fn writes(client: &Client) -> BTreeMap<String, f64> {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("apiserver_request_total{") else {
            continue;
        };
        let (labels, count) = rest.rsplit_once(' ').unwrap();
        let label = |name: &str| {
            let rest = labels.split(&format!("{name}=\"")).nth(1);
            rest.and_then(|rest| rest.split('"').next())
                .unwrap_or_default()
        };
        if ["create", "update", "patch", "delete"].contains(&label("verb")) {
            let sub = label("subresource");
            let slash = if sub.is_empty() { "" } else { "/" };
            let what = format!("{}{slash}{sub}", label("resource"));
            *found.entry(what).or_default() += count.parse::<f64>().unwrap();
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `bench/fleet.py` runs it"]
async fn a_fleet_reboots() {
    let nodes: usize = var("CAPROCK_BENCH_NODES").unwrap().parse().unwrap();
    let kubeconfig = Kubeconfig::read_from(var("CAPROCK_BENCH_KUBECONFIG").unwrap()).unwrap();
    let options = KubeConfigOptions::default();
    let config_of = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    let client = Client::try_from(config_of.clone()).unwrap();
    config(
        &client,
        "50-one",
        json!({"config": {"ignition": {"version": "3.4.0"}, "storage": {"files": [
            {"path": "/etc/one", "contents": {"source": "data:,one"}},
        ]}}}),
    )
    .await;
    let pool: MachineConfigPool = serde_json::from_value(json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfigPool",
        "metadata": ObjectMeta { name: Some(POOL.to_owned()), ..ObjectMeta::default() },
        "spec": {
            "machineConfigSelector": {"matchLabels": {(keys::ROLE): POOL}},
            "nodeSelector": {"matchLabels": {(POOL): ""}},
            "maxUnavailable": "100%",
        },
    }))
    .unwrap();
    let pools: Api<MachineConfigPool> = Api::all(client.clone());
    pools.create(&PostParams::default(), &pool).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let mut members = JoinSet::new();
    for number in 0..nodes {
        let name = format!("node-{number:03}");
        let member = Member {
            config: config_of.clone(),
            machine: Machine::new(dir.join(&name), base()),
            name,
        };
        members.spawn(member.live());
    }
    let first = until_updated(&client, nodes, "").await;
    let tenth = json!({"spec": {"maxUnavailable": "10%"}});
    pools
        .patch(POOL, &PatchParams::default(), &Patch::Merge(tenth))
        .await
        .unwrap();

    let before = writes(&client).await;
    let began = Instant::now();
    config(&client, "60-quiet", json!({"kernelArguments": ["quiet"]})).await;
    until_updated(&client, nodes, &first).await;
    let seconds = began.elapsed().as_secs_f64();
    let after = writes(&client).await;
    members.shutdown().await;
    let all: Api<Node> = Api::all(client.clone());
    let listed = all.list(&Default::default()).await.unwrap();
    let away = listed.iter().filter(|node| {
        let spec = node.spec.as_ref();
        spec.and_then(|spec| spec.unschedulable) == Some(true)
    });
    assert_eq!(away.count(), 0, "every cordon is released");
    let each: BTreeMap<&String, f64> = after
        .iter()
        .filter(|(what, _)| *what != "leases")
        .map(|(what, count)| (what, count - before.get(what).unwrap_or(&0.0)))
        .filter(|(_, count)| *count > 0.0)
        .collect();
    #[allow(clippy::print_stdout, reason = "the result")]
    {
        println!(
            "RESULT {}",
            json!({"nodes": nodes, "seconds": seconds, "writes": each})
        );
    }
}
