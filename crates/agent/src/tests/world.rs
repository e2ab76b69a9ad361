//! One node with its agent, an API server, and somebody who plays the controllers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Config, Token};
use camino::Utf8Path;
use k8s_openapi::api::core::v1::{Event, Node};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use model::api::{MachineConfig, MachineConfigNode, MachineOSConfig, RolloutPolicy};
use model::keys;
use model::node::annotation;
use oci::Digest;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::fake::{Fake, Image, Machine};
use super::kill::Life;
use crate::Acts;
use crate::agent::{Agent, Settings};
use crate::credentials::Credentials;
use crate::host::Host;
use crate::register::Registration;
use crate::state::State;
use crate::telemetry::Telemetry;

pub(super) const NODE: &str = "worker-1";
const TOKEN: &str = "a token that only tests know";
/// Nothing here takes longer than a few seconds on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

pub(super) struct World {
    _dir: tempfile::TempDir,
    pub(super) machine: Arc<Machine>,
    client: Client,
    server: Arc<Mutex<Option<ApiServer>>>,
    agent: Option<JoinHandle<()>>,
    life: Arc<Life>,
    controllers: JoinHandle<()>,
    /// Whether drains wait.
    held: Arc<AtomicBool>,
    /// What the agent has written to the API: verb and path.
    writes: Writes,
    /// What the API refused it.
    refused: Writes,
    /// With what the agent comes in where a kubelet keeps the Node.
    own: Option<(Credentials, String)>,
    /// Who acts on the cluster, for the agent that is started next.
    pub(super) ours: Option<watch::Receiver<Acts>>,
    /// What the agent tells of itself.
    pub(super) telemetry: Telemetry,
}

/// Who the agent is, for the server and for tests.
#[derive(Clone)]
struct User {
    token: String,
    life: Arc<Life>,
    writes: Writes,
    refused: Writes,
}

type Writes = Arc<Mutex<Vec<String>>>;

impl Drop for World {
    fn drop(&mut self) {
        self.controllers.abort();
        if let Some(agent) = &self.agent {
            agent.abort();
        }
    }
}

/// Text of an enabled unit.
pub(super) const SERVICE: &str =
    "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

pub(crate) fn base() -> Image {
    BTreeMap::from([
        ("/etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("/usr/etc/motd", "from the base image\n"),
        ("/etc/motd", "from the base image\n"),
        ("/usr/lib/systemd/system/sshd.service", SERVICE),
    ])
}

/// The base image with the unit that only the layered image has.
pub(super) fn layered() -> Image {
    let mut image = base();
    image.insert("/usr/lib/systemd/system/autofs.service", SERVICE);
    image
}

pub(super) fn pull_spec(image: Digest) -> String {
    format!("registry.test/os/image@{image}")
}

/// A rendered config with files and units.
pub(super) fn rendered(image: Digest, files: &[(&str, &str)], units: Value) -> Value {
    let file = |(path, text): &(&str, &str)| json!({"path": path, "contents": {"source": format!("data:,{text}")}});
    let files: Vec<Value> = files.iter().map(file).collect();
    json!({
        "osImageURL": pull_spec(image),
        "config": {"ignition": {"version": "3.4.0"}, "storage": {"files": files}, "systemd": {"units": units}},
    })
}

impl World {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let machine = Machine::new(path.join("machine"), base());
        let mut config = Config::new(path.join("api"));
        config.tokens = vec![Token::new("admin", &["system:masters"], TOKEN)];
        config.crds = model::api::crds()
            .iter()
            .map(|crd| serde_json::to_value(crd).unwrap())
            .collect();
        config
            .namespaces
            .extend([keys::NAMESPACE, keys::NODE_SECRET_NAMESPACE].map(str::to_owned));
        let server = Arc::new(Mutex::new(Some(ApiServer::open(config).unwrap())));
        let client = client(&server, TOKEN, None);
        let held = Arc::<AtomicBool>::default();
        let controllers = tokio::spawn(drain(client.clone(), held.clone()));
        let world = World {
            _dir: dir,
            machine,
            client,
            server,
            agent: None,
            life: Arc::default(),
            controllers,
            held,
            writes: Writes::default(),
            refused: Writes::default(),
            own: None,
            ours: None,
            telemetry: Telemetry::default(),
        };
        world.own().begin_boot().unwrap();
        world
    }

    /// A node that its agent has registered and that has its MachineConfigNode.
    pub(super) async fn joined() -> Self {
        let mut world = Self::new().await;
        world.registered().await;
        world.progress_object().await;
        world
    }

    /// A node at `rendered-1`, with these files and no image of its own.
    pub(super) async fn settled(files: &[(&str, &str)]) -> Self {
        let mut world = Self::joined().await;
        world.settle(files, json!([])).await;
        world
    }

    /// Takes the node to `rendered-1`, with these files and units and no image of its own.
    pub(super) async fn settle(&mut self, files: &[(&str, &str)], units: Value) {
        let config = rendered(self.machine.booted_image(), files, units);
        self.reach("rendered-1", config, None).await;
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client with a token.
    pub(super) fn client_as(&self, token: &str) -> Client {
        client(&self.server, token, None)
    }

    /// From its next start on, the agent comes in with this, and leaves the Node to a kubelet.
    pub(super) fn come_in_with(&mut self, credentials: Credentials, token: String) {
        self.own = Some((credentials, token));
    }

    /// What the API refused the agent.
    pub(super) fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap().clone()
    }

    pub(super) fn all<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub(super) async fn config(&self, name: &str, spec: Value) {
        let config = MachineConfig::new(name, serde_json::from_value(spec).unwrap());
        self.all::<MachineConfig>()
            .create(&PostParams::default(), &config)
            .await
            .unwrap();
    }

    /// A RolloutPolicy of the node's pool, in place of any other.
    pub(super) async fn policy(&self, spec: Value) {
        let mut spec = spec;
        spec["pools"] = json!([{"name": "worker"}]);
        let policy = RolloutPolicy::new("worker", serde_json::from_value(spec).unwrap());
        let api = self.all::<RolloutPolicy>();
        let force = PatchParams::apply("test").force();
        api.patch("worker", &force, &Patch::Apply(&policy))
            .await
            .unwrap();
    }

    /// The node's own side, without its agent.
    pub(super) fn own(&self) -> Host {
        let machine = &self.machine;
        let state = State::open(&machine.state_dir()).unwrap();
        let fake = || Arc::new(machine.host());
        Host::new(fake(), fake(), state, &machine.root(), &machine.run_dir())
    }

    /// Makes the MachineConfigNode, as the pool controller does.
    pub(super) async fn progress_object(&self) {
        let spec = json!({"node": {"name": NODE}, "pool": {"name": "worker"}, "configVersion": {"desired": "not-yet-set"}});
        let object = MachineConfigNode::new(NODE, serde_json::from_value(spec).unwrap());
        self.all::<MachineConfigNode>()
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    /// A MachineOSConfig of the node's pool with a finished image.
    pub(super) async fn built(&self, image: Digest) {
        let spec = json!({
            "machineConfigPool": {"name": "worker"},
            "imageBuilder": {"imageBuilderType": "Job"},
            "renderedImagePushSpec": "registry.test/os/image:latest",
        });
        let api = self.all::<MachineOSConfig>();
        let object = MachineOSConfig::new("worker", serde_json::from_value(spec).unwrap());
        api.create(&PostParams::default(), &object).await.unwrap();
        let status = json!({"status": {"currentImagePullSpec": pull_spec(image)}});
        api.patch_status("worker", &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// Tells the node where to go, as the pool controller does.
    pub(super) async fn desire(&self, config: &str, image: Option<Digest>) {
        let annotations =
            json!({keys::DESIRED_CONFIG: config, keys::DESIRED_IMAGE: image.map(pull_spec)});
        self.annotate(annotations).await;
    }

    pub(super) async fn annotate(&self, annotations: Value) {
        self.change_node(json!({"metadata": {"annotations": annotations}}))
            .await;
    }

    /// Changes the node's object, in one write.
    pub(super) async fn change_node(&self, patch: Value) {
        self.all::<Node>()
            .patch(NODE, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    /// Sends the node to a config that is made for it, and plays until it is there.
    pub(super) async fn reach(&mut self, config: &str, spec: Value, image: Option<Digest>) {
        self.config(config, spec).await;
        self.desire(config, image).await;
        self.until_done(config).await;
    }

    /// Lets drains wait, or no longer.
    pub(super) fn hold_drains(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// Starts the agent, as systemd does.
    pub(super) fn start(&mut self) {
        let machine = self.machine.clone();
        self.life = Arc::default();
        let own = self.own.clone();
        let user = User {
            token: own
                .as_ref()
                .map_or(TOKEN, |(_, token)| token.as_str())
                .to_owned(),
            life: self.life.clone(),
            writes: self.writes.clone(),
            refused: self.refused.clone(),
        };
        let client = client(&self.server, TOKEN, Some(user));
        let state = State::open(&machine.state_dir()).unwrap();
        let (os, systemd) = (Arc::new(self.host()), Arc::new(self.host()));
        let host = Host::new(os, systemd, state, &machine.root(), &machine.run_dir());
        let settings = Settings {
            bytes_per_second: None,
            node_name: NODE.to_owned(),
            register: own.is_none().then(|| Registration::new(BTreeMap::new())),
            exchange: None,
            ours: self.ours.clone(),
            registry_ca: None,
            credentials: own.map(|(credentials, _)| credentials),
            verify_deadline: Duration::from_secs(2),
            // How long a step takes on a busy machine says nothing.
            uneventful: Duration::from_secs(3600),
            notifier: crate::notify::Notifier::default(),
            telemetry: self.telemetry.clone(),
        };
        let agent = Agent::new(client, host, settings);
        self.agent = Some(tokio::spawn(agent.run(CancellationToken::new())));
    }

    /// The machine as the agent of now sees it.
    pub(super) fn host(&self) -> Fake {
        Fake {
            machine: self.machine.clone(),
            life: self.life.clone(),
        }
    }

    /// What the agent has written since this was asked last: its registration left out, events counted apart.
    pub(super) fn writes(&self) -> (Vec<String>, usize) {
        let all = std::mem::take(&mut *self.writes.lock().unwrap());
        let (events, rest): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|write| write.ends_with("/events"));
        let registers = |write: &String| {
            write.contains("/leases")
                || write.ends_with("/nodes")
                || write.ends_with("/nodes/worker-1/status")
        };
        let rest = rest.into_iter().filter(|write| !registers(write));
        (rest.collect(), events.len())
    }

    /// Whether the agent died where a test wanted it to.
    pub(super) fn is_dead(&self) -> bool {
        self.life.is_over()
    }

    /// Waits until the agent died where a test wanted it to, and leaves it dead.
    pub(super) async fn until_dead(&self) {
        let began = Instant::now();
        while !self.is_dead() {
            assert!(began.elapsed() < DEADLINE, "the agent lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the agent as SIGKILL does: nothing of it runs on.
    pub(super) async fn kill(&mut self) {
        if let Some(agent) = self.agent.take() {
            self.life.end();
            agent.abort();
            agent.await.unwrap_err();
        }
        let began = Instant::now();
        while Arc::strong_count(&self.life) > 1 {
            assert!(began.elapsed() < DEADLINE, "a thread of the killed agent");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Takes the API away, or gives it back.
    pub(super) fn swap_server(&self, with: Option<ApiServer>) -> Option<ApiServer> {
        std::mem::replace(&mut *self.server.lock().unwrap(), with)
    }

    /// Plays systemd and the power button until `done`: restarts an agent that was killed, boots a machine that reboots.
    pub(super) async fn play(&mut self, what: &str, mut done: impl FnMut(&Node) -> bool) -> Node {
        let began = Instant::now();
        loop {
            let machine = self.machine.clone();
            tokio::select! {
                () = machine.reboot.notified() => {
                    self.kill().await;
                    machine.boot();
                    self.own().begin_boot().unwrap();
                    self.start();
                }
                () = self.life.died.notified() => {
                    self.kill().await;
                    self.start();
                }
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
            let node = self.all::<Node>().get_opt(NODE).await.unwrap();
            if let Some(node) = node.filter(|node| done(node)) {
                return node;
            }
            if began.elapsed() > DEADLINE {
                panic!(
                    "{what}: not in time; node says {:?}; jobs {:?}",
                    self.annotations().await,
                    self.machine.jobs()
                );
            }
        }
    }

    /// Plays until the node says that it has arrived.
    pub(super) async fn until_done(&mut self, config: &str) {
        let config = config.to_owned();
        self.play(&format!("node at {config}"), |node| {
            annotation(node, keys::CURRENT_CONFIG) == Some(config.as_str())
                && annotation(node, keys::DESIRED_CONFIG) == Some(config.as_str())
                && annotation(node, keys::STATE) == Some("Done")
                && annotation(node, keys::DESIRED_DRAIN)
                    == annotation(node, keys::LAST_APPLIED_DRAIN)
        })
        .await;
    }

    /// Sends the node to an image in which a unit fails, and waits until it is back and says why.
    pub(super) async fn until_taken_back(&mut self) {
        self.machine.break_unit("autofs.service");
        let new = self.machine.publish(layered());
        let units = json!([{"name": "autofs.service", "enabled": true}]);
        let config = rendered(self.machine.booted_image(), &[], units);
        self.config("rendered-2", config).await;
        self.desire("rendered-2", Some(new)).await;
        let machine = self.machine.clone();
        self.play("rolled back", |_| machine.reboots() == 2).await;
        self.until_degraded_because(
            "was taken back: rendered config `rendered-2`: unit `autofs.service` failed",
        )
        .await;
    }

    pub(super) async fn until_degraded(&mut self) -> String {
        self.until_degraded_because("").await
    }

    /// Plays until the node says that it is degraded for a reason with these words, and returns all of it. A node may be
    /// degraded for one reason on its way to another.
    pub(super) async fn until_degraded_because(&mut self, words: &str) -> String {
        let reason = |node: &Node| {
            annotation(node, keys::REASON)
                .unwrap_or_default()
                .to_owned()
        };
        let node = self
            .play(&format!("node degraded: {words}"), |node| {
                annotation(node, keys::STATE) == Some("Degraded") && reason(node).contains(words)
            })
            .await;
        reason(&node)
    }

    /// Starts, and plays until the node is registered.
    pub(super) async fn registered(&mut self) {
        self.start();
        self.play("node registered", |_| true).await;
    }

    /// Annotations of the node, by their short names.
    pub(super) async fn annotations(&self) -> BTreeMap<String, String> {
        let node = self.all::<Node>().get(NODE).await.unwrap();
        let all = node.metadata.annotations.unwrap_or_default().into_iter();
        all.map(|(key, value)| (key.rsplit('/').next().unwrap().to_owned(), value))
            .collect()
    }

    /// Events of the node, in order, by their reasons.
    pub(super) async fn events(&self) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let mut events = api.list(&ListParams::default()).await.unwrap().items;
        events.sort_by_key(|event| event.metadata.name.clone());
        events
            .into_iter()
            .filter_map(|event| event.reason)
            .collect()
    }

    /// A condition of the MachineConfigNode, as `Status: message`.
    pub(super) async fn condition(&self, kind: &str) -> String {
        let object = self.all::<MachineConfigNode>().get(NODE).await.unwrap();
        let conditions = object.status.unwrap_or_default().conditions;
        let found = conditions
            .into_iter()
            .find(|condition| condition.type_ == kind);
        found.map_or("absent".to_owned(), |found| {
            format!("{}: {}", found.status, found.message)
        })
    }
}

/// A client whose server may be away, and whose user may be dead.
fn client(server: &Arc<Mutex<Option<ApiServer>>>, token: &str, user: Option<User>) -> Client {
    let (server, token) = (server.clone(), token.to_owned());
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let token = user.as_ref().map_or(&token, |user| &user.token);
        let router = server
            .lock()
            .unwrap()
            .as_ref()
            .map(|server| server.router_as(token));
        let dead = user.as_ref().is_some_and(|user| user.life.is_over());
        let asked = format!("{} {}", request.method(), request.uri().path());
        if let Some(user) = user
            .as_ref()
            .filter(|_| request.method() != http::Method::GET)
        {
            user.writes.lock().unwrap().push(asked.clone());
        }
        let refused = user.as_ref().map(|user| user.refused.clone());
        async move {
            if dead {
                // Nobody hears a dead agent.
                std::future::pending::<()>().await;
            }
            let Some(router) = router else {
                return Err(std::io::Error::other("connection refused"));
            };
            let response = router
                .oneshot(request)
                .await
                .unwrap_or_else(|never| match never {});
            if let Some(refused) = refused
                && matches!(response.status().as_u16(), 401 | 403 | 422)
            {
                refused.lock().unwrap().push(asked);
            }
            Ok(response)
        }
    });
    Client::new(service, "default")
}

/// The node controller: carries out every drain and uncordon that is asked for.
async fn drain(client: Client, held: Arc<AtomicBool>) {
    let api: Api<Node> = Api::all(client);
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if held.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(Some(node)) = api.get_opt(NODE).await else {
            continue;
        };
        let asked = annotation(&node, keys::DESIRED_DRAIN);
        if asked.is_none() || asked == annotation(&node, keys::LAST_APPLIED_DRAIN) {
            continue;
        }
        let unschedulable = asked.is_some_and(|asked| asked.starts_with("drain-"));
        let patch = json!({
            "metadata": {"annotations": {keys::LAST_APPLIED_DRAIN: asked}},
            "spec": {"unschedulable": unschedulable},
        });
        let patched: Result<Node, _> = api
            .patch(NODE, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        report(patched);
    }
}

/// A server that is away just now is asked again.
fn report<T: Debug>(result: Result<T, kube::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "the node controller tries again");
    }
}
