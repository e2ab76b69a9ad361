//! Gives each node the credentials that it pulls with, and the content of its files that comes from Secrets, and no
//! others: one Secret of its own.
//!
//! A node may read that Secret alone. Of files it holds what the config asks for that the node is to have. Of
//! credentials it holds what the cluster pulls with, for its registry the login that only pulls,
//! and what the node's pool adds. A pool's push credentials go to its nodes only when nothing else opens the repository
//! of their image.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::{Client, Resource, ResourceExt};
use model::api::{MachineConfigNode, MachineOSConfig};
use model::file_secret::Values;
use model::keys;
use model::pull_spec::PullSpec;
use oci::DockerConfig;
use serde_json::json;

use crate::cache::{Cache, Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::{Doing, Error, Result};
use crate::node_files;

/// A Secret, a MachineOSConfig or a node's pool may change what any node gets.
pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        Kind::Secret | Kind::OsConfig => Wake::Everyone,
        Kind::Node | Kind::MachineConfigNode | Kind::NodeSecret => Wake::of(change.name.as_deref()),
        _ => Wake::Nobody,
    }
}

/// One look at one node.
pub(crate) async fn reconcile(node: Arc<Node>, ctx: Arc<Context>) -> Result<Action> {
    let name = node.name_any();
    let progress = Cache::get::<MachineConfigNode>(&ctx.cache.machine_config_nodes, &name);
    let layering = progress.and_then(|progress| {
        let pool = progress.spec.pool.name.clone();
        ctx.cache
            .os_configs
            .find(|config| config.spec.machine_config_pool.name == pool)
    });
    let images: Vec<String> = layering
        .iter()
        .filter_map(|config| config.status.as_ref()?.current_image_pull_spec.clone())
        .chain(node.annotations().get(keys::DESIRED_IMAGE).cloned())
        .collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let secret = |name: &str| ctx.cache.secret(name).as_deref().map(docker_config);
    let auth = merged(&secret, layering.as_deref(), &images).to_json();
    let files = node_files::of_node(&ctx.cache, &node);
    let wanted = data(&auth, &files);
    let known = ctx
        .cache
        .node_secrets
        .get(&kube::runtime::reflector::ObjectRef::new(&name).within(keys::NODE_SECRET_NAMESPACE));
    let has = known.as_deref().map(|secret| secret.data.clone());
    let has = has.map(Option::unwrap_or_default);
    if has.as_ref() != Some(&wanted) {
        write(&ctx.client, &node, wanted, has.as_ref()).await?;
    }
    Ok(Action::await_change())
}

type Data = BTreeMap<String, ByteString>;

fn data(auth: &str, files: &Values) -> Data {
    let mut data = Data::from([(
        keys::DOCKER_CONFIG_KEY.to_owned(),
        ByteString(auth.as_bytes().to_vec()),
    )]);
    if !files.is_empty() {
        let files = ByteString(json!(files).to_string().into_bytes());
        data.insert(keys::NODE_FILES_KEY.to_owned(), files);
    }
    data
}

async fn write(client: &Client, node: &Node, wanted: Data, has: Option<&Data>) -> Result<()> {
    let name = node.name_any();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), keys::NODE_SECRET_NAMESPACE);
    let object = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: node.owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some(keys::DOCKER_CONFIG_TYPE.to_owned()),
        data: Some(wanted),
        ..Secret::default()
    };
    let done = match has {
        None => secrets.create(&PostParams::default(), &object).await,
        Some(has) => {
            let mut change = json!(object);
            for key in has.keys() {
                // What is not said stays in a merge.
                if change["data"].get(key).is_none() {
                    change["data"][key] = serde_json::Value::Null;
                }
            }
            secrets
                .patch(&name, &PatchParams::default(), &Patch::Merge(change))
                .await
        }
    };
    let namespace = keys::NODE_SECRET_NAMESPACE;
    done.map(drop)
        .doing(|| format!("write Secret `{namespace}/{name}`"))
}

/// The credentials that a new node of a pool pulls `image` with, as a docker configuration; read from the API.
///
/// # Errors
/// When the API cannot be read.
pub async fn registry_auth(
    client: &Client,
    pool: &str,
    image: Option<&str>,
) -> Result<String, Error> {
    let layering = Api::<MachineOSConfig>::all(client.clone())
        .list(&Default::default())
        .await
        .doing(|| "list MachineOSConfigs".to_owned())?
        .items
        .into_iter()
        .find(|config| config.spec.machine_config_pool.name == pool);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let mut found = BTreeMap::new();
    for name in names(layering.as_ref()) {
        let secret = secrets
            .get_opt(name)
            .await
            .doing(|| format!("read Secret `{}/{name}`", keys::NAMESPACE))?;
        found.extend(secret.map(|secret| (name.to_owned(), docker_config(&secret))));
    }
    let images: Vec<&str> = image.into_iter().collect();
    let secret = |name: &str| found.get(name).cloned();
    Ok(merged(&secret, layering.as_ref(), &images).to_json())
}

/// What every node of a pool pulls `image` with, and the Secret that it has this from.
pub(crate) fn of_pool(
    cache: &Cache,
    layering: &MachineOSConfig,
    image: &PullSpec,
) -> (DockerConfig, Option<String>) {
    let secret = |name: &str| cache.secret(name).as_deref().map(docker_config);
    let auth = merged(&secret, Some(layering), &[&image.to_string()]);
    let used = auth.credentials_for(image.host(), image.path());
    let from = names(Some(layering)).into_iter().find(|name| {
        let has = secret(name);
        let has = has.as_ref();
        used.is_some()
            && has.and_then(|has| has.credentials_for(image.host(), image.path())) == used
    });
    let from = from.map(str::to_owned);
    (auth, from)
}

/// The Secrets that count for a pool.
pub(crate) fn names(layering: Option<&MachineOSConfig>) -> Vec<&str> {
    let pool = layering.map(|config| &config.spec);
    let base = pool.and_then(|spec| spec.base_image_pull_secret.as_ref());
    let push = pool.and_then(|spec| spec.rendered_image_push_secret.as_ref());
    [keys::GLOBAL_PULL_SECRET, keys::NODE_PULL_SECRET]
        .into_iter()
        .chain(
            base.into_iter()
                .chain(push)
                .map(|secret| secret.name.as_str()),
        )
        .collect()
}

/// A Secret that cannot be read opens nothing; the build's conditions say what is wrong with it.
fn docker_config(secret: &Secret) -> DockerConfig {
    let data = secret.data.as_ref();
    [keys::DOCKER_CONFIG_KEY, ".dockercfg"]
        .iter()
        .find_map(|key| DockerConfig::parse(&data?.get(*key)?.0).ok())
        .unwrap_or_default()
}

fn merged(
    secret: &dyn Fn(&str) -> Option<DockerConfig>,
    layering: Option<&MachineOSConfig>,
    images: &[&str],
) -> DockerConfig {
    let of = |name: &str| secret(name).unwrap_or_default();
    let (cluster, node) = (of(keys::GLOBAL_PULL_SECRET), of(keys::NODE_PULL_SECRET));
    let Some(spec) = layering.map(|config| &config.spec) else {
        return cluster.merge(node);
    };
    let base = spec.base_image_pull_secret.as_ref();
    let base = base.map(|secret| of(&secret.name)).unwrap_or_default();
    // The cluster's own credentials may push to its registry: there the nodes' login takes their place.
    let mut auth = cluster.merge(base).merge(node);
    if let Some(push) = &spec.rendered_image_push_secret {
        let opened = |image: &str| {
            image
                .parse::<PullSpec>()
                .is_ok_and(|image| auth.credentials_for(image.host(), image.path()).is_some())
        };
        let all_opened = std::iter::once(spec.rendered_image_push_spec.as_str())
            .chain(images.iter().copied())
            .all(opened);
        if !all_opened {
            auth = of(&push.name).merge(auth);
        }
    }
    auth
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn layering(base: Option<&str>, push: Option<&str>) -> MachineOSConfig {
        let named = |name: Option<&str>| name.map(|name| json!({"name": name}));
        let spec = json!({
            "machineConfigPool": {"name": "worker"},
            "imageBuilder": {"imageBuilderType": "Job"},
            "baseImagePullSecret": named(base),
            "renderedImagePushSecret": named(push),
            "renderedImagePushSpec": "images.example/team/os:latest",
        });
        MachineOSConfig::new("worker", serde_json::from_value(spec).unwrap())
    }

    fn user(
        secrets: &[(&str, &str, &str)],
        layering: &MachineOSConfig,
        host: &str,
    ) -> Option<String> {
        let secret = |name: &str| {
            secrets
                .iter()
                .filter(|(secret, ..)| *secret == name)
                .map(|(_, host, user)| DockerConfig::basic(host, user, "p"))
                .reduce(DockerConfig::merge)
        };
        let config = merged(&secret, Some(layering), &[]);
        match config.credentials_for(host, "team/os")? {
            oci::Credentials::Basic { username, .. } => Some(username.clone()),
            oci::Credentials::IdentityToken(_) => None,
        }
    }

    #[test]
    fn nodes_get_the_login_that_only_pulls() {
        let secrets = [
            (keys::GLOBAL_PULL_SECRET, "127.0.0.1:5000", "caprock"),
            (keys::GLOBAL_PULL_SECRET, "quay.example", "robot"),
            (keys::NODE_PULL_SECRET, "127.0.0.1:5000", "node"),
        ];
        let layering = layering(None, None);
        assert_eq!(
            user(&secrets, &layering, "127.0.0.1:5000").as_deref(),
            Some("node")
        );
        assert_eq!(
            user(&secrets, &layering, "quay.example").as_deref(),
            Some("robot")
        );
    }

    #[test]
    fn push_credentials_stay_away_from_nodes_that_can_pull_without() {
        let push = ("push", "images.example", "pusher");
        let pull = ("base", "images.example", "puller");
        let both = layering(Some("base"), Some("push"));
        assert_eq!(
            user(&[push, pull], &both, "images.example").as_deref(),
            Some("puller")
        );
        let alone = layering(None, Some("push"));
        assert_eq!(
            user(&[push], &alone, "images.example").as_deref(),
            Some("pusher")
        );
        let global = (keys::GLOBAL_PULL_SECRET, "images.example/team", "global");
        assert_eq!(
            user(&[push, global], &alone, "images.example").as_deref(),
            Some("global")
        );
    }
}
