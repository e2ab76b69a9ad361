//! How many requests are served at a time, so that a client gone wild slows down nobody but itself.
//!
//! There are seats for all together, and each user may hold some of them. A request without a seat waits in its user's
//! own queue; a seat that becomes free goes round the users that wait, one request each in turn. When a user's queue is
//! full, its requests are refused with 429 and told when to come again. Watches hold a seat only until they begin.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

/// Requests that are served at a time.
const SEATS: usize = 128;
/// Requests of one user among them.
const SEATS_OF_ONE: usize = 64;
/// Requests of one user that may wait.
const QUEUE: usize = 512;

/// The seats, and who waits for one.
#[derive(Debug)]
pub(crate) struct Limits {
    hall: Arc<Mutex<Hall>>,
}

#[derive(Debug)]
struct Hall {
    free: usize,
    /// Users that hold a seat or wait for one.
    users: HashMap<Arc<str>, Line>,
    /// Users that wait, each once; the first is next.
    turns: VecDeque<Arc<str>>,
}

#[derive(Debug, Default)]
struct Line {
    seated: usize,
    waiting: VecDeque<oneshot::Sender<Seat>>,
}

/// A seat, held as long as the request is served.
#[derive(Debug)]
pub(crate) struct Seat {
    hall: Arc<Mutex<Hall>>,
    user: Arc<str>,
    /// Unset when nobody came to take it.
    taken: bool,
}

const LOCK: &str = "no code panics while it holds the lock of the limits";

impl Default for Limits {
    fn default() -> Self {
        Self {
            hall: Arc::new(Mutex::new(Hall {
                free: SEATS,
                users: HashMap::new(),
                turns: VecDeque::new(),
            })),
        }
    }
}

impl Limits {
    /// Waits for a seat. `None`: too many of this user wait already.
    pub(crate) async fn seat(&self, user: &str) -> Option<Seat> {
        let given = {
            let mut hall = self.hall.lock().expect(LOCK);
            let user: Arc<str> = user.into();
            let (sender, receiver) = oneshot::channel();
            let line = hall.users.entry(user.clone()).or_default();
            // Who went away does not fill the queue.
            line.waiting.retain(|waiting| !waiting.is_closed());
            if line.waiting.len() >= QUEUE {
                return None;
            }
            line.waiting.push_back(sender);
            if line.waiting.len() == 1 && !hall.turns.contains(&user) {
                hall.turns.push_back(user);
            }
            hall.fill(&self.hall);
            receiver
        };
        given.await.ok()
    }
}

impl Hall {
    /// Gives free seats to those that wait.
    fn fill(&mut self, hall: &Arc<Mutex<Hall>>) {
        // Users with all the seats that one may have keep their turn for later.
        let mut passed_over = 0;
        while self.free > 0 && passed_over < self.turns.len() {
            let Some(user) = self.turns.pop_front() else {
                return;
            };
            let line = self.users.entry(user.clone()).or_default();
            if line.seated >= SEATS_OF_ONE {
                passed_over += 1;
                self.turns.push_back(user);
                continue;
            }
            let Some(waiting) = line.waiting.pop_front() else {
                self.forget(&user);
                continue;
            };
            let seat = Seat {
                hall: hall.clone(),
                user: user.clone(),
                taken: true,
            };
            match waiting.send(seat) {
                Ok(()) => {
                    line.seated += 1;
                    self.free -= 1;
                    passed_over = 0;
                }
                // The request was given up. Its seat must not come back here: the lock is held.
                Err(mut seat) => seat.taken = false,
            }
            self.turns.push_back(user);
        }
    }

    /// Who has nothing under way needs no entry.
    fn forget(&mut self, user: &str) {
        let idle = |line: &Line| line.seated == 0 && line.waiting.is_empty();
        if self.users.get(user).is_some_and(idle) {
            self.users.remove(user);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.taken {
            return;
        }
        let mut hall: MutexGuard<'_, Hall> = self.hall.lock().expect(LOCK);
        hall.free += 1;
        if let Some(line) = hall.users.get_mut(&self.user) {
            line.seated -= 1;
        }
        hall.fill(&self.hall);
        hall.forget(&self.user);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::FutureExt;

    use super::*;

    async fn take(limits: &Limits, user: &str, count: usize) -> Vec<Seat> {
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(limits.seat(user).await.unwrap());
        }
        held
    }

    #[tokio::test]
    async fn one_user_does_not_take_the_seats_of_another() {
        let limits = Limits::default();
        let mut held = take(&limits, "greedy", SEATS_OF_ONE).await;
        let mut waiting = Box::pin(limits.seat("greedy"));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(limits.seat("modest").await.is_some());
        held.pop();
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn a_free_seat_goes_round_the_users() {
        let limits = Limits::default();
        let mut held = take(&limits, "a", SEATS_OF_ONE).await;
        held.extend(take(&limits, "b", SEATS - SEATS_OF_ONE).await);
        let mut queue = Vec::new();
        for user in ["c", "c", "c", "d", "d", "e"] {
            let mut waiting = Box::pin(limits.seat(user));
            assert!(waiting.as_mut().now_or_never().is_none());
            queue.push((user, waiting));
        }
        let mut served = String::new();
        while !queue.is_empty() {
            held.remove(0);
            // The runtime lets a task poll only so often in one go.
            tokio::task::yield_now().await;
            let next = queue
                .iter_mut()
                .enumerate()
                .find_map(|(index, (_, waiting))| Some((index, waiting.as_mut().now_or_never()??)));
            let (index, seat) = next.unwrap();
            held.push(seat);
            served.push_str(queue.remove(index).0);
        }
        assert_eq!(served, "cdecdc");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_who_went_away_does_not_count() {
        let limits = Limits::default();
        let held = take(&limits, "greedy", SEATS_OF_ONE).await;
        let mut waiting: Vec<_> = (0..QUEUE)
            .map(|_| Box::pin(limits.seat("greedy")))
            .collect();
        for seat in &mut waiting {
            assert!(seat.as_mut().now_or_never().is_none());
        }
        assert!(limits.seat("greedy").await.is_none());
        assert!(limits.seat("modest").await.is_some());
        waiting.pop();
        let last = limits.seat("greedy");
        drop(held);
        drop(waiting);
        assert!(last.await.is_some());
        let hall = limits.hall.lock().unwrap();
        assert_eq!((hall.free, hall.users.len()), (SEATS, 0));
    }
}
