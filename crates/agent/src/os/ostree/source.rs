//! Where an image to import comes from: a registry, or an OCI image layout in a directory.

use std::fs::File;

use camino::{Utf8Path, Utf8PathBuf};
use oci::manifest::{Descriptor, Document, Manifest, digest_of, this_platform};
use oci::{BlobStore, Client, Digest, Image, Reference};

use super::super::{OsError, io_error};

/// Annotation by which an image layout names its images.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where an image comes from.
#[derive(Debug)]
pub enum Source {
    /// A registry.
    Registry {
        /// How to reach it.
        client: Client,
        /// Which image.
        reference: Reference,
    },
    /// An image layout.
    Layout {
        /// Its directory.
        dir: Utf8PathBuf,
        /// Tag of the image; the first one when absent.
        tag: Option<String>,
    },
}

impl Source {
    /// Digest that the reference stands for.
    pub(super) async fn digest(&self) -> Result<Digest, OsError> {
        match self {
            Source::Registry { client, reference } => match reference.digest() {
                Some(digest) => Ok(digest),
                None => Ok(client
                    .resolve(reference)
                    .await
                    .map_err(|error| self.failed(error))?
                    .0),
            },
            Source::Layout { dir, tag } => {
                let index = dir.join("index.json");
                let bytes = std::fs::read(&index).map_err(io_error("read", &index))?;
                let Document::Index(index) =
                    Document::parse(bytes, None).map_err(|error| self.failed(error))?
                else {
                    return Err(self.problem("its `index.json` is no index"));
                };
                let named = |descriptor: &&Descriptor| {
                    let name = descriptor
                        .annotations()
                        .as_ref()
                        .and_then(|all| all.get(REF_NAME));
                    tag.is_none() || name == tag.as_ref()
                };
                let descriptor = index
                    .manifests()
                    .iter()
                    .find(named)
                    .ok_or_else(|| self.problem("it has no such tag"))?;
                digest_of(descriptor).map_err(|error| self.failed(error))
            }
        }
    }

    /// The pull spec to record.
    pub(super) fn pull_spec(&self, digest: Digest) -> String {
        match self {
            Source::Registry { reference, .. } => reference.with_digest(digest).to_string(),
            Source::Layout { dir, .. } => format!("oci:{dir}@{digest}"),
        }
    }

    /// Manifest and configuration.
    pub(super) async fn image(&self, digest: Digest) -> Result<Image, OsError> {
        match self {
            Source::Registry { client, reference } => client
                .image(&reference.with_digest(digest), &this_platform())
                .await
                .map_err(|error| self.failed(error)),
            Source::Layout { dir, .. } => {
                let blobs = open_layout(dir).map_err(|error| self.failed(error))?;
                let manifest = self.manifest(&blobs, digest)?;
                let config = digest_of(manifest.config()).map_err(|error| self.failed(error))?;
                let config_bytes = blobs
                    .read(&config, oci::manifest::MAX_CONFIG)
                    .map_err(|error| self.failed(error))?;
                Ok(Image {
                    // A layout has no registry; the name is never asked for.
                    reference: format!("localhost/layout@{digest}")
                        .parse()
                        .map_err(|error| self.failed(error))?,
                    config: serde_json::from_slice(&config_bytes)
                        .map_err(|error| self.failed(error))?,
                    config_bytes: config_bytes.into(),
                    manifest,
                })
            }
        }
    }

    fn manifest(&self, blobs: &BlobStore, digest: Digest) -> Result<Manifest, OsError> {
        let bytes = blobs
            .read(&digest, oci::manifest::MAX_MANIFEST)
            .map_err(|error| self.failed(error))?;
        match Document::parse(bytes, None).map_err(|error| self.failed(error))? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(index) => {
                let chosen = index
                    .select(&this_platform())
                    .ok_or_else(|| self.problem("it has no image for this platform"))?;
                let digest = digest_of(chosen).map_err(|error| self.failed(error))?;
                let bytes = blobs
                    .read(&digest, oci::manifest::MAX_MANIFEST)
                    .map_err(|error| self.failed(error))?;
                match Document::parse(bytes, None).map_err(|error| self.failed(error))? {
                    Document::Manifest(manifest) => Ok(manifest),
                    Document::Index(_) => Err(self.problem("it is an index of indexes")),
                }
            }
        }
    }

    /// Sees to it that a layer's blob can be opened.
    pub(super) async fn fetch(
        &self,
        descriptor: &Descriptor,
        store: &BlobStore,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), OsError> {
        match self {
            Source::Registry { client, reference } => client
                .fetch_blob(reference, descriptor, store, progress)
                .await
                .map_err(|error| self.failed(error)),
            Source::Layout { .. } => Ok(()),
        }
    }

    /// Opens a layer's blob.
    pub(super) fn open(&self, digest: &Digest, store: &BlobStore) -> Result<File, oci::StoreError> {
        match self {
            Source::Registry { .. } => store.open_blob(digest),
            Source::Layout { dir, .. } => open_layout(dir)?.open_blob(digest),
        }
    }

    pub(super) fn failed(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> OsError {
        OsError::Pull {
            image: self.name(),
            source: source.into(),
        }
    }

    fn problem(&self, problem: &str) -> OsError {
        OsError::Image {
            image: self.name(),
            problem: problem.to_owned(),
        }
    }

    fn name(&self) -> String {
        match self {
            Source::Registry { reference, .. } => reference.to_string(),
            Source::Layout {
                dir,
                tag: Some(tag),
            } => format!("oci:{dir}:{tag}"),
            Source::Layout { dir, tag: None } => format!("oci:{dir}"),
        }
    }
}

/// A layout keeps its blobs as our store does.
fn open_layout(dir: &Utf8Path) -> Result<BlobStore, oci::StoreError> {
    BlobStore::open(dir)
}
