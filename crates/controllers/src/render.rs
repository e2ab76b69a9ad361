//! The render loop: from a pool's MachineConfigs to its rendered config.

mod collect;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use model::api::{MachineConfig, MachineConfigPool};
use model::condition::{self, PoolConditionType, PoolReason, Status};
use model::keys;
use model::render::{Defaults, RenderError, Rendered, render};
use serde_json::json;

use crate::cache::{Cache, Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::{Doing, Result};
use crate::event::Tone;

pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        // It may name a rendered config no longer.
        Kind::Pool if change.only_status => Wake::of(change.name.as_deref()),
        Kind::Pool | Kind::MachineConfig => Wake::Everyone,
        Kind::ConfigMap if change.name.as_deref() == Some(keys::OS_IMAGE_URL_CONFIG_MAP) => {
            Wake::Everyone
        }
        Kind::ConfigMap if change.name.is_none() => Wake::Everyone,
        _ => Wake::Nobody,
    }
}

/// What each pool was last rendered from: pools change with every step of their nodes, and mostly not in what the render
/// is made from.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    versions: Mutex<HashMap<String, String>>,
}

impl Settled {
    fn is(&self, pool: &MachineConfigPool, versions: &str) -> bool {
        self.lock().get(&pool.name_any()).map(String::as_str) == Some(versions)
    }

    fn set(&self, pool: &MachineConfigPool, versions: String) {
        self.lock().insert(pool.name_any(), versions);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.versions
            .lock()
            .expect("no panic happens while the lock is held")
    }
}

/// Changes with everything that a look depends on.
fn versions(cache: &Cache, pool: &MachineConfigPool) -> String {
    let status = pool.status.as_ref();
    let degraded = status
        .and_then(|status| condition::get(&status.conditions, PoolConditionType::RenderDegraded));
    let defaults = cache.config_map(keys::OS_IMAGE_URL_CONFIG_MAP);
    let mut configs: Vec<String> = cache
        .machine_configs
        .state()
        .iter()
        .filter_map(|config| config.resource_version())
        .collect();
    configs.sort_unstable();
    format!(
        "{:?} {:?} {:?} {:?} {:?} {}",
        pool.uid(),
        pool.metadata.generation,
        status.map(|status| &status.configuration.name),
        degraded,
        defaults.and_then(|map| map.resource_version()),
        configs.join(" ")
    )
}

/// One look at one pool.
pub(crate) async fn reconcile(
    pool: Arc<MachineConfigPool>,
    ctx: Arc<Context>,
    settled: Arc<Settled>,
) -> Result<Action> {
    let versions = versions(&ctx.cache, &pool);
    if settled.is(&pool, &versions) {
        return Ok(Action::await_change());
    }
    let configs: Vec<MachineConfig> = ctx
        .cache
        .machine_configs
        .state()
        .iter()
        .map(|config| config.as_ref().clone())
        .collect();
    let outcome = render(&pool, &configs, &defaults(&ctx.cache));
    let pool = match &outcome {
        Ok(rendered) => publish(&ctx, pool, rendered).await?,
        Err(_) => pool,
    };
    report(&ctx, &pool, outcome.as_ref().err()).await?;
    collect::unused(&ctx, &pool).await?;
    settled.set(&pool, versions);
    Ok(Action::await_change())
}

/// What the cluster gives to pools whose MachineConfigs name no image.
fn defaults(cache: &Cache) -> Defaults {
    let map = cache.config_map(keys::OS_IMAGE_URL_CONFIG_MAP);
    let value = |key: &str| {
        let data = map.as_ref().and_then(|map| map.data.as_ref());
        data.and_then(|data| data.get(key)).cloned()
    };
    Defaults {
        os_image_url: value(keys::BASE_OS_IMAGE_KEY).unwrap_or_default(),
        extensions_image: value(keys::BASE_OS_EXTENSIONS_IMAGE_KEY).unwrap_or_default(),
    }
}

/// Sees to it that the rendered config exists, and only then points the pool at it.
async fn publish(
    ctx: &Context,
    pool: Arc<MachineConfigPool>,
    rendered: &Rendered,
) -> Result<Arc<MachineConfigPool>> {
    create(ctx, &pool, rendered).await?;
    let configuration = rendered.configuration();
    if pool.spec.configuration == configuration {
        return Ok(pool);
    }
    let renamed = pool.spec.configuration.name != configuration.name;
    let change = json!({"spec": {"configuration": configuration}});
    let changed = ctx.merge(pool.as_ref(), change).await?;
    if renamed {
        let name = rendered.name();
        tracing::info!(pool = pool.name_any(), config = name, "rendered");
        let message = format!(
            "`{name}` is rendered from {}",
            quoted(&rendered.sources).join(", ")
        );
        ctx.events
            .publish(&changed, Tone::Normal, "RenderedConfigGenerated", &message)
            .await;
    }
    Ok(Arc::new(changed))
}

async fn create(ctx: &Context, pool: &MachineConfigPool, rendered: &Rendered) -> Result<()> {
    let name = rendered.name();
    let api = Api::<MachineConfig>::all(ctx.client.clone());
    let wanted = &rendered.config;
    match Cache::get(&ctx.cache.machine_configs, name) {
        Some(seen) if seen.spec == wanted.spec => Ok(()),
        Some(seen) => {
            // Its name is the digest of its content: whoever changed it is undone.
            let mut healed = wanted.clone();
            healed.metadata.resource_version = seen.resource_version();
            api.replace(name, &PostParams::default(), &healed)
                .await
                .doing(|| format!("restore MachineConfig `{name}`"))?;
            let message = format!("MachineConfig `{name}` was changed and is restored");
            ctx.events
                .publish(pool, Tone::Warning, "RenderedConfigRestored", &message)
                .await;
            Ok(())
        }
        None => {
            let made = api
                .create(&PostParams::default(), wanted)
                .await
                .doing(|| format!("create MachineConfig `{name}`"));
            match made {
                Err(error) if error.is_conflict() => Ok(()),
                other => other.map(drop),
            }
        }
    }
}

/// Writes `RenderDegraded`; the pool's other conditions belong to the pool loop.
async fn report(
    ctx: &Context,
    pool: &MachineConfigPool,
    error: Option<&RenderError>,
) -> Result<()> {
    let before = pool.status.clone().unwrap_or_default();
    let mut after = before.clone();
    let (status, reason, message) = match error {
        None => (Status::False, PoolReason::AsExpected, String::new()),
        Some(error) => (Status::True, error.reason(), explain(pool, error)),
    };
    condition::set(
        &mut after.conditions,
        PoolConditionType::RenderDegraded,
        status,
        reason,
        message.clone(),
        Timestamp::now(),
    );
    if before == after {
        return Ok(());
    }
    let mut object = pool.clone();
    object.status = Some(after);
    ctx.write_status(&object).await?;
    if error.is_some() {
        tracing::warn!(pool = pool.name_any(), "cannot render: {message}");
        ctx.events
            .publish(pool, Tone::Warning, reason.as_str(), &message)
            .await;
    }
    Ok(())
}

fn explain(pool: &MachineConfigPool, error: &RenderError) -> String {
    let last = &pool.spec.configuration.name;
    if last.is_empty() {
        error.to_string()
    } else {
        format!("{error}; `{last}` stays in force until this is corrected")
    }
}

fn quoted(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("`{name}`")).collect()
}

/// Whether `config` is a rendered config of `pool`.
fn is_rendered_for(config: &MachineConfig, pool: &MachineConfigPool) -> bool {
    let uid = pool.metadata.uid.as_deref();
    let owners = config.owner_references();
    model::render::is_rendered(config)
        && owners.iter().any(|owner| {
            Some(owner.uid.as_str()) == uid && owner.kind == MachineConfigPool::kind(&())
        })
}
