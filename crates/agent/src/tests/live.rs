//! Changes of the running root that fail, and what is left of them.

use camino::Utf8Path;
use model::update::{Failure, Plan, Policy, Seen, Version, plan};
use serde_json::json;

use super::plain::{FRAGILE, Plain, actions, keep, versions};
use super::tree::{assert_same, tree};
use crate::host::{Host, Sight, TakenBack};

/// A node at version `one`, which was found well.
fn node() -> (tempfile::TempDir, Plain, Host) {
    let dir = tempfile::tempdir().unwrap();
    let node = Plain::new(&Utf8Path::from_path(dir.path()).unwrap().join("node"));
    let host = node.host();
    let [one, ..] = versions(&host);
    host.apply(&host.look().unwrap(), &one, &actions()).unwrap();
    host.confirm(&host.look().unwrap()).unwrap();
    (dir, node, host)
}

/// What is left to do about a version.
fn plan_for(sight: &Sight, desired: &Version) -> Plan {
    plan(&Seen {
        node: "worker-1",
        current: sight.current.as_ref(),
        interrupted: sight.interrupted.as_ref(),
        desired: Some(desired),
        verified: sight.verified(),
        failure: sight.failure.as_ref(),
        ..Seen::default()
    })
}

#[test]
fn a_change_that_fails_is_undone_once_with_its_reason() {
    let (_dir, node, host) = node();
    let before = tree(&node.root());
    let [_, _, bad] = versions(&host);
    let error = host
        .apply(&host.look().unwrap(), &bad, &actions())
        .unwrap_err();
    let reason = "systemd cannot restart `fragile.service`: the job ended as `failed`: last words; \
        see `systemctl status fragile.service` on the node";
    assert_eq!(error.to_string(), reason);
    assert_same(&tree(&node.root()), &before, "undone");
    let sight = host.look().unwrap();
    assert!(sight.interrupted.is_none() && sight.verified());
    assert_eq!(
        sight.failure,
        Some(Failure {
            target: bad.target(),
            secrets: Default::default(),
            reason: reason.to_owned()
        })
    );
    let plan = plan_for(&sight, &bad);
    assert!(plan.stuck.is_some() && plan.steps.is_empty(), "{plan:?}");
    // Something else may be tried.
    let [_, two, _] = versions(&host);
    assert!(plan_for(&sight, &two).stuck.is_none());
    host.apply(&sight, &two, &actions()).unwrap();
}

#[test]
fn a_change_that_is_not_well_afterwards_is_taken_back_without_a_reboot() {
    let (_dir, node, host) = node();
    let before = tree(&node.root());
    let [_, two, _] = versions(&host);
    host.apply(&host.look().unwrap(), &two, &actions()).unwrap();
    let sight = host.look().unwrap();
    assert_eq!(
        host.take_back(&sight, "a probe", &Policy::default())
            .unwrap(),
        TakenBack::Live
    );
    assert_same(&tree(&node.root()), &before, "taken back");
    let sight = host.look().unwrap();
    assert!(sight.verified(), "what was well is well");
    assert_eq!(sight.failure.clone().unwrap().reason, "a probe");
    assert_eq!(
        host.take_back(&sight, "a probe", &Policy::default())
            .unwrap(),
        TakenBack::Nothing
    );

    // Once it was found well it stays.
    host.apply(&sight, &two, &actions()).unwrap();
    host.confirm(&host.look().unwrap()).unwrap();
    let sight = host.look().unwrap();
    assert_eq!(
        host.take_back(&sight, "later", &Policy::default()).unwrap(),
        TakenBack::Nothing
    );
}

#[test]
fn the_first_config_has_nothing_to_go_back_to_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = Plain::new(&Utf8Path::from_path(dir.path()).unwrap().join("node"));
    let host = node.host();
    let [_, _, bad] = versions(&host);
    host.apply(&host.look().unwrap(), &bad, &actions())
        .unwrap_err();
    let sight = host.look().unwrap();
    assert_eq!(
        (sight.failure.clone(), sight.interrupted.is_some()),
        (None, true)
    );
    // It mends itself, or another one comes.
    let [_, two, _] = versions(&host);
    host.apply(&sight, &two, &actions()).unwrap();
    let calm_dir = tempfile::tempdir().unwrap();
    let calm = Plain::new(&Utf8Path::from_path(calm_dir.path()).unwrap().join("node"));
    let calm_host = calm.host();
    versions(&calm_host);
    calm_host
        .apply(&calm_host.look().unwrap(), &two, &actions())
        .unwrap();
    assert_same(
        &tree(&node.root()),
        &tree(&calm.root()),
        "as if it were the first",
    );
}

#[test]
fn what_a_power_loss_cut_short_is_taken_back_before_services_start() {
    let (_dir, node, host) = node();
    let before = tree(&node.root());
    let [_, two, _] = versions(&host);
    crate::tests::kill::after_writes(Some(25));
    let run = std::panic::AssertUnwindSafe(|| host.apply(&host.look().unwrap(), &two, &actions()));
    std::panic::catch_unwind(run).unwrap_err();
    crate::tests::kill::after_writes(None);
    assert_ne!(tree(&node.root()), before);
    node.boot();
    let host = node.host();
    host.complete_boot().unwrap();
    assert_same(&tree(&node.root()), &before, "early in the next boot");
    assert_eq!(host.state().journal().unwrap(), None);
}

#[test]
fn nothing_half_done_stays_when_the_desired_version_cannot_be_reached() {
    let (_dir, node, host) = node();
    let before = tree(&node.root());
    let [one, two, _] = versions(&host);
    crate::tests::kill::after_writes(Some(25));
    let run = std::panic::AssertUnwindSafe(|| host.apply(&host.look().unwrap(), &two, &actions()));
    std::panic::catch_unwind(run).unwrap_err();
    crate::tests::kill::after_writes(None);
    let mut out_of_reach = two.clone();
    out_of_reach.fips = true;
    let sight = host.look().unwrap();
    let plan = plan_for(&sight, &out_of_reach);
    assert!(plan.stuck.is_some());
    assert!(
        matches!(plan.steps[0], model::update::Step::Apply { .. }),
        "{plan:?}"
    );
    host.apply(&sight, &one, &[]).unwrap();
    assert_same(&tree(&node.root()), &before, "back");
}

#[test]
fn a_deployment_leaves_the_running_root_alone() {
    let (_dir, node, host) = node();
    let before = tree(&node.root());
    let [_, two, _] = versions(&host);
    let sight = host.look().unwrap();
    host.deploy(&sight, &two, oci::Digest::of(b"layered"))
        .unwrap();
    assert_same(&tree(&node.root()), &before, "the running root");
    assert_ne!(node.roots()[0], node.root(), "the new one boots next");
}

/// A disk that is full in the middle, and has room again.
#[test]
fn privileged_a_full_disk_keeps_the_old_state_and_goes_on_by_itself() {
    if !super::privileged("mount") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let _disk = Disk::mount(dir);
    let node = Plain::new(&dir.join("node"));
    let host = node.host();
    let [one, ..] = versions(&host);
    let data = |text: &str| format!("data:,{}", text.repeat(20_000));
    let big = json!({"storage": {"files": [
        {"path": "/etc/hand.conf", "contents": {"source": "data:,big"}},
        {"path": "/etc/z-big", "contents": {"source": data("x")}},
        {"path": "/etc/z-bigger", "contents": {"source": data("yy")}},
    ]}, "systemd": {"units": [{"name": FRAGILE, "enabled": false}]}});
    host.apply(&host.look().unwrap(), &one, &actions()).unwrap();
    let before = tree(&node.root());
    let big = keep(&host, "big", big);
    // Whatever is left, from nothing at all to nearly enough.
    for room in [0, 4, 8, 16, 24, 40, 60] {
        Disk::fill(dir, room << 10);
        let error = host
            .apply(&host.look().unwrap(), &big, &actions())
            .unwrap_err();
        assert!(error.is_full(), "{room} KiB left: {error}");
        Disk::free(dir);
        let sight = host.look().unwrap();
        assert_eq!(
            sight.failure, None,
            "a full disk is no failure of the config"
        );
        if sight.interrupted.is_some() {
            host.apply(&sight, &one, &actions()).unwrap();
        }
        assert_same(&tree(&node.root()), &before, &format!("{room} KiB left"));
    }
    host.apply(&host.look().unwrap(), &big, &actions()).unwrap();
}

struct Disk(String);

impl Disk {
    fn mount(dir: &Utf8Path) -> Self {
        let args = [
            "-t",
            "tmpfs",
            "-o",
            "size=4m,mode=755",
            "tmpfs",
            dir.as_str(),
        ];
        let status = std::process::Command::new("mount").args(args).status();
        assert!(status.unwrap().success());
        Self(dir.to_string())
    }

    /// Takes everything but so many bytes.
    fn fill(dir: &Utf8Path, room: u64) {
        use std::io::Write;
        let mut filler = std::fs::File::create(dir.join("filler")).unwrap();
        while filler
            .write(&[0; 4096])
            .is_ok_and(|written| written == 4096)
        {}
        let length = filler.metadata().unwrap().len();
        filler.set_len(length.saturating_sub(room)).unwrap();
    }

    /// Gives the room back. By truncation, for a process that was just forked elsewhere may hold the file a moment longer
    /// than its name.
    fn free(dir: &Utf8Path) {
        let path = dir.join("filler");
        std::fs::File::create(&path).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = std::process::Command::new("umount")
            .args(["-l", &self.0])
            .status();
        assert!(status.unwrap().success());
    }
}
