//! The registry by its protocol: what the distribution specification says, request by request.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod access;
mod collect;
#[path = "../common/mod.rs"]
mod common;
mod outside;
mod pull;
mod push;
mod specification;
mod support;
