//! How many requests one address may make: a bucket each that fills by itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

/// Requests that may come at once: a rack of machines behind one address.
const BURST: f64 = 200.0;
/// Requests a second that are allowed for ever.
const REFILL: f64 = 5.0;
/// Addresses that are remembered; beyond that, those that did nothing lately are forgotten.
const MAX_ADDRESSES: usize = 10_000;
const LOCK: &str = "no code panics while it holds the lock of the buckets";

#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<HashMap<IpAddr, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl Limits {
    /// Takes `cost` out of the address's bucket; false when it is empty.
    pub(crate) fn allow(&self, address: IpAddr, cost: f64, now: Instant) -> bool {
        let mut buckets = self.0.lock().expect(LOCK);
        if buckets.len() >= MAX_ADDRESSES && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| bucket.filled(now) < BURST);
            if buckets.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket {
            level: BURST,
            at: now,
        });
        let level = bucket.filled(now);
        let allowed = level >= 1.0;
        *bucket = Bucket {
            level: if allowed {
                (level - cost).max(0.0)
            } else {
                level
            },
            at: now,
        };
        allowed
    }
}

impl Bucket {
    fn filled(&self, now: Instant) -> f64 {
        let waited = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + waited * REFILL).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn a_bucket_runs_dry_and_fills_again() {
        let limits = Limits::default();
        let (one, two) = (
            IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)),
            IpAddr::from(Ipv4Addr::new(192, 0, 2, 2)),
        );
        let now = Instant::now();
        let allowed = (0..300).filter(|_| limits.allow(one, 1.0, now)).count();
        assert_eq!(allowed, 200);
        assert!(limits.allow(two, 1.0, now));
        assert!(limits.allow(one, 1.0, now + Duration::from_secs(1)));
        assert!(!limits.allow(one, 1.0, now) || limits.allow(two, 1.0, now));
    }

    #[test]
    fn memory_is_bounded() {
        let limits = Limits::default();
        let now = Instant::now();
        for number in 0..20_000u32 {
            limits.allow(IpAddr::from(Ipv4Addr::from(number)), 1.0, now);
        }
        assert!(limits.0.lock().expect(LOCK).len() <= MAX_ADDRESSES);
        // Those that were quiet for long make room.
        let later = now + Duration::from_secs(3600);
        assert!(limits.allow(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)), 1.0, later));
    }
}
