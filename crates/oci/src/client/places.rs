//! The places that an image may be pulled from, one after the other: mirrors before the registry of its name.

use std::sync::Arc;
use std::time::Duration;

use super::host::Host;
use super::retry::Retry;
use super::{Client, ClientError};
use crate::reference::Reference;

/// One place.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) host: Arc<Host>,
    pub(super) reference: Reference,
    /// A mirror is not waited for: the next place is at hand.
    pub(super) retry: Retry,
}

/// The places that are left, and what was wrong with those before.
#[derive(Debug)]
pub(super) struct Places {
    left: std::vec::IntoIter<Place>,
    failures: Vec<String>,
    failed_for_now: bool,
}

impl Client {
    /// The first place to pull an image from, and the others.
    pub(super) fn places(&self, reference: &Reference) -> Result<(Place, Places), ClientError> {
        let config = &self.shared.config;
        let sources = config
            .registries
            .sources(reference)
            .map_err(ClientError::Blocked)?;
        let count = sources.len();
        let mut places = Vec::with_capacity(count);
        for (at, source) in sources.into_iter().enumerate() {
            let name = source.reference.host();
            let insecure = source.insecure || config.insecure_hosts.contains(name);
            let deadline = match at + 1 == count {
                true => config.retry.deadline,
                false => Duration::ZERO,
            };
            places.push(Place {
                host: self.host_as(name, insecure)?,
                reference: source.reference,
                retry: Retry {
                    deadline,
                    ..config.retry
                },
            });
        }
        let mut left = places.into_iter();
        let first = left.next().ok_or_else(|| {
            ClientError::Config(format!(
                "registries.conf has no valid location for `{reference}`"
            ))
        })?;
        let places = Places {
            left,
            failures: Vec::new(),
            failed_for_now: false,
        };
        Ok((first, places))
    }
}

impl Places {
    /// The place to try after this error; gives the error back when there is none, or when no other place helps.
    pub(super) fn after(&mut self, error: ClientError) -> Result<Place, ClientError> {
        if matches!(error, ClientError::Store(_)) {
            return Err(error);
        }
        let Some(next) = self.left.next() else {
            return Err(match self.failures.is_empty() {
                true => error,
                false => ClientError::AfterMirrors {
                    mirrors: self.failures.join("; "),
                    passing: self.failed_for_now,
                    last: Box::new(error),
                },
            });
        };
        tracing::info!(%error, next = %next.reference, "a mirror failed; trying the next place");
        self.failed_for_now |= error.is_transient();
        self.failures.push(error.to_string());
        Ok(next)
    }
}
