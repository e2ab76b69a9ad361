//! A cluster that the Machine Config Operator acts on, and what looks at it.
#![allow(clippy::unwrap_used)]

mod cluster;
mod looking;
#[path = "../served/mod.rs"]
mod served;
mod takeover;
