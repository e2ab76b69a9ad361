//! Caprock on a cluster, through the tools that people install with: `kubectl`, `helm` and `caprock install`.
//!
//! The cluster is a `caprock serve` of the test's own, whose RBAC holds. It has no kubelet: a stand-in starts the parts as
//! processes, from the command lines in the objects and with the tokens of their accounts. With
//! `CAPROCK_TEST_KUBECONFIG=FILE` and `CAPROCK_TEST_IMAGE=REF` the same tests run on a real cluster, which runs the pods;
//! it must not have Caprock yet, and what the tests make is removed again.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod cluster;
mod kubelet;
mod lifecycle;
mod objects;
#[path = "../served/mod.rs"]
mod served;
mod tools;
