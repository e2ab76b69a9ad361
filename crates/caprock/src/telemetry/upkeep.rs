//! Whether a server that looks after its own certificate has one, until when, and whether it still looks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A look at the certificate that takes longer hangs; the next begins within a minute.
const LONGEST: Duration = Duration::from_secs(600);

/// What watchers are told of a certificate; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upkeep(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Since when the last look lasts.
    turn: Option<Instant>,
    /// When the certificate ends, once there is one.
    ends: Option<Timestamp>,
}

impl Upkeep {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the certificate ends.
    pub(super) fn ends(&self) -> Option<Timestamp> {
        self.state().ends
    }

    /// A look begins; the certificate that is shown ends then.
    pub(crate) fn turn(&self, ends: Option<Timestamp>) {
        *self.state() = State {
            turn: Some(Instant::now()),
            ends,
        };
    }

    pub(super) fn stuck(&self, now: Instant) -> Option<String> {
        let lasted = now.saturating_duration_since(self.state().turn?);
        (lasted > LONGEST).then(|| {
            format!(
                "the look at the certificate has lasted {} s",
                lasted.as_secs()
            )
        })
    }

    pub(super) fn unready(&self) -> Option<String> {
        match self.ends() {
            Some(_) => None,
            None => Some("there is no certificate yet".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_with_a_certificate_and_stuck_without_looks() {
        let upkeep = Upkeep::default();
        assert!(upkeep.unready().is_some());
        upkeep.turn(None);
        let now = Instant::now();
        assert_eq!(upkeep.stuck(now), None);
        assert!(
            upkeep
                .stuck(now + LONGEST + Duration::from_secs(1))
                .is_some()
        );
        upkeep.turn(Some(Timestamp::UNIX_EPOCH));
        assert_eq!(upkeep.unready(), None);
    }
}
