//! Node agent: observes the host, stages images, applies configuration, verifies, reports.

mod command;
pub mod configure;
pub mod host;
pub mod os;
pub mod root;
pub mod state;
pub mod systemd;
pub mod verify;
