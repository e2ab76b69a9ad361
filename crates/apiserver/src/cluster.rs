//! What all requests share: the store, the kinds, and who may do what.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::watch;

use crate::admission::{self, Policies};
use crate::audit::AuditLog;
use crate::auth::Auth;
use crate::auth::policy::{self, Policy};
use crate::config::{Config, Conversion, Version};
use crate::kinds::Registry;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::resources::metadata;
use crate::schema::Schema;
use crate::server::OpenError;
use crate::store::{Object, Retention, Scope, Store};

/// Where CustomResourceDefinitions are stored.
pub(crate) const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Where Namespaces are stored.
pub(crate) const NAMESPACES: &str = "/namespaces";

const LOCK: &str = "no code panics while it holds the lock of the kinds or policies";

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) store: Store,
    pub(crate) auth: Auth,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) audit: Option<AuditLog>,
    pub(crate) version: Version,
    pub(crate) metadata_schema: Schema,
    /// Becomes true when the server stops; watches end then.
    pub(crate) stopping: watch::Sender<bool>,
    registry: RwLock<Arc<Registry>>,
    policies: RwLock<Arc<Policies>>,
    /// Held while kinds or the policy are read again, so that an older reading never replaces a newer one.
    reloading: Mutex<()>,
    protected: Vec<String>,
    conversions: Vec<Conversion>,
}

impl Cluster {
    /// Opens the store and the signing key in a data directory.
    pub(crate) fn open(data_dir: &Path, config: &Config) -> Result<Self, OpenError> {
        let key = data_dir.join("service-account.key");
        let auth =
            Auth::open(&key, config).map_err(|source| OpenError::DataDir { path: key, source })?;
        let audit = match &config.audit_log {
            Some(path) => Some(AuditLog::open(path).map_err(|source| OpenError::DataDir {
                path: path.clone(),
                source,
            })?),
            None => None,
        };
        let cluster = Self {
            store: Store::open(&data_dir.join("store.redb"), Retention::default())?,
            auth,
            limits: Limits::default(),
            metrics: Metrics::new(),
            audit,
            version: config.version.clone(),
            metadata_schema: metadata::parsed_schema(),
            stopping: watch::Sender::new(false),
            registry: RwLock::new(Arc::new(Registry::new(&[], None, &[]))),
            policies: RwLock::default(),
            reloading: Mutex::new(()),
            protected: config.namespaces.clone(),
            conversions: config.conversions.clone(),
        };
        cluster.reload();
        cluster.reload_policy();
        cluster.reload_admission();
        Ok(cluster)
    }

    /// The kinds as they are now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().expect(LOCK).clone()
    }

    /// What `/metrics` shows.
    pub(crate) fn metrics_text(&self) -> String {
        let registry = self.registry();
        let resources: BTreeSet<Arc<str>> =
            registry.resources().map(|r| r.storage.clone()).collect();
        let resources: Vec<Arc<str>> = resources.into_iter().collect();
        self.metrics.render(&self.store, &resources)
    }

    /// The admission policies as they are now.
    pub(crate) fn policies(&self) -> Arc<Policies> {
        self.policies.read().expect(LOCK).clone()
    }

    /// Brings what is made from stored objects up to date after a write to this resource.
    pub(crate) fn written(&self, resource: &str) {
        if resource == DEFINITIONS {
            self.reload();
        } else if [admission::POLICIES, admission::BINDINGS].contains(&resource) {
            self.reload_admission();
        } else if resource.split_once('/').map(|(group, _)| group) == Some(policy::GROUP) {
            self.reload_policy();
        }
    }

    fn reload(&self) {
        let _guard = self.reloading.lock().expect(LOCK);
        let definitions = self.all(DEFINITIONS);
        let registry = Arc::new(Registry::new(
            &definitions,
            Some(&self.registry()),
            &self.conversions,
        ));
        *self.registry.write().expect(LOCK) = registry;
    }

    fn reload_policy(&self) {
        let _guard = self.reloading.lock().expect(LOCK);
        let all = |plural: &str| self.all(&format!("{}/{plural}", policy::GROUP));
        let roles = [all("clusterroles"), all("roles")].concat();
        let bindings = [all("clusterrolebindings"), all("rolebindings")].concat();
        self.auth.set_policy(Policy::new(&roles, &bindings));
    }

    fn reload_admission(&self) {
        let _guard = self.reloading.lock().expect(LOCK);
        let (policies, bindings) = (self.all(admission::POLICIES), self.all(admission::BINDINGS));
        let policies = Policies::new(&policies, &bindings, &self.policies());
        *self.policies.write().expect(LOCK) = Arc::new(policies);
    }

    fn all(&self, resource: &str) -> Vec<Arc<Object>> {
        self.store
            .list(&Scope::Resource(resource.into()), None, None, usize::MAX)
            .expect("the present is always in the history")
            .items
    }

    /// Whether a namespace was configured and so must stay.
    pub(crate) fn is_protected(&self, namespace: &str) -> bool {
        self.protected.iter().any(|name| name == namespace)
    }
}
