//! The registry client: pulls and pushes manifests and blobs by the OCI distribution specification, over TLS,
//! verifying every digest and trying again what may pass.

mod challenge;
mod download;
mod error;
mod failure;
mod fetch;
mod host;
mod pace;
mod places;
mod pull;
mod push;
mod request;
mod retry;
mod stream;
mod tags;
mod tls;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::auth::{Credentials, DockerConfig};
use crate::blob_store::BlobStore;
use crate::digest::Digest;
use crate::keychain::Keychain;
use crate::manifest::{Document, ImageConfig, Manifest, ManifestError};
use crate::reference::Reference;
use crate::registries::Registries;

use host::Host;
use pace::Pace;
use request::{Action, Call};

pub use error::ClientError;
pub use retry::Retry;
pub use stream::Growth;

/// How to reach registries and whom to trust.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Credentials by registry or repository prefix.
    pub auth: DockerConfig,
    /// Asked before [`ClientConfig::auth`].
    pub keychain: Option<Arc<dyn Keychain>>,
    /// Further certificate authorities by registry (`host` or `host:port`), as PEM.
    pub cas: BTreeMap<String, Vec<u8>>,
    /// Further certificate authorities for every registry, as PEM.
    pub extra_roots: Vec<Vec<u8>>,
    /// Registries (`host` or `host:port`) whose certificates are not verified and that may speak plain HTTP.
    pub insecure_hosts: BTreeSet<String>,
    /// Sent with every request.
    pub user_agent: String,
    /// When to try again, and when to stop.
    pub retry: Retry,
    /// Mirrors to pull from, and registries that are blocked.
    pub registries: Registries,
    /// How many bytes of blobs are fetched in a second at most, by this client and its clones together.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            auth: DockerConfig::default(),
            keychain: None,
            cas: BTreeMap::new(),
            extra_roots: Vec::new(),
            insecure_hosts: BTreeSet::new(),
            user_agent: concat!("caprock/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: Retry::default(),
            registries: Registries::default(),
            bytes_per_second: None,
        }
    }
}

/// A manifest or index as a registry sent it, its digest verified.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchedManifest {
    /// The bytes as they came.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// What the registry calls them.
    pub media_type: String,
}

impl FetchedManifest {
    /// Reads what came.
    pub fn parse(&self) -> Result<Document, ManifestError> {
        Document::parse(self.bytes.clone(), Some(&self.media_type))
    }
}

/// One image: its manifest and its configuration. Layers are fetched one by one.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The reference by the manifest's digest; for an index, by the digest of the chosen manifest.
    pub reference: Reference,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration's bytes as they came.
    pub config_bytes: Bytes,
    /// The configuration as far as we know its fields.
    pub config: ImageConfig,
}

/// Where the content of a blob to push comes from. It may be read more than once.
#[derive(Debug, Clone)]
pub enum BlobSource<'a> {
    /// From memory.
    Bytes(Bytes),
    /// From a store that has it.
    Store(&'a BlobStore),
}

/// How a pushed blob got there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The repository had it already.
    Present,
    /// The registry took it from another of its repositories.
    Mounted,
    /// We sent it.
    Uploaded,
}

/// A client for any number of registries; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    /// Read when the first registry is spoken to that is verified: there are hundreds.
    roots: OnceLock<rustls::RootCertStore>,
    /// By name, and whether its certificate need not verify.
    hosts: Mutex<BTreeMap<(String, bool), Arc<Host>>>,
    pace: Option<Pace>,
}

impl Client {
    /// A client with this configuration. Fails when one of the certificate authorities given cannot be read; those
    /// of the system are read when they are needed.
    pub fn new(config: ClientConfig) -> Result<Client, ClientError> {
        let mut checked = rustls::RootCertStore::empty();
        for pem in &config.extra_roots {
            tls::add_pem(&mut checked, pem, "every registry")?;
        }
        for (host, pem) in &config.cas {
            tls::add_pem(&mut checked, pem, &format!("`{host}`"))?;
        }
        Ok(Client {
            shared: Arc::new(Shared {
                pace: config.bytes_per_second.map(Pace::new),
                config,
                roots: OnceLock::new(),
                hosts: Mutex::default(),
            }),
        })
    }

    /// What the image's registry would be shown, when no keychain has anything for it.
    pub fn credentials_for(&self, reference: &Reference) -> Option<&Credentials> {
        let auth = &self.shared.config.auth;
        auth.credentials_for(reference.host(), reference.repository())
    }

    /// The certificate authorities, as PEM, that a registry (`host` or `host:port`) is trusted by besides the system's.
    pub fn authorities(&self, host: &str) -> impl Iterator<Item = &[u8]> {
        let config = &self.shared.config;
        let own = config.cas.get(host).into_iter();
        own.chain(&config.extra_roots).map(Vec::as_slice)
    }

    fn retry(&self) -> Retry {
        self.shared.config.retry
    }

    fn host(&self, name: &str) -> Result<Arc<Host>, ClientError> {
        self.host_as(name, self.shared.config.insecure_hosts.contains(name))
    }

    /// The registry that the reference names, to be written to.
    fn target(&self, reference: &Reference) -> Result<Arc<Host>, ClientError> {
        let registries = &self.shared.config.registries;
        let target = registries.target(reference).map_err(ClientError::Blocked)?;
        let name = reference.host();
        let insecure = target.insecure || self.shared.config.insecure_hosts.contains(name);
        self.host_as(name, insecure)
    }

    fn host_as(&self, name: &str, insecure: bool) -> Result<Arc<Host>, ClientError> {
        let mut hosts = self
            .shared
            .hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), insecure);
        if let Some(host) = hosts.get(&key) {
            return Ok(host.clone());
        }
        let host = Host::new(name, insecure, &self.shared.config, || self.roots())?;
        let host = Arc::new(host);
        hosts.insert(key, host.clone());
        Ok(host)
    }

    fn roots(&self) -> Result<&rustls::RootCertStore, ClientError> {
        if let Some(roots) = self.shared.roots.get() {
            return Ok(roots);
        }
        let read = tls::base_roots(&self.shared.config.extra_roots)?;
        Ok(self.shared.roots.get_or_init(|| read))
    }

    fn call<'a>(
        &'a self,
        host: &'a Host,
        reference: &'a Reference,
        action: Action,
        what: String,
    ) -> Call<'a> {
        Call {
            host,
            repository: reference.repository(),
            from: None,
            action,
            what,
            credentials: self.credentials_for(reference),
        }
    }
}
