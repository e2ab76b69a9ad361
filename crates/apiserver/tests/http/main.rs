//! Requests and answers as they are on the wire: who may come in, and how errors look.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod answers;
mod call;
mod definitions;
