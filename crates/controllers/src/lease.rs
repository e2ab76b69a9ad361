//! A Lease that one process at a time holds (`coordination.k8s.io`): for builds, and for leading.
//!
//! Every write replaces the object as it was read, so of two that want it one gets a conflict.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use model::{keys, skew};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{chain, has_code};

/// How long a Lease is good for, and how it is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// From the last renewal; whole seconds. Afterwards others may take it.
    pub(crate) duration: Duration,
    /// Time between two renewals.
    pub(crate) renew_every: Duration,
    /// Without a renewal for so long, the holder stops: shorter than `duration` by what stopping and a clock that runs
    /// differently take.
    pub(crate) give_up_after: Duration,
}

impl Terms {
    /// The spec of a Lease taken now.
    pub(crate) fn taken(
        &self,
        identity: &str,
        now: Timestamp,
        before: Option<&LeaseSpec>,
    ) -> LeaseSpec {
        let transitions = before.and_then(|spec| spec.lease_transitions);
        LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions.map_or(0, |before| before.saturating_add(1))),
            ..LeaseSpec::default()
        }
    }
}

/// Who has a Lease; nobody when it was given back.
pub(crate) fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

/// For how long a Lease is still good, by the holder's clock.
pub(crate) fn remaining(lease: &Lease, now: Timestamp) -> Duration {
    let spec = lease.spec.as_ref();
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
    let (Some(renewed), Some(_)) = (renewed, holder(lease)) else {
        return Duration::ZERO;
    };
    let end = SignedDuration::try_from(duration(lease)).unwrap_or(SignedDuration::MAX)
        - now.duration_since(renewed.0);
    Duration::try_from(end).unwrap_or(Duration::ZERO)
}

/// How long its holder said that a Lease is good for after each renewal.
pub(crate) fn duration(lease: &Lease) -> Duration {
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    Duration::from_secs(seconds.unwrap_or_default().try_into().unwrap_or_default())
}

/// A Lease that this process holds.
#[derive(Debug)]
pub(crate) struct Held {
    api: Api<Lease>,
    lease: Lease,
    terms: Terms,
    /// From before the last write: the server may have answered at once and the network slept.
    renewed: Instant,
}

impl Held {
    /// Takes a Lease that is not there yet, or the one seen. None when somebody else was quicker.
    pub(crate) async fn take(
        api: Api<Lease>,
        seen: Option<Lease>,
        wanted: Lease,
        terms: Terms,
    ) -> Result<Option<Held>, kube::Error> {
        let name = wanted.name_any();
        let renewed = Instant::now();
        let taken = match seen {
            None => {
                let mut lease = wanted;
                lease.annotations_mut().extend(said_by_holder());
                api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                lease.spec = wanted.spec;
                if wanted.metadata.owner_references.is_some() {
                    lease.metadata.owner_references = wanted.metadata.owner_references;
                }
                lease.annotations_mut().extend(said_by_holder());
                api.replace(&name, &PostParams::default(), &lease).await
            }
        };
        match taken {
            Ok(lease) => Ok(Some(Held {
                api,
                lease,
                terms,
                renewed,
            })),
            Err(error) if has_code(&error, 409) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A Lease that was taken under this process's name before.
    pub(crate) fn again(api: Api<Lease>, lease: Lease, terms: Terms) -> Held {
        Held {
            api,
            lease,
            terms,
            renewed: Instant::now(),
        }
    }

    /// Holds the Lease for as long as it is polled; returns when it is lost.
    pub(crate) async fn keep(&mut self) {
        loop {
            sleep(self.terms.renew_every).await;
            let start = Instant::now();
            let end = self.renewed + self.terms.give_up_after;
            match timeout_at(end, self.renew()).await {
                Ok(Ok(())) => self.renewed = start,
                Ok(Err(error)) if has_code(&error, 409) || has_code(&error, 404) => return,
                Ok(Err(error)) => {
                    let lease = self.lease.name_any();
                    tracing::warn!(lease, "failed to renew the lease: {}", chain(&error));
                }
                Err(_) => return,
            }
        }
    }

    async fn renew(&mut self) -> Result<(), kube::Error> {
        match self.write_renewal().await {
            // Perhaps by an earlier renewal of ours, whose answer was lost on the way.
            Err(error) if has_code(&error, 409) => {
                let seen = self.api.get(&self.lease.name_any()).await?;
                if !is_same_term(&seen, &self.lease) {
                    return Err(error);
                }
                self.lease = seen;
                self.write_renewal().await
            }
            other => other,
        }
    }

    async fn write_renewal(&mut self) -> Result<(), kube::Error> {
        let mut lease = self.lease.clone();
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        let name = lease.name_any();
        self.lease = self
            .api
            .replace(&name, &PostParams::default(), &lease)
            .await?;
        Ok(())
    }

    /// Gives the Lease back, so that nobody has to wait for its end.
    pub(crate) async fn release(mut self) -> Result<(), kube::Error> {
        self.lease.spec.get_or_insert_default().holder_identity = None;
        let name = self.lease.name_any();
        let written = self
            .api
            .replace(&name, &PostParams::default(), &self.lease)
            .await;
        gone_is_good(written.map(drop))
    }

    /// Removes the Lease, when nobody will ask for it again.
    pub(crate) async fn remove(self) -> Result<(), kube::Error> {
        let only_ours = DeleteParams::default().preconditions(Preconditions {
            uid: self.lease.uid(),
            resource_version: None,
        });
        let removed = self.api.delete(&self.lease.name_any(), &only_ours).await;
        gone_is_good(removed.map(drop))
    }
}

/// What a Lease tells besides who holds it.
fn said_by_holder() -> [(String, String); 1] {
    [(keys::VERSION.to_owned(), skew::VERSION.to_owned())]
}

/// Whether nobody took the Lease between the two, not even somebody of the same name.
fn is_same_term(now: &Lease, before: &Lease) -> bool {
    let term = |lease: &Lease| {
        let spec = lease.spec.clone().unwrap_or_default();
        let uid = lease.metadata.uid.clone();
        (uid, spec.holder_identity, spec.acquire_time)
    };
    term(now) == term(before)
}

/// What somebody else has taken or removed meanwhile is not held either.
fn gone_is_good(written: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(error) if has_code(&error, 404) || has_code(&error, 409) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        duration: Duration::from_secs(30),
        renew_every: Duration::from_secs(10),
        give_up_after: Duration::from_secs(25),
    };

    fn lease(spec: LeaseSpec) -> Lease {
        Lease {
            spec: Some(spec),
            ..Lease::default()
        }
    }

    #[test]
    fn a_lease_runs_out() {
        let start = Timestamp::constant(1_700_000_000, 0);
        let lease = lease(TERMS.taken("builder-1", start, None));
        let left =
            |seconds| remaining(&lease, start + SignedDuration::from_secs(seconds)).as_secs();
        assert_eq!(left(0), 30);
        assert_eq!(left(29), 1);
        assert_eq!(left(30), 0);
        assert_eq!(left(3000), 0);
    }

    #[test]
    fn a_term_ends_when_somebody_takes_the_lease() {
        let start = Timestamp::constant(1_700_000_000, 0);
        let later = start + SignedDuration::from_secs(10);
        let first = lease(TERMS.taken("builder-1", start, None));
        let mut renewed = first.clone();
        renewed.spec.get_or_insert_default().renew_time = Some(MicroTime(later));
        assert!(is_same_term(&renewed, &first));
        for taken in ["builder-1", "builder-2"] {
            let taken = lease(TERMS.taken(taken, later, first.spec.as_ref()));
            assert!(!is_same_term(&taken, &first));
        }
    }

    #[test]
    fn a_lease_without_holder_is_nobodys() {
        let now = Timestamp::constant(1_700_000_000, 0);
        assert_eq!(remaining(&Lease::default(), now), Duration::ZERO);
        assert_eq!(
            remaining(&lease(TERMS.taken("", now, None)), now),
            Duration::ZERO
        );
    }
}
