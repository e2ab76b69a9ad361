#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;
use crate::node::Target;

mod disruption;
mod properties;

const A: &str = "registry.example.com/os/a@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Digest of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const B: &str = "registry.example.com/os/b@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn version(name: &str, image: Option<&str>, mut spec: Value) -> Version {
    if let Some(config) = spec.get_mut("config") {
        config["ignition"] = json!({"version": "3.4.0"});
    }
    Version::new(name, &serde_json::from_value(spec).unwrap(), image).unwrap()
}

fn files(contents: &[(&str, &str)]) -> Value {
    let files: Vec<Value> = contents
        .iter()
        .map(|(path, source)| json!({"path": path, "contents": {"source": source}}))
        .collect();
    json!({"config": {"storage": {"files": files}}})
}

fn units(units: Value) -> Value {
    json!({"config": {"systemd": {"units": units}}})
}

/// Checks the text of the update from one spec to another, both without a layered image.
#[track_caller]
fn check(from: Value, to: Value, expected: &str) {
    let (from, to) = (version("a", None, from), version("b", None, to));
    assert_eq!(
        Update::between(&from, &to, &[], &Policy::default()).to_string(),
        expected
    );
}

#[test]
fn another_spelling_is_no_change() {
    let file = |extra: Value| {
        let mut file = json!({"path": "/etc/x", "contents": {"source": "data:,hello"}});
        file.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json!({"config": {"storage": {"files": [file]}}})
    };
    for same in [
        json!({"contents": {"source": "data:;base64,aGVsbG8="}}),
        json!({"contents": {"source": "data:;base64,H4sIAAAAAAACA8tIzcnJBwCGphA2BQAAAA==", "compression": "gzip"}}),
        json!({"contents": {"source": "data:,hello", "compression": ""}}),
        json!({"mode": 420}),
        json!({"overwrite": true}),
        json!({"user": {"id": 0}, "group": {"id": 0}}),
        json!({"user": {"name": "root"}, "group": {"name": "root"}}),
        json!({"contents": {"source": "data:,hello", "verification": {"hash": format!("sha256-{HELLO}")}}}),
    ] {
        check(file(json!({})), file(same), "nothing changes");
    }
    let unit = |unit: Value| units(json!([unit]));
    check(
        unit(json!({"name": "a.service", "enabled": true})),
        unit(json!({"name": "a.service", "enabled": true, "mask": false, "contents": ""})),
        "nothing changes",
    );
    let dropins = |names: &[&str]| {
        let dropins: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "contents": "[Unit]\n"}))
            .collect();
        unit(json!({"name": "a.service", "dropins": dropins}))
    };
    check(
        dropins(&["1.conf", "2.conf"]),
        dropins(&["2.conf", "1.conf"]),
        "nothing changes",
    );
    check(
        json!({"kernelArguments": ["a b", "c", "a"], "kernelType": "", "extensions": ["usbguard", "ipsec"]}),
        json!({"kernelArguments": ["c", "a", "b"], "kernelType": "default", "extensions": ["ipsec", "usbguard", "ipsec"]}),
        "nothing changes",
    );
    check(
        json!({"kernelArguments": ["quiet dyndbg=\"file a +p\"", "quiet"]}),
        json!({"kernelArguments": ["dyndbg=\"file a +p\"", "quiet"]}),
        "nothing changes",
    );
    let elsewhere = A.replace("registry.example.com/os/a", "mirror.example.com/x");
    check(
        json!({"osImageURL": A}),
        json!({"osImageURL": elsewhere}),
        "nothing changes",
    );
}

#[test]
fn an_image_reboots_and_says_why() {
    check(
        json!({"osImageURL": A}),
        json!({"osImageURL": B, "kernelArguments": ["quiet"]}),
        "new image, 1 kernel argument → reboot (image a@aaaaaaaaaaaa → b@bbbbbbbbbbbb, kernelArguments +quiet)",
    );
}

#[test]
fn white_space_in_quotes_is_part_of_a_kernel_argument() {
    check(
        json!({"kernelArguments": ["a=\"b c\" d"]}),
        json!({"kernelArguments": ["d a=\"b  c\""]}),
        "2 kernel arguments → reboot (kernelArguments -a=\"b c\" +a=\"b  c\")",
    );
}

#[test]
fn files_concern_the_services_that_read_them() {
    check(
        files(&[]),
        files(&[("/etc/motd", "data:,a")]),
        "1 file → no disruption",
    );
    check(
        files(&[
            ("/etc/sssd/sssd.conf", "data:,a"),
            ("/etc/auto.master.d/x.autofs", "data:,a"),
        ]),
        files(&[("/etc/sssd/sssd.conf", "data:,b")]),
        "2 files → restart (reload autofs.service: -file /etc/auto.master.d/x.autofs, restart sssd.service: ~file /etc/sssd/sssd.conf)",
    );
}

#[test]
fn units_start_restart_and_stop() {
    let text = "[Service]\nExecStart=/bin/true\n";
    check(
        units(json!([])),
        units(json!([{"name": "a.service", "enabled": true, "contents": text}])),
        "1 unit → restart (daemon-reload: +unit a.service, start a.service: +unit a.service)",
    );
    check(
        units(json!([{"name": "a.service", "enabled": true, "contents": text}])),
        units(
            json!([{"name": "a.service", "enabled": true, "contents": text, "dropins": [{"name": "x.conf", "contents": text}]}]),
        ),
        "1 unit → restart (daemon-reload: ~unit a.service, restart a.service: ~unit a.service)",
    );
    check(
        units(
            json!([{"name": "a.service", "enabled": true, "contents": text}, {"name": "b.service", "enabled": true}]),
        ),
        units(json!([])),
        "2 units → restart (stop a.service: -unit a.service, daemon-reload: -unit a.service and 1 more)",
    );
    check(
        units(json!([{"name": "a@.service", "enabled": true}])),
        units(json!([{"name": "a@.service", "mask": true}])),
        "1 unit → daemon-reload (daemon-reload: ~unit a@.service)",
    );
}

#[test]
fn what_a_half_applied_version_touched_counts_as_changed() {
    let (from, to) = (
        version("a", None, files(&[("/etc/a", "data:,1")])),
        version("c", None, files(&[("/etc/a", "data:,1")])),
    );
    let half = version(
        "b",
        None,
        files(&[("/etc/a", "data:,2"), ("/etc/new", "data:,2")]),
    );
    let update = Update::between(&from, &to, &[&half], &Policy::default());
    let seen: Vec<String> = update.changes.iter().map(ToString::to_string).collect();
    assert_eq!(seen, ["~file /etc/a", "-file /etc/new"]);
}

#[test]
fn what_a_node_cannot_do_is_said_with_a_remedy() {
    let obstacle = |spec: Value| {
        let update = Update::between(
            &version("a", None, json!({})),
            &version("b", None, spec),
            &[],
            &Policy::default(),
        );
        update
            .obstacles
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    insta::assert_snapshot!(obstacle(json!({"extensions": ["usbguard"], "kernelType": "realtime", "fips": true})), @r"
    `spec.extensions`: takes a host that rpm-ostree updates (`--host-backend rpm-ostree`); elsewhere create a MachineOSConfig for the pool and install the packages in its Containerfile
    `spec.kernelType`: takes a host that rpm-ostree updates (`--host-backend rpm-ostree`); elsewhere create a MachineOSConfig for the pool and install the packages in its Containerfile
    `spec.fips`: FIPS mode is chosen when a node is installed and cannot be changed on it; install the node anew
    ");
    // Another base image brings no packages of its own accord.
    assert!(obstacle(json!({"osImageURL": B, "kernelType": "realtime"})).contains("kernelType"));
    assert!(
        obstacle(json!({"baseOSExtensionsContainerImage": B, "extensions": ["usbguard"]}))
            .contains("`spec.baseOSExtensionsContainerImage`: hosts install packages from")
    );
    assert_eq!(obstacle(json!({"baseOSExtensionsContainerImage": B})), "");
}

#[test]
fn a_host_that_adds_packages_reboots_for_them() {
    let from = version("a", None, json!({"osImageURL": A}));
    let spec = json!({"osImageURL": A, "extensions": ["usbguard"], "kernelType": "realtime"});
    let to = version("b", None, spec);
    let seen = Seen {
        node: "n",
        current: Some(&from),
        desired: Some(&to),
        booted_image: Some(A),
        image_present: true,
        verified: true,
        ..Seen::default()
    };
    assert!(plan(&seen).stuck.is_some());
    let seen = Seen {
        adds_packages: true,
        soft_reboot: true,
        ..seen
    };
    assert_eq!(
        steps(&seen),
        "ask for the drain; make the new deployment; reboot; verify; ask to be uncordoned"
    );
}

/// Steps that are left for what is seen, in words.
#[track_caller]
fn steps(seen: &Seen<'_>) -> String {
    plan(seen)
        .steps
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn drain(desired: &str, applied: &str) -> DrainRequest {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    DrainRequest {
        desired: some(desired),
        applied: some(applied),
    }
}

#[test]
fn a_layered_image_is_pulled_before_the_drain_and_reboots_once() {
    let current = version("base", None, json!({"osImageURL": A}));
    let mut spec = files(&[("/etc/sssd/sssd.conf", "data:,a")]);
    spec["osImageURL"] = json!(A);
    let desired = version("rendered-1", Some(B), spec);
    let mut seen = Seen {
        node: "worker-1",
        current: Some(&current),
        desired: Some(&desired),
        booted_image: Some(A),
        verified: true,
        ..Seen::default()
    };
    assert_eq!(
        plan(&seen).to_string(),
        "worker-1: new image, 1 file → reboot (image a@aaaaaaaaaaaa → b@bbbbbbbbbbbb)"
    );
    let end = "reboot; verify; ask to be uncordoned";
    assert_eq!(
        steps(&seen),
        format!("pull `{B}`; ask for the drain; make the new deployment; {end}")
    );
    seen.image_present = true;
    seen.drain = drain("drain-rendered-1", "");
    assert_eq!(
        steps(&seen),
        format!(
            "wait for the node controller to carry out `drain-rendered-1`; make the new deployment; {end}"
        )
    );
    seen.drain = drain("drain-rendered-1", "drain-rendered-1");
    assert_eq!(steps(&seen), format!("make the new deployment; {end}"));
    seen.deployed = true;
    assert_eq!(steps(&seen), end);

    // Booted into it.
    (
        seen.current,
        seen.booted_image,
        seen.deployed,
        seen.verified,
    ) = (Some(&desired), Some(B), false, false);
    assert_eq!(steps(&seen), "verify; ask to be uncordoned");
    seen.verified = true;
    assert_eq!(steps(&seen), "ask to be uncordoned");
    seen.drain = drain("uncordon-rendered-1", "drain-rendered-1");
    assert_eq!(
        steps(&seen),
        "wait for the node controller to carry out `uncordon-rendered-1`"
    );
    seen.drain = drain("uncordon-rendered-1", "uncordon-rendered-1");
    assert_eq!(steps(&seen), "");
    assert!(plan(&seen).is_settled());
}

#[test]
fn what_was_to_boot_goes_when_no_reboot_is_to_come() {
    let (from, live, other) = (
        version("a", None, json!({"osImageURL": A})),
        version("b", None, files(&[("/etc/motd", "data:,")])),
        version("c", None, json!({"osImageURL": B})),
    );
    let check = |desired: Option<&Version>, expected: &str| {
        let seen = Seen {
            node: "n",
            current: Some(&from),
            booted_image: Some(A),
            desired,
            image_present: true,
            unbooted: true,
            verified: true,
            drain: drain("drain-c", "drain-c"),
            ..Seen::default()
        };
        assert_eq!(steps(&seen), expected);
    };
    let discard = "discard the deployment that was to boot";
    check(Some(&from), &format!("{discard}; ask to be uncordoned"));
    check(
        Some(&live),
        &format!("{discard}; write files and units; verify; ask to be uncordoned"),
    );
    check(
        Some(&other),
        "make the new deployment; reboot; verify; ask to be uncordoned",
    );
    check(None, "");
}

#[test]
fn a_live_change_needs_no_drain_and_releases_one_that_was_given_up() {
    let (from, to) = (
        version("a", None, files(&[])),
        version("b", None, files(&[("/etc/motd", "data:,")])),
    );
    let mut seen = Seen {
        node: "n",
        current: Some(&from),
        desired: Some(&to),
        verified: true,
        ..Seen::default()
    };
    assert_eq!(steps(&seen), "write files and units; verify");
    seen.drain = drain("drain-z", "drain-z");
    assert_eq!(
        steps(&seen),
        "write files and units; verify; ask to be uncordoned"
    );
}

#[test]
fn an_equal_config_of_another_name_is_adopted() {
    let (from, to) = (
        version("a", None, files(&[])),
        version("b", None, files(&[])),
    );
    let seen = Seen {
        node: "n",
        current: Some(&from),
        desired: Some(&to),
        verified: true,
        ..Seen::default()
    };
    assert_eq!(steps(&seen), "write files and units; verify");
}

#[test]
fn the_first_config_on_the_right_image_is_applied_live() {
    let mut spec = files(&[("/etc/motd", "data:,")]);
    spec["osImageURL"] = json!(A);
    spec["kernelArguments"] = json!(["quiet"]);
    let to = version("b", None, spec);
    let arguments = ["quiet".to_owned(), "rw".to_owned()];
    let digest = A.rsplit_once('@').unwrap().1;
    let booted = format!("@{digest}");
    let mut seen = Seen {
        node: "n",
        desired: Some(&to),
        booted_image: Some(&booted),
        kernel_arguments: &arguments,
        ..Seen::default()
    };
    assert_eq!(steps(&seen), "write files and units; verify");
    seen.kernel_arguments = &[];
    assert!(plan(&seen).reboots());
}

#[test]
fn what_was_taken_back_is_not_tried_again() {
    let (from, to) = (
        version("a", None, json!({"osImageURL": A})),
        version("b", Some(B), json!({"osImageURL": A})),
    );
    let failure = Failure {
        secrets: Default::default(),
        target: to.target(),
        reason: "autofs.service failed".into(),
    };
    let mut seen = Seen {
        node: "n",
        current: Some(&from),
        desired: Some(&to),
        booted_image: Some(A),
        failure: Some(&failure),
        verified: true,
        ..Seen::default()
    };
    assert_eq!(
        plan(&seen).to_string(),
        format!("n: stuck: `b` with image `{B}` was taken back: autofs.service failed")
    );
    assert_eq!(steps(&seen), "");
    // What it went back to is proven like any other version.
    seen.verified = false;
    assert_eq!(steps(&seen), "verify");
}

#[test]
fn a_node_without_work_pulls_what_its_pool_rolls_out_next() {
    let from = version("a", None, json!({"osImageURL": A}));
    let mut seen = Seen {
        node: "n",
        prefetch: Some(B),
        ..Seen::default()
    };
    assert_eq!(steps(&seen), format!("pull `{B}`"));
    seen.current = Some(&from);
    seen.desired = Some(&from);
    seen.booted_image = Some(A);
    seen.verified = true;
    assert_eq!(steps(&seen), format!("pull `{B}`"));
}

#[test]
fn who_cannot_go_where_it_was_told_to_stays_in_service() {
    let current = version("a", None, json!({"osImageURL": A}));
    let gone = Target {
        config: "b".to_owned(),
        image: None,
    };
    let mut seen = Seen {
        node: "n",
        current: Some(&current),
        gone: Some(&gone),
        booted_image: Some(A),
        verified: true,
        ..Seen::default()
    };
    let planned = plan(&seen);
    assert_eq!(planned.target.as_ref(), Some(&gone));
    assert!(planned.stuck.unwrap().contains("no MachineConfig `b`"));
    assert_eq!(steps(&seen), "");
    // It was drained, or had even made what it was to boot.
    seen.drain = drain("drain-b", "drain-b");
    assert_eq!(steps(&seen), "ask to be uncordoned");
    seen.unbooted = true;
    assert_eq!(
        steps(&seen),
        "discard the deployment that was to boot; ask to be uncordoned"
    );
    seen.current = None;
    seen.unbooted = false;
    assert_eq!(
        steps(&seen),
        "",
        "there is nothing that it could be given back as"
    );
}
