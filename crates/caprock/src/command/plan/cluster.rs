//! The objects that a cluster's plan is made from, as they are and as they would be with manifests applied.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use model::api::{
    CLUSTER, MachineConfig, MachineConfigPool, MachineConfiguration, MachineOSBuild,
    MachineOSConfig, PoolConfiguration, RolloutPolicy,
};
use model::keys;
use model::render::{Defaults, is_rendered};
use model::update::Policy;

use crate::client::policies;
use crate::exit::Failure;
use crate::manifests::{Manifests, defaults};

/// Everything a plan is made from.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) pools: Vec<MachineConfigPool>,
    pub(super) configs: BTreeMap<String, MachineConfig>,
    /// By pool.
    pub(super) images: BTreeMap<String, MachineOSConfig>,
    pub(super) builds: Vec<MachineOSBuild>,
    pub(super) nodes: Vec<Node>,
    pub(super) policy: Policy,
    pub(super) rollouts: Vec<RolloutPolicy>,
    pub(super) defaults: Defaults,
}

impl Cluster {
    pub(super) async fn read(client: &Client) -> Result<Self, Failure> {
        let all = ListParams::default();
        let pools: Api<MachineConfigPool> = Api::all(client.clone());
        let configs: Api<MachineConfig> = Api::all(client.clone());
        let images: Api<MachineOSConfig> = Api::all(client.clone());
        let builds: Api<MachineOSBuild> = Api::all(client.clone());
        let nodes: Api<Node> = Api::all(client.clone());
        let configurations: Api<MachineConfiguration> = Api::all(client.clone());
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
        let (pools, configs, images, builds, nodes, configuration, map, rollouts) = tokio::try_join!(
            pools.list(&all),
            configs.list(&all),
            images.list(&all),
            builds.list(&all),
            nodes.list(&all),
            configurations.get_opt(CLUSTER),
            maps.get_opt(keys::OS_IMAGE_URL_CONFIG_MAP),
            policies(client),
        )?;
        let by_pool = |image: MachineOSConfig| (image.spec.machine_config_pool.name.clone(), image);
        Ok(Cluster {
            pools: pools.items,
            configs: configs
                .items
                .into_iter()
                .map(|config| (config.name_any(), config))
                .collect(),
            images: images.items.into_iter().map(by_pool).collect(),
            builds: builds.items,
            nodes: nodes.items,
            policy: configuration
                .as_ref()
                .map(Policy::followed)
                .unwrap_or_default(),
            rollouts,
            defaults: map
                .and_then(|map| map.data)
                .as_ref()
                .map(defaults)
                .unwrap_or_default(),
        })
    }

    /// The cluster with manifests applied. What they leave out of a pool stays as it is; every other object becomes
    /// what they say.
    pub(super) fn with(mut self, manifests: Manifests) -> Self {
        for pool in manifests.pools {
            match self
                .pools
                .iter_mut()
                .find(|known| known.name_any() == pool.name_any())
            {
                Some(known) => apply(known, pool),
                None => self.pools.push(pool),
            }
        }
        for config in manifests.configs {
            self.configs.insert(config.name_any(), config);
        }
        for mut image in manifests.images {
            let pool = image.spec.machine_config_pool.name.clone();
            // What was seen of it is not undone by writing its spec.
            image.status = self
                .images
                .get(&pool)
                .and_then(|known| known.status.clone());
            self.images.insert(pool, image);
        }
        if let Some(configuration) = manifests.configuration {
            let user = configuration.spec.node_disruption_policy.as_ref();
            self.policy = user.map(Policy::of).unwrap_or_default();
        }
        for policy in manifests.rollouts {
            self.rollouts
                .retain(|known| known.name_any() != policy.name_any());
            self.rollouts.push(policy);
        }
        self.defaults = manifests.defaults.unwrap_or(self.defaults);
        self
    }

    /// The MachineConfigs that people wrote.
    pub(super) fn sources(&self) -> Vec<MachineConfig> {
        self.configs
            .values()
            .filter(|config| !is_rendered(config))
            .cloned()
            .collect()
    }
}

/// The controllers' choice in a pool's spec is nobody's manifest.
fn apply(known: &mut MachineConfigPool, manifest: MachineConfigPool) {
    let chosen: PoolConfiguration = std::mem::take(&mut known.spec.configuration);
    let (paused, max_unavailable) = (known.spec.paused, known.spec.max_unavailable.take());
    known.spec = manifest.spec;
    known.spec.configuration = chosen;
    known.spec.paused |= paused;
    known.spec.max_unavailable = known.spec.max_unavailable.take().or(max_unavailable);
    if let Some(labels) = manifest.metadata.labels {
        known.labels_mut().extend(labels);
    }
}
