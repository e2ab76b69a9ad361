//! Least privilege: what each account of `deploy/` may do, as a whole table, and what somebody who has one of them tries
//! in vain.
//!
//! By default a server is started in process, with the controllers on it under their own account. With
//! `CAPROCK_TEST_KUBECONFIG=FILE` the same runs against a cluster on which Caprock is installed; the user must be an
//! administrator.
#![allow(clippy::unwrap_used)]

mod attempts;
mod cluster;
mod table;

#[path = "../../../../deploy/testing.rs"]
mod deploy;
