//! A registry client with the cluster's trust and credentials and the node's mirrors: read anew for each pull, so that
//! rotated ones count.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use model::keys;
use oci::registries::SYSTEM_CONFIG;
use oci::{ClientConfig, DockerConfig, Registries};

use crate::error::{AgentError, chain, is_not_found};

/// A client for the images of the node's pool, with the credentials that the controllers put together for this node.
pub(crate) async fn client(
    kube: &Client,
    node: &str,
    extra_root: Option<&[u8]>,
    bytes_per_second: Option<NonZeroU64>,
) -> Result<oci::Client, AgentError> {
    let auth = match credentials(kube, node).await? {
        Some(text) => parse(&text, node)?,
        None => DockerConfig::default(),
    };
    let config = ClientConfig {
        auth,
        cas: authorities(kube).await?,
        extra_roots: extra_root.map(<[u8]>::to_vec).into_iter().collect(),
        registries: Registries::load(Path::new(SYSTEM_CONFIG)).map_err(|error| {
            AgentError::Object {
                object: "the node's registries.conf".to_owned(),
                problem: chain(&error),
            }
        })?,
        bytes_per_second,
        ..ClientConfig::default()
    };
    oci::Client::new(config).map_err(|error| AgentError::Object {
        object: format!("ConfigMap `{}/{}`", keys::NAMESPACE, keys::REGISTRY_CERTS),
        problem: chain(&error),
    })
}

/// The node's docker configuration as its Secret has it; none before the controllers made one.
pub(crate) async fn credentials(kube: &Client, node: &str) -> Result<Option<Vec<u8>>, AgentError> {
    let secrets: Api<Secret> = Api::namespaced(kube.clone(), keys::NODE_SECRET_NAMESPACE);
    let secret = secrets
        .get_opt(node)
        .await
        .map_err(AgentError::api(format!("read {}", secret_of(node))))?;
    let Some(mut data) = secret.map(|secret| secret.data.unwrap_or_default()) else {
        return Ok(None);
    };
    match data.remove(keys::DOCKER_CONFIG_KEY) {
        Some(bytes) => Ok(Some(bytes.0)),
        None => Err(AgentError::Object {
            object: secret_of(node),
            problem: format!("has no key `{}`", keys::DOCKER_CONFIG_KEY),
        }),
    }
}

fn parse(text: &[u8], node: &str) -> Result<DockerConfig, AgentError> {
    DockerConfig::parse(text).map_err(|error| AgentError::Object {
        object: secret_of(node),
        problem: error.to_string(),
    })
}

fn secret_of(node: &str) -> String {
    format!("Secret `{}/{node}`", keys::NODE_SECRET_NAMESPACE)
}

/// Authorities of registries, PEM by `host[:port]`.
pub(crate) async fn authorities(kube: &Client) -> Result<BTreeMap<String, Vec<u8>>, AgentError> {
    let maps: Api<ConfigMap> = Api::namespaced(kube.clone(), keys::NAMESPACE);
    let map = match maps.get(keys::REGISTRY_CERTS).await {
        Err(error) if is_not_found(&error) => return Ok(BTreeMap::new()),
        other => other.map_err(AgentError::api(format!(
            "read ConfigMap `{}`",
            keys::REGISTRY_CERTS
        )))?,
    };
    let data = map.data.unwrap_or_default().into_iter();
    Ok(data
        .map(|(host, pem)| (host.replace("..", ":"), pem.into_bytes()))
        .collect())
}
