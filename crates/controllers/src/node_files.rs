//! Content of nodes' files that comes from Secrets: which values a node is given, and what keeps a pool from them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::{Api, Client, Resource, ResourceExt};
use model::api::{MachineConfig, MachineConfigPool, MachineConfigSpec};
use model::file_secret::{self, Missing, SecretFile, SecretKey, Values};
use model::keys;
use model::pool::Membership;

use crate::cache::Cache;
use crate::error::{Doing, Error};

/// The values that a node is given: those of the rendered config that it is to have, and no others. Who has the node may
/// write its annotations, so the config must be one of the node's own pool.
pub(crate) fn of_node(cache: &Cache, node: &Node) -> Values {
    let Membership::Member(pool) = cache.members.membership(&node.name_any()) else {
        return Values::new();
    };
    let desired = node.annotations().get(keys::DESIRED_CONFIG);
    let config = desired.and_then(|name| Cache::get(&cache.machine_configs, name));
    let is_of_pool = |config: &MachineConfig| {
        let owners = config.owner_references().iter();
        let kind = MachineConfigPool::kind(&());
        owners
            .filter(|owner| owner.kind == kind)
            .any(|owner| owner.name == pool)
    };
    let Some(config) = config.filter(|config| is_of_pool(config)) else {
        return Values::new();
    };
    let wanted = files(&config.spec).into_iter().map(|file| file.from);
    file_secret::choose(&wanted.collect(), |name| cache.secret(name)).0
}

/// What keeps the pool's nodes from files of its rendered config: each with the MachineConfig that has the file.
pub(crate) fn missing(cache: &Cache, pool: &MachineConfigPool) -> Vec<String> {
    let configuration = &pool.spec.configuration;
    let config = Cache::get::<MachineConfig>(&cache.machine_configs, &configuration.name);
    let Some(config) = config else {
        return Vec::new();
    };
    let files = files(&config.spec);
    let wanted = files.iter().map(|file| file.from.clone()).collect();
    let (_, missing) = file_secret::choose(&wanted, |name| cache.secret(name));
    let why = |file: &SecretFile| missing.iter().find(|missing| missing.from == file.from);
    let sources = || configuration.source.iter().rev();
    let told = files.iter().filter_map(|file| {
        let missing = why(file)?;
        // The last one that has the file is whose word counts.
        let of = sources().filter_map(|source| source.name.as_deref());
        let mut of = of.filter(|name| {
            let config = Cache::get::<MachineConfig>(&cache.machine_configs, name);
            config.is_some_and(|config| self::files(&config.spec).contains(file))
        });
        let of = of.next().unwrap_or(&configuration.name);
        Some(format!(
            "MachineConfig `{of}`: `{}` takes its content from {missing}",
            file.path
        ))
    });
    told.collect()
}

/// The values of a rendered config, and what is missing; read from the API.
///
/// # Errors
/// When the API cannot be read.
pub async fn file_values(
    client: &Client,
    config: &MachineConfigSpec,
) -> Result<(Values, Vec<Missing>), Error> {
    let wanted: BTreeSet<SecretKey> = files(config).into_iter().map(|file| file.from).collect();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let mut found = BTreeMap::new();
    for name in wanted.iter().map(|from| from.name.as_str()) {
        if found.contains_key(name) {
            continue;
        }
        let secret = secrets
            .get_opt(name)
            .await
            .doing(|| format!("read Secret `{}/{name}`", keys::NAMESPACE))?;
        found.insert(name, secret.map(std::sync::Arc::new));
    }
    let secret = |name: &str| found.get(name).cloned().flatten();
    Ok(file_secret::choose(&wanted, secret))
}

fn files(config: &MachineConfigSpec) -> Vec<SecretFile> {
    let config = config.config.as_ref();
    config.map(file_secret::files).unwrap_or_default()
}
