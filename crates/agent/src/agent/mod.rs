//! The loop: observe, plan, act, report. Level-based: each turn looks at everything anew and does the next step.

mod act;
mod drift;
mod follow;
mod observe;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use model::api::{
    MachineConfig, MachineConfigNode, MachineConfiguration, MachineOSConfig, RolloutPolicy,
};
use model::drift::Healing;
use model::ledger::to_annotation;
use model::node::Target;
use model::update::{Plan, Step};
use oci::Digest;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::credentials::Credentials;
use crate::drift::{Known, Watch};
use crate::error::{AgentError, chain};
use crate::host::Host;
use crate::notify::Notifier;
use crate::progress::{self, Doing};
use crate::report::Reporter;
use crate::state;
use observe::Observed;

/// The longest time between two looks when nothing tells of a change: finds what was changed on the node itself.
const IDLE: Duration = Duration::from_secs(60);
/// How long a look at the node and its objects may take, and whatever is told of it.
const LOOK: Duration = Duration::from_secs(600);
/// How long a pull may take: one that is cut off goes on with the layer it was at.
const PULL: Duration = Duration::from_secs(6 * 3600);
/// How long any other step may take: above the sum of what it waits for by itself.
const STEP: Duration = Duration::from_secs(3600);
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
    /// Bound of fetching images.
    pub(crate) bytes_per_second: Option<NonZeroU64>,
    /// The node's own credential, when it keeps one.
    pub(crate) credentials: Option<Credentials>,
    /// How long the enabled units may take to become active.
    pub(crate) verify_deadline: Duration,
    /// The service manager that the agent was started by.
    pub(crate) notifier: Notifier,
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
    policies: Api<RolloutPolicy>,
    /// Whether the pool's policy may differ from what was read last.
    policy_changed: Arc<AtomicBool>,
    configurations: Api<MachineConfiguration>,
    /// What verification waits for, and since when.
    waiting: Option<(Target, Instant)>,
    /// Tags that stood for a digest when they were first needed.
    resolved: BTreeMap<String, Digest>,
    /// Whether images that nothing needs were removed since the last step.
    clean: bool,
    /// The step that failed last, and why: it is being tried again.
    failed: Option<(Step, String)>,
    /// Whether a soft reboot was asked for and did not begin.
    soft_failed: bool,
    /// The node's reboots, as its annotation shows them.
    reboots: Option<String>,
    /// Whether what the boot needs was completed.
    completed: bool,
    /// What was found without drift, and when drift was put back.
    known: Option<Known>,
    healing: Healing,
    /// Hears of changes to what was written.
    watch: Option<Watch>,
    /// Told when there is something to look at.
    changed: Arc<Notify>,
    /// The plan that was logged last.
    logged: String,
    /// Paths that MachineConfigs write, once they are known.
    taken: Option<BTreeSet<Utf8PathBuf>>,
    /// Why credentials and authorities could not be followed last.
    not_followed: Option<String>,
}

/// When to look again.
enum Next {
    /// At once.
    Now,
    /// After a change, or after a time.
    Within(Duration),
    /// Not by this program: another one has taken its place.
    Never,
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
            policies: Api::all(client.clone()),
            policy_changed: Arc::new(AtomicBool::new(true)),
            configurations: Api::all(client.clone()),
            client,
            settings,
            host,
            waiting: None,
            resolved: BTreeMap::new(),
            clean: false,
            failed: None,
            soft_failed: false,
            reboots: None,
            completed: false,
            known: None,
            healing: Healing::default(),
            watch: None,
            changed: Arc::default(),
            logged: String::new(),
            taken: None,
            not_followed: None,
        }
    }

    /// Runs until `stop`, or until nothing is left to do and the program was replaced. Failures are reported and tried again.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let changed = self.changed.clone();
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
        let stale = self.policy_changed.clone();
        let policies = watcher(self.policies.clone(), watcher::Config::default())
            .inspect(move |_| stale.store(true, Ordering::Relaxed));
        helpers.spawn(listen(policies, changed.clone()));
        follow::watch(&self.client, &name, &changed, &mut helpers);
        helpers.spawn(listen(
            watcher(self.configurations.clone(), watcher::Config::default()),
            changed.clone(),
        ));
        if let Some(labels) = self.settings.register.clone() {
            let arrival = self.arrival();
            let client = self.client.clone();
            helpers.spawn(crate::register::run(client, name, labels, arrival));
        }
        let notifier = self.settings.notifier.clone();
        helpers.spawn(notifier.clone().feed());
        notifier.ready();
        let mut back_off = BACK_OFF.0;
        loop {
            notifier.promise(LOOK);
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
                Ok(Next::Never) => break,
                Err(error) => {
                    let reason = chain(&error);
                    tracing::warn!(retry_in = ?back_off, "{reason}");
                    notifier.status(&format!("failed, trying again: {reason}"));
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
            notifier.promise(wait + LOOK);
            tokio::select! {
                () = stop.cancelled() => break,
                () = changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        notifier.stopping();
        helpers.shutdown().await;
    }

    /// Looks once and does the next step.
    async fn turn(&mut self) -> Result<Next, AgentError> {
        // Needs no server: a node whose server is away boots into what it was told before.
        let completed = self.complete_boot().await;
        let Some((node, progress)) = self.own_objects().await? else {
            return Ok(Next::Within(IDLE));
        };
        // Whoever is a Node has arrived.
        self.host.state().forget_first_boot()?;
        let observed = match completed {
            Ok(()) => self.observe(node.clone(), progress.clone()).await,
            Err(error) => Err(error),
        };
        self.follow(&node, observed.as_ref().ok()).await;
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
        let plan = self.softest_plan(&observed).await?;
        self.log(&plan);
        let Some(step) = plan.steps.first() else {
            return self.settle(&observed, &plan).await;
        };
        self.clean = false;
        self.report(&observed, &plan, &self.doing(step, &plan))
            .await?;
        self.settings.notifier.promise(match step {
            Step::Pull { .. } => PULL,
            _ => STEP,
        });
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

    /// What a new machine booted into before it became a Node.
    fn arrival(&self) -> Option<Target> {
        match self.host.state().first_boot() {
            Ok(first_boot) => first_boot?.arrival(),
            Err(error) => {
                tracing::warn!("how the machine arrived is not known: {}", chain(&error));
                None
            }
        }
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
            self.host.run(Host::complete_boot).await?;
            let reboots = self.host.state().reboots()?;
            self.reboots = (!reboots.is_empty()).then(|| to_annotation(&reboots));
            self.completed = true;
        }
        Ok(())
    }

    async fn report(
        &self,
        observed: &Observed,
        plan: &Plan,
        doing: &Doing,
    ) -> Result<(), AgentError> {
        self.settings.notifier.status(&progress::words(plan, doing));
        let has = observed.sight.record.as_ref().map(state::Record::target);
        self.reporter
            .report(
                &observed.node,
                observed.progress.as_ref(),
                has.as_ref(),
                self.reboots.as_deref(),
                plan,
                doing,
            )
            .await
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
