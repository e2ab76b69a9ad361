//! Whether drift is put back: what somebody keeps changing is not fought over.

use jiff::{SignedDuration, Timestamp};

/// So many times within [`WINDOW`] drift is put back; then somebody means it.
const TIMES: usize = 3;
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// The pause after that. It doubles each time, up to the second value, until there was a calm of that length.
const PAUSE: (SignedDuration, SignedDuration) =
    (SignedDuration::from_mins(5), SignedDuration::from_hours(1));

/// When drift was put back on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healing {
    recent: Vec<Timestamp>,
    pauses: u32,
    /// End of the last pause.
    not_before: Option<Timestamp>,
}

impl Healing {
    /// Asks to put drift back now, and takes note of it.
    ///
    /// # Errors
    /// The end of the pause, when it may not be.
    pub fn begin(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        if let Some(end) = self.not_before {
            if now < end {
                return Err(end);
            }
            if now.duration_since(end) > PAUSE.1 {
                *self = Self::default();
            }
        }
        self.recent.retain(|at| now.duration_since(*at) < WINDOW);
        if self.recent.len() < TIMES {
            self.recent.push(now);
            return Ok(());
        }
        let doubled = PAUSE.0.checked_mul(2_i32.pow(self.pauses.min(8)));
        let pause = doubled.unwrap_or(PAUSE.1).min(PAUSE.1);
        let end = now.checked_add(pause).unwrap_or(Timestamp::MAX);
        self.pauses += 1;
        self.recent.clear();
        self.not_before = Some(end);
        Err(end)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_keeps_changing_is_put_back_less_and_less_often() {
        let mut healing = Healing::default();
        let at = |minute: i64| Timestamp::constant(minute * 60, 0);
        // Somebody changes it every minute, for six hours.
        let healed: Vec<i64> = (0..360)
            .filter(|minute| healing.begin(at(*minute)).is_ok())
            .collect();
        assert_eq!(healed[..9], [0, 1, 2, 8, 9, 10, 21, 22, 23]);
        assert!(healed.len() < 36, "{healed:?}");
        let pause = healing
            .begin(at(360))
            .err()
            .or(healing.begin(at(361)).err());
        assert!(pause.is_none_or(|end| end <= at(361 + 60)));
        // After a calm it is as if nothing had been.
        assert_eq!(healing.begin(at(1000)), Ok(()));
        assert_eq!(
            healing,
            Healing {
                recent: vec![at(1000)],
                ..Healing::default()
            }
        );
    }
}
