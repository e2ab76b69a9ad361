//! How often a pool is looked at: changes that come while it was looked at a moment ago wait a little and are looked at
//! together, so that a pool of thousands costs a bounded share of a processor however much happens in it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// After a look that took so long, another may come this many times later: looks take a quarter of the time at most.
const REST: u32 = 3;
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Between two writes of a status that only counts on.
const COUNTS: Duration = Duration::from_secs(1);

/// When each pool was looked at last, and told of.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    pools: Mutex<HashMap<String, Past>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Past {
    rests_until: Option<Instant>,
    counted: Option<Instant>,
}

impl Pace {
    /// How long the pool is still to be left alone.
    pub(crate) fn rest(&self, pool: &str, now: Instant) -> Option<Duration> {
        let until = self.lock().get(pool)?.rests_until?;
        (until > now).then(|| until - now)
    }

    /// A look has taken so long.
    pub(crate) fn looked(&self, pool: &str, took: Duration, now: Instant) {
        let until = now + (took * REST).min(LONGEST_REST);
        self.lock().entry(pool.to_owned()).or_default().rests_until = Some(until);
    }

    /// How long a status that only counts on is to wait; none when it may be written, which is remembered.
    pub(crate) fn count(&self, pool: &str, now: Instant) -> Option<Duration> {
        let mut pools = self.lock();
        let past = pools.entry(pool.to_owned()).or_default();
        let due = past.counted.map(|counted| counted + COUNTS);
        match due.filter(|due| *due > now) {
            Some(due) => Some(due - now),
            None => {
                past.counted = Some(now);
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Past>> {
        self.pools
            .lock()
            .expect("no panic happens while the lock is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_rests_in_proportion_to_what_a_look_took() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.rest("a", now), None);
        let millis = Duration::from_millis;
        pace.looked("a", millis(20), now);
        assert_eq!(pace.rest("a", now + millis(10)), Some(millis(50)));
        assert_eq!(pace.rest("a", now + millis(60)), None);
        assert_eq!(pace.rest("b", now), None);
        pace.looked("a", Duration::from_secs(60), now);
        assert_eq!(pace.rest("a", now), Some(LONGEST_REST));
    }

    #[test]
    fn counts_are_told_once_a_second() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.count("a", now), None);
        assert_eq!(pace.count("a", now), Some(COUNTS));
        assert_eq!(pace.count("a", now + COUNTS), None);
        assert_eq!(pace.count("b", now), None);
    }
}
