//! A registry client with the cluster's trust and credentials and the node's mirrors: read anew for each pull, so that
//! rotated ones count.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use model::api::MachineOSConfig;
use model::keys;
use oci::registries::SYSTEM_CONFIG;
use oci::{ClientConfig, DockerConfig, Registries};

use crate::error::{AgentError, chain, is_not_found};

/// A client for the images of the node's pool. Credentials that the pool's MachineOSConfig names for its image come
/// after the cluster's own.
pub(crate) async fn client(
    kube: &Client,
    layering: Option<&MachineOSConfig>,
    extra_root: Option<&[u8]>,
    bytes_per_second: Option<NonZeroU64>,
) -> Result<oci::Client, AgentError> {
    let named = layering.and_then(|config| config.spec.rendered_image_push_secret.as_ref());
    let mut auth = DockerConfig::default();
    for name in named
        .map(|secret| secret.name.as_str())
        .into_iter()
        .chain([keys::GLOBAL_PULL_SECRET])
    {
        auth = auth.merge(credentials(kube, name).await?.unwrap_or_default());
    }
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

async fn credentials(kube: &Client, name: &str) -> Result<Option<DockerConfig>, AgentError> {
    let object = format!("Secret `{}/{name}`", keys::NAMESPACE);
    let secrets: Api<Secret> = Api::namespaced(kube.clone(), keys::NAMESPACE);
    let Some(secret) = secrets
        .get_opt(name)
        .await
        .map_err(AgentError::api(format!("read {object}")))?
    else {
        return Ok(None);
    };
    let data = secret.data.unwrap_or_default();
    let Some(bytes) = data.get(keys::DOCKER_CONFIG_KEY) else {
        let problem = format!("has no key `{}`", keys::DOCKER_CONFIG_KEY);
        return Err(AgentError::Object { object, problem });
    };
    DockerConfig::parse(&bytes.0)
        .map(Some)
        .map_err(|error| AgentError::Object {
            object,
            problem: error.to_string(),
        })
}

async fn authorities(kube: &Client) -> Result<BTreeMap<String, Vec<u8>>, AgentError> {
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
