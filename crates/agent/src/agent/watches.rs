//! How an agent hears of changes: by watches of its own, or, where many agents share a process, by one of each kind for
//! all of them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::ClusterResourceScope;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Where watches are started.
pub(super) struct Watches<'a> {
    pub(super) client: &'a Client,
    changed: &'a Arc<Notify>,
    exchange: Option<&'a Arc<Exchange>>,
    helpers: &'a mut JoinSet<()>,
    heard: Vec<Subscription>,
}

impl<'a> Watches<'a> {
    pub(super) fn new(
        client: &'a Client,
        changed: &'a Arc<Notify>,
        exchange: Option<&'a Arc<Exchange>>,
        helpers: &'a mut JoinSet<()>,
    ) -> Self {
        Watches {
            client,
            changed,
            exchange,
            helpers,
            heard: Vec::new(),
        }
    }

    /// Of every object of a kind.
    pub(super) fn all<K>(&mut self, stale: Arc<AtomicBool>)
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        self.start(Api::<K>::all(self.client.clone()), None, vec![stale]);
    }

    /// Of one object.
    pub(super) fn named<K>(&mut self, api: Api<K>, name: &str, stale: &[Arc<AtomicBool>])
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        self.start(api, Some(name), stale.to_vec());
    }

    /// Wakes the loop at each change, and says what of it has to be read anew. Watches start over after errors, with
    /// growing pauses.
    fn start<K>(&mut self, api: Api<K>, name: Option<&str>, stale: Vec<Arc<AtomicBool>>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let ear = Ear {
            stale,
            changed: self.changed.clone(),
        };
        if let Some(exchange) = self.exchange {
            self.heard.push(exchange.subscribe(api, name, ear));
            return;
        }
        let which = name.map_or_else(watcher::Config::default, |name| {
            watcher::Config::default().fields(&format!("metadata.name={name}"))
        });
        self.helpers.spawn(async move {
            let mut changes = std::pin::pin!(watcher(api, which).default_backoff());
            while let Some(change) = changes.next().await {
                ear.doubt();
                match change {
                    // What comes before the end of a list is told of by its end.
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                    Ok(_) => ear.changed.notify_one(),
                    Err(error) => tracing::debug!(%error, "watch broke off; it starts over"),
                }
            }
        });
    }

    /// What is heard by way of others, for as long as this is kept.
    pub(super) fn heard(self) -> Vec<Subscription> {
        self.heard
    }
}

/// Who is told, and of which values that they may be others now.
#[derive(Debug)]
struct Ear {
    stale: Vec<Arc<AtomicBool>>,
    changed: Arc<Notify>,
}

impl Ear {
    fn doubt(&self) {
        for stale in &self.stale {
            stale.store(true, Ordering::Relaxed);
        }
    }

    fn hear(&self) {
        self.doubt();
        self.changed.notify_one();
    }
}

/// One watch of each kind for all agents of a process.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    kinds: Mutex<HashMap<String, Arc<Ears>>>,
    watches: Mutex<JoinSet<()>>,
}

/// Who listens to a kind: by the name of an object, or without one to all of them.
#[derive(Debug, Default)]
struct Ears {
    listening: Mutex<HashMap<Option<String>, HashMap<u64, Ear>>>,
    next: AtomicU64,
}

/// Ends with its listener.
#[derive(Debug)]
pub(super) struct Subscription {
    ears: Arc<Ears>,
    name: Option<String>,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut listening = lock(&self.ears.listening);
        if let Some(ears) = listening.get_mut(&self.name) {
            ears.remove(&self.id);
            if ears.is_empty() {
                listening.remove(&self.name);
            }
        }
    }
}

impl Exchange {
    fn subscribe<K>(&self, api: Api<K>, name: Option<&str>, ear: Ear) -> Subscription
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut kinds = lock(&self.kinds);
        let ears = kinds
            .entry(api.resource_url().to_owned())
            .or_insert_with(|| {
                let ears = Arc::<Ears>::default();
                lock(&self.watches).spawn(ears.clone().follow(api));
                ears
            });
        let (id, name) = (
            ears.next.fetch_add(1, Ordering::Relaxed),
            name.map(str::to_owned),
        );
        lock(&ears.listening)
            .entry(name.clone())
            .or_default()
            .insert(id, ear);
        Subscription {
            ears: ears.clone(),
            name,
            id,
        }
    }
}

impl Ears {
    async fn follow<K>(self: Arc<Self>, api: Api<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let which = watcher::Config::default();
        let mut changes = std::pin::pin!(watcher(api, which).default_backoff());
        while let Some(change) = changes.next().await {
            match change {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(watcher::Event::InitDone) => self.all(Ear::hear),
                Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => {
                    let listening = lock(&self.listening);
                    let named = listening.get(&Some(object.name_any()));
                    let ears = named.into_iter().chain(listening.get(&None));
                    ears.flat_map(HashMap::values).for_each(Ear::hear);
                }
                Err(error) => {
                    tracing::debug!(%error, "watch broke off; it starts over");
                    self.all(Ear::doubt);
                }
            }
        }
    }

    fn all(&self, tell: fn(&Ear)) {
        let listening = lock(&self.listening);
        listening.values().flat_map(HashMap::values).for_each(tell);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
