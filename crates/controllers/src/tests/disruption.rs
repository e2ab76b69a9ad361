//! The disruption loop.

use model::api::{CLUSTER, MachineConfiguration};
use model::update::Policy;
use serde_json::json;

use super::world::{World, eventually};

/// The status, once it is of this generation.
async fn in_force(world: &World, generation: i64) -> Policy {
    eventually("the policy is in force", || async {
        let object: MachineConfiguration = world.get(CLUSTER).await;
        let status = object.status.unwrap_or_default();
        match (
            status.observed_generation,
            status.node_disruption_policy_status,
        ) {
            (Some(seen), Some(policy)) if seen == generation => {
                Ok(Policy::in_force(&policy.cluster_policies))
            }
            other => Err(other),
        }
    })
    .await
}

#[tokio::test]
async fn the_status_has_the_defaults_with_the_spec_over_them() {
    let world = World::new().await;
    let object = MachineConfiguration::new(CLUSTER, serde_json::from_value(json!({})).unwrap());
    world.create(object).await;
    assert_eq!(in_force(&world, 1).await, Policy::default());
    let policy = json!({"files": [{"path": "/etc/containers", "actions": [{"type": "Drain"}]}]});
    let change = json!({"spec": {"nodeDisruptionPolicy": policy}});
    world.merge::<MachineConfiguration>(CLUSTER, change).await;
    let user = serde_json::from_value(policy).unwrap();
    assert_eq!(in_force(&world, 2).await, Policy::of(&user));
}

#[tokio::test]
async fn a_policy_that_contradicts_itself_is_refused_with_the_field() {
    let world = World::without_loops();
    let refuse = |name: &'static str, spec: serde_json::Value| {
        let world = &world;
        async move {
            let object = MachineConfiguration::new(name, serde_json::from_value(spec).unwrap());
            let api = world.all::<MachineConfiguration>();
            let created = api.create(&kube::api::PostParams::default(), &object).await;
            created.unwrap_err().to_string()
        }
    };
    let file = |actions: serde_json::Value| json!({"nodeDisruptionPolicy": {"files": [{"path": "/etc/x", "actions": actions}]}});
    let crio = json!({"serviceName": "crio.service"});
    for (name, spec, expected) in [
        ("other", json!({}), "its name is `cluster`"),
        (CLUSTER, file(json!([])), "expected at least one action"),
        (
            CLUSTER,
            file(json!([{"type": "Reboot"}, {"type": "Drain"}])),
            "standalone",
        ),
        (
            CLUSTER,
            file(json!([{"type": "None"}, {"type": "Drain"}])),
            "standalone",
        ),
        (
            CLUSTER,
            file(json!([{"type": "Restart"}])),
            "restart is required",
        ),
        (
            CLUSTER,
            file(json!([{"type": "Drain", "reload": crio}])),
            "reload is required",
        ),
        (
            CLUSTER,
            file(json!([{"type": "Reload", "reload": {"serviceName": "crio"}}])),
            "Invalid",
        ),
        (
            CLUSTER,
            json!({"nodeDisruptionPolicy": {"files": [{"path": "etc", "actions": [{"type": "Drain"}]}]}}),
            "absolute path",
        ),
    ] {
        let said = refuse(name, spec).await;
        assert!(said.contains(expected), "{said}");
    }
    let good = json!({"nodeDisruptionPolicy": {
        "units": [{"name": "getty@tty1.service", "actions": [{"type": "Reload", "reload": crio}]}],
        "sshkey": {"actions": [{"type": "Drain"}]},
    }});
    world
        .create(MachineConfiguration::new(
            CLUSTER,
            serde_json::from_value(good).unwrap(),
        ))
        .await;
}
