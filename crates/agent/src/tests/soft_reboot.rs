//! Updates in which the kernel stays.

use serde_json::json;

use super::fake::Soft;
use super::kill::Place;
use super::world::{World, layered, rendered};

/// Sends a node of a machine to a layered image.
async fn updated(soft: Soft, kills: &[(Place, u32)]) -> World {
    let mut world = World::settled(&[("/etc/motd", "one")]).await;
    *world.machine.soft.lock().unwrap() = soft;
    world.machine.kill.at(kills.iter().copied());
    to_layered(&mut world, "rendered-2", json!([])).await;
    world
}

async fn to_layered(world: &mut World, name: &str, arguments: serde_json::Value) {
    let image = world.machine.booted_image();
    let new = world.machine.publish(layered());
    let units = json!([{"name": "autofs.service", "enabled": true}]);
    let mut spec = rendered(
        image,
        &[("/etc/motd", "two"), ("/var/shared", "two")],
        units,
    );
    spec["kernelArguments"] = arguments;
    world.reach(name, spec, Some(new)).await;
    assert_eq!(world.machine.booted_image(), new);
    assert_eq!(world.machine.read("/etc/motd"), "two");
    assert_eq!(world.machine.read("/var/shared"), "two");
}

/// Reboots of both kinds, and how the ledger has them.
fn reboots(world: &World) -> (u32, u32, Vec<bool>) {
    let noted = world.own().state().reboots().unwrap();
    for reboot in &noted {
        let cause = reboot.cause.to_string();
        assert!(cause.starts_with("update to "), "{cause}");
    }
    (
        world.machine.reboots(),
        world.machine.soft_reboots(),
        noted.iter().map(|reboot| reboot.soft).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_the_same_kernel_takes_a_soft_reboot() {
    let mut world = updated(Soft::Done, &[]).await;
    assert_eq!(reboots(&world), (1, 1, vec![true]));
    let host = world.own();
    assert_eq!(host.state().journal().unwrap(), None);
    assert_eq!(host.state().trial().unwrap(), None, "it was found well");
    assert!(host.look().unwrap().verified());
    let events = world.events().await;
    assert!(events.ends_with(&["Rebooting".into(), "Updated".into()]));
    // A kernel argument takes a reboot, and what comes after it is judged anew.
    to_layered(&mut world, "rendered-3", json!(["audit=0"])).await;
    assert_eq!(reboots(&world), (2, 1, vec![true, false]));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_be_or_may_not_be_the_node_reboots() {
    for soft in [Soft::Unknown, Soft::Unprepared, Soft::Refused] {
        let world = updated(soft, &[]).await;
        assert_eq!(reboots(&world), (1, 0, vec![false]), "{soft:?}");
    }
    let mut world = World::settled(&[("/etc/motd", "one")]).await;
    *world.machine.soft.lock().unwrap() = Soft::Done;
    world.policy(json!({"softReboot": "Never"})).await;
    let host = world.own();
    world
        .play("the policy is known", |_| {
            host.state().policy().unwrap().is_some()
        })
        .await;
    to_layered(&mut world, "rendered-2", json!([])).await;
    assert_eq!(reboots(&world), (1, 0, vec![false]));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_a_soft_reboot() {
    let places = [
        (Place::Before("command"), 0),
        (Place::Before("soft reboot"), 0),
        (Place::After("reboot"), 0),
    ];
    let world = updated(Soft::Done, &places).await;
    assert!(world.machine.kill.deaths() >= 2);
    assert_eq!(reboots(&world), (1, 1, vec![true]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_well_after_a_soft_reboot_is_taken_back_by_a_reboot() {
    let mut world = World::settled(&[("/etc/motd", "one")]).await;
    *world.machine.soft.lock().unwrap() = Soft::Done;
    let image = world.machine.booted_image();
    world.until_taken_back().await;
    let machine = &world.machine;
    assert_eq!((machine.booted_image(), machine.soft_reboots()), (image, 1));
}
