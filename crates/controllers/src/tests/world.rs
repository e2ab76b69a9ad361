//! An API server with our kinds, the loops upon it, and a way to wait for what they should do.

use std::fmt::Debug;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Config, Token};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Event, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use model::api::{MachineConfig, MachineConfigPool, MachineOSBuild, MachineOSConfig};
use model::build_state::BuildState;
use model::condition::{self, PoolConditionType};
use model::keys;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake::{FakeAgent, FakeBuilder, FakeRegistries, node};
use super::link::{Link, Server, TOKEN};
use crate::worker::claim::TERMS;
use crate::{BuilderParts, Parts, run_parts};

/// Nothing here takes longer than a second on a busy machine; what failed time and again is tried again minutes later.
const DEADLINE: Duration = Duration::from_secs(180);

pub(super) const BASE: &str =
    "registry.test/os/base@sha256:0b9ca241da2f41c03d2106c24ce9dee2370329771d7883508ddfc1d4712fc310";

pub(super) struct World {
    dir: tempfile::TempDir,
    /// May be taken away and put back, as when it restarts.
    pub(super) server: Server,
    pub(super) client: Client,
    pub(super) builder: FakeBuilder,
    pub(super) registries: FakeRegistries,
    loops: Option<(CancellationToken, JoinHandle<()>)>,
}

impl World {
    /// A world in which the loops run.
    pub(super) async fn new() -> Self {
        let mut world = World::without_loops();
        world.start();
        world
    }

    pub(super) fn without_loops() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(Mutex::new(Some(open(&dir))));
        World {
            client: Link::default().client(&server),
            dir,
            server,
            builder: FakeBuilder::default(),
            registries: FakeRegistries::default(),
            loops: None,
        }
    }

    pub(super) fn start(&mut self) {
        let parts = Parts {
            registries: Some(self.registries.clone()),
            candidate: None,
            builder: Some(BuilderParts {
                engine: self.builder.clone(),
                identity: "builder-1".to_owned(),
                terms: TERMS,
                parallel_builds: NonZeroU32::MIN,
            }),
            telemetry: Default::default(),
        };
        self.loops = Some(self.run(parts));
    }

    /// Runs the controllers without a builder.
    pub(super) fn start_controllers(&mut self) {
        let parts: Parts<_, FakeBuilder> = Parts {
            registries: Some(self.registries.clone()),
            candidate: None,
            builder: None,
            telemetry: Default::default(),
        };
        self.loops = Some(self.run(parts));
    }

    /// Runs one more builder, until its token is cancelled.
    pub(super) fn start_builder(
        &self,
        identity: &str,
        engine: &FakeBuilder,
        parallel_builds: u32,
    ) -> (CancellationToken, JoinHandle<()>) {
        let parts: Parts<FakeRegistries, _> = Parts {
            registries: None,
            candidate: None,
            telemetry: Default::default(),
            builder: Some(BuilderParts {
                engine: engine.clone(),
                identity: identity.to_owned(),
                terms: TERMS,
                parallel_builds: parallel_builds.try_into().unwrap(),
            }),
        };
        self.run(parts)
    }

    fn run(
        &self,
        parts: Parts<FakeRegistries, FakeBuilder>,
    ) -> (CancellationToken, JoinHandle<()>) {
        let stop = CancellationToken::new();
        let running = run_parts(self.client.clone(), parts, stop.clone());
        (stop, tokio::spawn(async move { running.await.unwrap() }))
    }

    /// Ends the loops as a crash does: in the middle of whatever they do.
    pub(super) async fn crash(&mut self) {
        if let Some((_, running)) = self.loops.take() {
            running.abort();
            let ended = running.await;
            assert!(ended.unwrap_err().is_cancelled());
        }
    }

    pub(super) async fn stop(&mut self) {
        if let Some((stop, running)) = self.loops.take() {
            stop.cancel();
            running.await.unwrap();
        }
    }

    pub(super) async fn restart_server(&self) {
        let old = self.server.lock().unwrap().take();
        drop(old);
        self.client
            .apiserver_version()
            .await
            .expect_err("nobody answers");
        // The store is locked until the last watch has noticed.
        let opened = eventually("the store is free", || async { try_open(&self.dir) }).await;
        *self.server.lock().unwrap() = Some(opened);
    }

    pub(super) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub(super) async fn create<K>(&self, object: K) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        self.all::<K>()
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    pub(super) async fn merge<K>(&self, name: &str, change: Value)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.all::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .unwrap();
    }

    pub(super) async fn get<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.all::<K>().get(name).await.unwrap()
    }

    pub(super) async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let list = self.all::<K>().list(&ListParams::default()).await;
        list.unwrap().items
    }

    /// Pool `name` with the MachineConfigs of its own role and of `worker`.
    pub(super) async fn pool(&self, name: &str, paused: bool) {
        let roles: Vec<&str> = match name {
            "worker" => vec!["worker"],
            other => vec!["worker", other],
        };
        let spec = json!({
            "machineConfigSelector": {"matchExpressions": [
                {"key": keys::ROLE, "operator": "In", "values": roles},
            ]},
            "nodeSelector": {"matchLabels": {format!("{}{name}", keys::NODE_ROLE_PREFIX): ""}},
            "paused": paused,
        });
        let spec = serde_json::from_value(spec).unwrap();
        self.create(MachineConfigPool::new(name, spec)).await;
    }

    /// A MachineConfig of a role.
    pub(super) async fn config(&self, name: &str, role: &str, spec: Value) {
        let mut config = MachineConfig::new(name, serde_json::from_value(spec).unwrap());
        config
            .labels_mut()
            .insert(keys::ROLE.to_owned(), role.to_owned());
        self.create(config).await;
    }

    /// A pool's MachineOSConfig with one Containerfile.
    pub(super) async fn os_config(&self, pool: &str, containerfile: &str) {
        let spec = json!({
            "machineConfigPool": {"name": pool},
            "imageBuilder": {"imageBuilderType": "Job"},
            "renderedImagePushSpec": "registry.test/os/image:latest",
            "containerFile": [{"content": containerfile}],
        });
        let spec = serde_json::from_value(spec).unwrap();
        self.create(MachineOSConfig::new(pool, spec)).await;
    }

    /// A node as its agent registers it. Nobody waits long enough to call the agent silent.
    pub(super) async fn register(&self, name: &str, roles: &[&str]) -> FakeAgent {
        let wanted = node(name, roles);
        self.create(wanted.clone()).await;
        let status = json!({"status": wanted.status});
        self.all::<Node>()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
        self.beat(name, Duration::from_hours(24)).await;
        FakeAgent::new(&self.client, name)
    }

    /// A heartbeat of a node's agent, good for so long.
    pub(super) async fn beat(&self, name: &str, life: Duration) {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                lease_duration_seconds: i32::try_from(life.as_secs()).ok(),
                renew_time: Some(MicroTime(jiff::Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        let written = PatchParams::apply("test").force();
        Api::<Lease>::namespaced(self.client.clone(), keys::NODE_LEASE_NAMESPACE)
            .patch(name, &written, &Patch::Apply(lease))
            .await
            .unwrap();
    }

    /// The condition of a pool, as `True BuildFailed: message`.
    pub(super) async fn condition(&self, pool: &str, kind: PoolConditionType) -> String {
        let pool: MachineConfigPool = self.get(pool).await;
        let conditions = pool.status.unwrap_or_default().conditions;
        match condition::get(&conditions, kind) {
            Some(found) => format!("{} {}: {}", found.status, found.reason, found.message),
            None => "absent".to_owned(),
        }
    }

    /// Waits until the condition of a pool reads so that `expected` is part of it.
    pub(super) async fn until_condition(
        &self,
        pool: &str,
        kind: PoolConditionType,
        expected: &str,
    ) -> String {
        let what = format!("{kind} of {pool} has `{expected}`");
        eventually(&what, || async {
            let text = self.condition(pool, kind).await;
            if text.contains(expected) {
                Ok(text)
            } else {
                Err(text)
            }
        })
        .await
    }

    pub(super) async fn until_updated(&self, pool: &str) {
        self.until_condition(pool, PoolConditionType::Updated, "True AllNodesUpdated")
            .await;
    }

    /// All builds, as `name: state`.
    pub(super) async fn builds(&self) -> Vec<MachineOSBuild> {
        self.list().await
    }

    /// Waits for the one build in the state that `test` takes.
    pub(super) async fn until_build(
        &self,
        what: &str,
        test: impl Fn(&BuildState) -> bool,
    ) -> MachineOSBuild {
        eventually(what, || async {
            let builds = self.builds().await;
            let found = builds.iter().find(|build| test(&BuildState::of(build)));
            found.cloned().ok_or_else(|| {
                let states: Vec<_> = builds.iter().map(BuildState::of).collect();
                format!("{states:?}")
            })
        })
        .await
    }

    pub(super) async fn until_succeeded(&self) -> MachineOSBuild {
        self.until_build("a build succeeds", |state| {
            matches!(state, BuildState::Succeeded { .. })
        })
        .await
    }

    /// Lets agents act until all are where they should be.
    pub(super) async fn play(&self, agents: &mut [FakeAgent]) {
        let started = Instant::now();
        loop {
            let mut arrived = 0;
            for agent in agents.iter_mut() {
                arrived += usize::from(agent.act().await);
            }
            if arrived == agents.len() {
                return;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "agents do not arrive: {agents:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Events of an object, as `reason: message`.
    pub(super) async fn events(&self, object: &str) -> Vec<String> {
        let events: Vec<Event> = Api::<Event>::namespaced(self.client.clone(), "default")
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        events
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(object))
            .map(|event| {
                format!(
                    "{}: {}",
                    event.reason.unwrap_or_default(),
                    event.message.unwrap_or_default()
                )
            })
            .collect()
    }
}

fn try_open(dir: &tempfile::TempDir) -> Result<ApiServer, String> {
    let mut config = Config::new(dir.path().join("api"));
    config.tokens = vec![Token::new("admin", &["system:masters"], TOKEN)];
    config.crds = model::api::crds()
        .iter()
        .map(|crd| serde_json::to_value(crd).unwrap())
        .collect();
    config
        .namespaces
        .extend([keys::NAMESPACE, keys::NODE_SECRET_NAMESPACE].map(str::to_owned));
    ApiServer::open(config).map_err(|error| error.to_string())
}

fn open(dir: &tempfile::TempDir) -> ApiServer {
    try_open(dir).unwrap()
}

/// Polls until `look` gives a value; panics with what it last saw.
pub(super) async fn eventually<T, E, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let started = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) => assert!(started.elapsed() < DEADLINE, "{what}: last seen {seen:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Files and units of an Ignition config.
pub(super) fn ignition(files: &[(&str, &str)], units: &[&str]) -> Value {
    let files: Vec<Value> = files
        .iter()
        .map(|(path, text)| {
            json!({"path": path, "mode": 420, "contents": {"source": format!("data:,{text}")}})
        })
        .collect();
    let units: Vec<Value> = units
        .iter()
        .map(|unit| json!({"name": unit, "enabled": true}))
        .collect();
    json!({"config": {
        "ignition": {"version": "3.4.0"},
        "storage": {"files": files},
        "systemd": {"units": units},
    }})
}
