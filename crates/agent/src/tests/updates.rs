//! What an update does to a node.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use model::api::MachineConfigPool;
use model::keys;
use model::ledger::from_annotation;
use model::node::annotation;
use serde_json::json;
use tokio::sync::watch;

use super::world::{World, base, layered, pull_spec, rendered};
use crate::Acts;
use crate::os::Os;
use crate::telemetry::Telemetry;

/// The writes by which an agent tells of itself.
const NODE: &str = "PATCH /api/v1/nodes/worker-1";
const STATUS: &str =
    "PATCH /apis/machineconfiguration.openshift.io/v1/machineconfignodes/worker-1/status";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_config_is_applied_live() {
    let mut world = World::joined().await;
    let image = world.machine.booted_image();
    let units = json!([{"name": "sshd.service", "enabled": true}]);
    world
        .settle(&[("/etc/motd", "one"), ("/var/shared", "one")], units)
        .await;
    assert_eq!(
        (
            world.machine.read("/etc/motd").as_str(),
            world.machine.read("/var/shared").as_str()
        ),
        ("one", "one")
    );
    assert_eq!(world.machine.reboots(), 0);
    assert_eq!(world.machine.jobs(), ["daemon-reload", "start ssh.service"]);
    assert_eq!(
        world.condition("Updated").await,
        "True: the node runs `rendered-1`"
    );
    let annotations = world.annotations().await;
    assert!(!annotations.contains_key("desiredDrain"), "{annotations:?}");
    assert_eq!(world.events().await, ["Applying", "Updated"]);
    world.writes();
    let more = rendered(image, &[("/etc/motd", "two")], json!([]));
    world.reach("rendered-2", more, None).await;
    assert_eq!(
        world.writes(),
        ([STATUS, NODE].map(str::to_owned).to_vec(), 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_another_operator_acts_the_agent_looks_on() {
    let mut world = World::settled(&[("/etc/motd", "one")]).await;
    world.kill().await;
    let image = world.machine.booted_image();
    let more = rendered(image, &[("/etc/motd", "two")], json!([]));
    world.config("rendered-2", more).await;
    world.desire("rendered-2", None).await;
    let (tell, ours) = watch::channel(Acts::Other);
    world.ours = Some(ours);
    world.telemetry = Telemetry::default();
    world.writes();
    world.start();
    while world.telemetry.unready().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.machine.read("/etc/motd"), "one");
    assert_eq!(world.writes(), (vec![], 0));
    tell.send_replace(Acts::Caprock { takeover: None });
    world.until_done("rendered-2").await;
    assert_eq!(world.machine.read("/etc/motd"), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layered_image_with_its_units_takes_one_reboot() {
    let mut world = World::settled(&[("/etc/motd", "one"), ("/var/shared", "one")]).await;
    let image = world.machine.booted_image();
    world.writes();

    let new = world.machine.publish(layered());
    let units = json!([{"name": "autofs.service", "enabled": true}]);
    world
        .reach(
            "rendered-2",
            rendered(
                image,
                &[
                    ("/etc/auto.master.d/x.autofs", "map"),
                    ("/var/shared", "two"),
                ],
                units,
            ),
            Some(new),
        )
        .await;
    assert_eq!((world.machine.reboots(), world.machine.pulls()), (1, 1));
    assert_eq!(world.machine.booted_image(), new);
    assert_eq!(world.machine.read("/etc/auto.master.d/x.autofs"), "map");
    assert_eq!(
        world.machine.read("/etc/motd"),
        "from the base image\n",
        "the image's own comes back"
    );
    assert_eq!(world.machine.read("/var/shared"), "two");
    assert!(
        world
            .machine
            .root()
            .join("etc/systemd/system/multi-user.target.wants/autofs.service")
            .is_symlink()
    );
    let annotations = world.annotations().await;
    assert_eq!(annotations["currentImage"], pull_spec(new));
    assert_eq!(annotations["lastAppliedDrain"], "uncordon-rendered-2");
    // The old deployment is as it was: going back is choosing it.
    let old = world.machine.other_root();
    assert_eq!(
        std::fs::read_to_string(old.join("etc/motd")).unwrap(),
        "one"
    );
    assert!(!old.join("etc/auto.master.d").exists());
    let events = world.events().await;
    assert_eq!(events[2..], ["AskedForDrain", "Rebooting", "Updated"]);
    // Asks for the drain; says that it reboots; says that it is there, and asks to be uncordoned.
    assert_eq!(
        world.writes(),
        ([NODE, STATUS, STATUS, NODE].map(str::to_owned).to_vec(), 3)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_before_the_reboot_comes_with_the_same_reboot() {
    let mut world = World::settled(&[]).await;
    let image = world.machine.booted_image();
    let with = |arguments: &[&str], motd: &str| {
        let mut spec = rendered(image, &[("/etc/motd", motd)], json!([]));
        spec["kernelArguments"] = json!(arguments);
        spec
    };
    world.config("rendered-2", with(&["quiet"], "two")).await;
    world
        .config("rendered-3", with(&["quiet", "nosmt"], "three"))
        .await;
    world.hold_drains(true);
    world.desire("rendered-2", None).await;
    let asks = |request: &'static str| {
        move |node: &Node| annotation(node, keys::DESIRED_DRAIN) == Some(request)
    };
    world.play("a drain", asks("drain-rendered-2")).await;
    world.desire("rendered-3", None).await;
    world.play("another", asks("drain-rendered-3")).await;
    world.hold_drains(false);
    world.until_done("rendered-3").await;
    assert_eq!(world.machine.reboots(), 1);
    assert_eq!(world.machine.read("/etc/motd"), "three");
    let booted = world.host().kernel_arguments().unwrap();
    assert_eq!(booted, ["quiet", "nosmt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_is_told_with_the_machine_config_that_asked_for_it() {
    let mut world = World::settled(&[]).await;
    let image = world.machine.booted_image();
    world
        .config("99-quiet", json!({"kernelArguments": ["quiet"]}))
        .await;
    let pool = json!({"configuration": {"name": "rendered-2", "source": [{"name": "99-quiet"}]}});
    let pool = MachineConfigPool::new("worker", serde_json::from_value(pool).unwrap());
    world
        .all()
        .create(&PostParams::default(), &pool)
        .await
        .unwrap();
    let mut spec = rendered(image, &[], json!([]));
    spec["kernelArguments"] = json!(["quiet"]);
    world.reach("rendered-2", spec, None).await;
    let told = from_annotation(&world.annotations().await["reboots"]).unwrap();
    assert_eq!(
        told[0].cause.to_string(),
        "update to `rendered-2` ← kernelArguments +quiet (MachineConfig `99-quiet`) ← MachineConfigPool `worker`"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_two_names_is_reloaded_once() {
    let mut world = World::settled(&[]).await;
    let image = world.machine.booted_image();
    let files = [("/etc/ssh/sshd_config.d/50-x.conf", "two")];
    world
        .reach("rendered-2", rendered(image, &files, json!([])), None)
        .await;
    assert_eq!(world.machine.jobs(), ["reload ssh.service"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_there_before_it_is_asked_for() {
    let mut world = World::joined().await;
    let new = world.machine.publish(layered());
    world.built(new).await;
    let machine = world.machine.clone();
    world
        .play("image prefetched", |_| machine.pulls() == 1)
        .await;
    assert_eq!(
        (
            world.machine.reboots(),
            world.annotations().await.contains_key("desiredDrain")
        ),
        (0, false)
    );
    world
        .reach(
            "rendered-1",
            rendered(world.machine.booted_image(), &[], json!([])),
            Some(new),
        )
        .await;
    assert_eq!(world.machine.pulls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_ahead_degrades_nobody() {
    let mut world = World::joined().await;
    world.built(oci::Digest::of(b"absent")).await;
    let image = world.machine.booted_image();
    world
        .config("rendered-1", rendered(image, &[], json!([])))
        .await;
    world.desire("rendered-1", None).await;
    let machine = world.machine.clone();
    world.play("tried to pull", |_| machine.pulls() >= 2).await;
    world.until_done("rendered-1").await;
    assert_eq!(world.condition("NodeDegraded").await, "False: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_even_be_read_is_said() {
    let mut world = World::joined().await;
    world.desire("rendered-nowhere", None).await;
    let reason = world.until_degraded().await;
    assert!(
        reason.starts_with("there is no MachineConfig `rendered-nowhere`"),
        "{reason}"
    );
    assert!(
        world
            .condition("NodeDegraded")
            .await
            .starts_with("True: there is no MachineConfig")
    );
    let image = world.machine.booted_image();
    let mut spec = rendered(image, &[("/etc/motd", "one")], json!([]));
    spec["config"]["storage"]["files"][0]["mode"] = json!("rw");
    world.config("rendered-1", spec).await;
    world.desire("rendered-1", None).await;
    world
        .play("told of the field", |node| {
            let all = node.metadata.annotations.clone().unwrap_or_default();
            all.values().any(|value| {
                value.contains(
                    "rendered config `rendered-1` cannot be used: `storage.files[0].mode`",
                )
            })
        })
        .await;
    world
        .reach(
            "rendered-2",
            rendered(image, &[("/etc/motd", "two")], json!([])),
            None,
        )
        .await;
    assert_eq!(world.condition("NodeDegraded").await, "False: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_disturbs_nothing_and_says_why() {
    let mut world = World::joined().await;
    let absent = oci::Digest::of(b"absent");
    world
        .config(
            "rendered-1",
            rendered(world.machine.booted_image(), &[], json!([])),
        )
        .await;
    world.desire("rendered-1", Some(absent)).await;
    let reason = world.until_degraded().await;
    assert_eq!(
        reason,
        format!("cannot pull `{}`: connection refused", pull_spec(absent))
    );
    assert!(
        !world.annotations().await.contains_key("desiredDrain"),
        "no drain before the image is there"
    );
    assert!(
        world
            .condition("NodeDegraded")
            .await
            .starts_with("True: cannot pull")
    );
    world.desire("rendered-1", None).await;
    world.until_done("rendered-1").await;
    assert_eq!(world.condition("NodeDegraded").await, "False: ");
    assert!(!world.annotations().await.contains_key("reason"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_exists_nowhere_is_named() {
    let mut world = World::new().await;
    world.registered().await;
    let units = json!([{"name": "nowhere.service", "enabled": true}]);
    world
        .config(
            "rendered-1",
            rendered(world.machine.booted_image(), &[], units),
        )
        .await;
    world.desire("rendered-1", None).await;
    let reason = world.until_degraded().await;
    assert!(
        reason.starts_with("unit `nowhere.service` of rendered config `rendered-1` is enabled but"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_never_was_well_is_taken_back_with_its_reason() {
    let mut world = World::settled(&[("/etc/motd", "one"), ("/var/shared", "one")]).await;
    let image = world.machine.booted_image();

    world.machine.break_unit("autofs.service");
    let new = world.machine.publish(layered());
    let units = json!([{"name": "autofs.service", "enabled": true}]);
    world
        .config(
            "rendered-2",
            rendered(image, &[("/var/shared", "two")], units),
        )
        .await;
    world.desire("rendered-2", Some(new)).await;
    let machine = world.machine.clone();
    world.play("rolled back", |_| machine.reboots() == 2).await;
    world
        .until_degraded_because(
            "was taken back: rendered config `rendered-2`: unit `autofs.service` failed",
        )
        .await;
    world
        .play("uncordoned", |node| {
            node.metadata
                .annotations
                .as_ref()
                .unwrap()
                .values()
                .any(|value| value == "uncordon-rendered-1")
        })
        .await;
    assert_eq!(world.machine.booted_image(), image);
    assert_eq!(
        (
            world.machine.read("/etc/motd").as_str(),
            world.machine.read("/var/shared").as_str()
        ),
        ("one", "one")
    );
    assert_eq!(world.annotations().await["currentConfig"], "rendered-1");
    assert_eq!(world.machine.reboots(), 2, "it is not tried again");

    // Something else may be tried.
    world
        .reach(
            "rendered-3",
            rendered(image, &[("/etc/motd", "three")], json!([])),
            None,
        )
        .await;
    assert_eq!(world.machine.reboots(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_leaves_the_config_becomes_what_it_was() {
    let mut world = World::new().await;
    world.registered().await;
    let image = world.machine.booted_image();
    let root = world.machine.root();
    std::fs::write(root.join("etc/motd"), "by hand").unwrap();
    std::fs::create_dir_all(root.join("var/lib")).unwrap();
    std::fs::write(root.join("var/lib/x"), "by hand").unwrap();
    let files = [
        ("/etc/motd", "ours"),
        ("/var/lib/x", "ours"),
        ("/etc/new/x", "ours"),
    ];
    world
        .config("rendered-1", rendered(image, &files, json!([])))
        .await;
    world
        .config("rendered-2", rendered(image, &[], json!([])))
        .await;
    world.desire("rendered-1", None).await;
    world.until_done("rendered-1").await;
    assert_eq!(files.map(|(path, _)| world.machine.read(path)), ["ours"; 3]);
    world.desire("rendered-2", None).await;
    world.until_done("rendered-2").await;
    assert_eq!(
        files.map(|(path, _)| world.machine.read(path)),
        ["by hand", "by hand", "entity not found"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_arguments_reboot_into_another_deployment_of_the_same_image() {
    let mut world = World::new().await;
    world.registered().await;
    let image = world.machine.booted_image();
    let mut spec = rendered(image, &[], json!([]));
    world.config("rendered-1", spec.clone()).await;
    spec["kernelArguments"] = json!(["audit=0", "audit=0"]);
    world.config("rendered-2", spec).await;
    world.desire("rendered-1", None).await;
    world.until_done("rendered-1").await;
    world.desire("rendered-2", None).await;
    world.until_done("rendered-2").await;
    assert_eq!(
        (world.machine.reboots(), world.machine.booted_image()),
        (1, image)
    );
    use crate::os::Os;
    assert_eq!(world.host().kernel_arguments().unwrap(), ["audit=0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_be_away_in_the_middle() {
    let mut world = World::new().await;
    world.registered().await;
    let image = world.machine.booted_image();
    let new = world.machine.publish(layered());
    world
        .config(
            "rendered-1",
            rendered(image, &[("/etc/motd", "one")], json!([])),
        )
        .await;
    world.desire("rendered-1", Some(new)).await;
    let machine = world.machine.clone();
    world.play("pulled", |_| machine.pulls() == 1).await;
    let server = world.swap_server(None);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    world.swap_server(server);
    world.until_done("rendered-1").await;
    assert_eq!(world.machine.reboots(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_changes_before_the_reboot_still_takes_one() {
    let mut world = World::new().await;
    world.registered().await;
    let image = world.machine.booted_image();
    let (first, second) = (world.machine.publish(layered()), {
        let mut other = layered();
        other.insert("/usr/bin/other", "");
        world.machine.publish(other)
    });
    world
        .config(
            "rendered-1",
            rendered(image, &[("/etc/first", "1")], json!([])),
        )
        .await;
    world
        .config(
            "rendered-2",
            rendered(image, &[("/etc/second", "2")], json!([])),
        )
        .await;
    world
        .machine
        .kill
        .at([(super::kill::Place::Before("reboot"), 0)]);
    world.desire("rendered-1", Some(first)).await;
    while !world.is_dead() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    world.desire("rendered-2", Some(second)).await;
    world.until_done("rendered-2").await;
    assert_eq!(
        (world.machine.reboots(), world.machine.booted_image()),
        (1, second)
    );
    assert_eq!(
        (
            world.machine.read("/etc/first").as_str(),
            world.machine.read("/etc/second").as_str()
        ),
        ("entity not found", "2")
    );
    assert_eq!(base().len(), 4);
}
