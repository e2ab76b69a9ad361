//! The objects that a fresh data directory needs before the controllers start, written again at each start.
//!
//! On a cluster these are an administrator's (or OpenShift's): default base image, registry trust and credentials.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use model::keys;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::credentials::RegistryLogin;

/// What the embedded registry tells the cluster about itself.
pub(crate) struct Facts<'a> {
    pub(crate) registry_host: &'a str,
    pub(crate) registry_ca: &'a str,
    pub(crate) login: &'a RegistryLogin,
    pub(crate) base_image: Option<&'a str>,
}

/// Writes the objects; what people added to them stays.
pub(crate) async fn write(client: &Client, facts: &Facts<'_>) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
    put(
        &secrets,
        Secret {
            metadata: named(keys::GLOBAL_PULL_SECRET),
            type_: Some(keys::DOCKER_CONFIG_TYPE.to_owned()),
            data: Some(BTreeMap::from([(
                keys::DOCKER_CONFIG_KEY.to_owned(),
                ByteString(facts.login.docker_config(facts.registry_host).into_bytes()),
            )])),
            ..Secret::default()
        },
    )
    .await?;
    // OpenShift's rule for keys of such ConfigMaps: `..` stands for the `:` before a port.
    let trust = BTreeMap::from([(
        facts.registry_host.replace(':', ".."),
        facts.registry_ca.to_owned(),
    )]);
    put(&config_maps, config_map(keys::REGISTRY_CERTS, trust)).await?;
    if let Some(image) = facts.base_image {
        let data = BTreeMap::from([(keys::BASE_OS_IMAGE_KEY.to_owned(), image.to_owned())]);
        put(
            &config_maps,
            config_map(keys::OS_IMAGE_URL_CONFIG_MAP, data),
        )
        .await?;
    }
    Ok(())
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

fn config_map(name: &str, data: BTreeMap<String, String>) -> ConfigMap {
    ConfigMap {
        metadata: named(name),
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Creates the object, or merges its fields into the one that is there.
async fn put<K>(api: &Api<K>, object: K) -> anyhow::Result<()>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let name = object
        .meta()
        .name
        .clone()
        .context("object without a name")?;
    let done = match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => api
            .patch(&name, &PatchParams::default(), &Patch::Merge(&object))
            .await
            .map(drop),
        other => other.map(drop),
    };
    done.with_context(|| format!("failed to write `{name}`"))
}
