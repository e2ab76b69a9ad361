//! Leader election: of several controllers that run, one acts. It holds a Lease; the others wait until it gives the
//! Lease back, or has not renewed it for its duration.
//!
//! What a controller that lost its lead without knowing still writes is refused: every write names the resource version
//! that it was decided on.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta};
use kube::{Client, Resource, ResourceExt};
use model::keys;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{Result, chain};
use crate::lease::{self, Held, Terms};

/// A dead leader is replaced within `duration` and one look more; an API server may be away for `give_up_after`.
pub(crate) const TERMS: Terms = Terms {
    duration: Duration::from_secs(30),
    renew_every: Duration::from_secs(5),
    give_up_after: Duration::from_secs(20),
};

/// Who asks to lead, and by which terms.
pub(crate) struct Candidate {
    pub(crate) client: Client,
    /// Differs between all that run.
    pub(crate) identity: String,
    pub(crate) terms: Terms,
}

impl Candidate {
    /// Acts whenever it leads, until `stop` or until acting ends by itself.
    pub(crate) async fn run<F, Acting>(&self, act: F, stop: CancellationToken) -> Result<()>
    where
        F: Fn(CancellationToken) -> Acting,
        Acting: Future<Output = Result<()>>,
    {
        loop {
            let Some(mut held) = stop.run_until_cancelled(self.win()).await else {
                return Ok(());
            };
            tracing::info!(identity = self.identity, "leading");
            let term = stop.child_token();
            let acting = act(term.clone());
            tokio::pin!(acting);
            tokio::select! {
                ended = &mut acting => {
                    if let Err(error) = held.release().await {
                        tracing::warn!("failed to give the lead back; another waits for its end: {}", chain(&error));
                    }
                    return ended;
                }
                () = held.keep() => {
                    tracing::warn!(identity = self.identity, "lost the lead; waiting to lead again");
                    term.cancel();
                    acting.await?;
                }
            }
        }
    }

    /// Waits until the Lease is ours.
    async fn win(&self) -> Held {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), keys::NAMESPACE);
        let mut watched = Watched::default();
        loop {
            // A connection that is half open must not keep us from asking on another one.
            let asked = timeout(
                self.terms.give_up_after,
                self.try_to_win(&api, &mut watched),
            );
            match asked.await {
                Ok(Ok(Some(held))) => return held,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!("failed to ask for the lead: {}", chain(&error)),
                Err(_) => tracing::warn!("failed to ask for the lead: the API did not answer"),
            }
            sleep(self.terms.renew_every).await;
        }
    }

    async fn try_to_win(
        &self,
        api: &Api<Lease>,
        watched: &mut Watched,
    ) -> Result<Option<Held>, kube::Error> {
        let seen = api.get_opt(keys::CONTROLLER_LEASE).await?;
        if let Some(lease) = &seen {
            let others = lease::holder(lease).filter(|holder| *holder != self.identity);
            if let Some(holder) = others
                && !watched.is_silent(lease, Instant::now())
            {
                tracing::debug!(holder, "somebody else leads");
                return Ok(None);
            }
        }
        let owner = self.owner().await;
        let before = seen.as_ref().and_then(|lease| lease.spec.as_ref());
        let wanted = Lease {
            metadata: ObjectMeta {
                name: Some(keys::CONTROLLER_LEASE.to_owned()),
                namespace: Some(keys::NAMESPACE.to_owned()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(self.terms.taken(&self.identity, Timestamp::now(), before)),
        };
        Held::take(api.clone(), seen, wanted, self.terms).await
    }
}

impl Candidate {
    /// What the Lease belongs to, so that it goes when Caprock is removed, by whichever tool: the role by which controllers
    /// may act at all. Their Deployment is in another namespace, and owns nothing in this one. None where controllers
    /// act by another's rights; who may not know leads all the same.
    async fn owner(&self) -> Option<OwnerReference> {
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        match roles.get_metadata_opt(keys::CONTROLLER_ROLE).await {
            Ok(role) => role?.owner_ref(&()),
            Err(error) => {
                tracing::debug!(%error, "the Lease is made without an owner");
                None
            }
        }
    }
}

/// Since when a Lease has not changed. Only the own clock is asked: those of two machines may differ.
#[derive(Debug, Default)]
struct Watched {
    version: Option<String>,
    since: Option<Instant>,
}

impl Watched {
    /// Whether its holder was not heard of for as long as it said the Lease is good for.
    fn is_silent(&mut self, lease: &Lease, now: Instant) -> bool {
        let version = lease.resource_version();
        match self.since {
            Some(since) if self.version == version => now - since >= lease::duration(lease),
            _ => {
                self.version = version;
                self.since = Some(now);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_silent_when_it_did_not_change_for_its_duration() {
        let lease = |version: &str| Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(TERMS.taken("a", Timestamp::UNIX_EPOCH, None)),
        };
        let start = Instant::now();
        let mut watched = Watched::default();
        let mut silent =
            |version, after| watched.is_silent(&lease(version), start + Duration::from_secs(after));
        // However old it says that it is: the holder's clock may be wrong.
        assert!(!silent("1", 0));
        assert!(!silent("1", 29));
        assert!(!silent("2", 31));
        assert!(!silent("2", 60));
        assert!(silent("2", 61));
    }
}
