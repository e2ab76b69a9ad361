//! A registry client with the cluster's trust and credentials and the node's mirrors: read anew for each pull, so that
//! rotated ones count.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use model::file_secret::Values;
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
    let auth = match node_secret(kube, node).await?.registry_auth {
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

/// What the controllers put together for this node.
#[derive(Clone, Default)]
pub(crate) struct NodeSecret {
    /// Credentials for registries, as a docker configuration; none before the controllers made one.
    pub(crate) registry_auth: Option<Vec<u8>>,
    /// Content of its files that comes from Secrets.
    pub(crate) values: Values,
}

/// Reads the node's own Secret.
pub(crate) async fn node_secret(kube: &Client, node: &str) -> Result<NodeSecret, AgentError> {
    let secrets: Api<Secret> = Api::namespaced(kube.clone(), keys::NODE_SECRET_NAMESPACE);
    let secret = secrets
        .get_opt(node)
        .await
        .map_err(AgentError::api(format!("read {}", secret_of(node))))?;
    let Some(mut data) = secret.map(|secret| secret.data.unwrap_or_default()) else {
        return Ok(NodeSecret::default());
    };
    let problem = |problem: String| AgentError::Object {
        object: secret_of(node),
        problem,
    };
    let key = keys::DOCKER_CONFIG_KEY;
    let auth = data.remove(key);
    let auth = auth.ok_or_else(|| problem(format!("has no key `{key}`")))?;
    let key = keys::NODE_FILES_KEY;
    let values = data.remove(key).map(|json| {
        // Without what the parser says: it would say it with what it read.
        serde_json::from_slice(&json.0)
            .map_err(|_| problem(format!("key `{key}` is not as the controllers write it")))
    });
    Ok(NodeSecret {
        registry_auth: Some(auth.0),
        values: values.transpose()?.unwrap_or_default(),
    })
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
