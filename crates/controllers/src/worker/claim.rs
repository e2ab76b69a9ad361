//! Claims on builds: a Lease of the build's name says who builds it. A claim that is not renewed runs out, and another
//! builder takes the build over.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use model::api::MachineOSBuild;
use model::keys;

use crate::cache::Cache;
use crate::error::{Doing, Result, has_code};

/// How long a claim is good for.
const DURATION: Duration = Duration::from_secs(30);
/// How often a claim is renewed: two renewals may fail before it runs out.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(10);

/// A claim that this builder holds.
#[derive(Debug)]
pub(crate) struct Claim {
    api: Api<Lease>,
    lease: Lease,
}

/// The answer to a claim.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The build is ours.
    Ours(Box<Claim>),
    /// Another builder has it, for at least so long.
    Others(Duration),
}

/// Claims a build. A claim that the same builder left behind when it died is taken up again at once.
pub(crate) async fn claim(
    client: &Client,
    build: &MachineOSBuild,
    identity: &str,
) -> Result<Claimed> {
    let name = build.name_any();
    let api: Api<Lease> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let doing = || format!("claim MachineOSBuild `{name}`");
    let seen = api.get_opt(&name).await.doing(doing)?;
    let now = Timestamp::now();
    let taken = match seen {
        None => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(keys::NAMESPACE.to_owned()),
                    owner_references: build.controller_owner_ref(&()).map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: Some(held(identity, now, None)),
            };
            api.create(&PostParams::default(), &lease).await
        }
        Some(lease) => {
            let spec = lease.spec.clone().unwrap_or_default();
            let left = remaining(&spec, now);
            let ours = spec.holder_identity.as_deref() == Some(identity);
            if !ours && !left.is_zero() {
                return Ok(Claimed::Others(left));
            }
            let mut lease = lease;
            lease.spec = Some(held(identity, now, Some(&spec)));
            api.replace(&name, &PostParams::default(), &lease).await
        }
    };
    match taken {
        Ok(lease) => Ok(Claimed::Ours(Box::new(Claim { api, lease }))),
        // Another builder was quicker.
        Err(error) if has_code(&error, 409) => Ok(Claimed::Others(DURATION)),
        Err(error) => Err(error).doing(doing),
    }
}

impl Claim {
    /// Holds the claim for as long as it is polled; returns when it is lost.
    pub(crate) async fn keep(&mut self) {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match self.renew().await {
                Ok(()) => renewed = tokio::time::Instant::now(),
                Err(error) if has_code(&error, 409) || has_code(&error, 404) => return,
                Err(error) => {
                    tracing::warn!(
                        build = self.lease.name_any(),
                        "failed to renew the claim: {}",
                        crate::error::chain(&error)
                    );
                    if renewed.elapsed() >= DURATION {
                        return;
                    }
                }
            }
        }
    }

    async fn renew(&mut self) -> Result<(), kube::Error> {
        let mut lease = self.lease.clone();
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        let name = lease.name_any();
        self.lease = self
            .api
            .replace(&name, &PostParams::default(), &lease)
            .await?;
        Ok(())
    }

    /// Gives the claim back.
    pub(crate) async fn release(self) -> Result<()> {
        let name = self.lease.name_any();
        let only_ours = DeleteParams::default().preconditions(Preconditions {
            uid: self.lease.uid(),
            resource_version: None,
        });
        match self.api.delete(&name, &only_ours).await {
            Err(error) if has_code(&error, 404) || has_code(&error, 409) => Ok(()),
            other => other
                .map(drop)
                .doing(|| format!("release the claim on MachineOSBuild `{name}`")),
        }
    }
}

/// Removes a claim that this builder left behind on a build that has ended.
pub(crate) async fn forget(
    client: &Client,
    cache: &Cache,
    build: &MachineOSBuild,
    identity: &str,
) -> Result<()> {
    let name = build.name_any();
    let place = ObjectRef::new(&name).within(keys::NAMESPACE);
    let Some(lease) = cache.claims.get(&place) else {
        return Ok(());
    };
    let holder = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref());
    if holder != Some(identity) {
        return Ok(());
    }
    let claim = Claim {
        api: Api::namespaced(client.clone(), keys::NAMESPACE),
        lease: lease.as_ref().clone(),
    };
    claim.release().await
}

fn held(identity: &str, now: Timestamp, before: Option<&LeaseSpec>) -> LeaseSpec {
    let transitions = before.and_then(|spec| spec.lease_transitions);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions.map_or(0, |before| before.saturating_add(1))),
        ..LeaseSpec::default()
    }
}

/// For how long a claim is still good.
fn remaining(spec: &LeaseSpec, now: Timestamp) -> Duration {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let (Some(renewed), false) = (&spec.renew_time, holder.is_empty()) else {
        return Duration::ZERO;
    };
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    let end = SignedDuration::from_secs(seconds.into()) - now.duration_since(renewed.0);
    Duration::try_from(end).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_runs_out() {
        let start = Timestamp::constant(1_700_000_000, 0);
        let spec = held("builder-1", start, None);
        let left = |seconds| remaining(&spec, start + SignedDuration::from_secs(seconds)).as_secs();
        assert_eq!(left(0), 30);
        assert_eq!(left(29), 1);
        assert_eq!(left(30), 0);
        assert_eq!(left(3000), 0);
    }

    #[test]
    fn a_claim_without_holder_is_nobodys() {
        let now = Timestamp::constant(1_700_000_000, 0);
        assert_eq!(remaining(&LeaseSpec::default(), now), Duration::ZERO);
        assert_eq!(remaining(&held("", now, None), now), Duration::ZERO);
    }
}
