//! Registries as the command line reaches them: credentials, trust, and images named as `oci:DIR[:TAG]` or by reference.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use oci::manifest::Document;
use oci::{
    BlobStore, Client, ClientConfig, ClientError, Digest, Reference, Registries, certs, registries,
};
use serde::Deserialize;

use super::authfile;
use crate::cli::RegistryAccess;
use crate::exit::{Failure, refused};

/// A client with the credentials and trust that the flags give. `hosts` are the registries named on the command line:
/// `--tls-verify=false` is for them alone.
pub(crate) fn client(access: &RegistryAccess, hosts: &[&Reference]) -> Result<Client, Failure> {
    let found = authfile::read(access.authfile.as_deref().map(Utf8Path::as_std_path))?;
    let mut config = ClientConfig {
        auth: found.auth,
        keychain: found.keychain,
        registries: Registries::load(&registries_conf())
            .map_err(|error| refused(anyhow!(error)))?,
        ..ClientConfig::default()
    };
    for dir in certs::SYSTEM_DIRS {
        let found = certs::authorities(Path::new(dir)).map_err(|error| refused(anyhow!(error)))?;
        config.cas.extend(found);
    }
    if let Some(path) = &access.ca_file {
        let pem =
            std::fs::read(path).with_context(|| format!("failed to read the CA file `{path}`"))?;
        config.extra_roots.push(pem);
    }
    if !access.tls_verify {
        config.insecure_hosts = hosts
            .iter()
            .map(|reference| reference.host().to_owned())
            .collect::<BTreeSet<_>>();
    }
    Ok(Client::new(config)?)
}

/// Says by which flag a registry is given what it lacks: its own words are for objects of a cluster.
pub(crate) fn hinted(failure: Failure) -> Failure {
    let hint = match failure.cause() {
        Some(ClientError::NoCredentials { .. } | ClientError::Unauthorized { .. }) => {
            "on the command line `--authfile FILE` gives credentials; without it, those that `podman login` or `docker login` left count"
        }
        Some(ClientError::Tls { .. }) => {
            "on the command line `--ca-file FILE` gives the certificate authority"
        }
        Some(_) | None => return failure,
    };
    failure.hint(hint)
}

/// The settings for registries that count for this user, as containers-registries.conf(5) has it.
fn registries_conf() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(named) = variable("CONTAINERS_REGISTRIES_CONF") {
        return named.into();
    }
    let own = variable("HOME")
        .map(|home| PathBuf::from(home).join(".config/containers/registries.conf"))
        .filter(|path| path.is_file());
    own.unwrap_or_else(|| registries::SYSTEM_CONFIG.into())
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Layout {
        dir: Utf8PathBuf,
        tag: Option<String>,
    },
    Registry(Reference),
}

impl Place {
    /// Reads `oci:DIR[:TAG]` or an image reference.
    pub(crate) fn parse(text: &str) -> Result<Place, Failure> {
        match text.strip_prefix("oci:") {
            Some(rest) => {
                let (dir, tag) = match rest.rsplit_once(':') {
                    Some((dir, tag)) if !tag.contains('/') => (dir, Some(tag.to_owned())),
                    _ => (rest, None),
                };
                if dir.is_empty() {
                    return Err(refused(anyhow!(
                        "`{text}` names no directory: expected `oci:DIR[:TAG]`"
                    )));
                }
                Ok(Place::Layout {
                    dir: dir.into(),
                    tag,
                })
            }
            None => reference(text).map(Place::Registry),
        }
    }
}

/// Reads an image reference.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse::<Reference>().map_err(|error| {
        refused(anyhow!(error).context(format!("`{text}` is not an image reference")))
    })
}

/// An OCI image layout on disk.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) blobs: BlobStore,
    pub(crate) manifest: Document,
}

impl Layout {
    /// Opens the layout and reads the manifest under `tag`; without a tag, its only one.
    pub(crate) fn open(dir: &camino::Utf8Path, tag: Option<&str>) -> Result<Layout, Failure> {
        #[derive(Deserialize)]
        struct Entry {
            digest: Digest,
            #[serde(rename = "mediaType")]
            media_type: String,
            #[serde(default)]
            annotations: std::collections::BTreeMap<String, String>,
        }
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Entry>,
        }
        let path = dir.join("index.json");
        let text = std::fs::read(&path).map_err(|error| {
            refused(anyhow!(error).context(format!("`{dir}` is not an OCI image layout")))
        })?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| {
            refused(anyhow!(error).context(format!("`{path}` is not an image index")))
        })?;
        let mut fitting = index.manifests.into_iter().filter(|entry| {
            tag.is_none_or(|tag| {
                entry
                    .annotations
                    .get("org.opencontainers.image.ref.name")
                    .map(String::as_str)
                    == Some(tag)
            })
        });
        let entry = match (fitting.next(), fitting.next()) {
            (Some(entry), None) => entry,
            (None, _) => {
                return Err(refused(match tag {
                    Some(tag) => anyhow!("the image layout `{dir}` has no tag `{tag}`"),
                    None => anyhow!("the image layout `{dir}` is empty"),
                }));
            }
            (Some(_), Some(_)) => {
                return Err(
                    refused(anyhow!("the image layout `{dir}` has several images"))
                        .hint("name one as `oci:DIR:TAG`"),
                );
            }
        };
        let blobs = BlobStore::open(dir)?;
        let bytes = blobs.read(&entry.digest, oci::manifest::MAX_MANIFEST)?;
        let manifest = Document::parse(bytes, Some(&entry.media_type))?;
        Ok(Layout { blobs, manifest })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_registry_lacks_is_given_by_a_flag() {
        let tls = || ClientError::Tls {
            host: "r.example".into(),
            reason: "unknown issuer".into(),
        };
        let hint = |failure: Failure| {
            let text = format!("{:?}", hinted(failure));
            ["--ca-file", "--authfile"].map(|flag| text.contains(flag))
        };
        assert_eq!(hint(tls().into()), [true, false]);
        let below = anyhow!(tls()).context("failed to pull");
        assert_eq!(hint(refused(below)), [true, false]);
        let none = ClientError::NoCredentials {
            host: "r.example".into(),
            repository: "os/base".into(),
        };
        assert_eq!(hint(none.into()), [false, true]);
        let absent = ClientError::NotFound("r.example/os/base".into());
        assert_eq!(hint(absent.into()), [false, false]);
    }

    #[test]
    fn a_layout_has_an_optional_tag() {
        let layout = |dir: &str, tag: Option<&str>| Place::Layout {
            dir: dir.into(),
            tag: tag.map(str::to_owned),
        };
        for (text, expected) in [
            ("oci:out", layout("out", None)),
            ("oci:out:latest", layout("out", Some("latest"))),
            ("oci:/a:b/out", layout("/a:b/out", None)),
        ] {
            assert_eq!(Place::parse(text).unwrap(), expected, "{text}");
        }
        assert!(Place::parse("oci:").is_err());
    }
}
