//! The embedded registry: the OCI distribution specification over a directory.

mod access;

use std::path::Path;

use bytes::Bytes;

use crate::blob_store::{BlobStore, StoreError};
use crate::digest::Digest;
use crate::manifest::ManifestError;

pub use access::{Access, Permission};

/// A registry in a directory. Clones share it; one process may have it open.
#[derive(Debug, Clone)]
pub struct Registry {
    blobs: BlobStore,
    access: std::sync::Arc<Access>,
}

/// Why the registry could not be opened or used in process.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The blob store failed, or lacks the blob.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest cannot be stored.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest refers to something that the repository lacks.
    #[error("manifest refers to `{0}`, which the repository does not have")]
    Dangling(Digest),
    /// Not a repository name or a tag.
    #[error(transparent)]
    Name(#[from] crate::reference::ReferenceError),
}

impl Registry {
    /// Opens the registry in `dir`, creating it when missing.
    pub fn open(dir: impl AsRef<Path>, access: Access) -> Result<Registry, RegistryError> {
        Ok(Registry {
            blobs: BlobStore::open(dir)?,
            access: std::sync::Arc::new(access),
        })
    }

    /// The HTTP service; TLS is the caller's.
    pub fn router(&self) -> axum::Router {
        todo!()
    }

    /// The blobs of all repositories.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// Makes a blob that the store has part of a repository.
    pub fn link_blob(&self, _repository: &str, _digest: &Digest) -> Result<(), RegistryError> {
        todo!()
    }

    /// Stores a manifest under its digest and, if given, a tag.
    pub fn put_manifest(
        &self,
        _repository: &str,
        _tag: Option<&str>,
        _media_type: &str,
        _bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        todo!()
    }
}
