//! The embedded registry: the OCI distribution specification over a directory. Blobs are kept once for all
//! repositories; a repository has those that are linked into it.

mod access;
mod blobs;
mod collect;
mod error;
mod http_api;
mod layout;
mod manifests;
mod route;
mod uploads;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::blob_store::{BlobStore, StoreError};
use crate::digest::{Digest, DigestError};
use crate::manifest::{Descriptor, Document, MAX_MANIFEST, ManifestError, digest_of};
use crate::reference::{ReferenceError, check_repository, check_tag};

pub use access::{Access, Permission};
pub use collect::Collected;
use layout::Layout;
use route::Version;
use uploads::Uploads;

/// A registry in a directory. Clones share it; only one process may have it open.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    blobs: BlobStore,
    layout: Layout,
    uploads: Uploads,
    access: RwLock<Access>,
    gate: Gate,
    /// Held as long as the registry is open.
    _lock: File,
}

/// Keeps garbage collection apart from everything that makes a blob needed.
#[derive(Debug, Default)]
struct Gate {
    lock: RwLock<()>,
}

impl Gate {
    /// Holds collections off. There is nothing behind the lock that a panic could spoil.
    fn pass(&self) -> RwLockReadGuard<'_, ()> {
        self.lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the registry could not be opened, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The blob store failed, or lacks the blob.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest is not one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest refers to something that the repository lacks.
    #[error("manifest refers to `{0}`, which the repository does not have")]
    Dangling(Digest),
    /// The manifest says another size than the content has.
    #[error("manifest says that `{digest}` has {said} bytes, but it has {size}")]
    Size {
        /// The content.
        digest: Digest,
        /// The size in the manifest.
        said: u64,
        /// The size in the store.
        size: u64,
    },
    /// Not a repository name or a tag.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// Another process, or another part of this one, has the registry open.
    #[error("registry `{}` is in use; stop the other one first", .0.display())]
    InUse(PathBuf),
    /// The directory refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// A verb, for the message.
        action: &'static str,
        /// The file or directory it was done to.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl From<DigestError> for RegistryError {
    fn from(error: DigestError) -> RegistryError {
        RegistryError::Manifest(error.into())
    }
}

impl Registry {
    /// Opens the registry in `dir`, creating it when missing, and cleans up after a killed one: unfinished uploads
    /// are forgotten, and clients start them again.
    pub fn open(dir: impl AsRef<Path>, access: Access) -> Result<Registry, RegistryError> {
        let dir = dir.as_ref();
        let lock = layout::lock(dir)?;
        let inner = Inner {
            _lock: lock,
            blobs: BlobStore::open(dir)?,
            layout: Layout::open(dir)?,
            uploads: Uploads::default(),
            access: RwLock::new(access),
            gate: Gate::default(),
        };
        Ok(Registry {
            inner: Arc::new(inner),
        })
    }

    /// Lets in these users from now on, and no others. Requests under way go on.
    pub fn set_access(&self, access: Access) {
        let present = &self.inner.access;
        *present.write().unwrap_or_else(PoisonError::into_inner) = access;
    }

    /// The HTTP service, at the root of its listener. TLS is the caller's, and passwords need it.
    pub fn router(&self) -> axum::Router {
        http_api::router(self.clone())
    }

    /// The blobs of all repositories.
    pub fn blobs(&self) -> &BlobStore {
        &self.inner.blobs
    }

    /// Makes a blob that the store has part of a repository. Blocks.
    pub fn link_blob(&self, repository: &str, digest: &Digest) -> Result<(), RegistryError> {
        check_repository(repository)?;
        let _kept = self.inner.gate.pass();
        self.inner.blobs.size(digest)?;
        self.inner.layout.link_blob(repository, digest)
    }

    /// Stores a manifest or index under its digest and, if given, a tag. What it refers to must be in the repository
    /// already. Blocks.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        document: &Document,
    ) -> Result<(), RegistryError> {
        check_repository(repository)?;
        tag.map_or(Ok(()), check_tag)?;
        let _kept = self.inner.gate.pass();
        for descriptor in required(document) {
            self.check_present(repository, descriptor)?;
        }
        let digest = self.inner.blobs.put(document.bytes())?;
        let subject = subject(document).map(digest_of).transpose()?;
        let layout = &self.inner.layout;
        layout.put_manifest(repository, &digest, document.media_type(), subject.as_ref())?;
        match tag {
            Some(tag) => layout.put_tag(repository, tag, &digest),
            None => Ok(()),
        }
    }

    fn check_present(
        &self,
        repository: &str,
        descriptor: &Descriptor,
    ) -> Result<(), RegistryError> {
        let digest = digest_of(descriptor)?;
        let layout = &self.inner.layout;
        let linked = layout.has_blob(repository, &digest)
            || layout.media_type(repository, &digest)?.is_some();
        match self.inner.blobs.size(&digest) {
            Ok(size) if linked && size == descriptor.size() => Ok(()),
            Ok(size) if linked => Err(RegistryError::Size {
                digest,
                said: descriptor.size(),
                size,
            }),
            Ok(_) | Err(StoreError::Missing(_)) => Err(RegistryError::Dangling(digest)),
            Err(error) => Err(error.into()),
        }
    }

    /// The digest that a version stands for, and the media type, if the repository has it.
    fn find(
        &self,
        repository: &str,
        version: &Version,
    ) -> Result<Option<(Digest, String)>, RegistryError> {
        let layout = &self.inner.layout;
        let digest = match version {
            Version::Digest(digest) => Some(*digest),
            Version::Tag(tag) => layout.tagged(repository, tag)?,
        };
        let Some(digest) = digest else {
            return Ok(None);
        };
        Ok(layout
            .media_type(repository, &digest)?
            .map(|media_type| (digest, media_type)))
    }

    /// A manifest that the repository has.
    fn document(&self, digest: &Digest, media_type: &str) -> Result<Document, RegistryError> {
        let bytes = Bytes::from(self.inner.blobs.read(digest, MAX_MANIFEST)?);
        Ok(Document::parse(bytes, Some(media_type))?)
    }
}

/// What must be there before a manifest is. Layers that may be had elsewhere need not.
fn required(document: &Document) -> Vec<&Descriptor> {
    match document {
        Document::Index(index) => index.manifests().iter().collect(),
        Document::Manifest(manifest) => {
            let elsewhere = |descriptor: &&Descriptor| {
                descriptor
                    .urls()
                    .as_ref()
                    .is_some_and(|urls| !urls.is_empty())
            };
            let layers = manifest
                .layers()
                .iter()
                .filter(|descriptor| !elsewhere(descriptor));
            std::iter::once(manifest.config()).chain(layers).collect()
        }
    }
}

fn subject(document: &Document) -> Option<&Descriptor> {
    match document {
        Document::Manifest(manifest) => manifest.content().subject().as_ref(),
        Document::Index(index) => index.content().subject().as_ref(),
    }
}
