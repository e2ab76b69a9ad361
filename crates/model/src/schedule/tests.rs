#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn windows(windows: Value) -> Windows {
    Windows::of(&serde_json::from_value::<Vec<_>>(windows).unwrap()).unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// `open NAME until TIME` or `NAME opens TIME`.
#[track_caller]
fn check(windows: &Windows, now: &str, expected: &str) {
    let told = match windows.at(time(now)) {
        Opening::Always => "always".to_owned(),
        Opening::Open { name, until } => format!("open {name} until {until}"),
        Opening::Closed { name, opens } => format!("{name} opens {opens}"),
    };
    assert_eq!(told, expected, "at {now}");
}

#[test]
fn without_windows_any_time_is_right() {
    check(&Windows::default(), "2026-07-01T00:00:00Z", "always");
}

#[test]
fn a_nightly_window_goes_past_midnight() {
    let night = windows(json!([{"name": "night", "start": "22:00", "duration": "4h"}]));
    check(
        &night,
        "2026-07-01T21:59:59Z",
        "night opens Wed 2026-07-01 22:00 UTC",
    );
    check(
        &night,
        "2026-07-01T22:00:00Z",
        "open night until 2026-07-02T02:00:00Z",
    );
    check(
        &night,
        "2026-07-02T01:59:59Z",
        "open night until 2026-07-02T02:00:00Z",
    );
    check(
        &night,
        "2026-07-02T02:00:00Z",
        "night opens Thu 2026-07-02 22:00 UTC",
    );
}

#[test]
fn days_are_those_on_which_it_begins() {
    let weekend = windows(json!([
        {"name": "weekend", "days": ["Saturday"], "start": "20:00", "duration": "12h"},
        {"name": "monday", "days": ["Monday"], "start": "03:00", "duration": "30m"},
    ]));
    // 2026-07-04 is a Saturday.
    check(
        &weekend,
        "2026-07-05T07:00:00Z",
        "open weekend until 2026-07-05T08:00:00Z",
    );
    check(
        &weekend,
        "2026-07-05T08:00:00Z",
        "monday opens Mon 2026-07-06 03:00 UTC",
    );
    check(
        &weekend,
        "2026-07-06T04:00:00Z",
        "weekend opens Sat 2026-07-11 20:00 UTC",
    );
}

#[test]
fn windows_that_follow_each_other_are_one() {
    let all = windows(json!([
        {"name": "a", "start": "01:00", "duration": "1h"},
        {"name": "b", "start": "02:00", "duration": "1h"},
        {"name": "c", "start": "02:30", "duration": "1h"},
    ]));
    check(
        &all,
        "2026-07-01T01:30:00Z",
        "open a until 2026-07-01T03:30:00Z",
    );
}

#[test]
fn a_window_keeps_to_the_clocks_of_its_zone() {
    let berlin = windows(json!([
        {"name": "n", "start": "22:00", "duration": "1h", "timeZone": "Europe/Berlin"},
    ]));
    check(
        &berlin,
        "2026-01-15T20:00:00Z",
        "n opens Thu 2026-01-15 22:00 CET",
    );
    check(
        &berlin,
        "2026-01-15T21:30:00Z",
        "open n until 2026-01-15T22:00:00Z",
    );
    check(
        &berlin,
        "2026-07-15T19:00:00Z",
        "n opens Wed 2026-07-15 22:00 CEST",
    );
    check(
        &berlin,
        "2026-07-15T20:30:00Z",
        "open n until 2026-07-15T21:00:00Z",
    );
}

#[test]
fn a_start_that_the_clocks_leave_out_or_show_twice() {
    let early = windows(json!([
        {"name": "n", "start": "02:30", "duration": "1h", "timeZone": "Europe/Berlin"},
    ]));
    // From 2:00 to 3:00 on 2026-03-29, and from 3:00 to 2:00 on 2026-10-25.
    check(
        &early,
        "2026-03-29T00:00:00Z",
        "n opens Sun 2026-03-29 03:30 CEST",
    );
    check(
        &early,
        "2026-10-25T00:00:00Z",
        "n opens Sun 2026-10-25 02:30 CEST",
    );
    check(
        &early,
        "2026-10-25T01:30:00Z",
        "n opens Mon 2026-10-26 02:30 CET",
    );
}

#[test]
fn every_fault_is_named_with_its_field() {
    let policy: RolloutPolicy = serde_json::from_value(json!({
        "apiVersion": "caprock.dev/v1alpha1", "kind": "RolloutPolicy", "metadata": {"name": "p"},
        "spec": {
            "pools": [{"name": "worker"}],
            "waves": [{"name": "a", "nodeSelector": {"matchExpressions": [{"key": "k", "operator": "Is"}]}}],
            "windows": [
                {"name": "a", "start": "25:00", "duration": "1h"},
                {"name": "b", "start": "22:00", "duration": "200h", "timeZone": "Berlin"},
            ],
        },
    }))
    .unwrap();
    let told = Schedule::of(Some(&policy)).unwrap_err().to_string();
    insta::assert_snapshot!(told, @r"
    RolloutPolicy `p`: `spec.waves[0].nodeSelector.matchExpressions[0].operator`: expected `In`, `NotIn`, `Exists` or `DoesNotExist`, found `Is`
    `spec.windows[0].start`: expected a time such as `22:30`, found `25:00`
    `spec.windows[1].duration`: expected one minute to seven days
    `spec.windows[1].timeZone`: there is no time zone `Berlin`; write it as `Europe/Berlin`
    ");
}

proptest! {
    /// Whatever the windows and the moment: what is said to be open is, and what is said to open does.
    #[test]
    fn openings_are_true(
        spans in proptest::collection::vec((0..24u8, 0..60u8, 1..3000u32, 0..7usize), 1..5),
        now in 1_700_000_000..1_900_000_000i64,
    ) {
        const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
        let all: Vec<Value> = spans
            .iter()
            .map(|(hour, minute, length, day)| json!({
                "name": "w", "start": format!("{hour:02}:{minute:02}"), "duration": format!("{length}m"),
                "days": [DAYS[*day]], "timeZone": "America/New_York",
            }))
            .collect();
        let all = windows(json!(all));
        let now = Timestamp::from_second(now).unwrap();
        let second = SignedDuration::from_secs(1);
        let is_open = |at: Timestamp| matches!(all.at(at), Opening::Open { .. });
        match all.at(now) {
            Opening::Always => prop_assert!(false, "there is a window each week"),
            Opening::Open { until, .. } => {
                prop_assert!(until > now && is_open(until - second));
            }
            Opening::Closed { opens, .. } => {
                prop_assert!(opens.at > now && is_open(opens.at) && !is_open(opens.at - second));
            }
        }
    }
}
