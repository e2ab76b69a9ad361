//! What changes do to a node, by default and under a user's policy.

use serde_json::{Value, json};

use super::*;

fn policy(files: Value, units: Value) -> Policy {
    Policy::of(&serde_json::from_value(json!({"files": files, "units": units})).unwrap())
}

#[track_caller]
fn under(policy: &Policy, from: Value, to: Value, expected: &str) {
    let (from, to) = (version("a", None, from), version("b", None, to));
    let update = Update::between(&from, &to, &[], policy);
    assert_eq!(update.to_string(), expected);
}

fn restart(unit: &str) -> Value {
    json!({"type": "Restart", "restart": {"serviceName": unit}})
}

fn reload(unit: &str) -> Value {
    json!({"type": "Reload", "reload": {"serviceName": unit}})
}

const TEXT: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn the_users_policy_wins() {
    let file = |path: &str| (files(&[]), files(&[(path, "data:,x")]));
    let reboot = policy(
        json!([{"path": "/etc", "actions": [{"type": "Reboot"}]}]),
        json!([]),
    );
    let (from, to) = file("/etc/motd");
    under(&reboot, from, to, "1 file → reboot (+file /etc/motd)");
    let (from, to) = file("/srv/motd");
    under(&reboot, from, to, "1 file → no disruption");
    let drain = policy(
        json!([{"path": "/srv", "actions": [{"type": "Drain"}, restart("a.service")]}]),
        json!([]),
    );
    let (from, to) = file("/srv/x");
    under(
        &drain,
        from,
        to,
        "1 file → drain (+file /srv/x; restart a.service: +file /srv/x)",
    );
    let none = policy(
        json!([{"path": "/etc/sssd/", "actions": [{"type": "None"}]}]),
        json!([]),
    );
    let (from, to) = file("/etc/sssd/sssd.conf");
    under(&none, from, to, "1 file → no disruption");
}

#[test]
fn keys_follow_their_policy() {
    let keys = |key: &str| json!({"config": {"passwd": {"users": [{"name": "core", "sshAuthorizedKeys": [key]}]}}});
    let (a, b) = (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBzqSvp0JZ0pMGmZdjMCd4WGfJSnW9cMqi3DwkQv3bYN a",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKm0lV6h3fXG5q0WY3r5kq0D2kN1g8mUO3qf8N2m2k5z b",
    );
    under(
        &Policy::default(),
        keys(a),
        keys(b),
        "SSH keys → no disruption",
    );
    let drain = json!({"sshkey": {"actions": [{"type": "Drain"}]}});
    let drain = Policy::of(&serde_json::from_value(drain).unwrap());
    under(
        &drain,
        keys(a),
        keys(b),
        "SSH keys → drain (SSH keys of `core`)",
    );
}

#[test]
fn a_daemon_reload_comes_before_the_restart_that_needs_it() {
    let policy = policy(
        json!([
            {"path": "/etc/a", "actions": [restart("x.service"), reload("y.service")]},
            {"path": "/etc/b", "actions": [{"type": "DaemonReload"}, restart("x.service")]},
            {"path": "/etc/c", "actions": [reload("z.service"), reload("w.service")]},
        ]),
        json!([]),
    );
    under(
        &policy,
        files(&[]),
        files(&[
            ("/etc/a", "data:,"),
            ("/etc/b", "data:,"),
            ("/etc/c", "data:,"),
        ]),
        "3 files → restart (daemon-reload: +file /etc/b, reload z.service: +file /etc/c, reload w.service: +file /etc/c, \
         restart x.service: +file /etc/a and 1 more, reload y.service: +file /etc/a)",
    );
}

#[test]
fn a_policy_that_asks_for_both_gets_both() {
    let policy = policy(
        json!([
            {"path": "/etc/a", "actions": [reload("x.service"), restart("x.service")]},
            {"path": "/etc/b", "actions": [reload("y.service")]},
            {"path": "/etc/c", "actions": [restart("y.service")]},
        ]),
        json!([]),
    );
    under(
        &policy,
        files(&[]),
        files(&[("/etc/a", "data:,")]),
        "1 file → restart (reload x.service: +file /etc/a, restart x.service: +file /etc/a)",
    );
    under(
        &policy,
        files(&[]),
        files(&[("/etc/b", "data:,"), ("/etc/c", "data:,")]),
        "2 files → restart (restart y.service: +file /etc/c and 1 more)",
    );
}

#[test]
fn units_follow_their_policy() {
    let unit = |name: &str, text: &str, enabled: bool| {
        units(json!([{"name": name, "enabled": enabled, "contents": format!("{TEXT}{text}")}]))
    };
    let policy = policy(
        json!([]),
        json!([
            {"name": "quiet.service", "actions": [{"type": "None"}]},
            {"name": "hard.service", "actions": [{"type": "Reboot"}]},
            {"name": "t@.service", "actions": [restart("t.target")]},
            {"name": "self.service", "actions": [restart("self.service")]},
        ]),
    );
    let changed = |name: &str| (unit(name, "", true), unit(name, "# 2\n", true));
    let check = |(from, to): (Value, Value), expected: &str| under(&policy, from, to, expected);
    check(changed("quiet.service"), "1 unit → no disruption");
    check(
        (units(json!([])), unit("quiet.service", "", true)),
        "1 unit → no disruption",
    );
    check(
        changed("hard.service"),
        "1 unit → reboot (~unit hard.service)",
    );
    check(
        changed("t@x.service"),
        "1 unit → restart (daemon-reload: ~unit t@x.service, restart t.target: ~unit t@x.service)",
    );
    check(
        (units(json!([])), unit("self.service", "", true)),
        "1 unit → restart (daemon-reload: +unit self.service, start self.service: +unit self.service)",
    );
    check(
        (
            unit("self.service", "", true),
            unit("self.service", "", false),
        ),
        "1 unit → restart (stop self.service: ~unit self.service, daemon-reload: ~unit self.service)",
    );
}

#[test]
fn registries_drain_only_when_they_must_and_may_be_compressed() {
    let path = "/etc/containers/registries.conf";
    let toml = |text: &str| files(&[(path, &format!("data:,{}", text.replace('\n', "%0A")))]);
    under(
        &Policy::default(),
        toml("# old"),
        toml("# new"),
        "1 file → reload (reload crio.service: ~file /etc/containers/registries.conf)",
    );
    under(
        &Policy::default(),
        toml("short-name-mode = \"enforcing\""),
        toml(""),
        "1 file → drain (~file /etc/containers/registries.conf: `short-name-mode` changes; \
         reload crio.service: ~file /etc/containers/registries.conf)",
    );
    // `hello`, compressed: no TOML, and still no error.
    let gzip = json!({"config": {"storage": {"files": [{"path": path, "contents": {
        "compression": "gzip", "source": "data:;base64,H4sIAAAAAAACA8tIzcnJBwCGphA2BQAAAA=="}}]}}});
    under(
        &Policy::default(),
        toml(""),
        gzip,
        "1 file → drain (~file /etc/containers/registries.conf: what comes cannot be judged: line 1 is not TOML; \
         reload crio.service: ~file /etc/containers/registries.conf)",
    );
}

#[test]
fn a_drain_without_a_reboot_is_steps_of_its_own() {
    let policy = policy(
        json!([{"path": "/srv", "actions": [{"type": "Drain"}]}]),
        json!([]),
    );
    let (from, to) = (
        version("a", None, files(&[])),
        version("b", None, files(&[("/srv/x", "data:,")])),
    );
    let mut seen = Seen {
        node: "n",
        current: Some(&from),
        desired: Some(&to),
        verified: true,
        policy: Some(&policy),
        ..Seen::default()
    };
    let rest = "write files and units; verify; ask to be uncordoned";
    assert_eq!(steps(&seen), format!("ask for the drain; {rest}"));
    seen.drain = drain("drain-b", "");
    assert_eq!(
        steps(&seen),
        format!("wait for the node controller to carry out `drain-b`; {rest}")
    );
    seen.drain = drain("drain-b", "drain-b");
    assert_eq!(steps(&seen), rest);
    let left = plan(&seen);
    assert_eq!(
        left.reasons(&left.steps[0])[0].path.as_deref(),
        Some("/srv/x")
    );
    // Killed in the middle of writing: what was drained stays drained.
    seen.interrupted = Some(&to);
    assert_eq!(steps(&seen), rest);
    // Written.
    (seen.current, seen.interrupted, seen.verified) = (Some(&to), None, false);
    assert_eq!(steps(&seen), "verify; ask to be uncordoned");
    seen.drain = drain("uncordon-b", "uncordon-b");
    seen.verified = true;
    assert!(plan(&seen).is_settled());
}

#[test]
fn an_image_alone_may_be_a_soft_reboot() {
    let from = version("a", Some(A), json!({}));
    let soft = |spec: Value, policy: Option<&Policy>, can: bool| {
        let to = version("b", Some(B), spec);
        plan(&Seen {
            current: Some(&from),
            desired: Some(&to),
            booted_image: Some(A),
            soft_reboot: can,
            policy,
            ..Seen::default()
        })
        .update
        .disruption
    };
    assert_eq!(soft(json!({}), None, true), Disruption::SoftReboot);
    assert_eq!(
        soft(files(&[("/etc/x", "data:,")]), None, true),
        Disruption::SoftReboot
    );
    assert_eq!(soft(json!({}), None, false), Disruption::Reboot);
    assert_eq!(
        soft(json!({"kernelArguments": ["quiet"]}), None, true),
        Disruption::Reboot
    );
    assert_eq!(
        soft(json!({"kernelType": "realtime"}), None, true),
        Disruption::Reboot
    );
    let reboot = policy(
        json!([{"path": "/etc/x", "actions": [{"type": "Reboot"}]}]),
        json!([]),
    );
    assert_eq!(
        soft(files(&[("/etc/x", "data:,")]), Some(&reboot), true),
        Disruption::Reboot
    );
}

#[test]
fn pending_reboots_are_one() {
    let (first, third) = (
        version("a", Some(A), json!({})),
        version("c", Some(B), files(&[("/etc/x", "data:,")])),
    );
    // The deployment of version b waits for its reboot when version c comes.
    let seen = Seen {
        current: Some(&first),
        desired: Some(&third),
        booted_image: Some(A),
        image_present: true,
        deployed: false,
        drain: drain("drain-b", "drain-b"),
        ..Seen::default()
    };
    assert_eq!(
        steps(&seen),
        "ask for the drain; make the new deployment; reboot; verify; ask to be uncordoned"
    );
}

#[test]
fn reasons_name_the_machine_config() {
    use crate::api::MachineConfig;
    use crate::render::Provenance;
    let source = |name: &str, mut spec: Value| {
        spec["config"]["ignition"] = json!({"version": "3.4.0"});
        MachineConfig::new(name, serde_json::from_value(spec).unwrap())
    };
    let sources = [
        source("10-motd", files(&[("/etc/motd", "data:,b")])),
        source(
            "20-quiet",
            json!({"kernelArguments": ["quiet"], "config": {}}),
        ),
    ];
    let mut spec = files(&[("/etc/motd", "data:,b")]);
    spec["kernelArguments"] = json!(["quiet"]);
    let from = version(
        "rendered-1",
        None,
        files(&[("/etc/motd", "data:,a"), ("/etc/gone", "data:,")]),
    );
    let to = version("rendered-2", None, spec).explained(Provenance::of(&sources));
    let update = Update::between(&from, &to, &[], &Policy::default());
    let quiet = json!({
        "object": "20-quiet",
        "field": "spec.kernelArguments",
        "change": "kernelArguments +quiet",
    });
    let of_file = |object: &str, path: &str, change: &str| json!({"object": object, "field": "spec.config.storage.files", "path": path, "change": change});
    assert_eq!(
        json!(update.reasons),
        json!([
            quiet,
            of_file("10-motd", "/etc/motd", "~file /etc/motd"),
            of_file("rendered-1", "/etc/gone", "-file /etc/gone"),
        ])
    );
    assert_eq!(
        json!(update.listed()),
        json!([{"type": "Reboot", "reason": quiet}])
    );
}

#[test]
fn only_image_inputs_rebuild() {
    let rebuilds = |from: Value, to: Value| {
        let (from, to) = (version("a", None, from), version("b", None, to));
        !rebuild(&from, &to, "FROM configs AS final").is_empty()
    };
    assert!(rebuilds(json!({"osImageURL": A}), json!({"osImageURL": B})));
    assert!(!rebuilds(
        json!({"osImageURL": A}),
        json!({"osImageURL": A.replace("registry", "mirror")})
    ));
    assert!(rebuilds(json!({}), json!({"extensions": ["usbguard"]})));
    assert!(rebuilds(json!({}), json!({"kernelType": "realtime"})));
    assert!(!rebuilds(json!({}), json!({"kernelArguments": ["quiet"]})));
    assert!(!rebuilds(
        json!({"kernelArguments": null}),
        json!({"kernelArguments": []})
    ));
    assert!(!rebuilds(files(&[]), files(&[("/etc/motd", "data:,")])));
    assert!(!rebuilds(
        units(json!([])),
        units(json!([{"name": "a.service", "enabled": true}]))
    ));
    assert!(rebuilds(
        files(&[]),
        files(&[("/etc/yum.repos.d/x.repo", "data:,")])
    ));
    for live in [
        "/etc/containers/registries.conf",
        "/etc/pki/ca-trust/source/anchors/ours.crt",
    ] {
        assert!(!rebuilds(files(&[]), files(&[(live, "data:,")])), "{live}");
    }
    let extended = |image: &str, extensions: Value| json!({"baseOSExtensionsContainerImage": image, "extensions": extensions});
    assert!(rebuilds(
        extended(A, json!(["usbguard"])),
        extended(B, json!(["usbguard"]))
    ));
    assert!(!rebuilds(extended(A, json!([])), extended(B, json!([]))));
}
