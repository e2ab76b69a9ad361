//! Waves and windows in a roll-out.

use serde_json::json;

use super::*;
use crate::api::RolloutPolicy;

/// A schedule of waves `wave-0`, `wave-1`…, each of the nodes with its number as label `wave`.
fn waves(soaks: &[&str], pause: Option<usize>) -> Schedule {
    let waves: Vec<_> = soaks
        .iter()
        .enumerate()
        .map(|(n, soak)| {
            json!({
                "name": format!("wave-{n}"),
                "nodeSelector": {"matchLabels": {"wave": n.to_string()}},
                "soak": soak,
                "pause": pause == Some(n),
            })
        })
        .collect();
    schedule(json!({"waves": waves}))
}

fn schedule(spec: serde_json::Value) -> Schedule {
    let mut spec = spec;
    spec["pools"] = json!([{"name": "worker"}]);
    let policy = RolloutPolicy::new("p", serde_json::from_value(spec).unwrap());
    Schedule::of(Some(&policy)).unwrap()
}

fn in_wave(wave: usize, node: NodeView) -> NodeView {
    NodeView {
        labels: BTreeMap::from([("wave".to_owned(), wave.to_string())]),
        ..node
    }
}

fn done_since(second: i64, node: NodeView) -> NodeView {
    NodeView {
        done_since: Timestamp::from_second(second).ok(),
        ..node
    }
}

#[test]
fn the_canary_comes_first_and_soaks() {
    let mut pool = seen(2, vec![node("a"), in_wave(0, node("b")), node("c")]);
    pool.schedule = Ok(waves(&["1h"], None));
    pool.now = Timestamp::from_second(10_000).unwrap();
    check(
        &pool,
        &[
            "node `b`: `old` → `new`",
            "others wait: wave `wave-0` comes first: `b` not there yet",
        ],
    );
    pool.nodes[1] = in_wave(0, working("b", "new"));
    check(
        &pool,
        &["others wait: wave `wave-0` comes first: `b` not there yet"],
    );
    pool.nodes[1] = done_since(9_000, in_wave(0, at("b", "new")));
    check(
        &pool,
        &[
            "others wait: wave `wave-0` comes first: all of it is there, and has to stay well until 1970-01-01T03:30:00Z",
        ],
    );
    assert_eq!(
        plan(&pool).look_again(),
        Timestamp::from_second(12_600).ok()
    );
    pool.now = Timestamp::from_second(12_600).unwrap();
    check(
        &pool,
        &["node `a`: `old` → `new`", "node `c`: `old` → `new`"],
    );
}

#[test]
fn a_pause_lasts_until_it_is_taken_away() {
    let mut pool = seen(1, vec![node("a"), in_wave(0, at("b", "new"))]);
    pool.schedule = Ok(waves(&["0s", "0s"], Some(0)));
    check(
        &pool,
        &[
            "others wait: wave `wave-0` comes first: all of it is there, and the next begins when its `pause` is taken out of the pool's RolloutPolicy",
        ],
    );
    pool.schedule = Ok(waves(&["0s", "0s"], None));
    check(&pool, &["node `a`: `old` → `new`"]);
}

#[test]
fn a_failed_canary_keeps_everybody_back() {
    let mut pool = seen(3, vec![node("a"), in_wave(0, failed("b", "new"))]);
    pool.schedule = Ok(waves(&["0s"], None));
    check(
        &pool,
        &["others wait: wave `wave-0` comes first: `b` not there yet"],
    );
    // What replaces it goes to the canary at once.
    pool.config = Some("newer".to_owned());
    check(
        &pool,
        &[
            "node `b`: `new` → `newer`",
            "others wait: wave `wave-0` comes first: `b` not there yet",
        ],
    );
}

#[test]
fn who_drains_waits_for_a_window_and_nobody_else() {
    let mut pool = seen(3, vec![node("a"), node("b"), fresh("c")]);
    pool.schedule = Ok(schedule(json!({"windows": [
        {"name": "night", "start": "22:00", "duration": "4h", "timeZone": "Europe/Berlin"},
    ]})));
    pool.now = "2026-07-01T12:00:00Z".parse().unwrap();
    pool.drains = ["a", "c"].map(str::to_owned).into();
    check(
        &pool,
        &[
            "node `b`: `old` → `new`",
            "node `c`: `new`",
            "others wait: they drain, and window `night` opens at Wed 2026-07-01 22:00 CEST",
        ],
    );
    assert_eq!(
        plan(&pool).look_again(),
        "2026-07-01T20:00:00Z".parse().ok()
    );
    pool.now = "2026-07-01T20:00:00Z".parse().unwrap();
    assert_eq!(plan(&pool).assign.len(), 3);
}

#[test]
fn a_schedule_that_cannot_be_read_lets_nobody_begin() {
    let mut pool = seen(3, vec![node("a")]);
    let spec = json!({"pools": [], "windows": [{"name": "n", "start": "22:00", "duration": "1h", "timeZone": "Mars/Olympus"}]});
    let policy = RolloutPolicy::new("p", serde_json::from_value(spec).unwrap());
    pool.schedule = Schedule::of(Some(&policy));
    check(
        &pool,
        &[
            "others wait: RolloutPolicy `p`: `spec.windows[0].timeZone`: there is no time zone `Mars/Olympus`; write it as `Europe/Berlin`; no further node starts until it is corrected",
        ],
    );
}

proptest! {
    #[test]
    fn waves_are_never_out_of_order(
        max in 1..4usize,
        placed in proptest::collection::vec(0..4usize, 1..8),
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let nodes = placed.iter().enumerate().map(|(n, wave)| in_wave(*wave, node(&format!("n{n}"))));
        let mut seen = seen(max, nodes.collect());
        seen.schedule = Ok(waves(&["0s", "0s", "0s"], None));
        for happening in happenings {
            happen(&mut seen, &happening);
            let decided = plan(&seen);
            let target = seen.target().unwrap();
            for told in &decided.assign {
                let at = seen.nodes.iter().position(|node| node.name == told.node).unwrap();
                if seen.nodes[at].phase().in_progress() {
                    continue;
                }
                for (wave, other) in placed.iter().zip(&seen.nodes) {
                    prop_assert!(*wave >= placed[at] || other.runs(&target), "{decided}");
                }
            }
            apply(&mut seen, &decided);
            let under_way = seen.nodes.iter().filter(|node| node.phase().in_progress());
            prop_assert!(under_way.count() <= max, "{decided}");
        }
    }

    #[test]
    fn waves_arrive(max in 1..4usize, placed in proptest::collection::vec(0..4usize, 1..8)) {
        let nodes = placed.iter().enumerate().map(|(n, wave)| in_wave(*wave, node(&format!("n{n}"))));
        let mut seen = seen(max, nodes.collect());
        seen.schedule = Ok(waves(&["0s", "0s", "0s"], None));
        for _ in 0..placed.len() {
            let decided = plan(&seen);
            apply(&mut seen, &decided);
            for n in 0..placed.len() {
                happen(&mut seen, &Happening::AgentFinishes(n));
            }
        }
        prop_assert_eq!(plan(&seen).to_string(), "nothing to do");
    }
}
