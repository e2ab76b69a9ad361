//! Whether an image fits a rendered config: checked by the builder when the image is made, and again from the kept
//! facts when a later rendered config uses the same image.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use model::api::{MachineConfig, MachineConfigPool, MachineOSBuild};
use model::ignition;
use model::image_check::{self, Facts, ImageRoot};
use model::keys;
use model::render::Provenance;

use crate::cache::Cache;
use crate::context::Context;
use crate::error::{Doing, Result};
use crate::owned;

/// Key of the facts in their ConfigMap.
const KEY: &str = "facts.json";

/// Name of the ConfigMap with the facts of a build's image.
fn name(build: &str) -> String {
    format!("image-facts-{build}")
}

/// Everything that keeps nodes from running `image` with `rendered`, a line each; empty when they fit.
pub(crate) fn problems(
    rendered: &MachineConfig,
    provenance: &Provenance,
    image: &dyn ImageRoot,
) -> std::io::Result<String> {
    let config = match &rendered.spec.config {
        None => ignition::Config::default(),
        Some(config) => match ignition::parse(config) {
            Ok(config) => config,
            Err(problems) => {
                let lines = problems.iter().map(|problem| {
                    format!(
                        "rendered MachineConfig `{}`: {problem}",
                        rendered.name_any()
                    )
                });
                return Ok(lines.collect::<Vec<_>>().join("\n"));
            }
        },
    };
    let problems = image_check::check(&config, provenance, image)?;
    let lines = problems.iter().map(ToString::to_string);
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Which MachineConfig asks for what, from those that the pool is rendered from.
pub(crate) fn provenance(cache: &Cache, pool: &str) -> Provenance {
    let Some(pool) = Cache::get::<MachineConfigPool>(&cache.pools, pool) else {
        return Provenance::default();
    };
    let sources = pool.spec.configuration.source.iter();
    let sources: Vec<Arc<MachineConfig>> = sources
        .filter_map(|source| Cache::get(&cache.machine_configs, source.name.as_deref()?))
        .collect();
    Provenance::of(sources.iter().map(AsRef::as_ref))
}

/// Keeps the facts of a build's image, for as long as the build is there.
pub(crate) async fn keep(ctx: &Context, build: &MachineOSBuild, facts: &Facts) -> Result<()> {
    let name = name(&build.name_any());
    let doing = || format!("write ConfigMap `{name}`");
    let text = serde_json::to_string(facts)
        .map_err(kube::Error::SerdeError)
        .doing(doing)?;
    let map = ConfigMap {
        metadata: owned::by(build, &name),
        data: Some([(KEY.to_owned(), text)].into()),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), keys::NAMESPACE);
    let made = api.create(&PostParams::default(), &map).await.doing(doing);
    match made {
        // Of an earlier attempt.
        Err(error) if error.is_conflict() => api
            .replace(&name, &PostParams::default(), &map)
            .await
            .map(drop)
            .doing(doing),
        other => other.map(drop),
    }
}

/// Changes when the kept facts of a build's image do.
pub(crate) fn facts_version(cache: &Cache, build: &MachineOSBuild) -> Option<String> {
    cache
        .config_map(&name(&build.name_any()))?
        .resource_version()
}

/// What keeps a pool's rendered config from running with the image of a build that was made for another rendered
/// config. Nothing when no facts were kept: the image passed the check of its own config then, and the agent verifies.
pub(crate) fn later_problems(
    cache: &Cache,
    pool: &str,
    rendered: &MachineConfig,
    build: &MachineOSBuild,
) -> Option<String> {
    if build.spec.machine_config.name == rendered.name_any() {
        return None;
    }
    let map = cache.config_map(&name(&build.name_any()))?;
    let facts: Facts = match serde_json::from_str(map.data.as_ref()?.get(KEY)?) {
        Ok(facts) => facts,
        Err(error) => {
            return Some(format!(
                "ConfigMap `{}` in namespace `{}`: `{KEY}` cannot be read: {error}; remove it",
                map.name_any(),
                keys::NAMESPACE
            ));
        }
    };
    match problems(rendered, &provenance(cache, pool), &facts) {
        Ok(problems) => Some(problems).filter(|problems| !problems.is_empty()),
        Err(error) => Some(error.to_string()),
    }
}
