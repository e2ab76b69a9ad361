#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use proptest::prelude::*;

mod schedule;

use super::*;
use crate::node::AgentState;

fn target(config: &str) -> Target {
    Target {
        config: config.to_owned(),
        image: None,
    }
}

/// A ready node at `old`.
fn node(name: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        resource_version: Some("1".to_owned()),
        labels: BTreeMap::new(),
        created: None,
        zone: None,
        obstacle: None,
        desired: Some(target("old")),
        current: Some(target("old")),
        state: Some(AgentState::Done),
        reason: String::new(),
        done_since: None,
        asks: false,
        agent_version: None,
        drain_overdue: None,
        drain_waits_for: None,
        told_at: None,
        held_back: Default::default(),
    }
}

fn cordoned(name: &str) -> NodeView {
    NodeView {
        obstacle: Some("is cordoned".to_owned()),
        ..node(name)
    }
}

fn at(name: &str, config: &str) -> NodeView {
    NodeView {
        desired: Some(target(config)),
        current: Some(target(config)),
        ..node(name)
    }
}

fn working(name: &str, config: &str) -> NodeView {
    NodeView {
        desired: Some(target(config)),
        state: Some(AgentState::Working),
        ..cordoned(name)
    }
}

fn failed(name: &str, config: &str) -> NodeView {
    NodeView {
        desired: Some(target(config)),
        state: Some(AgentState::Degraded),
        reason: "disk full".to_owned(),
        ..cordoned(name)
    }
}

fn drifted(name: &str) -> NodeView {
    NodeView {
        state: Some(AgentState::Degraded),
        reason: "`/etc/a` differs".to_owned(),
        ..node(name)
    }
}

fn fresh(name: &str) -> NodeView {
    NodeView {
        desired: None,
        current: None,
        state: None,
        ..node(name)
    }
}

/// A pool that nothing stands in the way of.
pub(crate) fn seen(max: usize, nodes: Vec<NodeView>) -> Seen {
    Seen {
        config: Some("new".to_owned()),
        gate: Gate::NotLayered,
        paused: false,
        max_unavailable: Ok(max),
        nodes,
        contested: BTreeMap::new(),
        invalid_selector: None,
        failure_budget: None,
        policy_problems: Vec::new(),
        schedule: Ok(Default::default()),
        drains: Default::default(),
        missing: Vec::new(),
        now: Timestamp::UNIX_EPOCH,
    }
}

#[track_caller]
fn check(seen: &Seen, expected: &[&str]) {
    assert_eq!(plan(seen).to_string(), expected.join("\n"));
}

#[test]
fn a_settled_pool_has_nothing_to_do() {
    check(&seen(1, vec![]), &["nothing to do"]);
    check(
        &seen(1, vec![at("a", "new"), at("b", "new")]),
        &["nothing to do"],
    );
}

#[test]
fn slots_are_given_out_up_to_max_unavailable() {
    check(
        &seen(1, vec![node("a"), node("b")]),
        &[
            "node `a`: `old` → `new`",
            "others wait: 1 of 1 allowed unavailable: node `a` is told to update now",
        ],
    );
    check(
        &seen(1, vec![working("a", "new"), node("b")]),
        &["others wait: 1 of 1 allowed unavailable: node `a` is updating"],
    );
    check(
        &seen(2, vec![node("a"), node("b")]),
        &["node `a`: `old` → `new`", "node `b`: `old` → `new`"],
    );
}

#[test]
fn a_pool_halts_when_more_nodes_failed_than_may() {
    let nodes = || vec![failed("a", "new"), drifted("b"), node("c"), node("d")];
    let budget = |budget, nodes| Seen {
        failure_budget: Some(budget),
        ..seen(4, nodes)
    };
    check(
        &budget(0, nodes()),
        &[
            "others wait: 1 failed and 0 may (`spec.failureBudget` of the pool's RolloutPolicy): node `a` reports: disk full; \
             mend or replace what they were told to run",
        ],
    );
    check(
        &budget(1, nodes()),
        &[
            "node `b`: `old` → `new`",
            "node `c`: `old` → `new`",
            "node `d`: `old` → `new`",
        ],
    );
    // Another target may mend what failed, so those that failed are told of it, and they alone.
    check(
        &budget(0, vec![failed("a", "worse"), node("c")]),
        &[
            "node `a`: `worse` → `new`",
            "others wait: 1 failed and 0 may (`spec.failureBudget` of the pool's RolloutPolicy): node `a` reports: disk full; \
             mend or replace what they were told to run",
        ],
    );
}

#[test]
fn a_broken_node_holds_one_slot_however_broken_it_is() {
    check(
        &seen(2, vec![failed("a", "new"), node("b")]),
        &["node `b`: `old` → `new`"],
    );
    check(
        &seen(1, vec![failed("a", "new"), node("b")]),
        &["others wait: 1 of 1 allowed unavailable: node `a` failed to update: disk full"],
    );
}

#[test]
fn a_node_under_way_is_retargeted_without_a_second_slot() {
    check(
        &seen(1, vec![working("a", "middle"), node("b")]),
        &[
            "node `a`: `middle` → `new`",
            "others wait: 1 of 1 allowed unavailable: node `a` is updating",
        ],
    );
    check(
        &seen(1, vec![failed("a", "middle")]),
        &["node `a`: `middle` → `new`"],
    );
}

#[test]
fn a_node_that_an_update_broke_is_told_what_mends_it_before_others() {
    let not_ready = |node| NodeView {
        obstacle: Some("is not ready: kubelet stopped posting node status".to_owned()),
        ..node
    };
    for broken in [working("a", "bad"), failed("a", "bad")] {
        let decided = plan(&seen(1, vec![node("b"), not_ready(broken)]));
        let told: Vec<&str> = decided.assign.iter().map(|to| to.node.as_str()).collect();
        assert_eq!(told, ["a"], "{decided}");
    }
    // Of one that was done nobody knows why it is down.
    check(
        &seen(1, vec![node("b"), not_ready(at("a", "bad"))]),
        &[
            "others wait: 1 of 1 allowed unavailable: node `a` is not ready: kubelet stopped posting node status",
        ],
    );
}

#[test]
fn degraded_nodes_that_serve_go_one_at_a_time_too() {
    check(
        &seen(1, vec![drifted("a"), drifted("b"), node("c")]),
        &[
            "node `a`: `old` → `new`",
            "others wait: 2 of 1 allowed unavailable: node `a` is degraded: `/etc/a` differs; \
             node `b` is degraded: `/etc/a` differs",
        ],
    );
}

#[test]
fn a_node_that_cannot_serve_is_left_alone_unless_it_is_new() {
    check(
        &seen(2, vec![cordoned("a")]),
        &["others wait: node `a` is cordoned"],
    );
    check(
        &seen(
            1,
            vec![NodeView {
                obstacle: Some("is not ready".to_owned()),
                ..fresh("a")
            }],
        ),
        &["node `a`: `new`"],
    );
}

#[test]
fn order_is_by_zone_then_age_and_zoneless_nodes_last() {
    let with = |name: &str, zone: Option<&str>, second: i64| NodeView {
        zone: zone.map(str::to_owned),
        created: Some(Timestamp::constant(second, 0)),
        ..node(name)
    };
    let nodes = vec![
        with("none-old", None, 1),
        with("b-old", Some("b"), 2),
        with("a-young", Some("a"), 9),
        with("a-old", Some("a"), 3),
    ];
    let order: Vec<String> = plan(&seen(4, nodes))
        .assign
        .into_iter()
        .map(|assignment| assignment.node)
        .collect();
    assert_eq!(order, ["a-old", "a-young", "b-old", "none-old"]);
}

#[test]
fn waits_say_what_they_wait_for() {
    let nodes = || vec![node("a")];
    check(
        &Seen {
            paused: true,
            ..seen(1, nodes())
        },
        &["others wait: the pool is paused (`spec.paused`)"],
    );
    check(
        &Seen {
            config: None,
            ..seen(1, nodes())
        },
        &["others wait: the pool has no rendered config yet"],
    );
    check(
        &Seen {
            gate: Gate::Prepared {
                build: "b".to_owned(),
            },
            ..seen(1, nodes())
        },
        &["others wait: the image of the rendered config is not there yet"],
    );
    check(
        &Seen {
            max_unavailable: Err(InvalidMaxUnavailable {
                found: "half".to_owned(),
            }),
            ..seen(1, nodes())
        },
        &[
            "others wait: `spec.maxUnavailable`: expected a count or a percentage up to `100%`, \
             found `half`; no further node starts until it is corrected",
        ],
    );
}

#[test]
fn config_and_image_are_told_together() {
    let layered = Seen {
        gate: Gate::Ready {
            image: "r/i@sha256:1".to_owned(),
            build: "b".to_owned(),
        },
        ..seen(1, vec![at("a", "new")])
    };
    check(
        &layered,
        &["node `a`: `new` → `new` with image `r/i@sha256:1`"],
    );
}

#[test]
fn long_lists_are_cut() {
    let holders = (0..9).map(|n| (format!("n{n}"), "is cordoned".to_owned()));
    let text = listed(&holders.collect());
    assert!(
        text.ends_with("node `n4` is cordoned; and 4 more"),
        "{text}"
    );
}

/// What may happen between two looks at the pool.
#[derive(Debug, Clone)]
enum Happening {
    AgentStarts(usize),
    AgentFinishes(usize),
    AgentFails(usize),
    NodeGoesDown(usize),
    NodeComesBack(usize),
    NewConfig(u8),
    Pause(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = 0..8usize;
    prop_oneof![
        3 => node.clone().prop_map(Happening::AgentStarts),
        3 => node.clone().prop_map(Happening::AgentFinishes),
        1 => node.clone().prop_map(Happening::AgentFails),
        1 => node.clone().prop_map(Happening::NodeGoesDown),
        2 => node.prop_map(Happening::NodeComesBack),
        1 => (0..4u8).prop_map(Happening::NewConfig),
        1 => any::<bool>().prop_map(Happening::Pause),
    ]
}

fn happen(seen: &mut Seen, happening: &Happening) {
    let count = seen.nodes.len();
    match happening {
        Happening::AgentStarts(n) => {
            let node = &mut seen.nodes[n % count];
            if node.phase().in_progress() {
                node.state = Some(AgentState::Working);
                node.obstacle = Some("is cordoned".to_owned());
            }
        }
        Happening::AgentFinishes(n) => {
            let node = &mut seen.nodes[n % count];
            if node.phase().in_progress() {
                node.current = node.desired.clone();
                node.state = Some(AgentState::Done);
                node.obstacle = None;
            }
        }
        Happening::AgentFails(n) => {
            let node = &mut seen.nodes[n % count];
            if node.phase().in_progress() {
                node.state = Some(AgentState::Degraded);
            }
        }
        Happening::NodeGoesDown(n) => {
            seen.nodes[n % count].obstacle = Some("is not ready".to_owned());
        }
        Happening::NodeComesBack(n) => seen.nodes[n % count].obstacle = None,
        Happening::NewConfig(n) => seen.config = Some(format!("config-{n}")),
        Happening::Pause(paused) => seen.paused = *paused,
    }
}

fn apply(seen: &mut Seen, plan: &Plan) {
    for assignment in &plan.assign {
        let name = &assignment.node;
        let node = seen
            .nodes
            .iter_mut()
            .find(|node| &node.name == name)
            .unwrap();
        node.desired = Some(assignment.to.clone());
    }
}

proptest! {
    #[test]
    fn never_more_than_max_unavailable_by_our_doing(
        max in 1..4usize,
        count in 1..8usize,
        new in 0..4usize,
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let old = (0..count).map(|n| node(&format!("n{n}")));
        let new = (0..new).map(|n| fresh(&format!("new{n}")));
        let mut seen = seen(max, old.chain(new).collect());
        for happening in happenings {
            happen(&mut seen, &happening);
            // Sending a node back to what it still runs frees its slot at once, so that a second
            // look may find more to do; it ends, though.
            let mut looks = 0;
            loop {
                let decided = plan(&seen);
                if decided.assign.is_empty() {
                    break;
                }
                prop_assert!(!seen.paused, "paused, yet {decided}");
                looks += 1;
                prop_assert!(looks <= seen.nodes.len(), "never settles: {decided}");
                apply(&mut seen, &decided);
                let under_way = seen.nodes.iter().filter(|node| node.phase().in_progress());
                prop_assert!(under_way.count() <= max, "{decided}");
            }
        }
    }

    #[test]
    fn healthy_nodes_arrive_and_then_nothing_is_left_to_do(max in 1..4usize, count in 0..8usize) {
        let nodes = (0..count).map(|n| node(&format!("n{n}"))).collect();
        let mut seen = seen(max, nodes);
        for _ in 0..count {
            let decided = plan(&seen);
            apply(&mut seen, &decided);
            for n in 0..count {
                happen(&mut seen, &Happening::AgentFinishes(n));
            }
        }
        prop_assert_eq!(plan(&seen).to_string(), "nothing to do");
    }
}

#[test]
fn the_document_names_everything_that_nodes_wait_for() {
    let document = include_str!("../../../../docs/monitoring.md");
    let (_, named) = document
        .split_once("`caprock_pool_waiting_nodes` has")
        .unwrap();
    let named = named.split("\n- ").next().unwrap();
    for word in Hold::WORDS {
        assert!(
            named.contains(&format!("`{word}`")),
            "`{word}` is not in docs/monitoring.md"
        );
    }
    for hold in [Hold::Paused, Hold::NoConfig, Hold::NoImage] {
        assert!(Hold::WORDS.contains(&hold.word()));
    }
}

#[test]
fn who_has_the_target_and_was_not_told_is_told_at_any_time() {
    let untold = |name: &str, current: &str| NodeView {
        desired: None,
        current: Some(target(current)),
        ..node(name)
    };
    let plan = plan(&Seen {
        paused: true,
        ..seen(1, vec![untold("a", "new"), untold("b", "old"), node("c")])
    });
    let told: Vec<&str> = plan.assign.iter().map(|told| told.node.as_str()).collect();
    assert_eq!((told, plan.hold), (vec!["a"], Some(Hold::Paused)));
}
