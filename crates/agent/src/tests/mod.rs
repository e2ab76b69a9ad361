//! The agent on the real API server, on a machine that is not there.
#![allow(clippy::unwrap_used)]

pub(crate) mod fake;
mod health;
pub(crate) mod kill;
mod kills;
mod updates;
pub(crate) mod world;
