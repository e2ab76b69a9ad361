//! Reconcile loops: render, build, pool, node, disruption; and the builder's loop, which claims builds.
//!
//! Each loop reads: observe → plan → act → report. Decisions are in `model`; here is what needs a client.

mod attempts;
mod build;
mod cache;
mod context;
mod disruption;
mod drive;
mod error;
mod event;
mod fit;
mod images;
mod leader;
mod lease;
mod members;
mod node;
mod node_access;
mod node_files;
mod node_secret;
mod owned;
mod pace;
mod pool;
mod preflight;
mod registry;
mod render;
mod step;
mod telemetry;
mod worker;

use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::Arc;

use camino::Utf8PathBuf;
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::{Client, Resource};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::attempts::Attempts;
use crate::build::gate::Gates;
use crate::cache::{Cache, Change, Readers};
use crate::context::Context;
use crate::drive::{Wake, drive};
use crate::event::Recorder;
use crate::leader::Candidate;
use crate::lease::Terms;
use crate::node::liveness::{self, Pulses};
use crate::pace::Pace;
use crate::preflight::Preflight;
use crate::registry::{Registries, Resolve};
use crate::worker::Worker;
use crate::worker::builder::Build;
use crate::worker::claim;
use crate::worker::engine::Engine;

pub use error::Error;
pub use node_files::file_values;
pub use node_secret::registry_auth;
pub use telemetry::Telemetry;

/// Which loops run, and against which API.
pub struct Options {
    /// The API.
    pub client: Client,
    /// Runs the builder's loop, when given.
    pub builder: Option<BuilderOptions>,
    /// Runs the controllers, when given: render, build, pool, node, disruption.
    pub controllers: Option<Controllers>,
    /// What the loops tell of themselves.
    pub telemetry: Telemetry,
}

/// How many processes run the controllers.
#[derive(Debug, Clone)]
pub enum Controllers {
    /// This one alone.
    Alone,
    /// Several, of which the one that was elected acts, and the others keep their local copy ready.
    Elected {
        /// The name to stand for election with; no two processes may share one.
        identity: String,
    },
}

impl Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("builder", &self.builder)
            .field("controllers", &self.controllers)
            .finish_non_exhaustive()
    }
}

/// The builder's loop.
#[derive(Debug)]
pub struct BuilderOptions {
    /// Where layers and everything else that builds keep are; made when absent.
    pub cache_dir: Utf8PathBuf,
    /// Name under which builds are claimed. The same name after a restart takes its own claims up again at once, so no
    /// two running builders may share one.
    pub identity: String,
    /// How many builds run at once.
    pub parallel_builds: NonZeroU32,
}

/// Runs the loops until `stop`.
///
/// # Errors
/// When the builder cannot start, or when a loop ends by itself, which is a bug. Failures of the API and of objects are
/// retried, and reported where they belong.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let registries = options.controllers.is_some().then_some(Registries);
    let candidate = match options.controllers {
        Some(Controllers::Elected { identity }) => Some(Candidate {
            client: options.client.clone(),
            identity,
            terms: leader::TERMS,
        }),
        Some(Controllers::Alone) | None => None,
    };
    let parts = Parts {
        registries,
        candidate,
        builder: match options.builder {
            Some(builder) => Some(BuilderParts {
                engine: Engine::open(&builder.cache_dir)?,
                identity: builder.identity,
                terms: claim::TERMS,
                parallel_builds: builder.parallel_builds,
            }),
            None => None,
        },
        telemetry: options.telemetry,
    };
    run_parts(options.client, parts, stop).await
}

/// What the loops work with beside the API; tests have others.
struct Parts<R, B> {
    /// Runs the controllers.
    registries: Option<R>,
    /// Only when it was elected, when given.
    candidate: Option<Candidate>,
    builder: Option<BuilderParts<B>>,
    telemetry: Telemetry,
}

struct BuilderParts<B> {
    engine: B,
    identity: String,
    /// By which it claims builds.
    terms: Terms,
    parallel_builds: NonZeroU32,
}

async fn run_parts<R: Resolve + Clone, B: Build>(
    client: Client,
    parts: Parts<R, B>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut tasks = JoinSet::new();
    let readers = Readers {
        controllers: parts.registries.is_some(),
        builder: parts.builder.is_some(),
    };
    let (cache, filled) = Cache::start(&client, readers, &mut tasks);
    match stop.run_until_cancelled(filled).await {
        None => return Ok(()),
        Some(Err(_)) => return Err(Error::Ended("watch")),
        Some(Ok(())) => {}
    }
    let ctx = Arc::new(Context {
        events: Recorder::new(client.clone(), "caprock"),
        client,
        cache,
        gates: Gates::default(),
        warnings: Default::default(),
        telemetry: parts.telemetry,
        pace: Pace::default(),
    });
    ctx.telemetry.synced(&ctx.cache);
    let worker = parts
        .builder
        .map(|builder| spawn_builder(&ctx, builder, &stop, &mut tasks));
    let released = async {
        if let Some(worker) = worker {
            worker.released().await;
        }
    };
    let control = async {
        let Some(registries) = parts.registries else {
            return Ok(());
        };
        let act = |stop| run_controllers(ctx.clone(), registries.clone(), stop);
        match &parts.candidate {
            None => act(stop.clone()).await,
            Some(candidate) => candidate.run(act, stop.clone()).await,
        }
    };
    tokio::try_join!(control, until_ended(tasks, &stop, released)).map(drop)
}

/// Runs the controllers until `stop`.
async fn run_controllers<R: Resolve>(
    ctx: Arc<Context>,
    registries: R,
    stop: CancellationToken,
) -> Result<(), Error> {
    let _leading = ctx.telemetry.leading();
    let mut tasks = JoinSet::new();
    spawn_controllers(&ctx, registries, &stop, &mut tasks);
    until_ended(tasks, &stop, std::future::ready(())).await
}

/// Waits for `stop` and then for `last`; that one of the tasks ends before is an error.
async fn until_ended(
    mut tasks: JoinSet<&'static str>,
    stop: &CancellationToken,
    last: impl Future<Output = ()>,
) -> Result<(), Error> {
    let ended = tokio::select! {
        ended = tasks.join_next() => ended,
        () = stop.cancelled() => None,
    };
    if stop.is_cancelled() {
        last.await;
    }
    // Looks that are under way are cut off; the next start begins with a look at everything.
    tasks.shutdown().await;
    match ended {
        Some(Ok(name)) if !stop.is_cancelled() => Err(Error::Ended(name)),
        Some(Err(panic)) => {
            tracing::error!("{panic}");
            Err(Error::Ended("panicked"))
        }
        Some(Ok(_)) | None => Ok(()),
    }
}

fn spawn_controllers<R: Resolve>(
    ctx: &Arc<Context>,
    registries: R,
    stop: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
) {
    let cache = &ctx.cache;
    let mut loops = Loops { ctx, stop, tasks };
    let settled = Arc::new(render::Settled::default());
    let look = move |pool, ctx| render::reconcile(pool, ctx, settled.clone());
    loops.begin("render", &cache.pools, render::concerns, look);
    loops.begin("pool", &cache.pools, pool::concerns, pool::reconcile);

    loops.begin("node", &cache.nodes, node::concerns, node::reconcile);
    let (concerns, look) = (node_secret::concerns, node_secret::reconcile);
    loops.begin("node secret", &cache.nodes, concerns, look);
    let (concerns, look) = (node_access::concerns, node_access::reconcile);
    loops.begin("node access", &cache.nodes, concerns, look);
    let pulses = Arc::new(Pulses::default());
    let look = move |node, ctx| liveness::reconcile(node, ctx, pulses.clone());
    loops.begin("liveness", &cache.nodes, liveness::concerns, look);

    let (concerns, look) = (disruption::concerns, disruption::reconcile);
    loops.begin("disruption", &cache.configurations, concerns, look);

    let registries = Arc::new(registries);
    let shared = registries.clone();
    let look = move |map, ctx| images::reconcile(map, ctx, shared.clone());
    loops.begin("image", &cache.config_maps, images::concerns, look);
    let asking = Arc::new(Preflight::new(registries.clone()));
    let look = move |config, ctx| preflight::reconcile(config, ctx, asking.clone());
    loops.begin("preflight", &cache.os_configs, preflight::concerns, look);
    let builds = Arc::new(build::Builds {
        registries,
        attempts: Attempts::default(),
    });
    let look = move |config, ctx| build::reconcile(config, ctx, builds.clone());
    loops.begin("build", &cache.os_configs, build::concerns, look);
}

fn spawn_builder<B: Build>(
    ctx: &Arc<Context>,
    parts: BuilderParts<B>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
) -> Arc<Worker<B>> {
    let worker = Arc::new(Worker::new(parts, stop.clone()));
    let own = worker.clone();
    let look = move |build, ctx| worker::reconcile(build, ctx, own.clone());
    let mut loops = Loops { ctx, stop, tasks };
    loops.begin("builder", &ctx.cache.builds, worker::concerns, look);
    worker
}

/// Where loops begin: what they share.
struct Loops<'a> {
    ctx: &'a Arc<Context>,
    stop: &'a CancellationToken,
    tasks: &'a mut JoinSet<&'static str>,
}

impl Loops<'_> {
    fn begin<K, F, Fut>(
        &mut self,
        name: &'static str,
        store: &Store<K>,
        concerns: fn(&Change) -> Wake,
        look: F,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
        F: Fn(Arc<K>, Arc<Context>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Action, Error>> + Send + 'static,
    {
        let (ctx, store) = (self.ctx.clone(), store.clone());
        let looks = drive(name, ctx, store, concerns, look, self.stop.clone());
        self.tasks.spawn(async move {
            looks.await;
            name
        });
    }
}

#[cfg(test)]
mod tests;
