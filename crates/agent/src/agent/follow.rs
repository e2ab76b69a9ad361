//! Follows the cluster in what is trusted and with which credentials: the agent's own, and those of the node's programs.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use model::keys;
use model::node::annotation;
use oci::Digest;
use serde_json::json;

use super::latest::Latest;
use super::observe::Observed;
use super::{Agent, Watches};
use crate::credentials::CredentialError;
use crate::error::{AgentError, chain};
use crate::machine::Machine;
use crate::registry::{self, NodeSecret};
use crate::trust::Wanted;

/// What is trusted and with which credentials, as the API has it.
#[derive(Default)]
pub(super) struct Trust {
    node_secret: Latest<NodeSecret>,
    registry_cas: Latest<BTreeMap<String, Vec<u8>>>,
    user_bundle: Latest<Option<String>>,
    api_ca: Latest<Option<String>>,
}

impl Trust {
    /// Follows all of it.
    pub(super) fn watch(&self, node: &str, watches: &mut Watches<'_>) {
        let maps: Api<ConfigMap> = Api::namespaced(watches.client.clone(), keys::NAMESPACE);
        for (name, stale) in [
            (keys::REGISTRY_CERTS, self.registry_cas.stale()),
            (keys::API_CA, self.api_ca.stale()),
            (keys::USER_CA_BUNDLE, self.user_bundle.stale()),
        ] {
            watches.named(maps.clone(), name, &[stale]);
        }
        let secrets: Api<Secret> =
            Api::namespaced(watches.client.clone(), keys::NODE_SECRET_NAMESPACE);
        watches.named(secrets, node, &[self.node_secret.stale()]);
    }
}

impl<M: Machine> Agent<M> {
    /// Follows. A failure keeps nothing else from being done; it is told once.
    pub(super) async fn follow(&mut self, node: &Node, observed: Option<&Observed>) {
        if let Some(observed) = observed {
            self.taken = Some(paths(observed));
        }
        let followed = match self.follow_own(node).await {
            Ok(()) => self.follow_programs().await,
            Err(error) => Err(error),
        };
        let failure = followed.err().map(|error| chain(&error));
        if failure != self.not_followed {
            if let Some(failure) = &failure {
                self.reporter
                    .publish(node, "Warning", "TrustNotFollowed", failure.clone())
                    .await;
            }
            self.not_followed = failure;
        }
    }

    /// The agent's own token, and the authorities that it trusts the API by.
    async fn follow_own(&self, node: &Node) -> Result<(), AgentError> {
        let Some(credentials) = self.settings.credentials.clone() else {
            return Ok(());
        };
        let bundle = self.config_map(keys::API_CA, keys::API_CA_KEY);
        if let Some(bundle) = self.trust.api_ca.get(bundle).await? {
            credentials.trust(&bundle)?;
            let fingerprint = &Digest::of(bundle.as_bytes()).hex()[..16];
            if annotation(node, keys::TRUSTED_API_CA) != Some(fingerprint) {
                let name = &self.settings.node_name;
                let patch =
                    json!({"metadata": {"annotations": {keys::TRUSTED_API_CA: fingerprint}}});
                self.nodes
                    .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                    .await
                    .map_err(AgentError::api(format!("annotate Node `{name}`")))?;
            }
        }
        let renewed = credentials.renew(&self.client, Timestamp::now()).await;
        let end = credentials.expires().unwrap_or_default();
        self.settings.telemetry.credential_ends(end);
        renewed.map_err(|error| self.ending(error))
    }

    /// Asks for another credential in the place of one that is refused.
    pub(super) async fn replace_credential(&self) -> Result<(), AgentError> {
        if let Some(credentials) = &self.settings.credentials
            && credentials.replace(Timestamp::now()).await?
        {
            tracing::info!("the node's token was refused; it has another one");
        }
        Ok(())
    }

    /// A token that cannot be renewed has an end, which is what matters.
    fn ending(&self, error: CredentialError) -> AgentError {
        let credentials = self.settings.credentials.as_ref();
        let end = credentials.and_then(|credentials| credentials.expires().ok().flatten());
        match end {
            Some(end) => AgentError::Object {
                object: format!("the node's token, which ends at {end}"),
                problem: chain(&error),
            },
            None => error.into(),
        }
    }

    /// What the node's programs read.
    async fn follow_programs(&self) -> Result<(), AgentError> {
        let Some(taken) = self.taken.clone() else {
            return Ok(());
        };
        let (trust, client) = (&self.trust, &self.client);
        let cas = registry::authorities(client);
        let user_bundle = self.config_map(keys::USER_CA_BUNDLE, keys::USER_CA_BUNDLE_KEY);
        let wanted = Wanted {
            registry_auth: self.node_secret().await?.registry_auth,
            registry_cas: trust.registry_cas.get(cas).await?,
            user_bundle: trust
                .user_bundle
                .get(user_bundle)
                .await?
                .unwrap_or_default(),
        };
        let changed = self
            .host
            .run(move |host| host.follow_trust(&wanted, &taken))
            .await?;
        if changed {
            tracing::info!(
                "credentials and authorities of the node's programs were brought in line"
            );
        }
        Ok(())
    }

    /// What the controllers put together for this node.
    pub(super) async fn node_secret(&self) -> Result<NodeSecret, AgentError> {
        let read = registry::node_secret(&self.client, &self.settings.node_name);
        self.trust.node_secret.get(read).await
    }

    async fn config_map(&self, name: &str, key: &str) -> Result<Option<String>, AgentError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), keys::NAMESPACE);
        let map = maps
            .get_opt(name)
            .await
            .map_err(AgentError::api(format!("read ConfigMap `{name}`")))?;
        Ok(map.and_then(|map| map.data?.remove(key)))
    }
}

/// Paths that the node's version writes, or the one it is leaving.
fn paths(observed: &Observed) -> BTreeSet<Utf8PathBuf> {
    [observed.sight.current.as_ref(), observed.desired.as_ref()]
        .into_iter()
        .flatten()
        .flat_map(|version| &version.ignition.nodes)
        .map(|node| Utf8PathBuf::from(&node.path))
        .collect()
}
