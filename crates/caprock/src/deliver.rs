//! Tells builders and nodes how a registry of ours is used, in objects that hold what others wrote, too.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use model::keys;
use serde_json::{Map, Value};

use crate::serve::login::{Login, Logins};

/// How often an object that others write at the same time is read again.
const TRIES: usize = 5;

/// Gives each login to whom it is for, for all names of the registry.
pub(crate) async fn logins(
    client: &Client,
    hosts: &[String],
    logins: &Logins,
) -> anyhow::Result<()> {
    login(client, keys::GLOBAL_PULL_SECRET, hosts, &logins.builder).await?;
    login(client, keys::NODE_PULL_SECRET, hosts, &logins.node).await
}

/// Sets the entries of these hosts in a Secret; its other entries stay.
async fn login(client: &Client, name: &str, hosts: &[String], login: &Login) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), keys::NAMESPACE);
    for _ in 0..TRIES {
        let present = secrets.get_opt(name).await?;
        let before = present
            .as_ref()
            .and_then(|secret| secret.data.as_ref()?.get(keys::DOCKER_CONFIG_KEY));
        let before = before.map(|text| text.0.as_slice());
        let Some(text) = with_entries(before, hosts, login).with_context(|| {
            format!(
                "`{}` of Secret `{name}` in namespace `{}` is not a docker configuration; correct or remove it",
                keys::DOCKER_CONFIG_KEY,
                keys::NAMESPACE
            )
        })?
        else {
            return Ok(());
        };
        let exists = present.is_some();
        let mut secret = present.unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(keys::DOCKER_CONFIG_TYPE.to_owned()),
            ..Secret::default()
        });
        secret
            .data
            .get_or_insert_default()
            .insert(keys::DOCKER_CONFIG_KEY.to_owned(), ByteString(text));
        let to = PostParams::default();
        let written = match exists {
            false => secrets.create(&to, &secret).await,
            true => secrets.replace(name, &to, &secret).await,
        };
        match written {
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {}
            other => {
                return other
                    .map(drop)
                    .with_context(|| format!("failed to write Secret `{name}`"));
            }
        }
    }
    anyhow::bail!("Secret `{name}` is written by others all the time")
}

/// A docker configuration with the entries of these hosts; none when it has them.
fn with_entries(
    before: Option<&[u8]>,
    hosts: &[String],
    login: &Login,
) -> anyhow::Result<Option<Vec<u8>>> {
    let mut config: Map<String, Value> = match before {
        // The text has secrets in it, and so may an error's excerpt.
        Some(text) => serde_json::from_slice(text)
            .map_err(|error| anyhow::anyhow!("line {}", error.line()))?,
        None => Map::new(),
    };
    let auths = config
        .entry("auths")
        .or_insert_with(|| Value::Object(Map::new()));
    let auths = auths.as_object_mut().context("`auths` is not an object")?;
    let mut changed = false;
    for host in hosts {
        let entry = login.entry();
        changed |= auths.get(host) != Some(&entry);
        auths.insert(host.clone(), entry);
    }
    changed
        .then(|| serde_json::to_vec(&config).context("failed to write it"))
        .transpose()
}

/// Tells nodes and builders which authorities the registry's certificate is signed by.
pub(crate) async fn trust(client: &Client, hosts: &[String], ca: &str) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let name = keys::REGISTRY_CERTS;
    // OpenShift's rule for keys of such ConfigMaps: `..` stands for the `:` before a port.
    let entries = hosts.iter().map(|host| host.replace(':', ".."));
    let data: BTreeMap<String, String> = entries.map(|key| (key, ca.to_owned())).collect();
    let present = maps.get_opt(name).await?;
    let has = |(key, pem)| {
        let data = present.as_ref().and_then(|map| map.data.as_ref());
        data.and_then(|data| data.get(key)) == Some(pem)
    };
    if data.iter().all(has) {
        return Ok(());
    }
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    };
    let done = match present {
        None => maps.create(&PostParams::default(), &map).await,
        Some(_) => {
            let merged = PatchParams::default();
            maps.patch(name, &merged, &Patch::Merge(&map)).await
        }
    };
    done.map(drop)
        .with_context(|| format!("failed to write ConfigMap `{name}`"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use oci::DockerConfig;

    #[test]
    fn entries_of_others_stay() {
        let login = Logins::mint().unwrap().builder;
        let hosts = ["10.0.0.1:5000".to_owned(), "r.ns.svc:5000".to_owned()];
        let others = br#"{"auths":{"quay.io":{"auth":"cm9ib3Q6cw=="},"10.0.0.1:5000":{"auth":"YTpi"}},"x":1}"#;
        let text = with_entries(Some(others), &hosts, &login).unwrap().unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["x"], 1);
        let config = DockerConfig::parse(&text).unwrap();
        assert!(config.credentials_for("quay.io", "a").is_some());
        let ours = config.credentials_for("10.0.0.1:5000", "a").unwrap();
        assert!(format!("{ours:?}").contains("caprock-"), "{ours:?}");
        assert!(config.credentials_for("r.ns.svc:5000", "a").is_some());
        // Nothing to do a second time.
        assert!(with_entries(Some(&text), &hosts, &login).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_read_is_not_written_over() {
        let login = Logins::mint().unwrap().node;
        for bad in ["", "[]", "{\"auths\":[]}", "pass word"] {
            let error = with_entries(Some(bad.as_bytes()), &["a.b".to_owned()], &login);
            assert!(error.is_err(), "{bad}");
            assert!(!format!("{error:?}").contains("pass word"));
        }
    }
}
