//! Whether the image that belongs to a pool's rendered config is there, for the pool loop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kube::ResourceExt;
use model::api::{MachineConfig, MachineConfigPool, MachineOSBuild, MachineOSConfig};
use model::build_state::BuildState;
use model::condition::{self, OsConfigConditionType, Status};
use model::layering;
use model::rollout::Gate;

use super::sources;
use super::wanted::{self, Wanted};
use crate::cache::Cache;
use crate::fit;

/// What was last decided for each pool, and from which versions of which objects: pools are looked at with every change
/// of a Node, and reading a rendered config of a megabyte takes long.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    decided: Mutex<HashMap<String, (String, Gate)>>,
}

impl Gates {
    /// The pool's gate. It depends on nothing but the objects: a status that another loop wrote may be about an older
    /// rendered config.
    pub(crate) fn of(&self, cache: &Cache, pool: &MachineConfigPool) -> Gate {
        let Some(config) = os_config(cache, pool) else {
            return Gate::NotLayered;
        };
        let builds = wanted::builds_of(cache, &config);
        let versions = versions(cache, pool, &config, &builds);
        let mut decided = self
            .decided
            .lock()
            .expect("no panic happens while the lock is held");
        match decided.get(&pool.name_any()) {
            Some((seen, gate)) if *seen == versions => gate.clone(),
            Some(_) | None => {
                let gate = decide(cache, pool, &config, &builds);
                decided.insert(pool.name_any(), (versions, gate.clone()));
                gate
            }
        }
    }
}

/// Changes with everything that the decision is made from.
fn versions(
    cache: &Cache,
    pool: &MachineConfigPool,
    config: &MachineOSConfig,
    builds: &[Arc<MachineOSBuild>],
) -> String {
    let rendered =
        Cache::get::<MachineConfig>(&cache.machine_configs, &pool.spec.configuration.name);
    let mut versions = vec![
        pool.metadata
            .generation
            .map(|generation| generation.to_string()),
        config.resource_version(),
        rendered.and_then(|rendered| rendered.resource_version()),
    ];
    versions.extend(sources::versions(cache, config));
    for build in builds {
        versions.push(build.resource_version());
        versions.push(fit::facts_version(cache, build));
    }
    let words = versions.into_iter().map(Option::unwrap_or_default);
    words.collect::<Vec<_>>().join(" ")
}

fn decide(
    cache: &Cache,
    pool: &MachineConfigPool,
    config: &MachineOSConfig,
    builds: &[Arc<MachineOSBuild>],
) -> Gate {
    let rendered_name = &pool.spec.configuration.name;
    let Some(rendered) = Cache::get::<MachineConfig>(&cache.machine_configs, rendered_name) else {
        return Gate::NoBuild {
            message: "its pool has no rendered config yet".to_owned(),
        };
    };
    let inputs = match wanted::wanted(cache, config, &rendered, builds) {
        Wanted::Build(inputs) => inputs,
        Wanted::Blocked(failure) => {
            return Gate::Failed {
                build: None,
                message: format!(
                    "MachineOSConfig `{}`: {}",
                    config.name_any(),
                    failure.message
                ),
            };
        }
        Wanted::Unpinned(base) => {
            return blocked(config).unwrap_or_else(|| Gate::NoBuild {
                message: format!("base image `{base}` is being resolved to a digest"),
            });
        }
    };
    let name = layering::build_name(config, &inputs);
    let being_made = || {
        blocked(config).unwrap_or_else(|| Gate::NoBuild {
            message: format!("MachineOSBuild `{name}` is being made"),
        })
    };
    let Some(build) = builds.iter().find(|build| build.name_any() == name) else {
        return being_made();
    };
    let state = BuildState::of(build);
    if wanted::is_spent(build, &state, rendered_name) {
        return being_made();
    }
    let misfit = fit::later_problems(cache, &pool.name_any(), &rendered, build);
    let build = name.clone();
    match state {
        BuildState::Succeeded { .. } if misfit.is_some() => Gate::Failed {
            build: None,
            message: misfit.unwrap_or_default(),
        },
        BuildState::New | BuildState::Prepared => Gate::Prepared { build },
        BuildState::Building { message, retrying } => Gate::Building {
            build,
            message,
            retrying,
        },
        BuildState::Succeeded { image } => Gate::Ready { image, build },
        BuildState::Failed { message } => Gate::Failed {
            build: Some(build),
            message,
        },
        BuildState::Interrupted { message } => Gate::Interrupted { build, message },
    }
}

/// The MachineOSConfig of a pool, unless it is on its way out.
fn os_config(cache: &Cache, pool: &MachineConfigPool) -> Option<Arc<MachineOSConfig>> {
    let name = pool.name_any();
    cache.os_configs.find(|config| {
        config.spec.machine_config_pool.name == name && config.metadata.deletion_timestamp.is_none()
    })
}

/// What the build loop says keeps it from making a build.
fn blocked(config: &MachineOSConfig) -> Option<Gate> {
    let conditions = &config.status.as_ref()?.conditions;
    let found = condition::get(conditions, OsConfigConditionType::Degraded)?;
    (found.status == Status::True.as_str()).then(|| Gate::Failed {
        build: None,
        message: format!("MachineOSConfig `{}`: {}", config.name_any(), found.message),
    })
}
