//! When what ends by itself is warned about: credentials and certificates.

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp};

/// The longest notice.
const NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// The longest last notice.
const LAST_NOTICE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How near the end of something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It lasts.
    Lasting,
    /// A third of its life is left, or 30 days.
    Ending,
    /// A twelfth of its life is left, or 7 days.
    EndingSoon,
    /// It has ended.
    Ended,
}

/// From when to when something is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it began, when that is known. Without, it counts as long.
    pub from: Option<Timestamp>,
    /// When it ends.
    pub until: Timestamp,
}

impl Life {
    /// When each stage after the first begins.
    fn steps(self) -> [(Timestamp, Stage); 3] {
        let life = self.from.map(|from| self.until.duration_since(from));
        let before = |longest: SignedDuration, part: i32| {
            let notice = life.map_or(longest, |life| longest.min(life / part));
            let at = self.until.checked_sub(notice.max(SignedDuration::ZERO));
            at.unwrap_or(Timestamp::MIN)
        };
        [
            (before(NOTICE, 3), Stage::Ending),
            (before(LAST_NOTICE, 12), Stage::EndingSoon),
            (self.until, Stage::Ended),
        ]
    }

    /// The stage that it is in.
    pub fn stage(self, now: Timestamp) -> Stage {
        let mut begun = self.steps().into_iter().rev();
        let last = begun.find(|(at, _)| *at <= now);
        last.map_or(Stage::Lasting, |(_, stage)| stage)
    }

    /// When the next stage begins.
    pub fn next_stage(self, now: Timestamp) -> Option<Timestamp> {
        let later = |(at, _): &(Timestamp, Stage)| at.cmp(&now) == Ordering::Greater;
        self.steps().into_iter().find(later).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::constant(1_700_000_000 + seconds, 0)
    }

    /// The stages of something that ends at 0, asked so long before.
    fn stages(life: Option<i64>, before: &[i64]) -> Vec<Stage> {
        let life = Life {
            from: life.map(|life| at(-life)),
            until: at(0),
        };
        before
            .iter()
            .map(|before| life.stage(at(-before)))
            .collect()
    }

    #[test]
    fn long_ones_are_warned_about_a_month_and_a_week_ahead() {
        use Stage::*;
        let asked = [31 * DAY, 30 * DAY, 8 * DAY, 7 * DAY, 1, 0, -DAY];
        let told = [
            Lasting, Ending, Ending, EndingSoon, EndingSoon, Ended, Ended,
        ];
        assert_eq!(stages(Some(365 * DAY), &asked), told);
        assert_eq!(stages(None, &asked), told);
    }

    #[test]
    fn short_ones_with_a_third_and_a_twelfth_of_their_life_left() {
        use Stage::*;
        let minutes = |minutes: i64| minutes * 60;
        let asked = [60, 21, 20, 6, 5, 0].map(minutes);
        let told = [Lasting, Lasting, Ending, Ending, EndingSoon, Ended];
        assert_eq!(stages(Some(HOUR), &asked), told);
    }

    #[test]
    fn each_stage_is_looked_for_when_it_begins() {
        let life = Life {
            from: Some(at(-HOUR)),
            until: at(0),
        };
        let mut now = at(-HOUR);
        let mut seen = Vec::new();
        while let Some(next) = life.next_stage(now) {
            now = next;
            seen.push(life.stage(now));
        }
        assert_eq!(seen, [Stage::Ending, Stage::EndingSoon, Stage::Ended]);
    }

    #[test]
    fn a_life_that_ends_before_it_begins_has_ended() {
        let life = Life {
            from: Some(at(DAY)),
            until: at(0),
        };
        assert_eq!(life.stage(at(0)), Stage::Ended);
        assert_eq!(life.stage(at(-1)), Stage::Lasting);
        let ages = Life {
            from: None,
            until: Timestamp::MIN,
        };
        assert_eq!(ages.stage(at(0)), Stage::Ended);
    }
}
