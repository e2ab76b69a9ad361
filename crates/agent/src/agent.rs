//! The loop: observe, plan, act, report. Level-based: each turn looks at everything anew and does the next step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use model::api::{MachineConfig, MachineConfigNode, MachineOSConfig};
use model::keys;
use model::node::{Target, annotation};
use model::update::{DrainRequest, Plan, Seen, Step, Version, plan};
use oci::{Digest, Reference};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::{AgentError, chain};
use crate::host::{Health, Host, HostError, Sight, digest_in};
use crate::progress::Doing;
use crate::registry;
use crate::report::Reporter;
use crate::state;

/// The longest time between two looks when nothing tells of a change: finds what was changed on the node itself.
const IDLE: Duration = Duration::from_secs(60);
/// Between two looks at units that are still starting.
const RECHECK: Duration = Duration::from_millis(300);
/// How long a reboot may take to begin.
const REBOOT_PATIENCE: Duration = Duration::from_secs(300);
/// First and longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the loop needs besides the host.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Name of the Node.
    pub(crate) node_name: String,
    /// Labels of the Node when the agent is to register it.
    pub(crate) register: Option<BTreeMap<String, String>>,
    /// A certificate authority, as PEM, that registries are trusted by besides the public ones.
    pub(crate) registry_ca: Option<Vec<u8>>,
    /// How long the enabled units may take to become active.
    pub(crate) verify_deadline: Duration,
}

/// One node's agent.
pub(crate) struct Agent {
    client: Client,
    settings: Settings,
    host: Host,
    reporter: Reporter,
    nodes: Api<Node>,
    progress: Api<MachineConfigNode>,
    configs: Api<MachineConfig>,
    layering: Api<MachineOSConfig>,
    /// What verification waits for, and since when.
    waiting: Option<(Target, Instant)>,
    /// Tags that stood for a digest when they were first needed.
    resolved: BTreeMap<String, Digest>,
    /// Whether images that nothing needs were removed since the last step.
    clean: bool,
    /// The step that failed last, and why: it is being tried again.
    failed: Option<(Step, String)>,
    /// Whether what the boot needs was completed.
    completed: bool,
    /// The plan that was logged last.
    logged: String,
}

/// Everything that one turn is decided from.
struct Observed {
    node: Node,
    progress: Option<MachineConfigNode>,
    layering: Option<MachineOSConfig>,
    sight: Sight,
    desired: Option<Version>,
}

/// When to look again.
enum Next {
    /// At once.
    Now,
    /// After a change, or after a time.
    Within(Duration),
}

impl Agent {
    /// An agent of a host.
    pub(crate) fn new(client: Client, host: Host, settings: Settings) -> Self {
        Self {
            reporter: Reporter::new(&client),
            nodes: Api::all(client.clone()),
            progress: Api::all(client.clone()),
            configs: Api::all(client.clone()),
            layering: Api::all(client.clone()),
            client,
            settings,
            host,
            waiting: None,
            resolved: BTreeMap::new(),
            clean: false,
            failed: None,
            completed: false,
            logged: String::new(),
        }
    }

    /// Runs until `stop`. Failures are reported and tried again.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let name = self.settings.node_name.clone();
        let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut helpers = tokio::task::JoinSet::new();
        helpers.spawn(listen(
            watcher(self.nodes.clone(), own.clone()),
            changed.clone(),
        ));
        helpers.spawn(listen(watcher(self.progress.clone(), own), changed.clone()));
        helpers.spawn(listen(
            watcher(self.layering.clone(), watcher::Config::default()),
            changed.clone(),
        ));
        if let Some(labels) = self.settings.register.clone() {
            helpers.spawn(crate::register::run(self.client.clone(), name, labels));
        }
        let mut back_off = BACK_OFF.0;
        loop {
            // A turn may be cut off anywhere: whatever it was doing on the host is finished or undone by the next one.
            let turn = tokio::select! {
                () = stop.cancelled() => break,
                turn = self.turn() => turn,
            };
            let wait = match turn {
                Ok(Next::Now) => {
                    back_off = BACK_OFF.0;
                    continue;
                }
                Ok(Next::Within(wait)) => {
                    back_off = BACK_OFF.0;
                    wait
                }
                Err(error) => {
                    tracing::warn!(retry_in = ?back_off, "{}", chain(&error));
                    let wait = back_off;
                    back_off = (back_off * 2).min(BACK_OFF.1);
                    // Our own report of the failure is a change too, and no reason to hurry.
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(BACK_OFF.0) => {}
                    }
                    wait - BACK_OFF.0
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        helpers.shutdown().await;
    }

    /// Looks once and does the next step.
    async fn turn(&mut self) -> Result<Next, AgentError> {
        // Needs no server: a node whose server is away boots into what it was told before.
        let completed = self.complete_boot().await;
        let Some((node, progress)) = self.own_objects().await? else {
            return Ok(Next::Within(IDLE));
        };
        let observed = match completed {
            Ok(()) => self.observe(node.clone(), progress.clone()).await,
            Err(error) => Err(error),
        };
        let observed = match observed {
            Ok(observed) => observed,
            Err(error) => {
                if error.can_be_told() {
                    let reason = chain(&error);
                    self.reporter
                        .fail(&node, progress.as_ref(), &reason)
                        .await?;
                }
                return Err(error);
            }
        };
        let plan = self.plan(&observed)?;
        self.log(&plan);
        let Some(step) = plan.steps.first() else {
            return self.settle(&observed, &plan).await;
        };
        self.clean = false;
        self.report(&observed, &plan, &self.doing(step, &plan))
            .await?;
        let done = self.act(step, &observed, &plan).await;
        match &done {
            Ok(_) => self.failed = None,
            // What is only fetched ahead is missed by nobody yet.
            Err(error) if error.can_be_told() && !plan.prefetches() => {
                self.failed = Some((step.clone(), chain(error)));
                self.report(&observed, &plan, &self.doing(step, &plan))
                    .await?;
            }
            Err(_) => {}
        }
        done
    }

    fn log(&mut self, plan: &Plan) {
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        let text = format!("{plan}; left: {steps:?}");
        if text != self.logged {
            tracing::info!("{text}");
            self.logged = text;
        }
    }

    /// What to say of a step. One that is tried again is still a failure.
    fn doing(&self, step: &Step, plan: &Plan) -> Doing {
        match (&plan.stuck, &self.failed) {
            (Some(why), _) => Doing::Failed {
                step: None,
                reason: why.clone(),
            },
            (None, Some((failed, why))) if failed == step => Doing::Failed {
                step: Some(step.clone()),
                reason: why.clone(),
            },
            (None, _) => Doing::Step(step.clone()),
        }
    }

    /// Finishes what the boot needs, once.
    async fn complete_boot(&mut self) -> Result<(), AgentError> {
        if !self.completed {
            self.on_host(Host::complete_boot).await?;
            self.completed = true;
        }
        Ok(())
    }

    /// The Node and its MachineConfigNode. Nothing while the Node does not exist.
    async fn own_objects(&self) -> Result<Option<(Node, Option<MachineConfigNode>)>, AgentError> {
        let name = &self.settings.node_name;
        let failed = |kind: &str| AgentError::api(format!("read {kind} `{name}`"));
        let Some(node) = self.nodes.get_opt(name).await.map_err(failed("Node"))? else {
            tracing::info!(node = name, "waits for its Node object");
            return Ok(None);
        };
        let progress = self
            .progress
            .get_opt(name)
            .await
            .map_err(failed("MachineConfigNode"))?;
        Ok(Some((node, progress)))
    }

    /// Reads what the turn is decided from.
    async fn observe(
        &mut self,
        node: Node,
        progress: Option<MachineConfigNode>,
    ) -> Result<Observed, AgentError> {
        let pool = progress
            .as_ref()
            .map(|progress| progress.spec.pool.name.clone());
        let layering = match pool {
            Some(pool) => {
                let all = self
                    .layering
                    .list(&ListParams::default())
                    .await
                    .map_err(AgentError::api("list MachineOSConfigs"))?;
                all.items
                    .into_iter()
                    .find(|config| config.spec.machine_config_pool.name == pool)
            }
            None => None,
        };
        let sight = self.on_host(|host| host.look()).await?;
        let mut observed = Observed {
            node,
            progress,
            layering,
            sight,
            desired: None,
        };
        observed.desired = self.desired(&observed).await?;
        Ok(observed)
    }

    /// The version that the Node's annotations ask for.
    async fn desired(&mut self, observed: &Observed) -> Result<Option<Version>, AgentError> {
        let Some(config) = annotation(&observed.node, keys::DESIRED_CONFIG) else {
            return Ok(None);
        };
        let target = Target {
            config: config.to_owned(),
            image: annotation(&observed.node, keys::DESIRED_IMAGE).map(str::to_owned),
        };
        let spec = match self.host.state().config(config)? {
            Some(spec) => spec,
            None => {
                let found = self.configs.get(config).await;
                let spec = found
                    .map_err(AgentError::api(format!("read MachineConfig `{config}`")))?
                    .spec;
                self.host.state().keep_config(config, &spec)?;
                spec
            }
        };
        let mut version = state::version(&target, &spec)?;
        if version.layered_image.is_none() && !version.os_image_url.is_empty() {
            version.os_image_url = self.digested(&version, observed).await?;
        }
        Ok(Some(version))
    }

    /// The base image of a version by digest. A tag means what it meant when the node first went there.
    async fn digested(
        &mut self,
        version: &Version,
        observed: &Observed,
    ) -> Result<String, AgentError> {
        let image = &version.os_image_url;
        if digest_in(image).is_some() {
            return Ok(image.clone());
        }
        let stays = observed
            .sight
            .current
            .as_ref()
            .is_some_and(|now| now.layered_image.is_none() && now.os_image_url == *image);
        if let (true, Some(booted)) = (stays, observed.sight.booted_image()) {
            return Ok(format!("{image}@{booted}"));
        }
        let problem = |problem: String| AgentError::Object {
            object: format!("`spec.osImageURL` of MachineConfig `{}`", version.name),
            problem,
        };
        let reference: Reference = image
            .parse()
            .map_err(|error: oci::ReferenceError| problem(error.to_string()))?;
        if !self.resolved.contains_key(image) {
            let client = self.registry(observed).await?;
            let (digest, _) = client
                .resolve(&reference)
                .await
                .map_err(|error| problem(chain(&error)))?;
            self.resolved.insert(image.clone(), digest);
        }
        Ok(reference.with_digest(self.resolved[image]).to_string())
    }

    async fn registry(&self, observed: &Observed) -> Result<oci::Client, AgentError> {
        registry::client(
            &self.client,
            observed.layering.as_ref(),
            self.settings.registry_ca.as_deref(),
        )
        .await
    }

    fn plan(&self, observed: &Observed) -> Result<Plan, AgentError> {
        let Observed {
            node,
            sight,
            desired,
            layering,
            ..
        } = observed;
        let os = self.host.os();
        let present = |image: Option<&str>| match image.and_then(digest_in) {
            Some(digest) => os.has(&digest),
            None => Ok(true),
        };
        let next = layering
            .as_ref()
            .and_then(|config| config.status.as_ref()?.current_image_pull_spec.as_deref());
        let next = match present(next)? {
            true => None,
            false => next,
        };
        let booted = sight.booted_image().map(|digest| format!("@{digest}"));
        let pending = sight.pending.as_ref().map(state::Record::target);
        Ok(plan(&Seen {
            node: &self.settings.node_name,
            current: sight.current.as_ref(),
            interrupted: sight.interrupted.as_ref(),
            desired: desired.as_ref(),
            booted_image: booted.as_deref(),
            kernel_arguments: &sight.kernel_arguments,
            image_present: present(desired.as_ref().and_then(Version::image))?,
            deployed: pending.is_some() && pending == desired.as_ref().map(Version::target),
            verified: sight.verified(),
            drain: DrainRequest {
                desired: annotation(node, keys::DESIRED_DRAIN).map(str::to_owned),
                applied: annotation(node, keys::LAST_APPLIED_DRAIN).map(str::to_owned),
            },
            failure: sight.failure.as_ref(),
            prefetch: next,
        }))
    }

    async fn report(
        &self,
        observed: &Observed,
        plan: &Plan,
        doing: &Doing,
    ) -> Result<(), AgentError> {
        let has = observed.sight.record.as_ref().map(state::Record::target);
        self.reporter
            .report(
                &observed.node,
                observed.progress.as_ref(),
                has.as_ref(),
                plan,
                doing,
            )
            .await
    }

    /// Nothing is left to do: says so, and cleans up once.
    async fn settle(&mut self, observed: &Observed, plan: &Plan) -> Result<Next, AgentError> {
        let doing = match (&plan.stuck, &plan.target) {
            (Some(why), _) => Doing::Failed {
                step: None,
                reason: why.clone(),
            },
            (None, Some(_)) => Doing::Settled,
            (None, None) => Doing::WaitingForTarget,
        };
        self.report(observed, plan, &doing).await?;
        if doing == Doing::Settled && !self.clean {
            if observed.sight.failure.is_some() {
                self.host.state().set_failure(None)?;
            }
            let next = observed
                .layering
                .as_ref()
                .and_then(|config| config.status.as_ref()?.current_image_pull_spec.as_deref());
            let images: Vec<Digest> = next.and_then(digest_in).into_iter().collect();
            let config = plan
                .target
                .as_ref()
                .map(|target| target.config.clone())
                .unwrap_or_default();
            self.on_host(move |host| host.clean(&images, &[&config]))
                .await?;
            self.clean = true;
        }
        Ok(Next::Within(IDLE))
    }

    async fn act(
        &mut self,
        step: &Step,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<Next, AgentError> {
        let sight = observed.sight.clone();
        let version = || observed.desired.clone().unwrap_or_default();
        match step {
            Step::Pull { image } => {
                let (image, client) = (image.clone(), self.registry(observed).await?);
                self.on_host(move |host| Ok(host.os().pull(&image, &client)?))
                    .await?;
            }
            Step::Drain { .. } | Step::Uncordon { .. } => return Ok(Next::Within(IDLE)),
            Step::Deploy => {
                let to = version();
                let image = to.image().and_then(digest_in).or(sight.booted_image());
                let image = image.ok_or_else(|| HostError::NoImage(to.name.clone()))?;
                self.on_host(move |host| host.deploy(&sight, &to, image))
                    .await?;
            }
            Step::Reboot => {
                let target = version().target();
                self.on_host(move |host| host.reboot(&sight, &target))
                    .await?;
                tokio::time::sleep(REBOOT_PATIENCE).await;
                let seconds = REBOOT_PATIENCE.as_secs();
                return Err(AgentError::Unwell(format!(
                    "the node did not reboot within {seconds} seconds"
                )));
            }
            Step::Apply { actions } => {
                let (to, actions) = (version(), actions.clone());
                self.on_host(move |host| host.apply(&sight, &to, &actions))
                    .await?;
            }
            Step::Verify => return self.verify(observed, plan).await,
        }
        Ok(Next::Now)
    }

    /// Proves that the node is well, within the deadline; takes back what never was.
    async fn verify(&mut self, observed: &Observed, plan: &Plan) -> Result<Next, AgentError> {
        let version = match plan.stuck {
            None => observed.desired.clone(),
            Some(_) => observed.sight.current.clone(),
        };
        let version = version.unwrap_or_default();
        let (target, now) = (version.target(), Instant::now());
        let since = match &self.waiting {
            Some((waiting, since)) if *waiting == target => *since,
            _ => now,
        };
        self.waiting = Some((target.clone(), since));
        let sight = observed.sight.clone();
        let (sight, health) = self
            .on_host(move |host| Ok((sight.clone(), host.check(&sight, &version)?)))
            .await?;
        let reason = match health {
            Health::Well => {
                self.waiting = None;
                self.on_host(move |host| host.confirm(&sight)).await?;
                return Ok(Next::Now);
            }
            Health::Waiting(_) if since.elapsed() < self.settings.verify_deadline => {
                return Ok(Next::Within(RECHECK));
            }
            Health::Waiting(why) => {
                format!(
                    "{why}, {} seconds after verification began",
                    self.settings.verify_deadline.as_secs()
                )
            }
            Health::Unwell(why) => why,
        };
        let text = format!("rendered config `{}`: {reason}", target.config);
        let told = text.clone();
        if self
            .on_host(move |host| host.take_back(&sight, &told))
            .await?
        {
            let failed = Doing::Failed {
                step: Some(Step::Verify),
                reason: format!("{text}; going back to the previous deployment"),
            };
            self.report(observed, plan, &failed).await?;
            tokio::time::sleep(REBOOT_PATIENCE).await;
        }
        Err(AgentError::Unwell(text))
    }

    /// Runs a blocking step of the host.
    async fn on_host<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Host) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, AgentError> {
        let host = self.host.clone();
        let done = tokio::task::spawn_blocking(move || step(&host))
            .await
            .map_err(AgentError::CutShort)?;
        Ok(done?)
    }
}

/// Wakes the loop at each change. Watches start over after errors, with growing pauses.
async fn listen<K>(
    changes: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    changed: Arc<Notify>,
) {
    let mut changes = std::pin::pin!(changes.default_backoff());
    while let Some(change) = changes.next().await {
        match change {
            Ok(_) => changed.notify_one(),
            Err(error) => tracing::debug!(%error, "watch broke off; it starts over"),
        }
    }
}
