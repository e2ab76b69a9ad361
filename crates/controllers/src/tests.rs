//! The loops on the real API server, in process: what users write goes in, what they read comes out.

#![allow(clippy::unwrap_used)]

mod access;
mod build;
mod builders;
mod claim;
mod disruption;
mod drain;
mod failures;
mod fake;
mod fencing;
mod files;
mod leader;
mod link;
mod pool;
mod preflight;
mod render;
mod sources;
mod world;
