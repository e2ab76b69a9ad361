//! What happens to a node that is not well after an update.

use serde_json::json;

use super::world::{World, layered, rendered};

/// A node at `rendered-1` whose pool has a policy, told to go to a new image with `rendered-2`.
async fn on_its_way(policy: serde_json::Value) -> World {
    let mut world = World::joined().await;
    world.policy(policy).await;
    let image = world.machine.booted_image();
    world
        .settle(&[("/etc/motd", "one"), ("/var/shared", "one")], json!([]))
        .await;
    let new = world.machine.publish(layered());
    world
        .config(
            "rendered-2",
            rendered(image, &[("/etc/motd", "two")], json!([])),
        )
        .await;
    world.desire("rendered-2", Some(new)).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_fails_takes_the_deployment_back_with_its_reason() {
    let motd = json!({"name": "motd", "file": {"path": "/etc/motd", "contains": "one"}});
    let mut world = on_its_way(json!({"health": {"deadline": "2s", "probes": [motd]}})).await;
    let machine = world.machine.clone();
    world.play("rolled back", |_| machine.reboots() == 2).await;
    world
        .until_degraded_because(
            "was taken back: rendered config `rendered-2`: probe `motd`: `/etc/motd` does not contain its text, 2 seconds after",
        )
        .await;
    assert_eq!(world.machine.read("/etc/motd"), "one");
    let annotations = world.annotations().await;
    assert_eq!(annotations["currentConfig"], "rendered-1");
    assert_eq!(
        annotations["desiredConfig"], "rendered-2",
        "the slot is kept"
    );
    let reboots = reboots(&world).await;
    let update = "update to `rendered-2` with image `";
    assert_eq!(reboots.len(), 2, "{reboots:?}");
    assert!(
        reboots[0].starts_with("back from `rendered-2`") && reboots[0].contains("probe `motd`"),
        "{reboots:?}"
    );
    assert!(
        reboots[1].starts_with(update) && reboots[1].ends_with(" ← MachineConfigPool `worker`"),
        "{reboots:?}"
    );
    // What mends the probe is another target.
    let image = world.machine.booted_image();
    world
        .reach(
            "rendered-3",
            rendered(image, &[("/etc/motd", "one more")], json!([])),
            None,
        )
        .await;
}

/// Why the node rebooted, the newest first, as the API shows it.
async fn reboots(world: &World) -> Vec<String> {
    let shown = model::ledger::from_annotation(&world.annotations().await["reboots"]).unwrap();
    let causes = shown.into_iter().map(|reboot| reboot.cause.to_string());
    causes.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_that_nobody_asked_for_is_told_as_such() {
    let mut world = on_its_way(json!({})).await;
    world.until_done("rendered-2").await;
    world.kill().await;
    world.machine.boot();
    world.start();
    world
        .play("told of two reboots", |node| {
            let shown = model::node::annotation(node, model::keys::REBOOTS);
            shown.is_some_and(|shown| model::ledger::from_annotation(shown).unwrap().len() == 2)
        })
        .await;
    let reboots = reboots(&world).await;
    assert_eq!(reboots[0], "not asked for by Caprock");
    world.until_done("rendered-2").await;
    assert_eq!(world.machine.reboots(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_read_is_named_and_takes_nothing_back() {
    let mut world = on_its_way(json!({"health": {"deadline": "4s"}})).await;
    world.until_done("rendered-2").await;
    // As a server holds it that knows no rules.
    let both = json!({"name": "p", "file": {"path": "/x"}, "mount": {"path": "/x"}});
    let policy = json!({"metadata": {"name": "worker"}, "spec": {"pools": [], "health": {"probes": [both]}}});
    let policy: model::api::RolloutPolicy = serde_json::from_value(policy).unwrap();
    world.own().state().set_policy(Some(&policy)).unwrap();
    let image = world.machine.booted_image();
    world
        .config(
            "rendered-3",
            rendered(image, &[("/etc/motd", "three")], json!([])),
        )
        .await;
    world.desire("rendered-3", Some(image)).await;
    let reason = world.until_degraded().await;
    assert!(
        reason.starts_with(
            "RolloutPolicy `worker`: `spec.health.probes[0]`: expected exactly one of"
        ),
        "{reason}"
    );
    world.policy(json!({"drift": "Report"})).await;
    world.until_done("rendered-3").await;
    assert_eq!(world.machine.reboots(), 1);
}

/// Plays until the machine asks for its reboot, and boots it without its agent.
async fn booted_without_agent(world: &mut World) {
    while world.own().state().trial().unwrap().is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    world.machine.reboot.notified().await;
    world.kill().await;
    world.machine.boot();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_whose_agent_never_starts_is_taken_back_by_the_watch() {
    let mut world = on_its_way(json!({"health": {"deadline": "3m"}})).await;
    booted_without_agent(&mut world).await;
    let host = world.own();
    let trial = host.state().trial().unwrap().unwrap();
    assert_eq!((trial.boots, trial.limit, trial.deadline), (0, 3, 780));
    // The deployment's own early boot still works; its agent does not. Then the watch has its way.
    host.complete_boot().unwrap();
    let mut counted = trial.clone();
    counted.boots = 4;
    host.state().set_trial(&counted).unwrap();
    let sight = host.look().unwrap();
    assert!(
        host.choose_previous(&sight, "it was booted 3 times and never found well")
            .unwrap()
    );
    // Twice does no harm.
    let sight = host.look().unwrap();
    assert!(
        host.choose_previous(&sight, "it was booted 3 times and never found well")
            .unwrap()
    );
    world.machine.boot();
    world.start();
    let reason = world.until_degraded().await;
    assert!(
        reason.ends_with("was taken back: it was booted 3 times and never found well"),
        "{reason}"
    );
    assert_eq!(world.machine.read("/etc/motd"), "one");
    assert_eq!(world.own().state().trial().unwrap(), None);
    let sight = world.own().look().unwrap();
    assert!(
        !world.own().choose_previous(&sight, "again").unwrap(),
        "it is the way back already"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hosts_own_tools_took_back_is_told_too() {
    use crate::os::Os;
    let mut world = on_its_way(json!({})).await;
    booted_without_agent(&mut world).await;
    let host = world.own();
    let mut trial = host.state().trial().unwrap().unwrap();
    trial.boots = 4;
    host.state().set_trial(&trial).unwrap();
    let note = world.machine.state_dir().join("taken-back");
    std::fs::write(
        note,
        "it was not found well within 720 seconds of its boot\n",
    )
    .unwrap();
    world.machine.host().rollback().unwrap();
    world.machine.boot();
    world.start();
    let reason = world.until_degraded().await;
    assert!(
        reason.ends_with("was taken back: it was not found well within 720 seconds of its boot"),
        "{reason}"
    );
    assert_eq!(world.machine.read("/var/shared"), "one");
    assert_eq!(world.machine.reboots(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_was_well_once_is_never_left() {
    let mut world = on_its_way(json!({})).await;
    world.until_done("rendered-2").await;
    assert_eq!(world.own().state().trial().unwrap(), None);
    let sight = world.own().look().unwrap();
    assert!(!world.own().choose_previous(&sight, "whim").unwrap());
}
