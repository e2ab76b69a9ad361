//! A local copy of every kind that the loops read, kept current by one watch per kind.
//!
//! The copy may lag behind, also behind our own writes. A decision that must not be made twice (a
//! roll-out slot) is therefore confirmed with fresh reads before it is acted upon.

mod substances;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::runtime::reflector::store::WriterDropped;
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
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinSet;

use crate::members::Members;
use crate::worker::log;
use substances::Substances;

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
    NodeAccess,
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
    /// Whether nothing is different but its status, of the kinds that write theirs often: pools and MachineConfigNodes.
    pub(crate) only_status: bool,
    /// Of a Node, the pools that decide from what is different.
    pub(crate) pools: Vec<String>,
}

/// Which loops read the copies. What a process does not read it does not ask for, and needs no right to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readers {
    pub(crate) controllers: bool,
    pub(crate) builder: bool,
}

impl Readers {
    fn need(self, kind: Kind) -> bool {
        match kind {
            Kind::MachineConfig
            | Kind::Pool
            | Kind::OsConfig
            | Kind::Build
            | Kind::Secret
            | Kind::ConfigMap => true,
            Kind::Claim => self.builder,
            Kind::MachineConfigNode
            | Kind::Node
            | Kind::NodeSecret
            | Kind::NodeAccess
            | Kind::NodeLease
            | Kind::RolloutPolicy
            | Kind::MachineConfiguration => self.controllers,
        }
    }
}

/// The copies; those that nobody here reads stay empty.
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
    /// Accounts of nodes, and what they may read; each has its node's name.
    pub(crate) node_accounts: Store<ServiceAccount>,
    pub(crate) node_roles: Store<Role>,
    pub(crate) node_role_bindings: Store<RoleBinding>,
    /// Of our namespace.
    pub(crate) config_maps: Store<ConfigMap>,
    /// Leases of our namespace: builders' claims.
    pub(crate) claims: Store<Lease>,
    /// Leases by which nodes show that they live.
    pub(crate) node_leases: Store<Lease>,
    pub(crate) policies: Store<RolloutPolicy>,
    pub(crate) configurations: Store<MachineConfiguration>,
    /// Which nodes each pool has.
    pub(crate) members: Members,
    changes: broadcast::Sender<Change>,
}

impl Cache {
    /// Starts the watches that `readers` need. They go on, through disconnects and expired versions, until `tasks` is
    /// dropped. What is returned beside the copies ends when every one of them holds what the API held at some moment.
    pub(crate) fn start(
        client: &Client,
        readers: Readers,
        tasks: &mut JoinSet<&'static str>,
    ) -> (
        Self,
        impl Future<Output = Result<(), WriterDropped>> + use<>,
    ) {
        let (changes, _) = broadcast::channel(BACKLOG);
        let (ours, of_nodes) = (keys::NAMESPACE, keys::NODE_SECRET_NAMESPACE);
        let members = Members::default();
        let mut mirrors = Mirrors {
            client,
            readers,
            changes: &changes,
            tasks,
            filled: Vec::new(),
        };
        let cache = Cache {
            machine_configs: mirrors.all(Kind::MachineConfig),
            pools: {
                let members = members.clone();
                mirrors.told(Kind::Pool, move |_, pools| {
                    members.all_pools(&pools.state());
                    Vec::new()
                })
            },
            os_configs: mirrors.all(Kind::OsConfig),
            builds: mirrors.all(Kind::Build),
            machine_config_nodes: mirrors.all(Kind::MachineConfigNode),
            nodes: {
                let members = members.clone();
                mirrors.told(Kind::Node, move |event, nodes| match event {
                    Event::Apply(node) => members.node(node),
                    Event::Delete(node) => members.gone(&node.name_any()),
                    Event::InitDone => {
                        members.all_nodes(nodes.state().iter().map(AsRef::as_ref));
                        Vec::new()
                    }
                    Event::Init | Event::InitApply(_) => Vec::new(),
                })
            },
            secrets: mirrors.within(Kind::Secret, ours),
            node_secrets: mirrors.within(Kind::NodeSecret, of_nodes),
            node_accounts: mirrors.within(Kind::NodeAccess, of_nodes),
            node_roles: mirrors.within(Kind::NodeAccess, of_nodes),
            node_role_bindings: mirrors.within(Kind::NodeAccess, of_nodes),
            config_maps: mirrors.chosen(
                Kind::ConfigMap,
                Api::namespaced(client.clone(), ours),
                watcher::Config::default().labels(&format!("!{}", log::LABEL)),
            ),
            claims: mirrors.within(Kind::Claim, ours),
            node_leases: mirrors.within(Kind::NodeLease, keys::NODE_LEASE_NAMESPACE),
            policies: mirrors.all(Kind::RolloutPolicy),
            configurations: mirrors.all(Kind::MachineConfiguration),
            members,
            changes: changes.clone(),
        };
        let filled = futures::future::try_join_all(mirrors.filled);
        (cache, async move { filled.await.map(drop) })
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
    readers: Readers,
    changes: &'a broadcast::Sender<Change>,
    tasks: &'a mut JoinSet<&'static str>,
    /// Each ends when a copy is complete.
    filled: Vec<BoxFuture<'static, Result<(), WriterDropped>>>,
}

impl Mirrors<'_> {
    fn all<K>(&mut self, kind: Kind) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let api = Api::all(self.client.clone());
        self.chosen(kind, api, watcher::Config::default())
    }

    fn within<K>(&mut self, kind: Kind, namespace: &str) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let api = Api::namespaced(self.client.clone(), namespace);
        self.chosen(kind, api, watcher::Config::default())
    }

    fn chosen<K>(&mut self, kind: Kind, api: Api<K>, which: watcher::Config) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.mirror(kind, api, which, |_, _| Vec::new())
    }

    /// Of every object; `note` hears of each change before the loops do, and says which pools it concerns.
    fn told<K>(
        &mut self,
        kind: Kind,
        note: impl Fn(&Event<K>, &Store<K>) -> Vec<String> + Send + 'static,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let all = Api::all(self.client.clone());
        self.mirror(kind, all, watcher::Config::default(), note)
    }

    fn mirror<K>(
        &mut self,
        kind: Kind,
        api: Api<K>,
        which: watcher::Config,
        note: impl Fn(&Event<K>, &Store<K>) -> Vec<String> + Send + 'static,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (reader, writer) = reflector::store();
        if !self.readers.need(kind) {
            return reader;
        }
        let copy = reader.clone();
        let (noted, is_noted) = oneshot::channel();
        self.filled.push(Box::pin(async move {
            copy.wait_until_ready().await?;
            // A task that ends without having noted anything is told of by whoever runs it.
            let _ended = is_noted.await;
            Ok(())
        }));
        let mut noted = Some(noted);
        let changes = self.changes.clone();
        let store = reader.clone();
        let mut substances = Substances::of(kind);
        self.tasks.spawn(async move {
            let mut events = watch(api, which)
                .backoff(Reconnect::default())
                .reflect(writer)
                .boxed();
            while let Some(event) = events.next().await {
                let event = match event {
                    Ok(Event::Init | Event::InitApply(_)) => continue,
                    Ok(event) => event,
                    Err(error) => {
                        let error = crate::error::chain(&error);
                        tracing::warn!(?kind, error, "watch failed; connecting again");
                        continue;
                    }
                };
                let pools = note(&event, &store);
                if let Some(noted) = noted.take_if(|_| matches!(event, Event::InitDone)) {
                    // Who waited for it may be gone.
                    let _waiting = noted.send(());
                }
                let (name, only_status) = match &event {
                    Event::Apply(object) => (Some(object.name_any()), substances.keeps(object)),
                    Event::Delete(object) => {
                        substances.forget(object);
                        (Some(object.name_any()), false)
                    }
                    Event::Init | Event::InitApply(_) | Event::InitDone => {
                        substances.forget_all();
                        (None, false)
                    }
                };
                // Nobody listens before the loops start; they begin with a look at everything.
                let _listeners = changes.send(Change {
                    kind,
                    name,
                    only_status,
                    pools,
                });
            }
            "watch"
        });
        reader
    }
}
