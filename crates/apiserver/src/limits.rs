//! How many requests one user may have under way, so that a client gone wild slows down nobody but itself.
//!
//! Each user has seats. A request without a seat waits in its user's own queue, first come first served; when the queue
//! is full too, it is refused with 429 and told when to come again. Watches take no seat.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of one user that are served at a time.
const SEATS: usize = 64;
/// Requests of one user that may wait.
const QUEUE: usize = 512;

/// The seats of all users that have requests under way.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    users: Mutex<HashMap<String, Arc<Line>>>,
}

#[derive(Debug)]
struct Line {
    seats: Arc<Semaphore>,
    /// One for each request that is served or waits.
    places: Arc<Semaphore>,
}

/// A seat, held as long as the request is served.
#[derive(Debug)]
pub(crate) struct Seat {
    _seat: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

const LOCK: &str = "no code panics while it holds the lock of the limits";

impl Limits {
    /// Waits for a seat. `None`: too many wait already.
    pub(crate) async fn seat(&self, user: &str) -> Option<Seat> {
        let (seats, place) = {
            let mut users = self.users.lock().expect(LOCK);
            if users.len() > SEATS {
                // Who has nothing under way needs no entry.
                users.retain(|_, line| line.places.available_permits() < SEATS + QUEUE);
            }
            let line = users.entry(user.to_owned()).or_insert_with(|| {
                Arc::new(Line {
                    seats: Arc::new(Semaphore::new(SEATS)),
                    places: Arc::new(Semaphore::new(SEATS + QUEUE)),
                })
            });
            let place = line.places.clone().try_acquire_owned().ok()?;
            (line.seats.clone(), place)
        };
        let seat = seats.acquire_owned().await.ok()?;
        Some(Seat {
            _seat: seat,
            _place: place,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_user_does_not_take_the_seats_of_another() {
        let limits = Limits::default();
        let mut held = Vec::new();
        for _ in 0..SEATS {
            held.push(limits.seat("greedy").await.unwrap());
        }
        let mut waiting = Box::pin(limits.seat("greedy"));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(limits.seat("modest").await.is_some());
        held.pop();
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let limits = Limits::default();
        let mut held = Vec::new();
        for _ in 0..SEATS {
            held.push(limits.seat("greedy").await.unwrap());
        }
        let mut waiting: Vec<_> = (0..QUEUE)
            .map(|_| Box::pin(limits.seat("greedy")))
            .collect();
        for seat in &mut waiting {
            assert!(seat.as_mut().now_or_never().is_none());
        }
        assert!(limits.seat("greedy").await.is_none());
        assert!(limits.seat("modest").await.is_some());
    }
}
