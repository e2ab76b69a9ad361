//! Kubernetes-compatible API for one machine: CRDs, list and watch, patch, storage.
//!
//! The crate knows no kinds but the built-in ones of Kubernetes; everything else arrives as
//! CustomResourceDefinitions. It is specified by what `kubectl` and client libraries do.
//!
//! A request goes `http` (path, negotiation, body) → `auth` → `resources` (the rules of each verb, with
//! `schema`, `patch` and `selector`) → `store`, and comes back through `http::encode` or `http::watch`.

mod admission;
mod audit;
mod auth;
mod cluster;
mod collector;
mod config;
mod discovery;
mod http;
mod jsonpath;
mod kinds;
mod limits;
mod listener;
mod managed;
mod metrics;
mod openapi;
mod patch;
#[cfg(test)]
mod properties;
mod resources;
mod rules;
mod schema;
mod selector;
mod server;
mod status;
mod store;
mod table;

pub use config::{Config, Conversion, Extra, Names, Restriction, Rule, Token, Version};
pub use listener::{Peer, serve_tls};
pub use server::{ApiServer, OpenError};
pub use store::{OpenError as StoreError, RestoreError, restore};
