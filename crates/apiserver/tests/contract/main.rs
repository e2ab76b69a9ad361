//! The contract with Kubernetes' clients, checked over a socket with `kubectl` and raw requests.
//!
//! By default a server is started for each test. With `CAPROCK_TEST_KUBECONFIG=FILE` the same tests run against whatever
//! that kubeconfig leads to, a real Kubernetes for one; its user must be an administrator. Each test works in
//! namespaces and with cluster-scoped objects of its own. Tests that need `kubectl` are skipped without one.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod admission;
mod api;
mod clients;
mod lists;
mod objects;
