//! Effects of steps on a file system: running commands in a container, copying files.

mod agent;
pub(crate) mod copy;
pub(crate) mod foreign;
mod mounts;
pub(crate) mod run;
mod runtime;
mod seccomp;
mod spec;
mod stubs;
pub(crate) mod user;

pub(crate) use runtime::Runtime;
