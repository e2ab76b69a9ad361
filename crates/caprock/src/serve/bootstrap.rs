//! The objects that a fresh data directory needs before the controllers start, written again at each start.
//!
//! On a cluster these are an administrator's (or OpenShift's): default base image, registry trust and credentials.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use model::keys;
use serde_json::json;

use super::login::Logins;
use crate::deliver;

/// What the embedded registry tells the cluster about itself.
pub(crate) struct Facts<'a> {
    pub(crate) registry_host: &'a str,
    pub(crate) ca: &'a str,
    pub(crate) logins: &'a Logins,
    pub(crate) base_image: Option<&'a str>,
}

/// Writes the objects; what people added to them stays.
pub(crate) async fn write(client: &Client, facts: &Facts<'_>) -> anyhow::Result<()> {
    nodes_namespace(client).await?;
    let hosts = [facts.registry_host.to_owned()];
    deliver::logins(client, &hosts, facts.logins).await?;
    trust(client, facts.registry_host, facts.ca).await?;
    if let Some(image) = facts.base_image {
        let data = BTreeMap::from([(keys::BASE_OS_IMAGE_KEY.to_owned(), image.to_owned())]);
        put(client, config_map(keys::OS_IMAGE_URL_CONFIG_MAP, data)).await?;
    }
    Ok(())
}

/// Unlike the server's own namespaces it may be removed, with what nodes were given.
async fn nodes_namespace(client: &Client) -> anyhow::Result<()> {
    let name = keys::NODE_SECRET_NAMESPACE;
    let namespace =
        Patch::Apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let params = PatchParams::apply("caprock").force();
    let applied = namespaces.patch(name, &params, &namespace);
    applied
        .await
        .map(drop)
        .with_context(|| format!("failed to make namespace `{name}`"))
}

/// Tells nodes and builders which authorities the API and the registry are signed by.
pub(crate) async fn trust(client: &Client, registry_host: &str, ca: &str) -> anyhow::Result<()> {
    deliver::trust(client, &[registry_host.to_owned()], ca).await?;
    let api = BTreeMap::from([(keys::API_CA_KEY.to_owned(), ca.to_owned())]);
    put(client, config_map(keys::API_CA, api)).await
}

fn config_map(name: &str, data: BTreeMap<String, String>) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Creates the object, or merges its fields into the one that is there.
async fn put(client: &Client, object: ConfigMap) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let name = object.name_any();
    let done = match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => api
            .patch(&name, &PatchParams::default(), &Patch::Merge(&object))
            .await
            .map(drop),
        other => other.map(drop),
    };
    done.with_context(|| format!("failed to write `{name}`"))
}
