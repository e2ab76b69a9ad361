//! The agent on the real API server, on a machine that is not there.
#![allow(clippy::unwrap_used)]

mod fake;
pub(crate) mod kill;
mod kills;
mod updates;
mod world;
