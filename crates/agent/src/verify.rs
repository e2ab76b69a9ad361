//! Whether a node is well: what systemd says of the units that the config enables or changes.

use crate::systemd::UnitState;

/// What is to be thought of one enabled unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does what it is for.
    Well,
    /// It may still get there.
    Waiting(String),
    /// It will not get there by itself.
    Unwell(String),
}

/// Judges an enabled unit by its state.
///
/// Active is well; so is a oneshot that ran and succeeded, a unit whose own conditions say that it has nothing to do
/// here, and one that nothing of this boot asked for (`WantedBy=sleep.target`).
#[must_use]
pub(crate) fn judge(unit: &str, state: &UnitState) -> Verdict {
    let words = |what: &str| format!("unit `{unit}` {what}");
    match (state.load.as_str(), state.active.as_str()) {
        ("not-found", _) => return Verdict::Unwell(words("does not exist")),
        ("masked", _) => return Verdict::Unwell(words("is masked")),
        ("bad-setting" | "error", _) => return Verdict::Unwell(words("has an invalid unit file")),
        (_, "active" | "reloading" | "refreshing") => return Verdict::Well,
        (_, "failed") => return Verdict::Unwell(words(&format!("failed ({})", cause(state)))),
        (_, "activating") => {
            return Verdict::Waiting(words(&format!("is starting ({})", state.sub)));
        }
        (_, "deactivating") => return Verdict::Waiting(words("is stopping")),
        _ => {}
    }
    let was_started = state.condition_checked > 0;
    if was_started && !state.condition_met {
        return Verdict::Well;
    }
    if was_started
        && state.service_type == "oneshot"
        && !state.remains_after_exit
        && state.result == "success"
    {
        return Verdict::Well;
    }
    if !was_started && !state.asked_for {
        return Verdict::Well;
    }
    match was_started {
        true => Verdict::Waiting(words("is inactive: it was started and has ended")),
        false => Verdict::Waiting(words("is inactive: it was not started")),
    }
}

/// Judges a unit that the config changes and does not enable: whether it runs is not asked, only that it does not fail.
#[must_use]
pub(crate) fn judge_changed(unit: &str, state: &UnitState) -> Verdict {
    let fails = state.active == "failed" || state.sub == "auto-restart";
    match fails && state.load == "loaded" {
        true => judge(unit, state),
        false => Verdict::Well,
    }
}

fn cause(state: &UnitState) -> &str {
    match state.result.as_str() {
        "" => &state.sub,
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(active: &str, change: impl FnOnce(&mut UnitState)) -> UnitState {
        let mut state = UnitState {
            load: "loaded".into(),
            active: active.into(),
            condition_met: true,
            condition_checked: 1,
            result: "success".into(),
            service_type: "simple".into(),
            asked_for: true,
            ..UnitState::default()
        };
        change(&mut state);
        state
    }

    #[test]
    fn a_unit_that_is_only_changed_may_rest_and_not_fail() {
        let well = |state: &UnitState| judge_changed("a.service", state) == Verdict::Well;
        assert!(well(&state("active", |_| {})));
        assert!(well(&state("inactive", |_| {})));
        assert!(well(&state("inactive", |s| s.load = "not-found".into())));
        assert!(well(&state("activating", |s| s.sub = "start".into())));
        let unwell = "unit `a.service` failed (exit-code)".to_owned();
        let failed = state("failed", |s| s.result = "exit-code".into());
        assert_eq!(judge_changed("a.service", &failed), Verdict::Unwell(unwell));
        let again = state("activating", |s| s.sub = "auto-restart".into());
        assert!(matches!(
            judge_changed("a.service", &again),
            Verdict::Waiting(_)
        ));
    }

    #[test]
    fn units_are_judged_by_what_they_are_for() {
        let check = |state: UnitState, expected: &str| {
            let found = match judge("a.service", &state) {
                Verdict::Well => "well".to_owned(),
                Verdict::Waiting(why) => format!("waiting: {why}"),
                Verdict::Unwell(why) => format!("unwell: {why}"),
            };
            assert_eq!(found, expected);
        };
        check(state("active", |_| {}), "well");
        check(
            state("failed", |s| s.result = "exit-code".into()),
            "unwell: unit `a.service` failed (exit-code)",
        );
        check(
            state("activating", |s| s.sub = "auto-restart".into()),
            "waiting: unit `a.service` is starting (auto-restart)",
        );
        check(
            state("inactive", |s| s.service_type = "oneshot".into()),
            "well",
        );
        check(
            state("inactive", |_| {}),
            "waiting: unit `a.service` is inactive: it was started and has ended",
        );
        check(state("inactive", |s| s.condition_met = false), "well");
        let never = |asked_for| {
            state("inactive", |s| {
                (s.condition_checked, s.condition_met, s.asked_for) = (0, false, asked_for);
            })
        };
        check(
            never(true),
            "waiting: unit `a.service` is inactive: it was not started",
        );
        check(never(false), "well");
        check(
            state("inactive", |s| s.load = "not-found".into()),
            "unwell: unit `a.service` does not exist",
        );
        check(
            state("inactive", |s| s.load = "masked".into()),
            "unwell: unit `a.service` is masked",
        );
    }
}
