//! From a pool and its MachineConfigs to the one rendered MachineConfig, named by its content.
//!
//! MachineConfigs of role `worker` come first, the others after them, each group by name, so that what is meant for one
//! pool always overrides what it shares with the workers. Nothing is published that a node could not apply.

mod fields;
mod kernel;
mod provenance;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{
    GROUP, MachineConfig, MachineConfigPool, MachineConfigSpec, PoolConfiguration, VERSION,
};
use crate::condition::PoolReason;
use crate::ignition::{self, Config};
use crate::problem::summary;
use crate::{keys, selector};

pub use kernel::{arguments as kernel_arguments, split as split_kernel_arguments};
pub use provenance::{Provenance, field};

/// Longest rendered MachineConfig, as JSON: what a cluster's store takes for one object.
pub const MAX_RENDERED_BYTES: usize = 1_572_864;

/// What a pool gets when none of its MachineConfigs says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Pull spec of the cluster's base image; empty when there is none.
    pub os_image_url: String,
    /// Pull spec of the cluster's image with extensions; empty when there is none.
    pub extensions_image: String,
}

/// The result of a render.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The rendered MachineConfig, ready to be created.
    pub config: MachineConfig,
    /// Names of the MachineConfigs it was made from, in the order in which they were merged.
    pub sources: Vec<String>,
    /// Which of them asks for what.
    pub provenance: Provenance,
}

impl Rendered {
    /// Name of the rendered MachineConfig.
    pub fn name(&self) -> &str {
        self.config.metadata.name.as_deref().unwrap_or_default()
    }

    /// What goes into the pool's `spec.configuration`.
    pub fn configuration(&self) -> PoolConfiguration {
        let reference = |name: &String| ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some("MachineConfig".into()),
            name: Some(name.clone()),
            ..ObjectReference::default()
        };
        PoolConfiguration {
            api_version: None,
            kind: None,
            name: self.name().to_owned(),
            source: self.sources.iter().map(reference).collect(),
        }
    }
}

/// One thing that is wrong, and in which MachineConfigs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigProblem {
    /// The MachineConfigs that must change; one of them is enough when there are several.
    pub machine_configs: Vec<String>,
    /// The field, path or unit.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.machine_configs.len() == 1 {
            "MachineConfig"
        } else {
            "MachineConfigs"
        };
        let names = self.machine_configs.join("`, `");
        write!(f, "{kind} `{names}`: {}: {}", self.field, self.reason)
    }
}

/// Why a pool has no new rendered config. The last good one stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The selector would take every MachineConfig there is.
    #[error(
        "MachineConfigPool `{pool}`: `spec.machineConfigSelector` is empty and would select every MachineConfig; select by label `{}`",
        keys::ROLE
    )]
    SelectsEverything {
        /// Name of the pool.
        pool: String,
    },
    /// The selector takes no MachineConfig.
    #[error(
        "MachineConfigPool `{pool}`: `spec.machineConfigSelector` selects no MachineConfig; label one with `{}: {pool}`",
        keys::ROLE
    )]
    SelectsNothing {
        /// Name of the pool.
        pool: String,
    },
    /// The selector cannot be read.
    #[error("MachineConfigPool `{pool}`: `spec.machineConfigSelector.{field}`: {reason}")]
    InvalidSelector {
        /// Name of the pool.
        pool: String,
        /// Field inside the selector.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// MachineConfigs cannot be read, or contradict each other.
    #[error("{}", summary(problems))]
    Invalid {
        /// Everything that is wrong, at least one thing.
        problems: Vec<ConfigProblem>,
    },
    /// The result does not fit into an object.
    #[error(
        "MachineConfigPool `{pool}`: the rendered MachineConfig has {bytes} bytes, at most {MAX_RENDERED_BYTES} fit; the largest file is `{largest}`"
    )]
    TooLarge {
        /// Name of the pool.
        pool: String,
        /// Size of the JSON.
        bytes: usize,
        /// Path of the largest file.
        largest: String,
    },
}

impl RenderError {
    /// The reason of the pool's RenderDegraded condition.
    pub fn reason(&self) -> PoolReason {
        match self {
            RenderError::SelectsEverything { .. } => PoolReason::SelectingAll,
            RenderError::SelectsNothing { .. } => PoolReason::NoMachineConfigs,
            RenderError::InvalidSelector { .. }
            | RenderError::Invalid { .. }
            | RenderError::TooLarge { .. } => PoolReason::RenderFailed,
        }
    }
}

/// Renders the configuration of a pool from those of `configs` that it selects.
///
/// # Errors
/// Everything that is wrong with the selected MachineConfigs, each with its object and field.
pub fn render(
    pool: &MachineConfigPool,
    configs: &[MachineConfig],
    defaults: &Defaults,
) -> Result<Rendered, RenderError> {
    let selected = select(pool, configs)?;
    let mut problems = fields::repeated_names(&selected);
    let mut fragments = Vec::new();
    for &config in &selected {
        let (fragment, found) = fields::read(config);
        problems.extend(found);
        fragments.extend(fragment.map(|fragment| (name_of(config), fragment)));
    }
    if !problems.is_empty() {
        return Err(RenderError::Invalid { problems });
    }
    let provenance = Provenance::of_fragments(&selected, &fragments);
    let merged = fragments
        .into_iter()
        .map(|(_, fragment)| fragment)
        .reduce(ignition::merge)
        .unwrap_or_default();
    let spec = fields::combine(&selected, defaults);
    problems.extend(fields::contradictions(&spec, &selected));
    problems.extend(provenance.explain(ignition::conflicts(&merged)));
    problems.extend(fields::too_many_bytes(&merged, &selected));
    if !problems.is_empty() {
        return Err(RenderError::Invalid { problems });
    }
    let merged = merged.canonical();
    let pool_name = pool.metadata.name.as_deref().unwrap_or_default();
    let name = rendered_name(pool_name, &spec, &merged);
    let spec = MachineConfigSpec {
        config: Some(ignition::to_value(&merged)),
        ..spec
    };
    let config = MachineConfig {
        metadata: metadata(pool, name, spec.os_image_url != defaults.os_image_url),
        spec,
    };
    let bytes = serde_json::to_vec(&config).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_RENDERED_BYTES {
        let largest = merged
            .nodes
            .iter()
            .max_by_key(|node| node.contents().map_or(0, <[u8]>::len));
        return Err(RenderError::TooLarge {
            pool: pool_name.to_owned(),
            bytes,
            largest: largest.map(|node| node.path.clone()).unwrap_or_default(),
        });
    }
    let sources = selected.iter().map(|config| name_of(config)).collect();
    Ok(Rendered {
        config,
        sources,
        provenance,
    })
}

/// The MachineConfigs that a pool takes, in the order in which they are merged.
fn select<'c>(
    pool: &MachineConfigPool,
    configs: &'c [MachineConfig],
) -> Result<Vec<&'c MachineConfig>, RenderError> {
    let pool_name = || pool.metadata.name.clone().unwrap_or_default();
    let wanted = pool.spec.machine_config_selector.as_ref();
    let Some(wanted) = wanted.filter(|wanted| !selector::is_empty(wanted)) else {
        return Err(RenderError::SelectsEverything { pool: pool_name() });
    };
    let none = BTreeMap::new();
    let mut selected = Vec::new();
    for config in configs.iter().filter(|config| !is_rendered(config)) {
        let labels = config.metadata.labels.as_ref().unwrap_or(&none);
        let taken =
            selector::matches(wanted, labels).map_err(|problem| RenderError::InvalidSelector {
                pool: pool_name(),
                field: problem.field,
                reason: problem.reason,
            })?;
        if taken {
            selected.push(config);
        }
    }
    if selected.is_empty() {
        return Err(RenderError::SelectsNothing { pool: pool_name() });
    }
    let is_worker = |config: &MachineConfig| {
        let role = config
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(keys::ROLE));
        role.is_some_and(|role| role == keys::WORKER_ROLE)
    };
    selected.sort_by_key(|config| (!is_worker(config), config.metadata.name.clone()));
    Ok(selected)
}

/// Whether a MachineConfig is itself the result of a render. A selector with `NotIn` would take it as well.
pub fn is_rendered(config: &MachineConfig) -> bool {
    let owners = config.metadata.owner_references.iter().flatten();
    let by_pool = |owner: &OwnerReference| {
        owner.kind == "MachineConfigPool" && owner.controller == Some(true)
    };
    name_of(config).starts_with(keys::RENDERED_PREFIX)
        && (owners.into_iter().any(by_pool)
            || config
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|annotations| annotations.contains_key(keys::GENERATED_BY)))
}

/// `rendered-<pool>-<32 hex>`. The digest is of decoded contents, so it does not depend on how they are compressed.
fn rendered_name(pool: &str, spec: &MachineConfigSpec, config: &Config) -> String {
    let contents = |bytes: &[u8]| Value::from(hex(&Sha256::digest(bytes)));
    let content = json!({"spec": spec, "config": ignition::write(config, &contents)});
    let digest = hex(&Sha256::digest(content.to_string()));
    format!("{}{pool}-{}", keys::RENDERED_PREFIX, &digest[..32])
}

fn metadata(pool: &MachineConfigPool, name: String, image_overridden: bool) -> ObjectMeta {
    let mut annotations = BTreeMap::from([(
        keys::GENERATED_BY.to_owned(),
        env!("CARGO_PKG_VERSION").to_owned(),
    )]);
    if image_overridden {
        annotations.insert(keys::OS_IMAGE_URL_OVERRIDDEN.to_owned(), "true".to_owned());
    }
    // Offline there is no uid, and nothing to own.
    let owner = pool.metadata.uid.clone().map(|uid| OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "MachineConfigPool".into(),
        name: pool.metadata.name.clone().unwrap_or_default(),
        uid,
        controller: Some(true),
        block_owner_deletion: Some(true),
    });
    ObjectMeta {
        name: Some(name),
        annotations: Some(annotations),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn name_of(config: &MachineConfig) -> String {
    config.metadata.name.clone().unwrap_or_default()
}

pub(crate) use crate::ignition::hex_of as hex;

#[cfg(test)]
mod tests;
