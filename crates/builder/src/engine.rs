//! The engine: the cache directory, the runtime and the registries that builds use.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use oci::{BlobStore, Client, Digest};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::build::Build;
use crate::cache::Cache;
use crate::compress::Compression;
use crate::error::BuildError;
use crate::event::{Event, Progress};
use crate::evict;
use crate::execute::Runtime;
use crate::image::Image;
use crate::pack::Destination;
use crate::request::Request;
use crate::work::Work;

/// What an engine needs.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Everything that builds keep. Several engines, in several processes, may share it.
    pub cache_dir: PathBuf,
    /// The OCI runtime; `crun` from the search path when absent.
    pub runtime: Option<PathBuf>,
    /// How many bytes the cache may hold before what was not used for longest is removed; 20 GiB when absent. It is
    /// looked at before a build, every few hours.
    pub cache_limit: Option<u64>,
    /// For base images and pushes.
    pub client: Client,
}

/// Builds images. Clones share everything; builds may run at the same time.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    client: Client,
}

#[derive(Debug)]
struct Shared {
    cache: Cache,
    cache_limit: u64,
    runtime_path: Option<PathBuf>,
    runtime: OnceLock<Runtime>,
    /// One lock for each layer being unpacked and step being executed, so that two builds do not do it twice.
    locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Held by whoever packs a layer.
    packing: Mutex<()>,
}

/// What becomes of the layers that work makes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    /// Where they are sent as soon as they are made.
    pub(crate) destinations: Arc<[Destination]>,
    pub(crate) compression: Compression,
}

/// Events that may wait for whoever shows them.
const EVENTS: usize = 1024;

impl Engine {
    /// Opens the cache directory, creating it when missing, and cleans up after engines that were killed: their
    /// mounts and working directories. What living engines use is left alone.
    pub fn open(config: EngineConfig) -> Result<Engine, BuildError> {
        let shared = Shared {
            cache: Cache::open(&config.cache_dir)?,
            cache_limit: config.cache_limit.unwrap_or(evict::DEFAULT_LIMIT),
            runtime_path: config.runtime,
            runtime: OnceLock::new(),
            locks: Mutex::default(),
            packing: Mutex::default(),
        };
        Ok(Engine {
            shared: Arc::new(shared),
            client: config.client,
        })
    }

    /// The same engine with other credentials and trust.
    pub fn with_client(&self, client: Client) -> Engine {
        Engine {
            shared: self.shared.clone(),
            client,
        }
    }

    /// Builds an image. Its layers are in the local store then; nothing is pushed. Dropping the future cancels the
    /// build, too.
    pub async fn build(
        &self,
        request: Request,
        cancel: CancellationToken,
        progress: &Progress<'_>,
    ) -> Result<Image, BuildError> {
        let file = crate::containerfile::parse(&request.containerfile).map_err(|problems| {
            BuildError::Syntax {
                file: request.file_name.clone(),
                problems,
            }
        })?;
        let output = Output {
            destinations: request.destinations.clone().into(),
            compression: request.compression,
        };
        self.in_background(progress, cancel, output, move |work| {
            Build::new(request, file, work)?.run()
        })
        .await
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    pub(crate) fn blobs(&self) -> &BlobStore {
        self.shared.cache.blobs()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn runtime(&self) -> Result<&Runtime, BuildError> {
        if let Some(runtime) = self.shared.runtime.get() {
            return Ok(runtime);
        }
        let found = Runtime::find(self.shared.runtime_path.as_deref())
            .map_err(BuildError::host("cannot execute `RUN` on this machine"))?;
        Ok(self.shared.runtime.get_or_init(|| found))
    }

    /// The lock on making what this digest names.
    pub(crate) fn lock_on(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self
            .shared
            .locks
            .lock()
            .expect("nobody panics with this lock");
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(*digest, Arc::downgrade(&lock));
        lock
    }

    /// Waits for the turn to pack a layer.
    pub(crate) fn packing(&self) -> MutexGuard<'_, ()> {
        // There is nothing behind this lock that a panic could spoil.
        self.shared
            .packing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs blocking work on a thread of its own, while its events are shown from here.
    pub(crate) async fn in_background<T: Send + 'static>(
        &self,
        progress: &Progress<'_>,
        cancel: CancellationToken,
        output: Output,
        job: impl FnOnce(&Work) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let (events, mut shown) = mpsc::channel::<Event>(EVENTS);
        let cancel = cancel.child_token();
        // Without this the work would go on after the caller lost interest.
        let _stop = cancel.clone().drop_guard();
        let (engine, handle) = (self.clone(), Handle::current());
        let mut job = tokio::task::spawn_blocking(move || {
            let cache = engine.cache();
            let failed = || BuildError::host::<std::io::Error>("cannot use the build cache");
            cache
                .trim_sometimes(engine.shared.cache_limit)
                .map_err(failed())?;
            let work = Work {
                hold: Arc::new(cache.hold().map_err(failed())?),
                engine: engine.clone(),
                handle,
                cancel,
                events,
                destinations: output.destinations,
                compression: output.compression,
                uploads: Arc::default(),
            };
            job(&work)
        });
        let result = loop {
            tokio::select! {
                biased;
                Some(event) = shown.recv() => progress(event),
                result = &mut job => break result,
            }
        };
        while let Ok(event) = shown.try_recv() {
            progress(event);
        }
        match result {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(BuildError::Cancelled),
        }
    }
}
