//! What holds for every update.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;

fn some_path() -> impl Strategy<Value = &'static str> {
    select(&[
        "/etc/motd",
        "/etc/app",
        "/etc/app/sub/f",
        "/etc/apple",
        "/etc/sssd/sssd.conf",
        "/etc/containers/registries.conf",
        "/etc/containers/policy.json",
        "/etc/systemd/system/x.conf",
        "/srv/a/b",
        "/var/lib/kubelet/config.json",
    ])
}

fn some_unit() -> impl Strategy<Value = &'static str> {
    select(&[
        "a.service",
        "b.service",
        "t@.service",
        "t@x.service",
        "crio.service",
    ])
}

fn some_spec() -> impl Strategy<Value = Value> {
    let file = (some_path(), select(&["data:,1", "data:,2"]));
    let unit = (
        some_unit(),
        select(&[None, Some(true), Some(false)]),
        0..3_u8,
    );
    (
        vec(file, 0..5),
        vec(unit, 0..4),
        select(vec![vec![], vec!["quiet"]]),
    )
        .prop_map(|(mut files, mut units, arguments)| {
            files.sort();
            files.dedup_by_key(|file| file.0);
            // A file has nothing below it.
            if files.iter().any(|file| file.0 == "/etc/app/sub/f") {
                files.retain(|file| file.0 != "/etc/app");
            }
            units.sort();
            units.dedup_by_key(|unit| unit.0);
            let files: Vec<Value> = files
                .iter()
                .map(|(path, source)| json!({"path": path, "contents": {"source": source}}))
                .collect();
            let units: Vec<Value> = units
                .iter()
                .map(|(name, enabled, text)| {
                    let contents =
                        format!("[Unit]\nDescription={text}\n[Install]\nWantedBy=x.target\n");
                    json!({"name": name, "enabled": enabled, "contents": contents})
                })
                .collect();
            json!({
                "kernelArguments": arguments,
                "config": {"storage": {"files": files}, "systemd": {"units": units}},
            })
        })
}

fn some_actions() -> impl Strategy<Value = Value> {
    let service = some_unit();
    let action = (
        select(&["Reload", "Restart", "DaemonReload", "Drain"]),
        service,
    );
    let several = vec(action, 1..4).prop_map(|actions| {
        let action = |(kind, unit): (&str, &str)| match kind {
            "Reload" => json!({"type": kind, "reload": {"serviceName": unit}}),
            "Restart" => json!({"type": kind, "restart": {"serviceName": unit}}),
            _ => json!({"type": kind}),
        };
        Value::from_iter(actions.into_iter().map(action))
    });
    prop_oneof![
        4 => several,
        1 => Just(json!([{"type": "None"}])),
        1 => Just(json!([{"type": "Reboot"}])),
    ]
}

fn some_policy() -> impl Strategy<Value = Policy> {
    let path = prop_oneof![
        some_path(),
        select(&["/etc", "/etc/app/", "/etc/app/sub/..", "/etc//sssd", "/"])
    ];
    (
        vec((path, some_actions()), 0..4),
        vec((some_unit(), some_actions()), 0..3),
    )
        .prop_map(|(files, units)| {
            let files: Vec<Value> = files
                .into_iter()
                .map(|(path, actions)| json!({"path": path, "actions": actions}))
                .collect();
            let units: Vec<Value> = units
                .into_iter()
                .map(|(name, actions)| json!({"name": name, "actions": actions}))
                .collect();
            Policy::of(&serde_json::from_value(json!({"files": files, "units": units})).unwrap())
        })
}

fn reversed(mut spec: Value) -> Value {
    for list in ["/config/storage/files", "/config/systemd/units"] {
        if let Some(Value::Array(items)) = spec.pointer_mut(list) {
            items.reverse();
        }
    }
    spec
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn order_never_matters(from in some_spec(), to in some_spec(), policy in some_policy()) {
        let update = |from: Value, to: Value| {
            Update::between(&version("a", None, from), &version("b", None, to), &[], &policy)
        };
        prop_assert_eq!(
            update(from.clone(), to.clone()),
            update(reversed(from), reversed(to))
        );
    }

    #[test]
    fn equal_versions_need_nothing(spec in some_spec(), policy in some_policy()) {
        let update = Update::between(
            &version("a", None, spec.clone()),
            &version("b", None, reversed(spec)),
            &[],
            &policy,
        );
        prop_assert!(update.is_empty() && update.actions.is_empty());
        prop_assert_eq!(update.disruption, Disruption::None);
    }

    #[test]
    fn the_whole_is_the_greatest_of_its_parts(from in some_spec(), to in some_spec(), policy in some_policy()) {
        let update = Update::between(&version("a", None, from), &version("b", None, to), &[], &policy);
        let mut parts: Vec<Disruption> = update.actions.iter().map(Action::disruption).collect();
        parts.extend(update.drain.iter().map(|_| Disruption::Drain));
        parts.extend(update.reboot.iter().map(|_| Disruption::Reboot));
        prop_assert_eq!(update.disruption, parts.into_iter().max().unwrap_or(Disruption::None));
        prop_assert_eq!(update.changes.len(), update.reasons.len());
        for action in &update.actions {
            prop_assert!(!action.reasons().is_empty());
        }
    }

    #[test]
    fn each_action_is_done_once_and_after_its_daemon_reload(
        from in some_spec(), to in some_spec(), policy in some_policy()
    ) {
        let update = Update::between(&version("a", None, from), &version("b", None, to), &[], &policy);
        let kinds: Vec<_> = update.actions.iter().map(|action| (action.type_name(), action.unit())).collect();
        let mut once = kinds.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), kinds.len(), "{:?}", kinds);
        if let Some(at) = kinds.iter().position(|(kind, _)| *kind == "DaemonReload") {
            prop_assert!(kinds[..at].iter().all(|(kind, _)| *kind == "Stop"), "{:?}", kinds);
        }
    }
}
