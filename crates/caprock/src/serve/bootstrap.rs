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

use super::login::{Login, Logins};

/// What the embedded registry tells the cluster about itself.
pub(crate) struct Facts<'a> {
    pub(crate) registry_host: &'a str,
    pub(crate) ca: &'a str,
    pub(crate) logins: &'a Logins,
    pub(crate) base_image: Option<&'a str>,
}

/// Writes the objects; what people added to them stays.
pub(crate) async fn write(client: &Client, facts: &Facts<'_>) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let secret = |name: &str, login: &Login| Secret {
        metadata: named(name),
        type_: Some(keys::DOCKER_CONFIG_TYPE.to_owned()),
        data: Some(BTreeMap::from([(
            keys::DOCKER_CONFIG_KEY.to_owned(),
            ByteString(login.docker_config(facts.registry_host).into_bytes()),
        )])),
        ..Secret::default()
    };
    let Logins { builder, node } = facts.logins;
    put(&secrets, secret(keys::GLOBAL_PULL_SECRET, builder)).await?;
    put(&secrets, secret(keys::NODE_PULL_SECRET, node)).await?;
    trust(client, facts.registry_host, facts.ca).await?;
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

/// Tells nodes and builders which authorities the API and the registry are signed by.
pub(crate) async fn trust(client: &Client, registry_host: &str, ca: &str) -> anyhow::Result<()> {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
    // OpenShift's rule for keys of such ConfigMaps: `..` stands for the `:` before a port.
    let registry = BTreeMap::from([(registry_host.replace(':', ".."), ca.to_owned())]);
    put(&config_maps, config_map(keys::REGISTRY_CERTS, registry)).await?;
    let api = BTreeMap::from([(keys::API_CA_KEY.to_owned(), ca.to_owned())]);
    put(&config_maps, config_map(keys::API_CA, api)).await
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
