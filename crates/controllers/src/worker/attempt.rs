//! One attempt at one build: prepare, build, check, push; with progress in the build's status and a log.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use model::api::{MachineConfig, MachineOSBuild, MachineOSConfig};
use model::build_state::Step;
use model::condition::BuildReason;
use model::image_check::{Facts, ImageRoot};
use model::layering::{self, ImageInputs};
use model::render::Provenance;
use tokio::sync::watch;

use super::Worker;
use super::builder::{Build, Progress, Request, Tell};
use super::contexts::Contexts;
use super::log::Log;
use super::progress::Told;
use crate::attempts::insist;
use crate::build::rebuild::may_use_cache;
use crate::build::wanted::{self, BASE_DIGEST};
use crate::cache::Cache;
use crate::context::Context;
use crate::error::{Result, chain};
use crate::fit;
use crate::registry::{self, Failure, Purpose};
use crate::step;
use crate::telemetry::builds::{self, Phase};

/// Progress is written at most this often: it is for people, and every write is stored and watched.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Everything that an attempt is made from.
#[derive(Debug)]
pub(super) struct Job {
    inputs: ImageInputs,
    rendered: Arc<MachineConfig>,
    provenance: Provenance,
    pull_secret: Option<String>,
    push_secret: Option<String>,
    /// Versions of the objects that a failed attempt may be mended by.
    pub(super) inputs_version: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The image is in its registry.
    Pushed { image: String },
    /// There is no image.
    Failed(Failure),
    /// Nobody wants it any more, or not from this builder, which stops.
    Unwanted,
}

impl Outcome {
    pub(super) fn counts_as(&self) -> builds::Result {
        match self {
            Outcome::Pushed { .. } => builds::Result::Succeeded,
            Outcome::Failed(Failure { may_pass: true, .. }) => builds::Result::Retried,
            Outcome::Failed(_) => builds::Result::Failed,
            Outcome::Unwanted => builds::Result::Abandoned,
        }
    }
}

impl Job {
    /// The job of `build`, if it is what `config` asks for.
    pub(super) fn new(
        cache: &Cache,
        build: &MachineOSBuild,
        config: &MachineOSConfig,
    ) -> Option<Self> {
        let rendered_name = &build.spec.machine_config.name;
        let rendered = Cache::get::<MachineConfig>(&cache.machine_configs, rendered_name)?;
        let base = build.annotations().get(BASE_DIGEST)?.parse().ok()?;
        let inputs = wanted::inputs(cache, config, &rendered, &base).ok()?;
        if layering::build_name(config, &inputs) != build.name_any() {
            return None;
        }
        let named = |secret: &Option<model::api::Named>| secret.as_ref().map(|s| s.name.clone());
        let pull_secret = named(&config.spec.base_image_pull_secret);
        let push_secret = named(&config.spec.rendered_image_push_secret);
        let inputs_version = cache.access_version([pull_secret.as_deref(), push_secret.as_deref()]);
        Some(Job {
            inputs,
            provenance: fit::provenance(cache, &config.spec.machine_config_pool.name),
            rendered,
            pull_secret,
            push_secret,
            inputs_version,
        })
    }
}

/// Makes the attempt. Errors are those of the API; what happens to the build itself is in the outcome.
pub(super) async fn run<B: Build>(
    ctx: &Context,
    worker: &Worker<B>,
    build: &MachineOSBuild,
    job: &Job,
) -> Result<Outcome> {
    let start = Step::Start {
        identity: worker.identity.clone(),
    };
    if step::take(ctx, build, &start).await?.is_none() {
        return Ok(Outcome::Unwanted);
    }
    let log = Arc::new(Log::start(&ctx.client, build).await?);
    let (progress, mut told) = watch::channel(Told::new(ctx.telemetry.builds().clone()));
    let to_log = log.clone();
    let tell: Tell = Arc::new(move |happened| {
        let is_line = matches!(happened, Progress::Line(_) | Progress::Cached { .. });
        progress.send_if_modified(|told| {
            if let Some(line) = told.add(happened) {
                to_log.add(&line);
            }
            !is_line
        });
    });
    let made = tokio::select! {
        made = make(ctx, worker, build, job, tell) => made,
        never = report(ctx, build, &mut told, &log) => match never {},
    };
    log.add(match &made {
        Ok(image) => image,
        Err(failure) => &failure.message,
    });
    // Before the build's end is told: who follows the log stops reading then.
    log.flush().await;
    if made.is_ok() {
        // A quick build is over before the first report.
        let all = Step::Advance(told.borrow().progress());
        insist(|| step::take(ctx, build, &all)).await?;
    }
    Ok(match made {
        Ok(image) => Outcome::Pushed { image },
        Err(failure) => Outcome::Failed(failure),
    })
}

/// Writes progress and log as they come, for ever. An API that is away for a while does not end the build.
async fn report(
    ctx: &Context,
    build: &MachineOSBuild,
    told: &mut watch::Receiver<Told>,
    log: &Log,
) -> Infallible {
    loop {
        log.flush().await;
        let news = told.has_changed().unwrap_or(false);
        let progress = news.then(|| told.borrow_and_update().progress());
        if let Some(progress) = progress
            && let Err(error) = step::take(ctx, build, &Step::Advance(progress)).await
        {
            tracing::warn!("{}", chain(&error));
            told.mark_changed();
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

async fn make<B: Build>(
    ctx: &Context,
    worker: &Worker<B>,
    build: &MachineOSBuild,
    job: &Job,
    tell: Tell,
) -> Result<String, Failure> {
    let access =
        |purpose, secret: &Option<String>| registry::access(&ctx.cache, purpose, secret.as_deref());
    // Both before the long part: a missing Secret is told at once.
    let pull = access(Purpose::Pull, &job.pull_secret)?;
    let push = access(Purpose::Push, &job.push_secret)?;
    let to = build
        .spec
        .rendered_image_push_spec
        .parse::<model::pull_spec::PullSpec>()
        .map_err(|error| Failure {
            reason: BuildReason::InvalidConfig,
            message: format!("`spec.renderedImagePushSpec`: {error}"),
            may_pass: false,
        })?;
    let contexts = Contexts::write(&job.inputs).map_err(of_host("write the build's files"))?;
    let request = Request {
        containerfile: layering::containerfile(&job.inputs),
        preamble_lines: lines(&layering::preamble(&job.inputs)),
        named_contexts: contexts.named.clone(),
        secrets: contexts.secrets.clone(),
        use_cache: may_use_cache(build),
        pull,
        to: to.clone(),
        push,
    };
    let (counted, begun) = (ctx.telemetry.builds(), Instant::now());
    let built = worker.builder.build(request, tell.clone()).await;
    counted.phase(Phase::Build, begun);
    let image = built.map_err(|failure| failure.with_secret(job.pull_secret.as_deref()))?;
    let image = Arc::new(image);
    let begun = Instant::now();
    let facts = check(job, &image).await;
    counted.phase(Phase::Check, begun);
    let facts = facts?;
    insist(|| fit::keep(ctx, build, &facts))
        .await
        .map_err(|error| Failure {
            reason: BuildReason::Failed,
            message: chain(&error),
            may_pass: true,
        })?;
    tell(Progress::Pushing);
    let begun = Instant::now();
    let pushed = worker.builder.push(image, tell).await;
    counted.phase(Phase::Push, begun);
    let digest = pushed.map_err(|failure| failure.with_secret(job.push_secret.as_deref()))?;
    let pushed = to.with_digest(&digest).map_err(|error| Failure {
        reason: BuildReason::PushFailed,
        message: error.to_string(),
        may_pass: false,
    })?;
    Ok(pushed.to_string())
}

/// Checks that the image and the rendered config fit, before any registry or node sees the image. Returns what later
/// checks need.
async fn check<I: ImageRoot + Send + Sync + 'static>(
    job: &Job,
    image: &Arc<I>,
) -> Result<Facts, Failure> {
    let failed = |message| Failure {
        reason: BuildReason::ImageCheckFailed,
        message,
        may_pass: false,
    };
    let (image, rendered) = (image.clone(), job.rendered.clone());
    let provenance = job.provenance.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let problems = fit::problems(&rendered, &provenance, image.as_ref())?;
        Ok((problems, Facts::gather(image.as_ref())?))
    });
    let (problems, facts) = checked
        .await
        .map_err(|error| failed(format!("the check of the image ended: {error}")))?
        .map_err(of_host("read the built image"))?;
    if problems.is_empty() {
        Ok(facts)
    } else {
        Err(failed(problems))
    }
}

/// The machine may be mended; what an image holds stays as it is.
fn of_host(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| {
        let of_image = matches!(
            error.kind(),
            ErrorKind::FileTooLarge | ErrorKind::InvalidInput | ErrorKind::InvalidData
        );
        Failure {
            reason: BuildReason::Failed,
            message: format!("the builder cannot {what}: {error}"),
            may_pass: !of_image,
        }
    }
}

fn lines(text: &str) -> u32 {
    u32::try_from(text.lines().count()).unwrap_or(u32::MAX)
}
