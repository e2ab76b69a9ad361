//! A local copy of every kind that the loops read, kept current by one watch per kind.
//!
//! The copy may lag behind, also behind our own writes. A decision that must not be made twice (a
//! roll-out slot) is therefore confirmed with fresh reads before it is acted upon.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use model::api::{
    MachineConfig, MachineConfigNode, MachineConfigPool, MachineConfiguration, MachineOSBuild,
    MachineOSConfig, RolloutPolicy,
};
use model::keys;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use crate::worker::log;

/// Changes that a slow loop may have waiting; beyond that it looks at everything once.
const BACKLOG: usize = 4096;

/// The kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    MachineConfig,
    Pool,
    OsConfig,
    Build,
    MachineConfigNode,
    Node,
    Secret,
    NodeSecret,
    ConfigMap,
    Claim,
    NodeLease,
    RolloutPolicy,
    MachineConfiguration,
}

/// Something about a kind is different from before.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    /// The object; none after a new list, when any may have changed.
    pub(crate) name: Option<String>,
}

/// The copies.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    pub(crate) machine_configs: Store<MachineConfig>,
    pub(crate) pools: Store<MachineConfigPool>,
    pub(crate) os_configs: Store<MachineOSConfig>,
    pub(crate) builds: Store<MachineOSBuild>,
    pub(crate) machine_config_nodes: Store<MachineConfigNode>,
    pub(crate) nodes: Store<Node>,
    /// Of our namespace.
    pub(crate) secrets: Store<Secret>,
    /// Each node's own, by its name.
    pub(crate) node_secrets: Store<Secret>,
    /// Of our namespace.
    pub(crate) config_maps: Store<ConfigMap>,
    /// Leases of our namespace: builders' claims.
    pub(crate) claims: Store<Lease>,
    /// Leases by which nodes show that they live.
    pub(crate) node_leases: Store<Lease>,
    pub(crate) policies: Store<RolloutPolicy>,
    pub(crate) configurations: Store<MachineConfiguration>,
    changes: broadcast::Sender<Change>,
}

impl Cache {
    /// Starts the watches. They go on, through disconnects and expired versions, until `tasks` is dropped.
    pub(crate) fn start(client: &Client, tasks: &mut JoinSet<&'static str>) -> Self {
        let (changes, _) = broadcast::channel(BACKLOG);
        let ours = keys::NAMESPACE;
        let mut mirrors = Mirrors {
            client,
            changes: &changes,
            tasks,
        };
        Cache {
            machine_configs: mirrors.all(Kind::MachineConfig),
            pools: mirrors.all(Kind::Pool),
            os_configs: mirrors.all(Kind::OsConfig),
            builds: mirrors.all(Kind::Build),
            machine_config_nodes: mirrors.all(Kind::MachineConfigNode),
            nodes: mirrors.all(Kind::Node),
            secrets: mirrors.of(Kind::Secret, Api::namespaced(client.clone(), ours)),
            node_secrets: mirrors.of(
                Kind::NodeSecret,
                Api::namespaced(client.clone(), keys::NODE_SECRET_NAMESPACE),
            ),
            config_maps: mirrors.chosen(
                Kind::ConfigMap,
                Api::namespaced(client.clone(), ours),
                watcher::Config::default().labels(&format!("!{}", log::LABEL)),
            ),
            claims: mirrors.of(Kind::Claim, Api::namespaced(client.clone(), ours)),
            node_leases: mirrors.of(
                Kind::NodeLease,
                Api::namespaced(client.clone(), keys::NODE_LEASE_NAMESPACE),
            ),
            policies: mirrors.all(Kind::RolloutPolicy),
            configurations: mirrors.all(Kind::MachineConfiguration),
            changes,
        }
    }

    /// Waits until every copy holds what the API held at some moment.
    pub(crate) async fn ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.machine_configs.wait_until_ready().await?;
        self.pools.wait_until_ready().await?;
        self.os_configs.wait_until_ready().await?;
        self.builds.wait_until_ready().await?;
        self.machine_config_nodes.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.secrets.wait_until_ready().await?;
        self.node_secrets.wait_until_ready().await?;
        self.config_maps.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.node_leases.wait_until_ready().await?;
        self.policies.wait_until_ready().await?;
        self.configurations.wait_until_ready().await
    }

    /// Changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// A cluster-scoped object by name.
    pub(crate) fn get<K>(store: &Store<K>, name: &str) -> Option<Arc<K>>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        store.get(&ObjectRef::new(name))
    }

    /// A Secret of our namespace.
    pub(crate) fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.secrets
            .get(&ObjectRef::new(name).within(keys::NAMESPACE))
    }

    /// Changes when credentials or trust change that registries are reached with: the named Secrets, the cluster's
    /// pull secret, and the certificate authorities.
    pub(crate) fn access_version<'a>(
        &self,
        secrets: impl IntoIterator<Item = Option<&'a str>>,
    ) -> String {
        let version = |name: Option<&str>| {
            let secret = self.secret(name.unwrap_or(keys::GLOBAL_PULL_SECRET));
            secret.and_then(|secret| secret.resource_version())
        };
        let mut versions: Vec<Option<String>> = secrets.into_iter().map(version).collect();
        let trust = self.config_map(keys::REGISTRY_CERTS);
        versions.push(trust.and_then(|map| map.resource_version()));
        let words = versions
            .into_iter()
            .map(|version| version.unwrap_or_else(|| "absent".to_owned()));
        words.collect::<Vec<_>>().join(" ")
    }

    /// A ConfigMap of our namespace.
    pub(crate) fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps
            .get(&ObjectRef::new(name).within(keys::NAMESPACE))
    }
}

/// Waits before a watch connects again: an API server on the same machine is back within a second.
#[derive(Debug, Default)]
struct Reconnect {
    failures: u32,
}

impl Iterator for Reconnect {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(200).saturating_mul(2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        Some(wait.min(Duration::from_secs(5)))
    }
}

impl Backoff for Reconnect {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

struct Mirrors<'a> {
    client: &'a Client,
    changes: &'a broadcast::Sender<Change>,
    tasks: &'a mut JoinSet<&'static str>,
}

impl Mirrors<'_> {
    fn all<K>(&mut self, kind: Kind) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.of(kind, Api::all(self.client.clone()))
    }

    fn of<K>(&mut self, kind: Kind, api: Api<K>) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.chosen(kind, api, watcher::Config::default())
    }

    fn chosen<K>(&mut self, kind: Kind, api: Api<K>, which: watcher::Config) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (reader, writer) = reflector::store();
        let changes = self.changes.clone();
        self.tasks.spawn(async move {
            let mut events = watch(api, which)
                .backoff(Reconnect::default())
                .reflect(writer)
                .boxed();
            while let Some(event) = events.next().await {
                let name = match event {
                    Ok(Event::Apply(object) | Event::Delete(object)) => Some(object.name_any()),
                    Ok(Event::InitDone) => None,
                    Ok(Event::Init | Event::InitApply(_)) => continue,
                    Err(error) => {
                        let error = crate::error::chain(&error);
                        tracing::warn!(?kind, error, "watch failed; connecting again");
                        continue;
                    }
                };
                // Nobody listens before the loops start; they begin with a look at everything.
                let _listeners = changes.send(Change { kind, name });
            }
            "watch"
        });
        reader
    }
}
