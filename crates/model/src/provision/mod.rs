//! What a machine is given when it becomes a node: which version of its pool, as which Ignition config, with which labels.

mod accept;
mod config;
mod target;

pub use accept::{MEDIA_TYPE, SpecVersion, Unsupported, negotiate};
pub use config::{
    AGENT_ENVIRONMENT, BOOTSTRAP_KUBECONFIG, Given, Provision, REGISTRY_AUTH, REGISTRY_CERTS,
    is_host, read, served,
};
pub use target::{annotation, labels, proven, target_of};
