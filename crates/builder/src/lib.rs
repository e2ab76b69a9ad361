//! Containerfile to OCI image; the only crate that executes RUN.
//!
//! Pure parts: [`containerfile`] reads the text, `stages` decides what to build in which order, `state` says what
//! each instruction means, `cache_key` names its result. Effects: `execute` runs commands and copies files in a
//! `snapshot`, `commit` makes a layer of what changed, `cache` keeps it. [`Engine`] ties them together.

mod artifact;
mod base;
mod build;
mod cache;
mod cache_key;
mod commit;
mod compress;
mod config;
pub mod containerfile;
mod engine;
mod error;
mod event;
mod evict;
mod execute;
mod ignore;
mod image;
mod index;
mod layout;
pub mod lint;
mod pack;
mod remote;
mod request;
mod root;
mod root_view;
mod secret;
mod session;
mod shared_cache;
mod snapshot;
mod stages;
mod state;
mod superuser;
mod work;

pub use build::parse_platform;
pub use compress::Compression;
pub use engine::{Engine, EngineConfig};
pub use error::{BuildError, StepStatus};
pub use event::{Event, Progress, Transfer};
pub use ignore::Ignore;
pub use image::Image;
pub use index::Index;
pub use pack::Destination;
pub use request::{NamedContext, Request};
pub use root_view::{Kind, RootView};
pub use secret::Secrets;
