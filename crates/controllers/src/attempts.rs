//! When something that failed is tried again: later and later, but at once when what it depends on was changed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::{Result, back_off, chain};

/// Does something until it succeeds, or fails for another reason than an API that is away: for what must not be thrown
/// away with a look.
pub(crate) async fn insist<T, Trying>(mut attempt: impl FnMut() -> Trying) -> Result<T>
where
    Trying: Future<Output = Result<T>>,
{
    let mut failures = 0;
    loop {
        match attempt().await {
            Err(error) if error.may_pass() => {
                let wait = back_off(failures);
                tracing::warn!(retry_in = ?wait, "{}", chain(&error));
                tokio::time::sleep(wait).await;
                failures += 1;
            }
            other => return other,
        }
    }
}

/// Failed attempts, by object.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failed: Mutex<HashMap<String, Attempt>>,
}

#[derive(Debug)]
struct Attempt {
    failures: u32,
    not_before: Instant,
    /// What the attempt was made with: versions of Secrets and the like.
    inputs: String,
}

impl Attempts {
    /// How long to wait before the next attempt with these inputs.
    pub(crate) fn wait_with(&self, object: &str, inputs: &str) -> Duration {
        match self.lock().get(object) {
            Some(attempt) if attempt.inputs == inputs => left(attempt),
            Some(_) | None => Duration::ZERO,
        }
    }

    /// How long to wait before the next attempt, if nothing changes.
    pub(crate) fn wait(&self, object: &str) -> Duration {
        self.lock().get(object).map(left).unwrap_or_default()
    }

    /// Records a failure. Returns the number of failures in a row and the wait before the next attempt.
    pub(crate) fn failed(&self, object: &str, inputs: &str) -> (u32, Duration) {
        let mut failed = self.lock();
        let before = failed.get(object).filter(|seen| seen.inputs == inputs);
        let failures = before.map_or(0, |seen| seen.failures);
        let wait = back_off(failures);
        failed.insert(
            object.to_owned(),
            Attempt {
                failures: failures.saturating_add(1),
                not_before: Instant::now() + wait,
                inputs: inputs.to_owned(),
            },
        );
        (failures.saturating_add(1), wait)
    }

    /// Forgets an object's failures.
    pub(crate) fn clear(&self, object: &str) {
        self.lock().remove(object);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Attempt>> {
        self.failed
            .lock()
            .expect("no panic happens while the lock is held")
    }
}

fn left(attempt: &Attempt) -> Duration {
    attempt.not_before.saturating_duration_since(Instant::now())
}
