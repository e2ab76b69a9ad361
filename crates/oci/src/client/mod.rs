//! The registry client: pulls and pushes manifests and blobs by the OCI distribution specification, over TLS,
//! verifying every digest and trying again what may pass.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::auth::DockerConfig;
use crate::blob_store::BlobStore;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, ImageConfig, Manifest, ManifestError, Platform};
use crate::reference::Reference;

pub use error::ClientError;

/// How to reach registries and whom to trust.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Credentials by registry or repository prefix.
    pub auth: DockerConfig,
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
}

/// Exponential back-off with jitter, for requests that failed in a way that may pass.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// No attempt starts later than this after the first one.
    pub deadline: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
        }
    }
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            auth: DockerConfig::default(),
            cas: BTreeMap::new(),
            extra_roots: Vec::new(),
            insecure_hosts: BTreeSet::new(),
            user_agent: concat!("caprock/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: Retry::default(),
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
    config: std::sync::Arc<ClientConfig>,
}

impl Client {
    /// A client with this configuration. Fails when a certificate authority given cannot be read.
    pub fn new(config: ClientConfig) -> Result<Client, ClientError> {
        Ok(Client {
            config: std::sync::Arc::new(config),
        })
    }

    /// The digest and media type that the reference stands for now, without fetching the manifest where the
    /// registry tells both.
    pub async fn resolve(&self, _reference: &Reference) -> Result<(Digest, String), ClientError> {
        todo!()
    }

    /// Fetches a manifest or index of at most [`MAX_MANIFEST`](crate::manifest::MAX_MANIFEST) bytes.
    pub async fn manifest(&self, _reference: &Reference) -> Result<FetchedManifest, ClientError> {
        todo!()
    }

    /// Fetches manifest and configuration of the image for `platform`, through an index where there is one.
    pub async fn image(
        &self,
        _reference: &Reference,
        _platform: &Platform,
    ) -> Result<Image, ClientError> {
        todo!()
    }

    /// Fetches a blob into `store`, unless it is there. `progress` is told how many bytes of it are there, never
    /// fewer than before unless the registry makes us start again.
    pub async fn fetch_blob(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _store: &BlobStore,
        _progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        todo!()
    }

    /// Fetches a small blob of at most `limit` bytes into memory.
    pub async fn blob_bytes(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _limit: u64,
    ) -> Result<Bytes, ClientError> {
        todo!()
    }

    /// Sees to it that the repository of `reference` has the blob: asks, then mounts it from the repository of
    /// `from` when that is at the same registry, then sends it. `progress` is told how many bytes were sent.
    pub async fn push_blob(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _source: BlobSource<'_>,
        _from: Option<&Reference>,
        _progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed, ClientError> {
        todo!()
    }

    /// Puts a manifest or index under the reference's tag, or under its digest when it has none.
    pub async fn push_manifest(
        &self,
        _reference: &Reference,
        _bytes: Bytes,
        _media_type: &str,
    ) -> Result<Digest, ClientError> {
        todo!()
    }

    /// The tags of the repository, sorted.
    pub async fn tags(&self, _reference: &Reference) -> Result<Vec<String>, ClientError> {
        todo!()
    }

    /// Deletes the manifest that the reference names by digest or tag. One that is not there is no error.
    pub async fn delete_manifest(&self, _reference: &Reference) -> Result<(), ClientError> {
        todo!()
    }
}
