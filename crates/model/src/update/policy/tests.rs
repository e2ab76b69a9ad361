#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;

fn user(policy: Value) -> NodeDisruptionPolicy {
    serde_json::from_value(policy).unwrap()
}

fn reboot(paths: &[&str]) -> Policy {
    let files: Vec<Value> = paths
        .iter()
        .map(|path| json!({"path": path, "actions": [{"type": "Reboot"}]}))
        .collect();
    Policy::of(&user(json!({"files": files})))
}

#[track_caller]
fn check_path(policy: &Policy, path: &str, expected: Option<&str>) {
    let rule = policy.of_path(path, |_| false);
    assert_eq!(rule.map(|rule| rule.subject.as_str()), expected, "{path}");
}

#[test]
fn paths_match_by_their_components_and_the_longest_counts() {
    let policy = reboot(&["/srv/app/", "/srv/app/sub/../deep//er", "/srv/x/../app2"]);
    check_path(&policy, "/srv/app", Some("/srv/app"));
    check_path(&policy, "/srv/app/f", Some("/srv/app"));
    check_path(&policy, "/srv/apple", None);
    check_path(&policy, "/srv/app/deep/er/f", Some("/srv/app/deep/er"));
    check_path(&policy, "/srv/app/deep/f", Some("/srv/app"));
    check_path(&policy, "/srv/app2/f", Some("/srv/app2"));
    // Another name of the same place.
    check_path(&policy, "/var/srv/app/f", Some("/srv/app"));
    check_path(&reboot(&["/"]), "/etc/anything", Some("/"));
    check_path(&reboot(&["/"]), "/etc/sssd/sssd.conf", Some("/"));
}

#[test]
fn a_policy_for_a_file_does_not_cover_what_lies_below() {
    let policy = reboot(&["/srv/app"]);
    let is_file = |path: &str| path == "/srv/app";
    assert!(policy.of_path("/srv/app", is_file).is_some());
    assert!(policy.of_path("/srv/app/f", is_file).is_none());
}

#[test]
fn a_users_directory_wins_over_the_defaults_below_it() {
    let policy = reboot(&["/etc/containers"]);
    for path in [
        "/etc/containers/policy.json",
        "/etc/containers/registries.conf",
    ] {
        check_path(&policy, path, Some("/etc/containers"));
    }
    check_path(
        &policy,
        "/etc/crio/policies/x.json",
        Some("/etc/crio/policies"),
    );
    // A default that is more specific than what the user left alone stays.
    let policy = reboot(&["/etc/containers/registries.d/ours"]);
    check_path(
        &policy,
        "/etc/containers/registries.d/theirs",
        Some("/etc/containers/registries.d"),
    );
}

#[test]
fn a_template_stands_for_its_instances() {
    let policy = Policy::of(&user(json!({"units": [
        {"name": "t@.service", "actions": [{"type": "None"}]},
        {"name": "t@b.service", "actions": [{"type": "Reboot"}]},
    ]})));
    let of = |name| policy.of_unit(name).map(|rule| rule.subject.as_str());
    assert_eq!(of("t@a.service"), Some("t@.service"));
    assert_eq!(of("t@b.service"), Some("t@b.service"));
    assert_eq!(of("t@a.socket"), None);
    assert_eq!(of("t.service"), None);
    assert!(policy.leaves_alone("t@a.service") && !policy.leaves_alone("t@b.service"));
}

#[test]
fn an_empty_list_of_actions_says_nothing() {
    let policy = user(json!({
        "files": [{"path": "/etc/sssd", "actions": []}],
        "sshkey": {"actions": []},
    }));
    assert_eq!(Policy::of(&policy), Policy::default());
    assert_eq!(problems(&policy).len(), 2);
}

#[test]
fn what_is_wrong_names_the_field() {
    let policy = user(json!({
        "files": [
            {"path": "etc/x", "actions": [{"type": "Reboot"}, {"type": "Drain"}]},
            {"path": "/etc/y", "actions": [{"type": "Restart"}, {"type": "Reload", "reload": {"serviceName": "crio"}}]},
        ],
        "units": [{"name": "a", "actions": [{"type": "Drain", "reload": {"serviceName": "a.service"}}]}],
    }));
    let found: Vec<String> = problems(&policy).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(found.join("\n"), @r"
    `spec.nodeDisruptionPolicy.files[0].path`: expected an absolute path, found `etc/x`
    `spec.nodeDisruptionPolicy.files[0].actions`: `Reboot` stands alone: take the other actions away, or `Reboot`
    `spec.nodeDisruptionPolicy.files[1].actions[0].restart`: required, found nothing
    `spec.nodeDisruptionPolicy.files[1].actions[1].reload.serviceName`: expected a unit name with a suffix such as `.service`, found `crio`
    `spec.nodeDisruptionPolicy.units[0].name`: expected a unit name with a suffix such as `.service`, found `a`
    `spec.nodeDisruptionPolicy.units[0].actions[0].reload`: belongs to type `Reload`, found type `Drain`
    ");
}

#[test]
fn the_status_holds_the_whole_policy_and_is_read_back_the_same() {
    let policy = Policy::of(&user(json!({
        "files": [
            {"path": "/etc/containers/", "actions": [{"type": "Drain"}]},
            {"path": "/srv/a", "actions": [{"type": "DaemonReload"}, {"type": "Restart", "restart": {"serviceName": "a.service"}}]},
        ],
        "units": [{"name": "a@.service", "actions": [{"type": "None"}]}],
        "sshkey": {"actions": [{"type": "Reboot"}]},
    })));
    let status = policy.cluster_policies();
    assert_eq!(Policy::in_force(&status), policy);
    let defaults = Policy::default().cluster_policies();
    assert_eq!(Policy::in_force(&defaults), Policy::default());
    // With as many of the user's as the spec takes, all must fit.
    assert!(defaults.files.len() <= 50 && defaults.units.len() <= 50);
}

#[test]
fn nodes_follow_the_status_once_it_is_of_the_newest_spec() {
    use crate::api::{MachineConfiguration, MachineConfigurationSpec};
    let mut object = MachineConfiguration::new("cluster", MachineConfigurationSpec::default());
    assert_eq!(Policy::followed(&object), Policy::default());
    object.spec.node_disruption_policy = Some(user(
        json!({"files": [{"path": "/srv", "actions": [{"type": "Reboot"}]}]}),
    ));
    object.metadata.generation = Some(2);
    object.status = serde_json::from_value(json!({
        "observedGeneration": 1,
        "nodeDisruptionPolicyStatus": {"clusterPolicies": {"sshkey": {"actions": [{"type": "Drain"}]}}},
    }))
    .unwrap();
    assert_eq!(Policy::followed(&object), reboot(&["/srv"]));
    object.metadata.generation = Some(1);
    assert_eq!(Policy::followed(&object).of_keys(), [Directive::Drain]);
}

#[track_caller]
fn registries(from: &str, to: &str, expected: &str) {
    let found = unsafe_changes(Some(from.as_bytes()), Some(to.as_bytes()));
    assert_eq!(found.join("\n"), expected, "{from}\n→\n{to}");
}

const DIGESTS: &str = "[[registry]]\nlocation = 'r.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'm1.example'\n";

#[test]
fn safe_changes_of_registries() {
    let more = format!("{DIGESTS}[[registry.mirror]]\nlocation = 'm2.example'\n");
    let other = "[[registry]]\nprefix = 'q.example'\nlocation = 'q.example'\n[[registry.mirror]]\nlocation = 'm.example'\npull-from-mirror = 'digest-only'\n";
    registries("", DIGESTS, "");
    registries(DIGESTS, &more, "");
    registries(DIGESTS, &format!("{other}{DIGESTS}"), "");
    // Another spelling.
    registries(
        DIGESTS,
        &format!(
            "# comment\n{}",
            DIGESTS
                .replace(
                    "location = 'r",
                    "prefix = ''\nblocked = false\nlocation = \"r"
                )
                .replace("r.example'", "r.example\"")
        ),
        "",
    );
    registries(DIGESTS, &format!("{DIGESTS}insecure = false\n"), "");
}

#[test]
fn unsafe_changes_of_registries_are_named() {
    let with = |line: &str| DIGESTS.replace("mirror-by-digest-only = true", line);
    registries(
        DIGESTS,
        &with("mirror-by-digest-only = false"),
        "`mirror-by-digest-only` of registry `r.example` changes",
    );
    registries(
        DIGESTS,
        &with("mirror-by-digest-only = true\ninsecure = true"),
        "`insecure` of registry `r.example` changes",
    );
    registries(DIGESTS, "", "registry `r.example` is removed");
    registries(
        DIGESTS,
        &DIGESTS.replace("m1", "m2"),
        "mirror `m1.example` of registry `r.example` is removed",
    );
    registries(
        DIGESTS,
        &format!("{DIGESTS}insecure = true\n"),
        "mirror `m1.example` of registry `r.example` changes",
    );
    let mirror = |name: &str| format!("[[registry.mirror]]\nlocation = '{name}.example'\n");
    let head = "[[registry]]\nlocation = 'r.example'\nmirror-by-digest-only = true\n";
    registries(
        &format!("{head}{}{}", mirror("a"), mirror("b")),
        &format!("{head}{}{}", mirror("b"), mirror("a")),
        "mirrors of registry `r.example` are tried in another order",
    );
    registries(
        DIGESTS,
        &format!("{DIGESTS}{}insecure = true\n", mirror("m2")),
        "registry `r.example` has new mirrors, and mirror `m2.example` is insecure",
    );
    for (line, expected) in [
        (
            "short-name-mode = 'permissive'\n",
            "`short-name-mode` changes",
        ),
        (
            "credential-helpers = ['x']\n",
            "`credential-helpers` changes",
        ),
        (
            "unqualified-search-registries = ['docker.io']\n",
            "`unqualified-search-registries` changes",
        ),
    ] {
        registries(DIGESTS, &format!("{line}{DIGESTS}"), expected);
    }
    let new = |rest: &str| format!("{DIGESTS}[[registry]]\nlocation = 'q.example'\n{rest}");
    registries(
        DIGESTS,
        &new(&format!(
            "mirror-by-digest-only = true\nblocked = true\n{}",
            mirror("m")
        )),
        "registry `q.example` is new and blocked",
    );
    registries(
        DIGESTS,
        &new("insecure = true\n"),
        "registry `q.example` is new and insecure",
    );
    registries(
        DIGESTS,
        &new("prefix = 'p.example'\n"),
        "registry `p.example` is new and stands for `q.example`",
    );
    registries(
        DIGESTS,
        &new(&mirror("m")),
        "registry `q.example` is new, and mirror `m.example` may serve tags; set `mirror-by-digest-only = true`",
    );
}

#[test]
fn what_is_no_registries_conf_is_unsafe_and_no_error() {
    registries(
        DIGESTS,
        "\n\nnot toml",
        "what comes cannot be judged: line 3 is not TOML",
    );
    registries(
        "not toml",
        DIGESTS,
        "what is there now cannot be judged: line 1 is not TOML",
    );
    let found = unsafe_changes(Some(b"\xff\0"), None);
    assert_eq!(
        found,
        ["what is there now cannot be judged: it is not UTF-8"]
    );
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(unsafe_changes(None, Some(deep.as_bytes())).len(), 1);
}
