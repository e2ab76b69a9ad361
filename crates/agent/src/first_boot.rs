//! A new machine's way into its pool: it is given the pool's version, boots into it once, and only then becomes a Node.
//!
//! What is under way is kept on the disk, so that a machine that is switched off takes it up again. The version stays the
//! one that it was given first, whatever the pool does meanwhile, unless the machine cannot get there.

use std::collections::BTreeMap;
use std::time::Duration;

use camino::Utf8Path;
use http::Request;
use jiff::Timestamp;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use model::drain;
use model::ledger::Cause;
use model::node::Target;
use model::provision::{self, AGENT_ENVIRONMENT, Given, MEDIA_TYPE, SpecVersion};
use model::update::{DrainRequest, Plan, Seen, Step, Version, plan};
use oci::registries::SYSTEM_CONFIG;
use oci::{ClientConfig, DockerConfig, Reference, Registries};
use serde::{Deserialize, Serialize};

use crate::credentials::{CredentialError, Credentials, Obtained};
use crate::error::{AgentError, chain};
use crate::host::{Host, HostError, digest_in};
use crate::root::{Found, Root};
use crate::state::{self, State, StateError, mine};

/// First and longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a reboot may take to begin.
const REBOOT_PATIENCE: Duration = Duration::from_secs(300);
const FILE: &str = "/first-boot.json";

/// How far a machine is on its way into its pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirstBoot {
    pub(crate) pool: String,
    /// The version that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Wanted>,
    /// Whether it runs that version, and only has to become a Node.
    #[serde(default)]
    arrived: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    config: String,
    image: Option<String>,
    /// The base image by digest, where the version has no layered one.
    base: Option<String>,
}

impl FirstBoot {
    fn target(&self) -> Option<Target> {
        self.version.as_ref().map(|wanted| Target {
            config: wanted.config.clone(),
            image: wanted.image.clone(),
        })
    }

    /// What the Node is made with, once the machine has arrived.
    pub(crate) fn arrival(&self) -> Option<Target> {
        self.target().filter(|_| self.arrived)
    }
}

impl State {
    /// How far a new machine is; none on a node.
    pub(crate) fn first_boot(&self) -> Result<Option<FirstBoot>, StateError> {
        self.read(Utf8Path::new(FILE))
    }

    fn set_first_boot(&self, first_boot: &FirstBoot) -> Result<(), StateError> {
        self.write(Utf8Path::new(FILE), first_boot)
    }

    /// The machine is a node now.
    pub(crate) fn forget_first_boot(&self) -> Result<(), StateError> {
        self.remove(Utf8Path::new(FILE))
    }
}

/// Brings a new machine into its pool's version. Returns once it runs that, or at once on a machine that is a node
/// already. Failures are logged, where the console shows them, and tried again.
pub(crate) async fn run(
    host: Host,
    credentials: Credentials,
    given: &Utf8Path,
) -> Result<(), AgentError> {
    let mut machine = Machine {
        host,
        credentials,
        pull: None,
    };
    let mut wait = BACK_OFF.0;
    loop {
        match machine.turn(given).await {
            Ok(Done::Yes) => return Ok(()),
            Ok(Done::NotYet) => wait = BACK_OFF.0,
            Err(error) => {
                tracing::warn!(retry_in = ?wait, "not a node yet: {}", chain(&error));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACK_OFF.1);
            }
        }
    }
}

enum Done {
    Yes,
    NotYet,
}

struct Machine {
    host: Host,
    credentials: Credentials,
    /// How the version's image is pulled, once that was asked for in this run.
    pull: Option<oci::Client>,
}

impl Machine {
    async fn turn(&mut self, given: &Utf8Path) -> Result<Done, AgentError> {
        self.host.run(Host::complete_boot).await?;
        let obtained = self.credentials.obtain(given, Timestamp::now()).await?;
        let mut first_boot = match (self.host.state().first_boot()?, obtained) {
            (Some(first_boot), _) => first_boot,
            (None, Obtained::Joined { pool }) if self.is_new().await? => {
                let first_boot = FirstBoot {
                    pool,
                    version: None,
                    arrived: false,
                };
                self.host.state().set_first_boot(&first_boot)?;
                first_boot
            }
            (None, _) => return Ok(Done::Yes),
        };
        if first_boot.arrived {
            return Ok(Done::Yes);
        }
        if first_boot.version.is_none() {
            first_boot.version = Some(self.ask(&first_boot.pool).await?);
            self.host.state().set_first_boot(&first_boot)?;
        }
        let (Some(wanted), Some(target)) = (first_boot.version.clone(), first_boot.target()) else {
            return Ok(Done::NotYet);
        };
        let mut version = self
            .host
            .state()
            .version_to_write(&target)?
            .ok_or_else(|| {
                AgentError::Unwell(format!(
                    "rendered config `{}` is gone from the disk",
                    target.config
                ))
            })?;
        if let Some(base) = wanted.base {
            version.os_image_url = base;
        }
        let done = match self.step(&first_boot.pool, version).await {
            Ok(done) => done,
            Err(error) => {
                // The pool may want something better by now.
                first_boot.version = None;
                self.host.state().set_first_boot(&first_boot)?;
                return Err(error);
            }
        };
        if done {
            first_boot.arrived = true;
            self.host.state().set_first_boot(&first_boot)?;
            tracing::info!(%target, "the machine runs what its pool runs");
            return Ok(Done::Yes);
        }
        Ok(Done::NotYet)
    }

    /// Whether the agent has never configured this machine.
    async fn is_new(&self) -> Result<bool, AgentError> {
        self.host
            .run(|host| Ok(host.look()?.record.is_none()))
            .await
    }

    /// Asks for the pool's version and keeps it.
    async fn ask(&mut self, pool: &str) -> Result<Wanted, AgentError> {
        let given = self.given(pool).await?;
        self.pull = Some(puller(&given)?);
        let mut base = None;
        let image = &given.spec.os_image_url;
        if given.target.image.is_none() && !image.is_empty() {
            base = Some(self.digested(image).await?);
        }
        self.host
            .state()
            .keep_config(&given.target.config, &given.spec)?;
        self.host.state().keep_values(&given.values)?;
        let environment = given.environment;
        self.host
            .run(move |host| {
                let root = Root::open(&host.root)?;
                let path = Utf8Path::new(AGENT_ENVIRONMENT);
                // What somebody put there knows the machine better.
                if matches!(root.find(path)?, Found::Nothing) {
                    root.write(path, environment.as_bytes(), mine(0o644))?;
                }
                Ok(())
            })
            .await?;
        Ok(Wanted {
            config: given.target.config,
            image: given.target.image,
            base,
        })
    }

    async fn given(&self, pool: &str) -> Result<Given, AgentError> {
        let problem = |problem: String| AgentError::Object {
            object: format!("the config of pool `{pool}`"),
            problem,
        };
        let client = self.client().await?;
        let accept = format!("{MEDIA_TYPE}; version={}", SpecVersion::NEWEST);
        let request = Request::builder()
            .uri(format!("/config/{pool}"))
            .header(http::header::ACCEPT, accept)
            .body(Vec::new())
            .map_err(|error| problem(error.to_string()))?;
        let text = client
            .request_text(request)
            .await
            .map_err(AgentError::api(format!("read the config of pool `{pool}`")))?;
        let value = serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
        provision::read(&value).map_err(|problems| problem(model::problem::summary(&problems)))
    }

    async fn client(&self) -> Result<Client, AgentError> {
        let path = self.credentials.kubeconfig();
        let unusable = |problem: String| CredentialError::Kubeconfig {
            path: path.clone(),
            problem,
        };
        let kubeconfig =
            Kubeconfig::read_from(&path).map_err(|error| unusable(error.to_string()))?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Client::try_from(config).map_err(|error| unusable(error.to_string()))?)
    }

    async fn digested(&self, image: &str) -> Result<String, AgentError> {
        if digest_in(image).is_some() {
            return Ok(image.to_owned());
        }
        let problem = |problem: String| AgentError::Object {
            object: format!("base image `{image}`"),
            problem,
        };
        let reference: Reference = image
            .parse()
            .map_err(|error: oci::ReferenceError| problem(error.to_string()))?;
        let client = self
            .pull
            .clone()
            .ok_or_else(|| problem("no way to ask for it".to_owned()))?;
        let (digest, _) = client
            .resolve(&reference)
            .await
            .map_err(|error| problem(chain(&error)))?;
        Ok(reference.with_digest(digest).to_string())
    }

    /// Does the next step to the version; true when none is left. Nothing is drained: there is no Node yet.
    async fn step(&mut self, pool: &str, version: Version) -> Result<bool, AgentError> {
        let sight = self.host.run(Host::look).await?;
        let image = version.image().and_then(digest_in);
        let present = match image {
            Some(digest) => self.host.os().has(&digest)?,
            None => true,
        };
        let drained = Some(drain::request(&version.name));
        let pending = sight.pending.as_ref().map(state::Record::target);
        let booted = sight.booted_as(&[Some(&version)]);
        let booted = booted.map(|digest| format!("@{digest}"));
        let Plan {
            steps,
            stuck,
            update,
            ..
        } = plan(&Seen {
            node: "this machine",
            current: sight.current.as_ref(),
            interrupted: sight.interrupted.as_ref(),
            desired: Some(&version),
            booted_image: booted.as_deref(),
            kernel_arguments: &sight.kernel_arguments,
            image_present: present,
            deployed: pending == Some(version.target()),
            unbooted: sight.unbooted,
            verified: true,
            drain: DrainRequest {
                desired: drained.clone(),
                applied: drained,
            },
            failure: sight.failure.as_ref(),
            gone: None,
            prefetch: None,
            // Nothing runs here yet that a policy could protect.
            policy: None,
            adds_packages: self.host.os().adds_packages(),
            // What the pool's policy allows is not known here yet.
            soft_reboot: false,
        });
        if let Some(why) = stuck {
            return Err(AgentError::Unwell(why));
        }
        let Some(step) = steps.first() else {
            return Ok(true);
        };
        tracing::info!("{step}");
        match step.clone() {
            Step::Pull { image } => {
                if self.pull.is_none() {
                    self.pull = Some(puller(&self.given(pool).await?)?);
                }
                let client = self.pull.clone().expect("it was made just now");
                self.host
                    .run(move |host| Ok(host.os().pull(&image, &client, &|_| {})?))
                    .await?;
            }
            Step::Deploy => {
                let image = image.or(sight.booted_image());
                let image = image.ok_or_else(|| HostError::NoImage(version.name.clone()))?;
                self.host
                    .run(move |host| host.deploy(&sight, &version, image))
                    .await?;
            }
            Step::Reboot | Step::SoftReboot => {
                let target = version.target();
                let asked = [
                    format!("MachineConfigPool `{pool}`"),
                    "first boot".to_owned(),
                ];
                let why = update.reboot.iter().map(ToString::to_string);
                let cause =
                    Cause::update(&target, update.reboots_for(), asked.into_iter().chain(why));
                self.host
                    .run(move |host| host.reboot(&sight, &target, cause))
                    .await?;
                tokio::time::sleep(REBOOT_PATIENCE).await;
                let text = "the machine did not reboot within five minutes".to_owned();
                return Err(AgentError::Unwell(text));
            }
            Step::Discard => {
                self.host
                    .run(move |host| host.discard(&sight, &version.name))
                    .await?;
            }
            Step::Apply { actions } => {
                self.host
                    .run(move |host| host.apply(&sight, &version, &actions))
                    .await?;
            }
            // The agent proves it, and the Node is cordoned until then.
            Step::Verify | Step::Uncordon { .. } | Step::Drain { .. } => return Ok(true),
        }
        Ok(false)
    }
}

/// A client for the registries of the version, with what came with it.
fn puller(given: &Given) -> Result<oci::Client, AgentError> {
    let object = || "the credentials for registries that the machine was given".to_owned();
    let auth = given.registry_auth.as_deref().unwrap_or("{\"auths\":{}}");
    let auth = DockerConfig::parse(auth.as_bytes()).map_err(|error| AgentError::Object {
        object: object(),
        problem: error.to_string(),
    })?;
    let cas: BTreeMap<String, Vec<u8>> = given
        .registry_cas
        .iter()
        .map(|(host, pem)| (host.clone(), pem.clone().into_bytes()))
        .collect();
    let registries =
        Registries::load(SYSTEM_CONFIG.as_ref()).map_err(|error| AgentError::Object {
            object: "the machine's registries.conf".to_owned(),
            problem: chain(&error),
        })?;
    oci::Client::new(ClientConfig {
        auth,
        cas,
        registries,
        ..ClientConfig::default()
    })
    .map_err(|error| AgentError::Object {
        object: object(),
        problem: chain(&error),
    })
}
