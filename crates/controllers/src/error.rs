//! What can go wrong in a loop, and when it is tried again.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use kube::runtime::controller::Action;

/// The wait after a first failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The wait after a first conflict: the local copy usually catches up sooner.
const CONFLICT_WAIT: Duration = Duration::from_millis(20);
/// The longest wait: a mended registry or API server is noticed within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A failure of a controller or of the builder's loop. What only a user can mend is not here: it becomes a
/// condition on the object, and the loop waits for a change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused a request or cannot be reached.
    #[error("failed to {doing}")]
    Api {
        /// What was tried, with the object's name.
        doing: String,
        /// What the API or the network said.
        #[source]
        source: kube::Error,
    },
    /// The builder cannot start.
    #[error("the builder cannot start: {0}")]
    Builder(String),
    /// A task of ours ended by itself or panicked.
    #[error("the {0} loop ended unexpectedly")]
    Ended(&'static str),
}

/// Results of this crate.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What [`Error::kind`] returns.
    pub(crate) const KINDS: [&str; 9] = [
        "own",
        "forbidden",
        "not_found",
        "conflict",
        "expired",
        "throttled",
        "invalid",
        "server",
        "unreachable",
    ];

    /// The failure in a word, for counting.
    pub(crate) fn kind(&self) -> &'static str {
        let Error::Api { source, .. } = self else {
            return "own";
        };
        match source {
            kube::Error::Api(status) => match status.code {
                401 | 403 => "forbidden",
                404 => "not_found",
                409 => "conflict",
                410 => "expired",
                429 => "throttled",
                400..500 => "invalid",
                _ => "server",
            },
            _ => "unreachable",
        }
    }

    /// Whether somebody else wrote or made the object first; another look decides anew.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Error::Api { source, .. } if has_code(source, 409))
    }

    /// Whether the same may succeed later: the API was away, or had too much to do.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Error::Api { source, .. } => match source {
                kube::Error::Api(status) => status.code == 429 || status.code >= 500,
                _ => true,
            },
            Error::Builder(_) | Error::Ended(_) => false,
        }
    }
}

/// Whether the API answered with this HTTP status.
pub(crate) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Adds what was tried to a result of the API.
pub(crate) trait Doing<T> {
    /// `doing` reads on from "failed to".
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Api {
            doing: doing(),
            source,
        })
    }
}

/// Failures in a row, by object.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    in_a_row: Mutex<HashMap<String, u32>>,
}

impl Failures {
    /// Forgets an object's failures.
    pub(crate) fn clear(&self, object: &str) {
        self.lock().remove(object);
    }

    /// The one place that decides when a failed object is looked at again.
    pub(crate) fn policy(&self, object: &str, error: &Error) -> Action {
        let first = if error.is_conflict() {
            CONFLICT_WAIT
        } else {
            FIRST_WAIT
        };
        let mut in_a_row = self.lock();
        let failures = in_a_row.entry(object.to_owned()).or_default();
        let wait = doubled(first, *failures);
        *failures = failures.saturating_add(1);
        Action::requeue(wait)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        self.in_a_row
            .lock()
            .expect("no panic happens while the lock is held")
    }
}

/// Doubles from [`FIRST_WAIT`] up to [`LONGEST_WAIT`].
pub(crate) fn back_off(failures: u32) -> Duration {
    doubled(FIRST_WAIT, failures)
}

fn doubled(first: Duration, failures: u32) -> Duration {
    first
        .saturating_mul(2u32.saturating_pow(failures))
        .min(LONGEST_WAIT)
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = words(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = words(cause);
        // Many errors of libraries repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = match cause.downcast_ref() {
            // What is below says the same once more.
            Some(kube::Error::Api(_)) => None,
            Some(_) | None => cause.source(),
        };
    }
    text
}

/// An error without its causes. The client's text of an API error is a dump; the API's own is a sentence.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status.message.clone(),
        Some(_) | None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let waits: Vec<u128> = [0, 1, 2, 5, 6, 40, u32::MAX]
            .into_iter()
            .map(|failures| back_off(failures).as_millis())
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 16000, 30000, 30000, 30000]);
    }

    #[test]
    fn an_api_error_is_told_in_the_apis_words() {
        let status = kube::core::Status::failure("no such node", "NotFound");
        let error = Error::Api {
            doing: "change Node `a`".to_owned(),
            source: kube::Error::Api(status.boxed()),
        };
        assert_eq!(chain(&error), "failed to change Node `a`: no such node");
    }
}
