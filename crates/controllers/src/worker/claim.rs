//! Claims on builds: a Lease of the build's name says who builds it. A claim that is not renewed runs out, and another
//! builder takes the build over.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use model::api::MachineOSBuild;
use model::keys;

use crate::cache::Cache;
use crate::error::{Doing, Result};
use crate::lease::{self, Held, Terms};
use crate::owned;

/// Two renewals may fail before a claim runs out.
pub(crate) const TERMS: Terms = Terms {
    duration: Duration::from_secs(30),
    renew_every: Duration::from_secs(10),
    give_up_after: Duration::from_secs(25),
};

/// A claim that this builder holds.
#[derive(Debug)]
pub(crate) struct Claim(Held);

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
    terms: Terms,
) -> Result<Claimed> {
    let name = build.name_any();
    let api: Api<Lease> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let doing = || format!("claim MachineOSBuild `{name}`");
    let seen = api.get_opt(&name).await.doing(doing)?;
    let now = Timestamp::now();
    if let Some(lease) = &seen {
        let left = lease::remaining(lease, now);
        if lease::holder(lease) != Some(identity) && !left.is_zero() {
            return Ok(Claimed::Others(left));
        }
    }
    let before = seen.as_ref().and_then(|lease| lease.spec.as_ref());
    let wanted = Lease {
        metadata: owned::by(build, &name),
        spec: Some(terms.taken(identity, now, before)),
    };
    let taken = Held::take(api, seen, wanted, terms).await.doing(doing)?;
    Ok(match taken {
        Some(held) => Claimed::Ours(Box::new(Claim(held))),
        None => Claimed::Others(terms.duration),
    })
}

impl Claim {
    /// Holds the claim for as long as it is polled; returns when it is lost.
    pub(crate) async fn keep(&mut self) {
        self.0.keep().await;
    }

    /// Gives the claim back.
    pub(crate) async fn release(self, build: &str) -> Result<()> {
        let released = self.0.remove().await;
        released.doing(|| format!("release the claim on MachineOSBuild `{build}`"))
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
    if lease::holder(&lease) != Some(identity) {
        return Ok(());
    }
    let api = Api::namespaced(client.clone(), keys::NAMESPACE);
    let claim = Claim(Held::again(api, lease.as_ref().clone(), TERMS));
    claim.release(&name).await
}
