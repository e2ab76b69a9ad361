//! Keeps transfers below a number of bytes in a second.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bound that several transfers share: each piece that arrives books the time it may take.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: NonZeroU64,
    /// When everything that arrived so far is paid for.
    free: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: NonZeroU64) -> Pace {
        Pace {
            bytes_per_second,
            free: Mutex::new(Instant::now()),
        }
    }

    /// Waits as long as these bytes were too early.
    pub(super) async fn pass(&self, bytes: u64) {
        let wait = self.book(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn book(&self, bytes: u64, now: Instant) -> Duration {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.get() as f64);
        *free = (*free).max(now) + cost;
        free.duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_their_time_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(NonZeroU64::new(1000).expect("not zero"));
        let start = Instant::now() + Duration::from_secs(60);
        let seconds = Duration::from_secs;
        assert_eq!(pace.book(2000, start), seconds(2));
        assert_eq!(pace.book(1000, start), seconds(3));
        assert_eq!(pace.book(1000, start + seconds(3)), seconds(1));
        assert_eq!(pace.book(1000, start + seconds(100)), seconds(1));
    }
}
