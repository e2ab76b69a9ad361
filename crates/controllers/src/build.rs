//! The build loop: from a MachineOSConfig and its pool's rendered config to a MachineOSBuild.
//!
//! A build is named by its inputs, so the loop only has to see that the wanted one exists and that no other of the same
//! MachineOSConfig is still under way. What keeps a build from being made is a condition on the MachineOSConfig.

pub(crate) mod gate;
pub(crate) mod rebuild;
mod sources;
pub(crate) mod wanted;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use model::api::{
    MachineConfig, MachineConfigPool, MachineOSBuild, MachineOSConfig, MachineOSConfigStatus,
};
use model::build_state::{BuildState, Step};
use model::condition::{self, BuildReason, OsConfigConditionType, Status};
use model::keys;
use model::layering::{self, ImageInputs};
use model::pull_spec::PullSpec;
use serde_json::json;

use crate::attempts::Attempts;
use crate::cache::{Cache, Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::{Doing, Result, has_code};
use crate::event::Tone;
use crate::images;
use crate::registry::{self, Failure, Purpose, Resolve};
use crate::step;
use wanted::{BASE_DIGEST, BASE_SOURCE, Wanted};

pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        Kind::OsConfig
        | Kind::Pool
        | Kind::MachineConfig
        | Kind::Build
        | Kind::Secret
        | Kind::ConfigMap => Wake::Everyone,
        _ => Wake::Nobody,
    }
}

/// What the loop remembers: when a registry that failed is asked again.
#[derive(Debug)]
pub(crate) struct Builds<R> {
    pub(crate) registries: Arc<R>,
    pub(crate) attempts: Attempts,
}

/// How one look ended.
enum Outcome {
    /// The build exists, or will in a moment.
    Build { name: String, image: Option<String> },
    /// Nothing can be built before something else happens, which is not the user's doing.
    Waits,
    /// Nothing can be built before somebody mends what the message names.
    Blocked(Failure),
    /// A registry failed a moment ago and is left alone until then.
    Later(Duration),
}

/// One look at one MachineOSConfig.
pub(crate) async fn reconcile<R: Resolve>(
    config: Arc<MachineOSConfig>,
    ctx: Arc<Context>,
    builds: Arc<Builds<R>>,
) -> Result<Action> {
    if config.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if rebuild::take_in(&ctx, &config).await? {
        // The change of the object brings us back.
        return Ok(Action::await_change());
    }
    let outcome = look(&ctx, &config, &builds).await?;
    if let Outcome::Later(wait) = outcome {
        return Ok(Action::requeue(wait));
    }
    report(&ctx, &config, &outcome).await?;
    Ok(match outcome {
        Outcome::Blocked(Failure { may_pass: true, .. }) => {
            Action::requeue(builds.attempts.wait(&config.name_any()))
        }
        Outcome::Build { .. } | Outcome::Waits | Outcome::Blocked(_) | Outcome::Later(_) => {
            Action::await_change()
        }
    })
}

async fn look<R: Resolve>(
    ctx: &Context,
    config: &MachineOSConfig,
    builds: &Builds<R>,
) -> Result<Outcome> {
    let pool_name = &config.spec.machine_config_pool.name;
    let Some(pool) = Cache::get::<MachineConfigPool>(&ctx.cache.pools, pool_name) else {
        return Ok(Outcome::Blocked(Failure {
            reason: BuildReason::PoolNotFound,
            message: format!(
                "`spec.machineConfigPool.name`: there is no MachineConfigPool `{pool_name}`; create it"
            ),
            may_pass: false,
        }));
    };
    let rendered_name = &pool.spec.configuration.name;
    let Some(rendered) = Cache::get::<MachineConfig>(&ctx.cache.machine_configs, rendered_name)
    else {
        return Ok(Outcome::Waits);
    };
    let existing = wanted::builds_of(&ctx.cache, config);
    let inputs = match wanted::wanted(&ctx.cache, config, &rendered, &existing) {
        Wanted::Build(inputs) => *inputs,
        Wanted::Blocked(failure) => return Ok(Outcome::Blocked(failure)),
        Wanted::Unpinned(base) => match pin(ctx, config, builds, &base).await {
            Err(outcome) => return Ok(outcome),
            Ok(pinned) => match wanted::inputs(&ctx.cache, config, &rendered, &pinned) {
                Ok(inputs) => inputs,
                Err(failure) => return Ok(Outcome::Blocked(failure)),
            },
        },
    };
    builds.attempts.clear(&config.name_any());
    let name = layering::build_name(config, &inputs);
    supersede(ctx, &existing, &name).await?;
    let image = match existing.iter().find(|build| build.name_any() == name) {
        None => match new_build(config, &rendered, &inputs, &existing) {
            Ok(build) => {
                create(ctx, &build).await?;
                None
            }
            Err(failure) => return Ok(Outcome::Blocked(failure)),
        },
        Some(build) => {
            let state = BuildState::of(build);
            if wanted::is_spent(build, &state, rendered_name) {
                remove(ctx, build).await?;
            }
            state.image()
        }
    };
    Ok(Outcome::Build { name, image })
}

/// The build of these inputs, as it is created.
fn new_build(
    config: &MachineOSConfig,
    rendered: &MachineConfig,
    inputs: &ImageInputs,
    existing: &[Arc<MachineOSBuild>],
) -> Result<MachineOSBuild, Failure> {
    let mut build = layering::machine_os_build(config, &rendered.name_any(), inputs)
        .map_err(wanted::blocked)?;
    let annotations = build.annotations_mut();
    annotations.insert(BASE_SOURCE.to_owned(), rendered.spec.os_image_url.clone());
    annotations.insert(BASE_DIGEST.to_owned(), inputs.base().to_string());
    let of_wish = |build: &Arc<MachineOSBuild>| rebuild::is_for_wish_of(build, config);
    rebuild::mark(&mut build, config, !existing.iter().any(of_wish));
    Ok(build)
}

/// Asks the registry what the base image's tag stands for, unless it failed to answer a moment ago.
async fn pin<R: Resolve>(
    ctx: &Context,
    config: &MachineOSConfig,
    builds: &Builds<R>,
    base: &PullSpec,
) -> Result<PullSpec, Outcome> {
    let name = config.name_any();
    let secret = config.spec.base_image_pull_secret.as_ref();
    let secret = secret.map(|secret| secret.name.as_str());
    let inputs = format!("{base} {}", ctx.cache.access_version([secret]));
    let wait = builds.attempts.wait_with(&name, &inputs);
    if !wait.is_zero() {
        return Err(Outcome::Later(wait));
    }
    let answer = async {
        let access = registry::access(&ctx.cache, Purpose::Pull, secret)?;
        let digest = builds.registries.digest(&base.to_string(), access).await;
        digest.map_err(|failure| failure.with_secret(secret))
    };
    let pinned = answer.await.and_then(|digest| {
        base.with_digest(&digest).map_err(|error| Failure {
            reason: BuildReason::BaseImageUnavailable,
            message: error.to_string(),
            may_pass: true,
        })
    });
    pinned.map_err(|failure| {
        builds.attempts.failed(&name, &inputs);
        Outcome::Blocked(failure)
    })
}

/// Stops every other build of the MachineOSConfig that is still under way.
async fn supersede(ctx: &Context, existing: &[Arc<MachineOSBuild>], wanted: &str) -> Result<()> {
    let step = Step::Interrupt {
        reason: BuildReason::Superseded,
        message: format!("its inputs changed; `{wanted}` takes its place"),
    };
    for build in existing.iter().filter(|build| build.name_any() != wanted) {
        if !BuildState::of(build).is_final() {
            step::take(ctx, build, &step).await?;
        }
    }
    Ok(())
}

async fn create(ctx: &Context, build: &MachineOSBuild) -> Result<()> {
    let name = build.name_any();
    let made = Api::<MachineOSBuild>::all(ctx.client.clone())
        .create(&PostParams::default(), build)
        .await
        .doing(|| format!("create MachineOSBuild `{name}`"));
    match made {
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            let config = &build.spec.machine_config.name;
            tracing::info!(build = name, config, "build wanted");
            Ok(())
        }
    }
}

/// Removes a build that ended without an image for a reason that no longer holds, so that it is made anew.
async fn remove(ctx: &Context, build: &MachineOSBuild) -> Result<()> {
    let name = build.name_any();
    let this_one = DeleteParams::default().preconditions(Preconditions {
        uid: build.uid(),
        resource_version: None,
    });
    let api = Api::<MachineOSBuild>::all(ctx.client.clone());
    match api.delete(&name, &this_one).await {
        Err(error) if has_code(&error, 404) || has_code(&error, 409) => Ok(()),
        other => other
            .map(drop)
            .doing(|| format!("remove MachineOSBuild `{name}`")),
    }
}

async fn report(ctx: &Context, config: &MachineOSConfig, outcome: &Outcome) -> Result<()> {
    let before = config.status.clone().unwrap_or_default();
    let after = next_status(config, &before, outcome, Timestamp::now());
    let mut object = config.clone();
    if before != after {
        object.status = Some(after.clone());
        object = ctx.write_status(&object).await?;
        tell(ctx, config, &before, &after).await;
    }
    if let Outcome::Build {
        name,
        image: Some(image),
    } = outcome
    {
        images::remember(ctx, config, name, image).await?;
    }
    if let Outcome::Build { name, .. } = outcome
        && config.annotations().get(keys::CURRENT_BUILD) != Some(name)
    {
        let change = json!({"metadata": {"annotations": {keys::CURRENT_BUILD: name}}});
        ctx.merge(&object, change).await?;
    }
    Ok(())
}

fn next_status(
    config: &MachineOSConfig,
    before: &MachineOSConfigStatus,
    outcome: &Outcome,
    now: Timestamp,
) -> MachineOSConfigStatus {
    let mut after = before.clone();
    after.observed_generation = config.metadata.generation;
    let (status, reason, message) = match outcome {
        Outcome::Blocked(failure) => (Status::True, failure.reason, failure.message.clone()),
        Outcome::Build { .. } | Outcome::Waits | Outcome::Later(_) => {
            (Status::False, BuildReason::AsExpected, String::new())
        }
    };
    condition::set(
        &mut after.conditions,
        OsConfigConditionType::Degraded,
        status,
        reason,
        message,
        now,
    );
    if let Outcome::Build { name, image } = outcome {
        after.machine_os_build = Some(layering::build_reference(name));
        if image.is_some() {
            after.current_image_pull_spec = image.clone();
        }
    }
    after
}

async fn tell(
    ctx: &Context,
    config: &MachineOSConfig,
    before: &MachineOSConfigStatus,
    after: &MachineOSConfigStatus,
) {
    let degraded = |status: &MachineOSConfigStatus| {
        condition::get(&status.conditions, OsConfigConditionType::Degraded)
            .filter(|found| found.status == Status::True.as_str())
            .map(|found| (found.reason.clone(), found.message.clone()))
    };
    if let Some((reason, message)) = degraded(after)
        && degraded(before).as_ref() != Some(&(reason.clone(), message.clone()))
    {
        tracing::warn!(config = config.name_any(), "cannot build: {message}");
        ctx.events
            .publish(config, Tone::Warning, &reason, &message)
            .await;
    }
}
