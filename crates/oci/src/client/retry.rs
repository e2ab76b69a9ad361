//! When to try again.

use std::time::{Duration, Instant};

use super::ClientError;

/// Exponential back-off with jitter, for requests that failed in a way that may pass.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// No attempt starts later than this after the first one, or after the last one that moved any bytes.
    pub deadline: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
        }
    }
}

/// The attempts at one thing.
#[derive(Debug)]
pub(super) struct Backoff {
    retry: Retry,
    since: Instant,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(retry: Retry) -> Backoff {
        Backoff {
            retry,
            since: Instant::now(),
            failures: 0,
        }
    }

    /// Something was achieved: the next failure counts as the first one.
    pub(super) fn reset(&mut self) {
        *self = Backoff::new(self.retry);
    }

    /// Waits before the next attempt, or gives the error back when there shall be none.
    pub(super) async fn wait_after(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.is_transient() {
            return Err(error);
        }
        let asked = match &error {
            ClientError::RateLimited { retry_after, .. }
            | ClientError::Server { retry_after, .. } => *retry_after,
            _ => None,
        };
        let wait = wait(&self.retry, self.failures, asked, random_fraction());
        if self.since.elapsed() + wait > self.retry.deadline {
            return Err(error);
        }
        self.failures += 1;
        tracing::debug!(%error, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// The wait after `failures` earlier failures: doubling, never longer than `longest`, and shortened by up to a half
/// so that many clients do not come back at once. What the registry asked for is waited in full.
fn wait(retry: &Retry, failures: u32, asked: Option<Duration>, fraction: f64) -> Duration {
    let doubled = retry
        .first
        .saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
    let wait = doubled.min(retry.longest).mul_f64(1.0 - fraction / 2.0);
    wait.max(asked.unwrap_or_default())
}

/// A number from 0 to 1.
fn random_fraction() -> f64 {
    // Without random numbers there is no jitter, which is no reason to fail.
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let retry = Retry {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(1),
            deadline: Duration::from_secs(9),
        };
        let millis =
            |failures, asked, fraction| wait(&retry, failures, asked, fraction).as_millis();
        assert_eq!(
            [0, 1, 2, 3, 4, 40].map(|failures| millis(failures, None, 0.0)),
            [100, 200, 400, 800, 1000, 1000]
        );
        assert_eq!(millis(1, None, 1.0), 100);
        assert_eq!(millis(0, Some(Duration::from_secs(5)), 1.0), 5000);
    }
}
