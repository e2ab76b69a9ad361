//! The agent on the real API server, on a machine that is not there.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod adopt;
mod cluster;
mod discards;
mod drift;
pub(crate) mod fake;
mod health;
pub(crate) mod kill;
mod kills;
mod live;
mod plain;
mod secrets;
mod soft_reboot;
mod syscalls;
pub(crate) mod tree;
mod updates;
pub(crate) mod world;

/// Whether tests that need root may run; says that they are skipped where not.
pub(crate) fn privileged(what: &str) -> bool {
    let asked = std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_some_and(|value| value == "1");
    if !asked {
        eprintln!("skipped: needs root and {what}; set CAPROCK_TEST_PRIVILEGED=1");
    }
    asked
}
