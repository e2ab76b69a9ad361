//! Digests, manifests, blob store; registry client and embedded registry server.
//!
//! Everything that comes from a registry is taken for hostile: it is verified by digest, bounded in size, and unpacked
//! so that nothing leaves the tree it belongs in. What is written is whole and durable, or not there.

pub mod auth;
mod blob_store;
pub mod certs;
mod client;
pub mod digest;
mod durable;
mod keychain;
pub mod layer;
pub mod manifest;
pub mod policy;
mod pump;
mod reference;
pub mod registries;
mod registry;

pub use auth::{AuthError, Credentials, DockerConfig, TokenLife};
pub use blob_store::{BlobStore, BlobWriter, StoreError, StoredBlob};
pub use client::{
    BlobSource, Client, ClientConfig, ClientError, FetchedManifest, Growth, Image, Pushed, Retry,
};
pub use digest::{Digest, DigestError, Digester};
pub use keychain::{Keychain, KeychainError};
pub use policy::{Demand, Policy, PolicyError};
pub use reference::{Reference, ReferenceError};
pub use registries::{Registries, RegistriesError};
pub use registry::{Access, Collected, Permission, Registry, RegistryError};
