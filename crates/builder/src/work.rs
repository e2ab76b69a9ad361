//! What blocking work of a build has at hand: the engine, the network, a way to tell of progress and to be stopped.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use oci::Digest;
use oci::layer::{Limits, Options, Privilege, Whiteouts};
use oci::manifest::chain_id;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::compress::Compression;
use crate::engine::Engine;
use crate::error::BuildError;
use crate::event::Event;
use crate::evict::Hold;
use crate::image::Layer;
use crate::pack::{Destination, Uploads};

/// How many layers are fetched and unpacked at the same time.
const PARALLEL: usize = 3;

/// The surroundings of blocking work. Clones are for threads of the same work.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) engine: Engine,
    pub(crate) handle: Handle,
    pub(crate) cancel: CancellationToken,
    pub(crate) events: mpsc::Sender<Event>,
    /// Where layers are sent as soon as they are made.
    pub(crate) destinations: Arc<[Destination]>,
    pub(crate) uploads: Arc<Uploads>,
    /// How layers are compressed.
    pub(crate) compression: Compression,
    /// Keeps what the work uses in the cache.
    pub(crate) hold: Arc<Hold>,
}

impl Work {
    pub(crate) fn cache(&self) -> &Cache {
        self.engine.cache()
    }

    /// Tells of progress. Whoever listened may be gone, which cancels the work by itself.
    pub(crate) fn tell(&self, event: Event) {
        if self.events.blocking_send(event).is_err() {
            tracing::trace!("nobody listens to this build any more");
        }
    }

    pub(crate) fn check_cancelled(&self) -> Result<(), BuildError> {
        if self.cancel.is_cancelled() {
            Err(BuildError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// What a failure to write a layer means.
    pub(crate) fn or_cancelled(&self, error: std::io::Error) -> BuildError {
        match self.cancel.is_cancelled() {
            true => BuildError::Cancelled,
            false => BuildError::host("cannot write the layer of a step")(error),
        }
    }

    /// Waits for something on the network, or for the end of the build.
    pub(crate) fn wait<T>(
        &self,
        future: impl Future<Output = Result<T, BuildError>>,
    ) -> Result<T, BuildError> {
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(BuildError::Cancelled),
                result = future => result,
            }
        })
    }

    /// Sees to it that the store has a layer, or any other blob.
    pub(crate) async fn fetch(&self, layer: &Layer) -> Result<(), BuildError> {
        // Dropping a count of bytes is better than making the network wait for whoever shows it.
        let tell = |event| drop(self.events.try_send(event));
        self.engine.fetch_layer(layer, &tell).await
    }

    /// Sees to it that layers are on disk in overlayfs form; returns their directories, lowest first. A layer without
    /// a blob is one whose directory was there a moment ago.
    pub(crate) fn unpacked<'l>(
        &self,
        layers: impl IntoIterator<Item = (Digest, Option<&'l Layer>)>,
    ) -> Result<Vec<PathBuf>, BuildError> {
        let mut below = None;
        let mut paths = Vec::new();
        let mut missing = Vec::new();
        for (diff_id, blob) in layers {
            let chain = chain_id(below, &diff_id);
            below = Some(chain);
            let path = self.cache().layer(&chain);
            if !path.is_dir() {
                let blob =
                    blob.ok_or_else(|| {
                        let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
                        BuildError::host(
                            "a layer was removed from the build cache while it was in use",
                        )(gone)
                    })?;
                missing.push((chain, blob.clone()));
            }
            self.cache().used(&path);
            paths.push(path);
        }
        if missing.is_empty() {
            return Ok(paths);
        }
        require_root("unpack layers")?;
        self.wait(async {
            let mut running = JoinSet::new();
            let mut queue = missing.into_iter();
            loop {
                while running.len() < PARALLEL
                    && let Some((chain, layer)) = queue.next()
                {
                    running.spawn(unpack(self.clone(), chain, layer));
                }
                match running.join_next().await {
                    None => return Ok(()),
                    Some(Ok(result)) => result?,
                    Some(Err(error)) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic())
                    }
                    Some(Err(_)) => return Err(BuildError::Cancelled),
                }
            }
        })?;
        Ok(paths)
    }
}

/// Fails with the remedy where the kernel would only say "not permitted".
pub(crate) fn require_root(what: &str) -> Result<(), BuildError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let message = "it takes the superuser: run this as root";
    let source = std::io::Error::new(std::io::ErrorKind::PermissionDenied, message);
    Err(BuildError::Host {
        action: format!("cannot {what}"),
        source,
    })
}

/// Fetches and unpacks one layer.
async fn unpack(work: Work, chain: oci::Digest, layer: Layer) -> Result<(), BuildError> {
    let lock = work.engine.lock_on(&chain);
    let _held = lock.lock().await;
    if work.cache().layer(&chain).is_dir() {
        return Ok(());
    }
    work.fetch(&layer).await?;
    let unpacked = tokio::task::spawn_blocking(move || unpack_blob(&work, &chain, &layer));
    unpacked
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn unpack_blob(work: &Work, chain: &oci::Digest, layer: &Layer) -> Result<(), BuildError> {
    let engine = &work.engine;
    let failed = || BuildError::host::<std::io::Error>("cannot unpack a layer");
    let name = layer
        .from
        .as_ref()
        .map_or_else(|| layer.digest.to_string(), ToString::to_string);
    let blob = engine.blobs().open_blob(&layer.digest)?;
    let scratch = engine.cache().scratch().map_err(failed())?;
    let tree = scratch.path.join("tree");
    std::fs::create_dir(&tree).map_err(failed())?;
    // A layer need not say what the root directory is like.
    std::fs::set_permissions(&tree, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(failed())?;
    let superuser = engine.cache().superuser();
    let options = Options {
        whiteouts: Whiteouts::Overlay(superuser.marks()),
        privilege: superuser.privilege(),
        limits: Limits::default(),
    };
    let stats = oci::layer::unpack(blob, &layer.media_type, &tree, &options)
        .map_err(|error| BuildError::layer(&name, error))?;
    if stats.diff_id != layer.diff_id {
        let reason = format!(
            "layer `{}` unpacks to `{}`, expected `{}`",
            layer.digest, stats.diff_id, layer.diff_id
        );
        return Err(BuildError::BaseInvalid {
            reference: name,
            reason,
        });
    }
    if stats.left_out > 0 && options.privilege == Privilege::Namespace {
        work.tell(Event::Note(format!(
            "steps do not see {} devices and attributes of layer `{name}`, which only the machine's superuser may make; the \
             image keeps them",
            stats.left_out
        )));
    }
    engine.cache().publish(&tree, chain).map_err(failed())
}
