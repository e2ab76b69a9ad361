//! A node that another operator has configured, on its first turn under Caprock, or the first after Caprock had given the
//! cluster back: what it has is taken as it is. Without this its configuration would look all new, or like what Caprock
//! remembers, and every service in it would be started anew.

use k8s_openapi::api::core::v1::Node;
use model::keys;
use model::node::{Target, annotation};

use super::Agent;
use crate::Acts;
use crate::error::AgentError;
use crate::host::{Sight, digest_in};
use crate::machine::Machine;
use crate::state::{self, Record};

/// What the node's annotations say that it has, where nobody but another operator can have written that: no agent of
/// Caprock has told anything of the node yet, nor kept anything on it. Or, where the cluster was given back and taken over
/// `again`, somebody else says that the node has something else than ours left there.
fn found(node: &Node, sight: &Sight, again: bool) -> Option<Target> {
    let target = Target {
        config: annotation(node, keys::CURRENT_CONFIG)?.to_owned(),
        image: annotation(node, keys::CURRENT_IMAGE).map(str::to_owned),
    };
    let is_theirs = match again {
        true => sight.record.as_ref().map(Record::target).as_ref() != Some(&target),
        false => {
            let untouched =
                sight.record.is_none() && sight.interrupted.is_none() && !sight.unbooted;
            untouched && annotation(node, keys::VERSION).is_none()
        }
    };
    is_theirs.then_some(target)
}

impl<M: Machine> Agent<M> {
    /// Takes over what another operator has configured, if that is so; what is seen afterwards.
    pub(super) async fn adopt(&mut self, node: &Node, sight: Sight) -> Result<Sight, AgentError> {
        let Acts::Caprock { takeover } = self.acts() else {
            return Ok(sight);
        };
        let followed = self.host.state().takeover()?;
        let is_new = takeover.is_some() && takeover != followed;
        let sight = match found(node, &sight, is_new && followed.is_some()) {
            Some(target) => self.take_over(target, sight).await?,
            None => sight,
        };
        // Last: until it is there, all of this is done again.
        if let Some(takeover) = takeover.filter(|_| is_new) {
            self.host.state().set_takeover(&takeover)?;
        }
        Ok(sight)
    }

    async fn take_over(&mut self, target: Target, sight: Sight) -> Result<Sight, AgentError> {
        let config = &target.config;
        let spec = match self.host.state().config(config)? {
            Some(spec) => spec,
            None => {
                let read = self.configs.get(config).await;
                read.map_err(AgentError::api(format!("read MachineConfig `{config}`")))?
                    .spec
            }
        };
        let version = state::version(&target, &spec)?;
        // Whoever believed the annotation would reboot the node to make it true.
        if let Some(said) = version.image().and_then(digest_in)
            && let (Some(false), Some(booted)) = (sight.has_booted(&said), sight.booted_image())
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
        self.known = None;
        self.host
            .run(move |host| {
                host.adopt(&sight, &version)?;
                host.look()
            })
            .await
    }
}
