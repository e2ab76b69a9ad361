#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::pool::{InvalidMaxUnavailable, InvalidSelector};
use crate::rollout::{self, plan};

fn at(second: i64) -> Timestamp {
    Timestamp::constant(1_700_000_000 + second, 0)
}

fn pool(paused: bool) -> MachineConfigPool {
    let spec = json!({"paused": paused, "configuration": {"name": "new"}});
    let mut pool = MachineConfigPool::new("worker", serde_json::from_value(spec).unwrap());
    pool.metadata.generation = Some(7);
    pool
}

/// A node that was told `desired` and has `current`.
fn node(name: &str, desired: &str, current: &str, state: &str, ready: bool) -> NodeView {
    let p = "machineconfiguration.openshift.io/";
    let value: Value = json!({
        "metadata": {"name": name, "annotations": {
            format!("{p}desiredConfig"): desired,
            format!("{p}currentConfig"): current,
            format!("{p}state"): state,
            format!("{p}reason"): if state == "Degraded" { "disk full" } else { "" },
        }},
        "status": {"conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }},
        ]},
    });
    NodeView::of(&serde_json::from_value(value).unwrap())
}

fn done(name: &str, config: &str) -> NodeView {
    node(name, config, config, "Done", true)
}

fn seen(gate: Gate, nodes: Vec<NodeView>) -> Seen {
    Seen {
        gate,
        ..rollout::tests::seen(1, nodes)
    }
}

fn ready() -> Gate {
    Gate::Ready {
        image: "r/i@sha256:1".to_owned(),
        build: "worker-1".to_owned(),
    }
}

fn failed() -> Gate {
    Gate::Failed {
        build: Some("worker-1".to_owned()),
        message: "step 2 of 3: exit status 1".to_owned(),
    }
}

/// Counters, then each condition that says something, a line each.
fn shown(seen: &Seen) -> String {
    let status = report(&pool(seen.paused), seen, &plan(seen), at(0));
    let mut lines = vec![format!(
        "machines {}, updated {}, ready {}, unavailable {}, degraded {}; at {:?}",
        status.machine_count,
        status.updated_machine_count,
        status.ready_machine_count,
        status.unavailable_machine_count,
        status.degraded_machine_count,
        status.configuration.name,
    )];
    for condition in &status.conditions {
        if condition.status == "True" || !condition.message.is_empty() {
            lines.push(format!(
                "{}={} {}: {}",
                condition.type_, condition.status, condition.reason, condition.message
            ));
        }
    }
    lines.join("\n")
}

#[test]
fn every_situation_is_told() {
    let prepared = || Gate::Prepared {
        build: "worker-1".to_owned(),
    };
    let building = |message: &str, retrying| Gate::Building {
        build: "worker-1".to_owned(),
        message: message.to_owned(),
        retrying,
    };
    let no_build = || Gate::NoBuild {
        message: "base image `b` is being resolved".to_owned(),
    };
    let interrupted = || Gate::Interrupted {
        build: "worker-1".to_owned(),
        message: "MachineOSConfig `worker` was removed".to_owned(),
    };
    let plain = |nodes| seen(Gate::NotLayered, nodes);
    let layered = |gate| seen(gate, vec![done("a", "old")]);
    let paused = |seen| Seen {
        paused: true,
        ..seen
    };
    let working = || node("a", "new", "old", "Working", false);
    let broken = || node("a", "new", "old", "Degraded", false);
    let situations = [
        ("all nodes are there", plain(vec![done("a", "new")])),
        ("no nodes", plain(vec![])),
        (
            "one is updating, one waits, one is done",
            plain(vec![working(), done("b", "old"), done("c", "new")]),
        ),
        (
            "one starts",
            plain(vec![done("b", "old"), done("c", "new")]),
        ),
        (
            "the last one is not ready",
            plain(vec![node("b", "old", "old", "Done", false)]),
        ),
        ("one failed", plain(vec![broken(), done("b", "old")])),
        ("no build yet", layered(no_build())),
        ("no builder yet", layered(prepared())),
        (
            "building",
            layered(building("step 2 of 3: RUN true", false)),
        ),
        (
            "tried again",
            layered(building("registry `r` is down", true)),
        ),
        ("built", layered(ready())),
        ("failed", layered(failed())),
        ("interrupted", layered(interrupted())),
        ("paused", paused(plain(vec![done("a", "old")]))),
        ("paused and building", paused(layered(prepared()))),
        (
            "paused in the middle",
            paused(plain(vec![working(), done("b", "old")])),
        ),
        (
            "no rendered config",
            Seen {
                config: None,
                ..plain(vec![done("a", "old")])
            },
        ),
        (
            "a node in two pools",
            Seen {
                contested: BTreeMap::from([(
                    "c".to_owned(),
                    vec!["infra".to_owned(), "worker".to_owned()],
                )]),
                ..plain(vec![])
            },
        ),
        (
            "fields that cannot be read",
            Seen {
                max_unavailable: Err(InvalidMaxUnavailable {
                    found: "half".to_owned(),
                }),
                invalid_selector: Some(InvalidSelector {
                    pool: "worker".to_owned(),
                    field: "matchExpressions[0].operator".to_owned(),
                    reason: "expected `In`".to_owned(),
                }),
                ..plain(vec![done("b", "old")])
            },
        ),
    ];
    let told = situations
        .iter()
        .map(|(name, seen)| format!("== {name}\n{}\n", shown(seen)));
    insta::assert_snapshot!(told.collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_last_good_configuration_stays_until_all_nodes_have_the_next() {
    let mut pool = pool(false);
    let old = seen(Gate::NotLayered, vec![done("a", "new")]);
    pool.status = Some(report(&pool, &old, &plan(&old), at(0)));
    pool.spec.configuration.name = "newer".to_owned();
    let next = Seen {
        config: Some("newer".to_owned()),
        ..old
    };
    let status = report(&pool, &next, &plan(&next), at(10));
    assert_eq!(status.configuration.name, "new");
}

#[test]
fn nothing_changed_is_nothing_to_write() {
    let mut pool = pool(false);
    let seen = seen(ready(), vec![done("a", "old")]);
    let first = report(&pool, &seen, &plan(&seen), at(0));
    pool.status = Some(first.clone());
    assert_eq!(report(&pool, &seen, &plan(&seen), at(99)), first);
}

fn gate() -> impl Strategy<Value = Gate> {
    let name = || "worker-1".to_owned();
    prop_oneof![
        Just(Gate::NotLayered),
        Just(ready()),
        Just(failed()),
        Just(Gate::NoBuild { message: name() }),
        Just(Gate::Prepared { build: name() }),
        Just(Gate::Interrupted {
            build: name(),
            message: name()
        }),
        any::<bool>().prop_map(move |retrying| Gate::Building {
            build: name(),
            message: name(),
            retrying
        }),
    ]
}

fn any_node() -> impl Strategy<Value = NodeView> {
    let config = || prop_oneof![Just("old"), Just("new")];
    let state = prop_oneof![Just("Done"), Just("Working"), Just("Degraded"), Just("")];
    (config(), config(), state, any::<bool>())
        .prop_map(|(desired, current, state, ready)| node("n", desired, current, state, ready))
}

proptest! {
    #[test]
    fn conditions_never_contradict_each_other(
        gate in gate(),
        nodes in proptest::collection::vec(any_node(), 0..4),
        paused: bool,
    ) {
        let mut nodes = nodes;
        for (n, node) in nodes.iter_mut().enumerate() {
            node.name = format!("n{n}");
        }
        let seen = Seen { paused, ..seen(gate, nodes) };
        let status = report(&pool(paused), &seen, &plan(&seen), at(0));
        let holds = |kind| condition::is_true(&status.conditions, kind);
        prop_assert!(!(holds(PoolConditionType::Updated) && holds(PoolConditionType::Updating)));
        let faults = holds(PoolConditionType::NodeDegraded) || holds(PoolConditionType::ImageBuildDegraded);
        prop_assert_eq!(holds(PoolConditionType::Degraded), faults);
        let told = condition::get(&status.conditions, PoolConditionType::Updating).unwrap();
        let finished = holds(PoolConditionType::Updated);
        prop_assert!(finished || !told.message.is_empty(), "waits in silence: {:?}", told);
        prop_assert!(status.ready_machine_count <= status.updated_machine_count);
        prop_assert!(status.updated_machine_count <= status.machine_count);
    }
}

#[test]
fn the_runbook_tells_what_to_do_about_every_reason() {
    let runbook = include_str!("../../../../docs/runbook.md");
    for reason in [
        Reason::InvalidMaxUnavailable,
        Reason::ContestedNodes,
        Reason::BuildRetrying,
        Reason::PoolDegraded,
    ] {
        let word = reason.as_str();
        let heading = format!("\n### `{word}`\n");
        assert!(
            runbook.contains(&heading),
            "docs/runbook.md has no section `{word}`"
        );
    }
}

#[test]
fn a_status_that_counts_on_is_told_from_one_that_turns() {
    let told = |nodes: Vec<NodeView>| {
        let seen = seen(Gate::NotLayered, nodes);
        report(&pool(false), &seen, &plan(&seen), at(0))
    };
    let on_its_way = |name: &str| node(name, "new", "old", "Working", true);
    let (none, one, all) = (
        told(vec![on_its_way("a"), on_its_way("b")]),
        told(vec![done("a", "new"), on_its_way("b")]),
        told(vec![done("a", "new"), done("b", "new")]),
    );
    let failed = told(vec![
        done("a", "new"),
        node("b", "new", "old", "Degraded", true),
    ]);
    assert!(only_counts(&none, &one) && none != one);
    assert!(!only_counts(&one, &all));
    assert!(!only_counts(&one, &failed));
}

#[test]
fn versions_too_far_apart_are_told_until_they_are_not() {
    let versioned = |version: Option<&str>| NodeView {
        agent_version: version.map(str::to_owned),
        ..done("a", "new")
    };
    let status_of = |pool: &MachineConfigPool, version| {
        let seen = seen(Gate::NotLayered, vec![versioned(version)]);
        report(pool, &seen, &plan(&seen), at(0))
    };
    let told = |status: &MachineConfigPoolStatus| {
        condition::get(&status.conditions, PoolConditionType::VersionSkew)
            .map(|found| (found.status.clone(), found.message.clone()))
    };
    // Agents from before this rule say nothing.
    for fine in [None, Some(skew::VERSION)] {
        assert_eq!(told(&status_of(&pool(false), fine)), None);
    }
    let mut pool = pool(false);
    let status = status_of(&pool, Some("99.0.0"));
    let (holds, message) = told(&status).unwrap();
    assert!(
        holds == "True" && message.contains("`a` at 99.0.0"),
        "{message}"
    );
    let degraded = condition::get(&status.conditions, PoolConditionType::Degraded).unwrap();
    assert_eq!(degraded.status, "False");
    pool.status = Some(status);
    let mended = told(&status_of(&pool, Some(skew::VERSION))).unwrap();
    assert_eq!(mended, ("False".to_owned(), String::new()));
}
