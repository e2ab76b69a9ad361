//! What a turn is decided from: the Node's objects, what they ask for, and what is on the host.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use model::api::{
    CLUSTER, MachineConfig, MachineConfigNode, MachineConfigPool, MachineConfiguration,
    MachineOSConfig, RolloutPolicy, SoftRebootPolicy,
};
use model::file_secret::Values;
use model::health::policy_of;
use model::keys;
use model::node::{Target, annotation};
use model::render::Provenance;
use model::update::{DrainRequest, Plan, Policy, Seen, Version, hold_back, plan};
use oci::Reference;

use super::Agent;
use crate::error::{AgentError, chain, is_not_found};
use crate::host::{Sight, digest_in};
use crate::machine::Machine;
use crate::registry;
use crate::report::Secrets;
use crate::state;

/// Everything that one turn is decided from.
pub(super) struct Observed {
    pub(super) node: Node,
    pub(super) progress: Option<MachineConfigNode>,
    pub(super) layering: Option<Layering>,
    pub(super) sight: Sight,
    pub(super) desired: Option<Version>,
    /// What the node was told to go to, when there is no such configuration any more.
    pub(super) gone: Option<Target>,
    /// The node disruption policy in force.
    pub(super) policy: Policy,
}

/// What the agent needs to know of a MachineOSConfig.
#[derive(Debug, Clone)]
pub(super) struct Layering {
    pub(super) name: String,
    /// The pool that it is for.
    pub(super) pool: String,
    /// The image that is rolled out, or is about to be.
    pub(super) image: Option<String>,
    /// The MachineOSBuild that made it.
    pub(super) build: Option<String>,
}

/// What the Node's annotations ask for.
enum Desired {
    Nothing,
    Version(Box<Version>),
    /// A configuration that is not there.
    Gone(Target),
}

impl From<MachineOSConfig> for Layering {
    fn from(config: MachineOSConfig) -> Self {
        let status = config.status.unwrap_or_default();
        Layering {
            name: config.metadata.name.unwrap_or_default(),
            pool: config.spec.machine_config_pool.name,
            image: status.current_image_pull_spec,
            build: status.machine_os_build.map(|build| build.name),
        }
    }
}

impl<M: Machine> Agent<M> {
    /// The Node and its MachineConfigNode. Nothing while the Node does not exist.
    pub(super) async fn own_objects(
        &self,
    ) -> Result<Option<(Node, Option<MachineConfigNode>)>, AgentError> {
        let name = &self.settings.node_name;
        let failed = |kind: &str| AgentError::api(format!("read {kind} `{name}`"));
        let node = self.nodes.get_opt(name).await.map_err(failed("Node"))?;
        let is_ours = |node: &Node| {
            let registration = self.settings.register.as_ref();
            registration.is_none_or(|registration| registration.is_ours(node))
        };
        let Some(node) = node.filter(is_ours) else {
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
    pub(super) async fn observe(
        &mut self,
        node: Node,
        progress: Option<MachineConfigNode>,
    ) -> Result<Observed, AgentError> {
        let pool = progress
            .as_ref()
            .map(|progress| progress.spec.pool.name.clone());
        let layering = match &pool {
            Some(pool) => self.layering_of(pool).await?,
            None => None,
        };
        if let Some(pool) = &pool {
            self.read_policy(pool).await?;
        }
        let sight = self.host.run(|host| host.look()).await?;
        let sight = self.adopt(&node, sight).await?;
        let mut observed = Observed {
            node,
            progress,
            layering,
            sight,
            desired: None,
            gone: None,
            policy: self.disruption_policy().await?,
        };
        match self.desired(&observed).await? {
            Desired::Nothing => {}
            Desired::Version(version) => observed.desired = Some(*version),
            Desired::Gone(target) => observed.gone = Some(target),
        }
        Ok(observed)
    }

    async fn layering_of(&self, pool: &str) -> Result<Option<Layering>, AgentError> {
        let api = Api::<MachineOSConfig>::all(self.client.clone());
        let read = async {
            let listed = api.list(&ListParams::default()).await;
            let listed = listed.map_err(AgentError::api("list MachineOSConfigs"))?;
            Ok(listed.items.into_iter().map(Layering::from).collect())
        };
        let all = self.layering.get(read).await?;
        Ok(all.into_iter().find(|layering| layering.pool == pool))
    }

    /// Keeps the RolloutPolicy of the pool, when it may be another one. A server that knows no such kind has none.
    async fn read_policy(&mut self, pool: &str) -> Result<(), AgentError> {
        let api = Api::<RolloutPolicy>::all(self.client.clone());
        let mut changed = self.policy_of.as_deref() != Some(pool);
        let read = async {
            changed = true;
            match api.list(&ListParams::default()).await {
                Ok(listed) => Ok(listed.items),
                Err(error) if is_not_found(&error) => Ok(Vec::new()),
                Err(error) => Err(AgentError::api("list RolloutPolicies")(error)),
            }
        };
        let listed = self.policies.get(read).await?;
        if changed {
            let applied = policy_of(pool, &listed);
            self.host
                .state()
                .set_policy(applied.map(|applied| applied.policy))?;
            self.policy_of = Some(pool.to_owned());
        }
        Ok(())
    }

    /// The node disruption policy in force; the defaults where nobody made one.
    async fn disruption_policy(&self) -> Result<Policy, AgentError> {
        let api = Api::<MachineConfiguration>::all(self.client.clone());
        let read = async {
            let found = api.get_opt(CLUSTER).await;
            found.map_err(AgentError::api(format!(
                "read MachineConfiguration `{CLUSTER}`"
            )))
        };
        let found = self.configuration.get(read).await?;
        Ok(found.as_ref().map(Policy::followed).unwrap_or_default())
    }

    /// The version that the Node's annotations ask for.
    async fn desired(&mut self, observed: &Observed) -> Result<Desired, AgentError> {
        let Some(config) = annotation(&observed.node, keys::DESIRED_CONFIG) else {
            return Ok(Desired::Nothing);
        };
        let target = Target {
            config: config.to_owned(),
            image: annotation(&observed.node, keys::DESIRED_IMAGE).map(str::to_owned),
        };
        let spec = match self.host.state().config(config)? {
            Some(spec) => spec,
            None => {
                let found = self.configs.get_opt(config).await;
                let found =
                    found.map_err(AgentError::api(format!("read MachineConfig `{config}`")))?;
                let Some(MachineConfig { spec, .. }) = found else {
                    return Ok(Desired::Gone(target));
                };
                self.host.state().keep_config(config, &spec)?;
                spec
            }
        };
        let mut version = state::version(&target, &spec)?;
        if version.layered_image.is_none() && !version.os_image_url.is_empty() {
            version.os_image_url = self.digested(&version, observed).await?;
        }
        let version = self.with_values(version, observed).await?;
        Ok(Desired::Version(Box::new(version)))
    }

    /// The version with the content of its files that comes from Secrets: what the node is given now, else what it was
    /// given before. What would disturb the node although nobody has told it to update stays as it is.
    async fn with_values(
        &mut self,
        version: Version,
        observed: &Observed,
    ) -> Result<Version, AgentError> {
        let kept = self.host.state().values()?;
        if version.unfilled().is_empty() {
            if !kept.is_empty() {
                self.host.state().keep_values(&Values::new())?;
            }
            self.secrets = Secrets::default();
            return Ok(version);
        }
        let current = observed.sight.current.as_ref();
        let written = current
            .map(|current| current.ignition.values())
            .unwrap_or_default();
        let given = self.node_secret().await?.values;
        let version = version.filled(&kept).filled(&written).filled(&given);
        let unfilled = version.unfilled();
        if !unfilled.is_empty() {
            return Err(AgentError::NotGiven {
                config: version.name,
                files: unfilled,
            });
        }
        let (version, held) = match current {
            Some(current) => hold_back(current, version, &observed.policy),
            None => (version, Vec::new()),
        };
        self.tell_held_back(&observed.node, held).await;
        let values = version.ignition.values();
        self.secrets = Secrets::of(&written, &values, &given);
        if values != kept {
            self.host.state().keep_values(&values)?;
        }
        Ok(version)
    }

    /// Says once of which files another value waits for the next update.
    async fn tell_held_back(&mut self, node: &Node, held: Vec<String>) {
        if held != self.held_back && !held.is_empty() {
            let text = format!(
                "another value waits for the node's next update, since its disruption policy drains or reboots: `{}`",
                held.join("`, `")
            );
            self.reporter
                .publish(node, "Normal", "SecretHeldBack", text)
                .await;
        }
        self.held_back = held;
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
            let client = self.registry().await?;
            let (digest, _) = client
                .resolve(&reference)
                .await
                .map_err(|error| problem(chain(&error)))?;
            self.resolved.insert(image.clone(), digest);
        }
        Ok(reference.with_digest(self.resolved[image]).to_string())
    }

    /// Finds out which MachineConfigs ask for what the node goes to, so that its reboot is told with their names. A node
    /// reboots all the same when that is not known.
    pub(super) async fn attribute(&self, observed: &mut Observed) {
        let Some(progress) = &observed.progress else {
            return;
        };
        let Some(desired) = observed.desired.take() else {
            return;
        };
        let provenance = match self
            .provenance(&progress.spec.pool.name, &desired.name)
            .await
        {
            Ok(provenance) => provenance,
            Err(error) => {
                tracing::debug!(
                    "whose MachineConfigs these are is not known: {}",
                    chain(&error)
                );
                Provenance::default()
            }
        };
        observed.desired = Some(desired.explained(provenance));
    }

    /// Of the pool's rendered config, while it is still that which the node goes to.
    async fn provenance(&self, pool: &str, config: &str) -> Result<Provenance, AgentError> {
        let pools = Api::<MachineConfigPool>::all(self.client.clone());
        let failed = AgentError::api(format!("read MachineConfigPool `{pool}`"));
        let Some(pool) = pools.get_opt(pool).await.map_err(failed)? else {
            return Ok(Provenance::default());
        };
        let configuration = pool.spec.configuration;
        if configuration.name != config {
            return Ok(Provenance::default());
        }
        let mut sources = Vec::new();
        for name in configuration
            .source
            .into_iter()
            .filter_map(|source| source.name)
        {
            let failed = AgentError::api(format!("read MachineConfig `{name}`"));
            sources.extend(self.configs.get_opt(&name).await.map_err(failed)?);
        }
        Ok(Provenance::of(&sources))
    }

    pub(super) async fn registry(&self) -> Result<oci::Client, AgentError> {
        registry::client(
            &self.client,
            &self.settings.node_name,
            self.settings.registry_ca.as_deref(),
            self.settings.bytes_per_second,
        )
        .await
    }

    /// The plan, with a soft reboot in the place of a reboot where the update, the policy and the host allow it.
    pub(super) async fn softest_plan(&self, observed: &Observed) -> Result<Plan, AgentError> {
        let plan = self.plan(observed, false)?;
        let allowed = match self.host.state().policy()? {
            Some(policy) => policy.spec.soft_reboot == SoftRebootPolicy::WhenPossible,
            None => true,
        };
        let wanted = allowed && !self.soft_failed && plan.reboots() && plan.update.can_be_soft();
        match wanted && self.host.run(|host| host.can_soft_reboot()).await? {
            true => self.plan(observed, true),
            false => Ok(plan),
        }
    }

    fn plan(&self, observed: &Observed, soft_reboot: bool) -> Result<Plan, AgentError> {
        let Observed {
            node,
            sight,
            desired,
            layering,
            policy,
            ..
        } = observed;
        let present = |image: Option<&str>| match image.and_then(digest_in) {
            Some(digest) => self.host.has(&digest),
            None => Ok(true),
        };
        let next = layering
            .as_ref()
            .and_then(|layering| layering.image.as_deref());
        let next = match present(next)? {
            true => None,
            false => next,
        };
        let booted = sight.booted_as(&[desired.as_ref(), sight.current.as_ref()]);
        let booted = booted.map(|digest| format!("@{digest}"));
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
            unbooted: sight.unbooted,
            verified: sight.verified(),
            drain: DrainRequest {
                desired: annotation(node, keys::DESIRED_DRAIN).map(str::to_owned),
                applied: annotation(node, keys::LAST_APPLIED_DRAIN).map(str::to_owned),
            },
            failure: sight.failure.as_ref(),
            gone: observed.gone.as_ref(),
            prefetch: next,
            policy: Some(policy),
            adds_packages: self.host.adds_packages(),
            soft_reboot,
        }))
    }
}
