//! The image loop: an image leaves its registry when its build is gone and nothing names it any more.
//!
//! What was pushed is kept in a ConfigMap of its own, which outlives the build and says where the image is and with
//! which credentials it was pushed. So a MachineOSConfig can be deleted without waiting for anybody, and what it leaves
//! behind is collected when the last node has gone back.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use kube::runtime::controller::Action;
use model::api::{MachineOSBuild, MachineOSConfig};
use model::build_state::BuildState;
use model::keys;

use crate::cache::{Cache, Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::{Doing, Result, has_code};
use crate::registry::{self, Purpose, Resolve};

/// When an image is looked at again that its registry did not give up, or where the local copy was behind.
const AGAIN: Duration = Duration::from_secs(60);
/// Begins the names of the ConfigMaps.
const PREFIX: &str = "layered-image-";
/// Key of the pull spec with its digest.
const IMAGE: &str = "image";
/// Key of the Secret that it was pushed with; absent for the cluster's own.
const PUSH_SECRET: &str = "push-secret";

/// A build or a node may have been the last to name an image; a Secret may open its registry.
pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        Kind::Build | Kind::Node | Kind::Secret => Wake::Everyone,
        _ => Wake::Nobody,
    }
}

/// Keeps in mind that a build of `config` pushed `image`.
pub(crate) async fn remember(
    ctx: &Context,
    config: &MachineOSConfig,
    build: &str,
    image: &str,
) -> Result<()> {
    let name = format!("{PREFIX}{build}");
    let secret = config.spec.rendered_image_push_secret.as_ref();
    let secret = secret.map(|secret| (PUSH_SECRET.to_owned(), secret.name.clone()));
    let data = [(IMAGE.to_owned(), image.to_owned())];
    let data = Some(data.into_iter().chain(secret).collect());
    let known = ctx.cache.config_map(&name);
    if known.is_some_and(|map| map.data == data) {
        return Ok(());
    }
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(keys::NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        data,
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), keys::NAMESPACE);
    match maps.create(&PostParams::default(), &map).await {
        // Of a build of the same inputs that was there before: equal inputs give an equal image.
        Err(error) if has_code(&error, 409) => Ok(()),
        other => other
            .map(drop)
            .doing(|| format!("write ConfigMap `{}/{name}`", keys::NAMESPACE)),
    }
}

/// One look at one ConfigMap of our namespace.
pub(crate) async fn reconcile<R: Resolve>(
    map: Arc<ConfigMap>,
    ctx: Arc<Context>,
    registries: Arc<R>,
) -> Result<Action> {
    let name = map.name_any();
    let value = |key: &str| map.data.as_ref()?.get(key).map(String::as_str);
    let (Some(build), Some(image)) = (name.strip_prefix(PREFIX), value(IMAGE)) else {
        return Ok(Action::await_change());
    };
    if Cache::get::<MachineOSBuild>(&ctx.cache.builds, build).is_some() {
        return Ok(Action::await_change());
    }
    if is_named(&ctx.cache, image) {
        return Ok(Action::await_change());
    }
    if is_named_now(&ctx, image).await? {
        return Ok(Action::requeue(AGAIN));
    }
    if is_forgotten(&ctx, &name).await? {
        return Ok(Action::await_change());
    }
    let removed = match registry::access(&ctx.cache, Purpose::Push, value(PUSH_SECRET)) {
        Ok(access) => registries.remove(image, access).await,
        Err(failure) => Err(failure),
    };
    match removed {
        Ok(()) => tracing::info!(
            image,
            "removed from its registry: nothing names it any more"
        ),
        Err(failure) if failure.may_pass => {
            tracing::debug!(image, "stays in its registry: {}", failure.message);
            return Ok(Action::requeue(AGAIN));
        }
        Err(failure) => tracing::warn!(image, "stays in its registry: {}", failure.message),
    }
    forget(&ctx, &map).await?;
    Ok(Action::await_change())
}

/// Whether a build, a node or a MachineConfig names an image, as far as the local copy tells.
fn is_named(cache: &Cache, image: &str) -> bool {
    let configs = cache.machine_configs.state();
    cache.builds.state().iter().any(|build| wants(build, image))
        || cache.nodes.state().iter().any(|node| runs(node, image))
        || configs
            .iter()
            .any(|config| config.spec.os_image_url == image)
}

/// The same for builds and nodes, asked of the API: the local copy may lag behind a build that was made a moment ago.
async fn is_named_now(ctx: &Context, image: &str) -> Result<bool> {
    let all = ListParams::default();
    let builds = Api::<MachineOSBuild>::all(ctx.client.clone());
    let builds = builds
        .list(&all)
        .await
        .doing(|| "list MachineOSBuilds".to_owned())?;
    let nodes = Api::<Node>::all(ctx.client.clone());
    let nodes = nodes.list(&all).await.doing(|| "list Nodes".to_owned())?;
    Ok(
        builds.iter().any(|build| wants(build, image))
            || nodes.iter().any(|node| runs(node, image)),
    )
}

/// Whether the image was removed a moment ago, and the local copy does not know yet.
async fn is_forgotten(ctx: &Context, name: &str) -> Result<bool> {
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), keys::NAMESPACE);
    // By a list, which the controllers may ask for anyway.
    let this_one = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = maps.list(&this_one).await;
    let found = found.doing(|| format!("read ConfigMap `{}/{name}`", keys::NAMESPACE))?;
    Ok(found.items.is_empty())
}

/// Whether a build has pushed an image, or may be about to: one that is under way may come to the same.
fn wants(build: &MachineOSBuild, image: &str) -> bool {
    let state = BuildState::of(build);
    match state.clone().image() {
        Some(pushed) => pushed == image,
        None => !state.is_final(),
    }
}

fn runs(node: &Node, image: &str) -> bool {
    let named = [keys::CURRENT_IMAGE, keys::DESIRED_IMAGE];
    named.iter().any(|key| {
        node.annotations()
            .get(*key)
            .is_some_and(|found| found == image)
    })
}

async fn forget(ctx: &Context, map: &ConfigMap) -> Result<()> {
    let name = map.name_any();
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), keys::NAMESPACE);
    let this_one = DeleteParams::default().preconditions(Preconditions {
        uid: map.uid(),
        resource_version: None,
    });
    match maps.delete(&name, &this_one).await {
        Err(error) if has_code(&error, 404) || has_code(&error, 409) => Ok(()),
        other => other
            .map(drop)
            .doing(|| format!("remove ConfigMap `{}/{name}`", keys::NAMESPACE)),
    }
}
