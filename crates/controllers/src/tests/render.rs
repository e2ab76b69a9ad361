//! The render loop.

use model::api::{MachineConfig, MachineConfigPool};
use model::condition::PoolConditionType::{Degraded, RenderDegraded};
use serde_json::json;

use super::world::{World, eventually, ignition};

#[tokio::test]
async fn a_pool_is_rendered_and_follows_its_configs() {
    let world = World::new().await;
    world
        .config("50-motd", "worker", ignition(&[("/etc/motd", "one")], &[]))
        .await;
    world.pool("worker", false).await;
    let first = rendered(&world, "worker", "").await;
    world
        .merge::<MachineConfig>(
            "50-motd",
            json!({"spec": ignition(&[("/etc/motd", "two")], &[])}),
        )
        .await;
    let second = rendered(&world, "worker", &first).await;
    eventually("the unused config is removed", || async {
        let all: Vec<MachineConfig> = world.list().await;
        let mut names: Vec<_> = all.into_iter().filter_map(|c| c.metadata.name).collect();
        names.sort();
        if names == ["50-motd".to_owned(), second.clone()] {
            Ok(())
        } else {
            Err(names)
        }
    })
    .await;
}

/// The pool's rendered config, once it is another than `before`.
async fn rendered(world: &World, pool: &str, before: &str) -> String {
    eventually("rendered", || async {
        let pool: MachineConfigPool = world.get(pool).await;
        let name = pool.spec.configuration.name;
        if name.is_empty() || name == before {
            Err(name)
        } else {
            Ok(name)
        }
    })
    .await
}

#[tokio::test]
async fn bad_ignition_is_named_and_the_last_good_config_stays() {
    let world = World::new().await;
    world
        .config("50-motd", "worker", ignition(&[("/etc/motd", "one")], &[]))
        .await;
    world.pool("worker", false).await;
    let good = rendered(&world, "worker", "").await;
    world
        .config("60-bad", "worker", ignition(&[("etc/motd", "x")], &[]))
        .await;
    let text = world
        .until_condition("worker", RenderDegraded, "True")
        .await;
    for part in ["`60-bad`", "path", &good] {
        assert!(text.contains(part), "{part} in {text}");
    }
    world.until_condition("worker", Degraded, "`60-bad`").await;
    let pool: MachineConfigPool = world.get("worker").await;
    assert_eq!(pool.spec.configuration.name, good);
    let events = world.events("worker").await;
    assert!(
        events.iter().any(|event| event.contains("`60-bad`")),
        "{events:?}"
    );

    world
        .merge::<MachineConfig>(
            "60-bad",
            json!({"spec": ignition(&[("/etc/issue", "x")], &[])}),
        )
        .await;
    world
        .until_condition("worker", RenderDegraded, "False")
        .await;
    world.until_condition("worker", Degraded, "False").await;
    assert_ne!(rendered(&world, "worker", &good).await, good);
}

#[tokio::test]
async fn a_pool_without_configs_says_what_to_label() {
    let world = World::new().await;
    world.pool("infra", false).await;
    let text = world
        .until_condition("infra", RenderDegraded, "True NoMachineConfigs")
        .await;
    assert!(
        text.contains("machineconfiguration.openshift.io/role"),
        "{text}"
    );
}

#[tokio::test]
async fn a_rendered_config_that_somebody_changes_is_restored() {
    let world = World::new().await;
    world
        .config("50-motd", "worker", ignition(&[("/etc/motd", "one")], &[]))
        .await;
    world.pool("worker", false).await;
    let name = rendered(&world, "worker", "").await;
    let good: MachineConfig = world.get(&name).await;
    world
        .merge::<MachineConfig>(&name, json!({"spec": {"kernelArguments": ["evil"]}}))
        .await;
    eventually("restored", || async {
        let seen: MachineConfig = world.get(&name).await;
        if seen.spec == good.spec {
            Ok(())
        } else {
            Err(seen.spec)
        }
    })
    .await;
}
