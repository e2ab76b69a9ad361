//! The loop: observe, plan, act, report. Level-based: each turn looks at everything anew and does the next step.

mod act;
mod adopt;
mod drift;
mod follow;
mod latest;
mod observe;
mod verify;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use model::api::{
    MachineConfig, MachineConfigNode, MachineConfiguration, MachineOSConfig, RolloutPolicy,
};
use model::deadline::{PULL, STEP};
use model::drift::Healing;
use model::ledger::to_annotation;
use model::node::Target;
use model::update::{Plan, Step};
use oci::Digest;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Acts;
use crate::credentials::Credentials;
use crate::drift::{Known, Watch};
use crate::error::{AgentError, chain};
use crate::host::Host;
use crate::machine::Machine;
use crate::notify::Notifier;
use crate::progress::{self, Doing};
use crate::register::Registration;
use crate::report::{Reporter, Secrets, Told};
use crate::state;
use crate::telemetry::Telemetry;
use follow::Trust;
use latest::Latest;
use observe::{Layering, Observed};
use watches::Watches;

pub(crate) use watches::Exchange;

/// The longest time between two looks when nothing tells of a change: finds what was changed on the node itself.
const IDLE: Duration = Duration::from_secs(60);
/// How long a look at the node and its objects may take, and whatever is told of it.
const LOOK: Duration = Duration::from_secs(600);
/// First and longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the loop needs besides the host.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Name of the Node.
    pub(crate) node_name: String,
    /// The Node, when the agent is to register it.
    pub(crate) register: Option<Registration>,
    /// Where it hears of changes, when it shares its watches with others of its process.
    pub(crate) exchange: Option<Arc<Exchange>>,
    /// A certificate authority, as PEM, that registries are trusted by besides the public ones.
    pub(crate) registry_ca: Option<Vec<u8>>,
    /// Bound of fetching images.
    pub(crate) bytes_per_second: Option<NonZeroU64>,
    /// The node's own credential, when it keeps one.
    pub(crate) credentials: Option<Credentials>,
    /// How long the enabled units may take to become active.
    pub(crate) verify_deadline: Duration,
    /// A step that takes longer is told of while it lasts; a shorter one is seen by what follows it.
    pub(crate) uneventful: Duration,
    /// The service manager that the agent was started by.
    pub(crate) notifier: Notifier,
    /// What the agent tells of itself.
    pub(crate) telemetry: Telemetry,
    /// Who acts on this cluster, where another operator may.
    pub(crate) ours: Option<watch::Receiver<Acts>>,
}

/// One node's agent.
pub(crate) struct Agent<M = Host> {
    client: Client,
    settings: Settings,
    host: M,
    reporter: Reporter,
    nodes: Api<Node>,
    progress: Api<MachineConfigNode>,
    configs: Api<MachineConfig>,
    /// Of every pool.
    layering: Latest<Vec<Layering>>,
    policies: Latest<Vec<RolloutPolicy>>,
    /// The pool whose policy is kept.
    policy_of: Option<String>,
    configuration: Latest<Option<MachineConfiguration>>,
    trust: Trust,
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
    /// The wait that is under way, and since when.
    lasting: Option<(Step, Instant)>,
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
    /// Of which versions of Secrets the node's files are, and which wait for the next update.
    secrets: Secrets,
    /// Files whose other value waits for the next update.
    held_back: Vec<String>,
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

impl<M: Machine> Agent<M> {
    /// An agent of a host.
    pub(crate) fn new(client: Client, host: M, settings: Settings) -> Self {
        Self {
            reporter: Reporter::new(&client),
            nodes: Api::all(client.clone()),
            progress: Api::all(client.clone()),
            configs: Api::all(client.clone()),
            layering: Latest::default(),
            policies: Latest::default(),
            policy_of: None,
            configuration: Latest::default(),
            trust: Trust::default(),
            client,
            settings,
            host,
            waiting: None,
            resolved: BTreeMap::new(),
            clean: false,
            failed: None,
            soft_failed: false,
            reboots: None,
            lasting: None,
            completed: false,
            known: None,
            healing: Healing::default(),
            watch: None,
            changed: Arc::default(),
            logged: String::new(),
            taken: None,
            secrets: Secrets::default(),
            held_back: Vec::new(),
            not_followed: None,
        }
    }

    /// Runs until `stop`, or until nothing is left to do and the program was replaced. Failures are reported and tried again.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let changed = self.changed.clone();
        let name = self.settings.node_name.clone();
        let mut helpers = JoinSet::new();
        let mut watches = Watches::new(
            &self.client,
            &changed,
            self.settings.exchange.as_ref(),
            &mut helpers,
        );
        watches.named(self.nodes.clone(), &name, &[]);
        watches.named(self.progress.clone(), &name, &[]);
        watches.all::<MachineOSConfig>(self.layering.stale());
        watches.all::<RolloutPolicy>(self.policies.stale());
        watches.all::<MachineConfiguration>(self.configuration.stale());
        self.trust.watch(&name, &mut watches);
        let _heard = watches.heard();
        if let Some(registration) = self.settings.register.clone() {
            let (arrival, facts) = (self.arrival(), self.host.facts());
            let client = self.client.clone();
            helpers.spawn(crate::register::run(
                client,
                name,
                registration,
                arrival,
                facts,
            ));
        }
        if let Some(mut ours) = self.settings.ours.clone() {
            let changed = self.changed.clone();
            helpers.spawn(async move {
                while ours.changed().await.is_ok() {
                    changed.notify_one();
                }
            });
        }
        let notifier = self.settings.notifier.clone();
        self.settings.telemetry.follow(&notifier);
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
            self.settings.telemetry.turned(&turn, Timestamp::now());
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
        let own = match self.own_objects().await {
            Err(error) if error.is_unauthorized() => {
                self.replace_credential().await?;
                return Err(error);
            }
            own => own?,
        };
        let Some((node, progress)) = own else {
            return Ok(Next::Within(IDLE));
        };
        if self.acts() == Acts::Other {
            let why =
                "stands by: another operator acts on this cluster, or it is not known yet who does";
            self.settings.notifier.status(why);
            return Ok(Next::Within(IDLE));
        }
        // Whoever is a Node has arrived.
        self.host.state().forget_first_boot()?;
        let observed = match completed {
            Ok(()) => self.observe(node.clone(), progress.clone()).await,
            Err(error) => Err(error),
        };
        self.follow(&node, observed.as_ref().ok()).await;
        let mut observed = match observed {
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
        let mut plan = self.softest_plan(&observed).await?;
        if let Some(Step::Reboot | Step::SoftReboot) = plan.steps.first() {
            self.attribute(&mut observed).await;
            plan = self.softest_plan(&observed).await?;
        }
        self.log(&plan);
        self.settings.telemetry.at(plan.steps.first());
        let Some(step) = plan.steps.first() else {
            return self.settle(&observed, &plan).await;
        };
        self.clean = false;
        self.announce(step, &observed, &plan).await?;
        self.settings.notifier.promise(match step {
            Step::Pull { .. } => PULL,
            _ => STEP,
        });
        let begun = Instant::now();
        let done = self.act(step, &observed, &plan).await;
        self.settings.telemetry.acted(step, begun, &done);
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

    fn acts(&self) -> Acts {
        let alone = Acts::Caprock { takeover: None };
        let ours = self.settings.ours.as_ref();
        ours.map_or(alone, |ours| ours.borrow().clone())
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

    /// Says before a step what has to be known before it. What takes long is told of while it does; the rest shows in
    /// what follows, and nothing is written only to be written over.
    async fn announce(
        &mut self,
        step: &Step,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<(), AgentError> {
        let doing = self.doing(step, plan);
        if matches!(doing, Doing::Failed { .. }) {
            return self.report(observed, plan, &doing).await;
        }
        match step {
            Step::Reboot | Step::SoftReboot => self.report(observed, plan, &doing).await,
            Step::Drain { asked: false, .. } => {
                self.settings
                    .notifier
                    .status(&progress::words(plan, &doing));
                self.reporter
                    .ask(&observed.node, self.told(observed), plan, &doing)
                    .await
            }
            // All is done but what the node controller does; until it has, the request keeps the node's slot.
            Step::Uncordon { asked: false, .. } => {
                self.report(observed, plan, &Doing::Settled).await
            }
            Step::Drain { asked: true, .. } | Step::Uncordon { asked: true, .. }
                if self.has_lasted(step) =>
            {
                self.report(observed, plan, &doing).await
            }
            Step::Drain { .. } | Step::Uncordon { .. } => Ok(()),
            Step::Apply { .. } | Step::Discard => {
                self.reporter.tell(&observed.node, plan, &doing).await;
                Ok(())
            }
            // The node is where it should be, however long this takes.
            Step::Pull { .. } if plan.prefetches() => self.report(observed, plan, &doing).await,
            Step::Pull { .. } | Step::Deploy | Step::Verify => Ok(()),
        }
    }

    /// Whether the node waits in this step for so long that people should know.
    fn has_lasted(&mut self, step: &Step) -> bool {
        let since = match &self.lasting {
            Some((lasting, since)) if lasting == step => *since,
            _ => Instant::now(),
        };
        self.lasting = Some((step.clone(), since));
        since.elapsed() >= self.settings.uneventful
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
            self.host.run(M::complete_boot).await?;
            let reboots = self.host.state().reboots()?;
            self.settings.telemetry.reboots(&reboots);
            self.reboots = (!reboots.is_empty()).then(|| to_annotation(&reboots));
            self.completed = true;
        }
        Ok(())
    }

    fn told(&self, observed: &Observed) -> Told<'_> {
        Told {
            has: observed.sight.record.as_ref().map(state::Record::target),
            reboots: self.reboots.as_deref(),
            secrets: &self.secrets,
        }
    }

    async fn report(
        &self,
        observed: &Observed,
        plan: &Plan,
        doing: &Doing,
    ) -> Result<(), AgentError> {
        self.settings.notifier.status(&progress::words(plan, doing));
        let faulty = matches!(doing, Doing::Failed { .. } | Doing::Drifted { .. });
        self.settings.telemetry.degraded(faulty);
        self.reporter
            .report(
                &observed.node,
                observed.progress.as_ref(),
                self.told(observed),
                plan,
                doing,
            )
            .await
    }
}
