//! Digests, manifests, blob store; registry client and embedded registry server.

pub mod auth;
pub mod blob_store;
pub mod client;
pub mod digest;
mod durable;
pub mod layer;
pub mod manifest;
mod pump;
pub mod reference;
pub mod registry;

pub use auth::{AuthError, Credentials, DockerConfig};
pub use blob_store::{BlobStore, BlobWriter, StoreError};
pub use client::{
    BlobSource, Client, ClientConfig, ClientError, FetchedManifest, Image, Pushed, Retry,
};
pub use digest::{Digest, DigestError, Digester};
pub use reference::{Reference, ReferenceError};
pub use registry::{Access, Permission, Registry, RegistryError};
