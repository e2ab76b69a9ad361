//! A node that another operator has configured, on its first turn under Caprock: what it has is taken as it is. Without
//! this its configuration would look all new, and every service in it would be started anew.

use k8s_openapi::api::core::v1::Node;
use model::keys;
use model::node::{Target, annotation};

use super::Agent;
use crate::error::AgentError;
use crate::host::{Sight, digest_in};
use crate::machine::Machine;
use crate::state;

/// What the node's annotations say that it has, where nobody but another operator can have written that: no agent of
/// Caprock has told anything of the node yet, nor kept anything on it.
fn found(node: &Node, sight: &Sight) -> Option<Target> {
    let untouched = sight.record.is_none() && sight.interrupted.is_none() && !sight.unbooted;
    let foreign = untouched && annotation(node, keys::VERSION).is_none();
    let config = annotation(node, keys::CURRENT_CONFIG).filter(|_| foreign)?;
    Some(Target {
        config: config.to_owned(),
        image: annotation(node, keys::CURRENT_IMAGE).map(str::to_owned),
    })
}

impl<M: Machine> Agent<M> {
    /// Takes over what another operator has configured, if that is so; what is seen afterwards.
    pub(super) async fn adopt(&self, node: &Node, sight: Sight) -> Result<Sight, AgentError> {
        let Some(target) = found(node, &sight) else {
            return Ok(sight);
        };
        let config = &target.config;
        let read = self.configs.get(config).await;
        let spec = read
            .map_err(AgentError::api(format!("read MachineConfig `{config}`")))?
            .spec;
        let version = state::version(&target, &spec)?;
        // Whoever believed the annotation would reboot the node to make it true.
        let (said, booted) = (version.image().and_then(digest_in), sight.booted_image());
        if let (Some(said), Some(booted)) = (said, booted)
            && said != booted
        {
            return Err(AgentError::Object {
                object: format!("annotation `{}` of the Node", keys::CURRENT_CONFIG),
                problem: format!(
                    "`{config}` means the image `{said}`, and `{booted}` is booted; boot what it says, or remove the annotation, and the node is configured anew"
                ),
            });
        }
        self.host.state().keep_config(config, &spec)?;
        tracing::info!(%target, "takes the node over as it is");
        self.host
            .run(move |host| {
                host.adopt(&sight, &version)?;
                host.look()
            })
            .await
    }
}
