//! The builder's loop: claims MachineOSBuilds, builds them, checks the images and pushes them.
//!
//! The loop may die at any moment. The claim it leaves behind runs out, or is taken up again by the same builder after
//! its restart; the build then runs again as the same MachineOSBuild, and the cache makes up for the lost time.

mod attempt;
pub(crate) mod builder;
pub(crate) mod claim;
mod contexts;
pub(crate) mod engine;
mod folder;
pub(crate) mod log;
mod progress;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::controller::Action;
use model::api::{MachineOSBuild, MachineOSConfig};
use model::build_state::{BuildState, Step};
use model::condition::BuildReason;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::BuilderParts;
use crate::attempts::{Attempts, insist};
use crate::cache::{Cache, Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::{Doing, Result};
use crate::lease::Terms;
use crate::registry::Failure;
use crate::step;
use crate::telemetry::builds as telemetry;
use attempt::{Job, Outcome};
use builder::Build;
use claim::{Claim, Claimed};

/// How long a builder that stops may take to give its claims back; those that it cannot give back run out.
const RELEASED_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        // A build that ends leaves its place to another; a mended Secret or a late MachineOSConfig starts one.
        Kind::Build
        | Kind::OsConfig
        | Kind::MachineConfig
        | Kind::Secret
        | Kind::ConfigMap
        | Kind::Pool => Wake::Everyone,
        Kind::Claim => Wake::of(change.name.as_deref()),
        _ => Wake::Nobody,
    }
}

/// One builder.
#[derive(Debug)]
pub(crate) struct Worker<B> {
    pub(crate) builder: B,
    pub(crate) identity: String,
    /// By which it claims builds.
    pub(crate) terms: Terms,
    pub(crate) attempts: Attempts,
    /// One for each build at a time.
    places: Semaphore,
    parallel_builds: NonZeroU32,
    pub(crate) stop: CancellationToken,
}

impl<B> Worker<B> {
    pub(crate) fn new(parts: BuilderParts<B>, stop: CancellationToken) -> Self {
        let BuilderParts {
            engine,
            identity,
            terms,
            parallel_builds,
        } = parts;
        let places = usize::try_from(parallel_builds.get()).unwrap_or(Semaphore::MAX_PERMITS);
        Worker {
            builder: engine,
            identity,
            terms,
            attempts: Attempts::default(),
            places: Semaphore::new(places.min(Semaphore::MAX_PERMITS)),
            parallel_builds,
            stop,
        }
    }

    /// Waits, once the builder stops, until the builds under way have ended and their claims are given back.
    pub(crate) async fn released(&self) {
        let all = self.places.acquire_many(self.parallel_builds.get());
        if tokio::time::timeout(RELEASED_WITHIN, all).await.is_err() {
            tracing::warn!("not every claim could be given back; other builders wait for its end");
        }
    }
}

/// One look at one build; when it is ours to build, the look lasts as long as the build.
pub(crate) async fn reconcile<B: Build>(
    build: Arc<MachineOSBuild>,
    ctx: Arc<Context>,
    worker: Arc<Worker<B>>,
) -> Result<Action> {
    let name = build.name_any();
    match BuildState::of(&build) {
        BuildState::New => {
            step::take(&ctx, &build, &Step::Prepare).await?;
            return Ok(Action::await_change());
        }
        BuildState::Prepared | BuildState::Building { .. } => {}
        BuildState::Succeeded { .. }
        | BuildState::Failed { .. }
        | BuildState::Interrupted { .. } => {
            worker.attempts.clear(&name);
            claim::forget(&ctx.client, &ctx.cache, &build, &worker.identity).await?;
            return Ok(Action::await_change());
        }
    }
    let config_name = &build.spec.machine_os_config.name;
    let Some(config) = Cache::get::<MachineOSConfig>(&ctx.cache.os_configs, config_name) else {
        let step = Step::Interrupt {
            reason: BuildReason::Interrupted,
            message: format!("MachineOSConfig `{config_name}` was removed"),
        };
        step::take(&ctx, &build, &step).await?;
        return Ok(Action::await_change());
    };
    // Not (yet) what the MachineOSConfig wants: the build loop stops it, or the objects that make it up come later.
    let Some(job) = Job::new(&ctx.cache, &build, &config) else {
        return Ok(Action::await_change());
    };
    let wait = worker.attempts.wait_with(&name, &job.inputs_version);
    if !wait.is_zero() {
        return Ok(Action::requeue(wait));
    }
    let Ok(_place) = worker.places.try_acquire() else {
        return Ok(Action::await_change());
    };
    // What is taken now would only be given back.
    if worker.stop.is_cancelled() {
        return Ok(Action::await_change());
    }
    match claim::claim(&ctx.client, &build, &worker.identity, worker.terms).await? {
        Claimed::Others(wait) => Ok(Action::requeue(wait)),
        Claimed::Ours(claim) if is_over(&ctx, &build).await? => {
            claim.release(&name).await?;
            Ok(Action::await_change())
        }
        Claimed::Ours(claim) => run(&ctx, &worker, &build, &job, *claim).await,
    }
}

/// Whether a build has ended, or is gone, while the local copy still has it under way: a look that follows the end of a
/// build may be quicker than the watch.
async fn is_over(ctx: &Context, build: &MachineOSBuild) -> Result<bool> {
    let name = build.name_any();
    let api = Api::<MachineOSBuild>::all(ctx.client.clone());
    let now = api
        .get_opt(&name)
        .await
        .doing(|| format!("read MachineOSBuild `{name}`"))?;
    Ok(now.is_none_or(|now| now.uid() != build.uid() || BuildState::of(&now).is_final()))
}

async fn run<B: Build>(
    ctx: &Context,
    worker: &Worker<B>,
    build: &MachineOSBuild,
    job: &Job,
    mut claim: Claim,
) -> Result<Action> {
    let (counted, begun) = (ctx.telemetry.builds(), Instant::now());
    let outcome = tokio::select! {
        outcome = attempt::run(ctx, worker, build, job) => outcome?,
        () = claim.keep() => {
            counted.ended(telemetry::Result::Abandoned, begun);
            return Ok(lost(worker, build));
        }
        () = unwanted(ctx, build) => Outcome::Unwanted,
        // Whoever is free, this builder after its restart or another, goes on at once.
        () = worker.stop.cancelled() => Outcome::Unwanted,
    };
    counted.ended(outcome.counts_as(), begun);
    if let Outcome::Failed(failure) = &outcome {
        counted.failed(failure.reason);
    }
    let action = tokio::select! {
        action = conclude(ctx, worker, build, job, outcome) => action?,
        () = claim.keep() => return Ok(lost(worker, build)),
    };
    claim.release(&build.name_any()).await?;
    Ok(action)
}

fn lost<B>(worker: &Worker<B>, build: &MachineOSBuild) -> Action {
    tracing::warn!(
        build = build.name_any(),
        "the claim was lost; another builder may build on"
    );
    Action::requeue(worker.terms.renew_every)
}

/// Tells how it ended, for as long as the claim holds: a build whose end cannot be told would be built again.
async fn conclude<B>(
    ctx: &Context,
    worker: &Worker<B>,
    build: &MachineOSBuild,
    job: &Job,
    outcome: Outcome,
) -> Result<Action> {
    let name = build.name_any();
    let step = match outcome {
        Outcome::Unwanted => return Ok(Action::await_change()),
        Outcome::Pushed { image } => Step::Succeed { image },
        Outcome::Failed(Failure {
            may_pass: false,
            reason,
            message,
        }) => Step::Fail { reason, message },
        Outcome::Failed(Failure { message, .. }) => {
            let (failures, wait) = worker.attempts.failed(&name, &job.inputs_version);
            let step = Step::Retry {
                message: format!("{message}; tried again until it succeeds"),
                next: after(wait, Timestamp::now()),
                attempts: failures,
            };
            insist(|| step::take(ctx, build, &step)).await?;
            tracing::warn!(build = name, failures, "{message}; trying again");
            return Ok(Action::requeue(wait));
        }
    };
    worker.attempts.clear(&name);
    insist(|| step::take(ctx, build, &step)).await?;
    Ok(Action::await_change())
}

fn after(wait: Duration, now: Timestamp) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.checked_add(wait).unwrap_or(now)
}

/// Returns when the build is no longer wanted: stopped, removed, or removed and made anew.
async fn unwanted(ctx: &Context, build: &MachineOSBuild) {
    let mut changes = ctx.cache.changes();
    let name = build.name_any();
    loop {
        let wanted = Cache::get::<MachineOSBuild>(&ctx.cache.builds, &name).is_some_and(|seen| {
            seen.uid() == build.uid()
                && seen.metadata.deletion_timestamp.is_none()
                && !BuildState::of(&seen).is_final()
        });
        if !wanted {
            return;
        }
        // A lagging receiver looks again; a closed one means that the process ends.
        if let Err(tokio::sync::broadcast::error::RecvError::Closed) = changes.recv().await {
            std::future::pending::<()>().await;
        }
    }
}
