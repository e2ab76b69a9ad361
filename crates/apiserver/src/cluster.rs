//! What all requests share: the store, the kinds, and who may do what.

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::watch;

use crate::auth::Auth;
use crate::config::{Config, Version};
use crate::kinds::Registry;
use crate::resources::metadata;
use crate::schema::Schema;
use crate::store::{OpenError, Retention, Scope, Store};

/// Where CustomResourceDefinitions are stored.
pub(crate) const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Where Namespaces are stored.
pub(crate) const NAMESPACES: &str = "/namespaces";

const LOCK: &str = "no code panics while it holds the lock of the kinds";

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) store: Store,
    pub(crate) auth: Auth,
    pub(crate) version: Version,
    pub(crate) metadata_schema: Schema,
    /// Becomes true when the server stops; watches end then.
    pub(crate) stopping: watch::Sender<bool>,
    registry: RwLock<Arc<Registry>>,
    /// Held while the kinds are read again, so that an older reading never replaces a newer one.
    reloading: Mutex<()>,
    protected: Vec<String>,
}

impl Cluster {
    pub(crate) fn open(path: &Path, config: &Config) -> Result<Self, OpenError> {
        let cluster = Self {
            store: Store::open(path, Retention::default())?,
            auth: Auth::new(config.tokens.clone(), config.rules.clone()),
            version: config.version.clone(),
            metadata_schema: metadata::parsed_schema(),
            stopping: watch::Sender::new(false),
            registry: RwLock::new(Arc::new(Registry::new(&[], None))),
            reloading: Mutex::new(()),
            protected: config.namespaces.clone(),
        };
        cluster.reload();
        Ok(cluster)
    }

    /// The kinds as they are now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().expect(LOCK).clone()
    }

    /// Reads the definitions again.
    pub(crate) fn reload(&self) {
        let _guard = self.reloading.lock().expect(LOCK);
        let page = self
            .store
            .list(&Scope::Resource(DEFINITIONS.into()), None, None, usize::MAX)
            .expect("the present is always in the history");
        let registry = Arc::new(Registry::new(&page.items, Some(&self.registry())));
        *self.registry.write().expect(LOCK) = registry;
    }

    /// Whether a namespace was configured and so must stay.
    pub(crate) fn is_protected(&self, namespace: &str) -> bool {
        self.protected.iter().any(|name| name == namespace)
    }
}
