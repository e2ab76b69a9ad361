//! Removes rendered configs that nothing refers to any more.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};
use model::api::{MachineConfigPool, MachineOSBuild};
use model::keys;
use model::node::annotation;
use model::provision;

use super::is_rendered_for;
use crate::context::Context;
use crate::error::{Doing, Result, has_code};

/// Removes the unused rendered configs of `pool`.
pub(super) async fn unused(ctx: &Context, pool: &MachineConfigPool) -> Result<()> {
    let cache = &ctx.cache;
    let old = || {
        let configs = cache.machine_configs.state();
        configs
            .into_iter()
            .filter(|config| is_rendered_for(config, pool))
    };
    if old().count() <= 1 {
        return Ok(());
    }
    let mut used = BTreeSet::new();
    cache
        .pools
        .state()
        .iter()
        .for_each(|pool| of_pool(pool, &mut used));
    cache
        .nodes
        .state()
        .iter()
        .for_each(|node| of_node(node, &mut used));
    cache
        .builds
        .state()
        .iter()
        .for_each(|build| of_build(build, &mut used));
    of_pool(pool, &mut used);
    if old().all(|config| used.contains(&config.name_any())) {
        return Ok(());
    }
    // The local copy may lack a reference that was written a moment ago.
    let used = referred_to_now(ctx).await?;
    let api = Api::all(ctx.client.clone());
    for config in old().filter(|config| !used.contains(&config.name_any())) {
        let name = config.name_any();
        let this_one = DeleteParams::default().preconditions(Preconditions {
            uid: config.uid(),
            resource_version: None,
        });
        match Api::<model::api::MachineConfig>::delete(&api, &name, &this_one).await {
            Err(error) if has_code(&error, 404) || has_code(&error, 409) => {}
            other => {
                other.doing(|| format!("remove MachineConfig `{name}`"))?;
                tracing::info!(pool = pool.name_any(), config = name, "removed, unused");
            }
        }
    }
    Ok(())
}

async fn referred_to_now(ctx: &Context) -> Result<BTreeSet<String>> {
    let all = ListParams::default();
    let pools = Api::<MachineConfigPool>::all(ctx.client.clone())
        .list(&all)
        .await
        .doing(|| "list MachineConfigPools".to_owned())?;
    let nodes = Api::<Node>::all(ctx.client.clone())
        .list(&all)
        .await
        .doing(|| "list Nodes".to_owned())?;
    let builds = Api::<MachineOSBuild>::all(ctx.client.clone())
        .list(&all)
        .await
        .doing(|| "list MachineOSBuilds".to_owned())?;
    let mut used = BTreeSet::new();
    pools.iter().for_each(|pool| of_pool(pool, &mut used));
    nodes.iter().for_each(|node| of_node(node, &mut used));
    builds.iter().for_each(|build| of_build(build, &mut used));
    Ok(used)
}

fn of_pool(pool: &MachineConfigPool, used: &mut BTreeSet<String>) {
    used.insert(pool.spec.configuration.name.clone());
    used.extend(provision::target_of(pool).map(|target| target.config));
    used.extend(
        pool.status
            .iter()
            .map(|status| status.configuration.name.clone()),
    );
}

fn of_node(node: &Node, used: &mut BTreeSet<String>) {
    let named = [keys::CURRENT_CONFIG, keys::DESIRED_CONFIG];
    used.extend(
        named
            .iter()
            .filter_map(|key| annotation(node, key))
            .map(str::to_owned),
    );
}

fn of_build(build: &MachineOSBuild, used: &mut BTreeSet<String>) {
    used.insert(build.spec.machine_config.name.clone());
}
