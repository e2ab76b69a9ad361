//! What becomes of things that somebody else changed.

use serde_json::json;

use super::world::World;

/// A settled node with a file of ours.
async fn settled(policy: serde_json::Value) -> World {
    let mut world = World::joined().await;
    world.policy(policy).await;
    let units = json!([{"name": "a.service", "contents": "[Service]\nExecStart=/bin/true\n"}]);
    world.settle(&[("/etc/motd", "one")], units).await;
    world
}

async fn until_event(world: &World, reason: &str) {
    let told = async {
        while !world.events().await.iter().any(|event| event == reason) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let deadline = std::time::Duration::from_secs(120);
    tokio::time::timeout(deadline, told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_reported_until_it_is_gone() {
    let mut world = settled(json!({})).await;
    world.machine.edit("/etc/motd", "two");
    let reason = world.until_degraded().await;
    let expected =
        "not as rendered config `rendered-1` says: `/etc/motd` has other content: `-one` `+two`";
    assert_eq!(reason, expected);
    assert_eq!(
        world.condition("NodeDegraded").await,
        format!("True: {expected}")
    );
    assert_eq!(
        world.condition("Updated").await,
        "True: the node runs `rendered-1`"
    );
    assert_eq!(
        world.machine.read("/etc/motd"),
        "two",
        "nothing is put back"
    );
    until_event(&world, "ConfigDriftDetected").await;
    world.machine.edit("/etc/motd", "one");
    world.until_done("rendered-1").await;
    assert_eq!(world.condition("NodeDegraded").await, "False: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_found_after_a_restart_too() {
    let mut world = settled(json!({})).await;
    world.kill().await;
    std::fs::remove_file(world.machine.root().join("etc/motd")).unwrap();
    world.machine.boot();
    world.start();
    let reason = world.until_degraded().await;
    assert!(reason.ends_with("`/etc/motd` is gone"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_healed_where_the_policy_says_so() {
    let mut world = settled(json!({"drift": "Heal"})).await;
    world.machine.edit("/etc/motd", "two");
    world
        .machine
        .edit("/etc/systemd/system/a.service", "[Service]\n");
    let machine = world.machine.clone();
    world
        .play("healed", |_| {
            machine.read("/etc/motd") == "one"
                && machine
                    .read("/etc/systemd/system/a.service")
                    .contains("ExecStart")
                && machine.jobs().contains(&"daemon-reload".to_owned())
        })
        .await;
    world.until_done("rendered-1").await;
    until_event(&world, "ConfigDriftHealed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_fought_over_a_file() {
    let mut world = settled(json!({"drift": "Heal"})).await;
    let machine = world.machine.clone();
    // Somebody puts his own back at once, each time.
    let node = world
        .play("given up", |node| {
            if machine.read("/etc/motd") == "one" {
                machine.edit("/etc/motd", "mine");
            }
            let reason = model::node::annotation(node, model::keys::REASON).unwrap_or_default();
            reason.starts_with("something keeps changing what Caprock puts back")
        })
        .await;
    let reason = model::node::annotation(&node, model::keys::REASON).unwrap_or_default();
    assert!(
        reason.ends_with("`/etc/motd` has other content: `-one` `+mine`"),
        "{reason}"
    );
}
