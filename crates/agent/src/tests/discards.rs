//! A node whose target goes back before it rebooted: what was to boot goes, and the node is in service as it was.

use model::keys;
use model::node::annotation;
use serde_json::json;

use super::kill::Place;
use super::world::{World, layered, rendered};

/// Sends the node to a layered image, lets its agent die at a place, and sends the node back.
async fn turned_back(stages: bool, died: Place) {
    let mut world = World::settled(&[("/etc/motd", "one")]).await;
    if stages {
        world.machine.stage();
    }
    let image = world.machine.booted_image();
    let new = world.machine.publish(layered());
    let mut spec = rendered(image, &[("/etc/motd", "two")], json!([]));
    spec["kernelArguments"] = json!(["audit=0"]);
    world.config("rendered-2", spec).await;
    world.machine.kill.at([(died, 0)]);
    world.desire("rendered-2", Some(new)).await;
    world.until_dead().await;
    let machine = world.machine.clone();
    assert_eq!(machine.deployments(), 2, "{died:?}");

    world.desire("rendered-1", None).await;
    world.until_done("rendered-1").await;
    assert_eq!((machine.reboots(), machine.deployments()), (0, 1));
    assert_eq!(machine.read("/etc/motd"), "one");
    assert_eq!(
        world.annotations().await["lastAppliedDrain"],
        "uncordon-rendered-1"
    );
    let host = world.own();
    let state = host.state();
    assert_eq!(
        (state.journal().unwrap(), state.trial().unwrap()),
        (None, None)
    );
    assert_eq!(state.all_staged().unwrap(), []);

    // A reboot of somebody else finds what ran before, and is theirs.
    world.kill().await;
    machine.boot();
    world.start();
    world
        .play("the reboot is noted", |_| {
            !state.reboots().unwrap().is_empty()
        })
        .await;
    assert_eq!(machine.booted_image(), image);
    let reboots = state.reboots().unwrap();
    let causes: Vec<String> = reboots.iter().map(|r| r.cause.to_string()).collect();
    assert_eq!(causes, ["not asked for by Caprock"]);

    // The way there is open again.
    world.desire("rendered-2", Some(new)).await;
    world.until_done("rendered-2").await;
    assert_eq!((machine.booted_image(), machine.reboots()), (new, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_to_boot_goes_when_the_target_goes_back() {
    for stages in [false, true] {
        turned_back(stages, Place::Before("reboot")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_made_goes_when_the_target_goes_back() {
    for stages in [false, true] {
        turned_back(stages, Place::After("deploy")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_target_is_gone_is_given_back_and_waits() {
    let mut world = World::settled(&[("/etc/motd", "one")]).await;
    // It was drained when it was told, and its pool went before it could look.
    let drained = "drain-rendered-2";
    let told = json!({
        keys::DESIRED_CONFIG: "rendered-2", keys::DESIRED_DRAIN: drained, keys::LAST_APPLIED_DRAIN: drained,
    });
    world
        .change_node(json!({"metadata": {"annotations": told}, "spec": {"unschedulable": true}}))
        .await;
    let reason = world.until_degraded().await;
    assert!(reason.contains("no MachineConfig `rendered-2`"), "{reason}");
    let node = world
        .play("it is uncordoned", |node| {
            annotation(node, keys::LAST_APPLIED_DRAIN) == Some("uncordon-rendered-1")
        })
        .await;
    assert_ne!(node.spec.unwrap_or_default().unschedulable, Some(true));
    assert_eq!(world.machine.read("/etc/motd"), "one");
    // One that is made again is gone to by itself.
    let image = world.machine.booted_image();
    let two = rendered(image, &[("/etc/motd", "two")], json!([]));
    world.config("rendered-2", two).await;
    world.until_done("rendered-2").await;
    assert_eq!(world.machine.read("/etc/motd"), "two");
}
