//! Claims of several builders on one build.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use model::api::{MachineOSBuild, MachineOSConfig};
use model::build_state::BuildState;
use model::keys;
use serde_json::json;

use super::world::World;
use crate::worker::claim::{Claimed, TERMS, claim};

async fn build(world: &World) -> MachineOSBuild {
    let spec = json!({
        "machineConfig": {"name": "rendered-worker-1"},
        "machineOSConfig": {"name": "worker"},
        "renderedImagePushSpec": "registry.test/os/image:worker-1",
    });
    let spec = serde_json::from_value(spec).unwrap();
    world.create(MachineOSBuild::new("worker-1", spec)).await
}

#[tokio::test]
async fn a_build_is_one_builders_until_its_claim_runs_out() {
    let world = World::without_loops();
    let build = build(&world).await;
    let claim = |identity| claim(&world.client, &build, identity, TERMS);
    assert!(matches!(claim("a").await.unwrap(), Claimed::Ours(_)));
    assert!(matches!(claim("b").await.unwrap(), Claimed::Others(_)));
    // The same builder after a restart does not wait for itself.
    assert!(matches!(claim("a").await.unwrap(), Claimed::Ours(_)));

    let leases: Api<Lease> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    let long_ago = MicroTime(Timestamp::now() - SignedDuration::from_secs(60));
    let silent = json!({"spec": {"renewTime": long_ago}});
    leases
        .patch("worker-1", &PatchParams::default(), &Patch::Merge(silent))
        .await
        .unwrap();
    let Claimed::Ours(taken_over) = claim("b").await.unwrap() else {
        panic!("a claim that ran out is free");
    };
    let lease = leases.get("worker-1").await.unwrap();
    let spec = lease.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("b"));
    assert_eq!(spec.lease_transitions, Some(2));
    assert!(matches!(claim("a").await.unwrap(), Claimed::Others(_)));
    taken_over.release("worker-1").await.unwrap();
    assert!(matches!(claim("a").await.unwrap(), Claimed::Ours(_)));
}

#[tokio::test]
async fn a_build_without_its_machine_os_config_is_interrupted() {
    let mut world = World::without_loops();
    build(&world).await;
    world.start();
    let stopped = world
        .until_build("interrupted", |state| {
            matches!(state, BuildState::Interrupted { .. })
        })
        .await;
    let BuildState::Interrupted { message } = BuildState::of(&stopped) else {
        unreachable!("just matched");
    };
    assert_eq!(message, "MachineOSConfig `worker` was removed");
    assert!(world.builder.requests().is_empty());
}

#[tokio::test]
async fn removing_a_build_cancels_it_and_it_is_made_anew() {
    let world = World::new().await;
    world.builder.hold();
    super::build::layered(&world, &[]).await;
    let building = |state: &BuildState| matches!(state, BuildState::Building { .. });
    let first = world.until_build("building", building).await;
    let name = first.metadata.name.clone().unwrap();
    world
        .all::<MachineOSBuild>()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    world.builder.let_go();
    let second = world.until_succeeded().await;
    assert_eq!(second.metadata.name, first.metadata.name);
    assert_ne!(second.metadata.uid, first.metadata.uid);
    let config: MachineOSConfig = world.get("worker").await;
    assert_eq!(config.status.unwrap().machine_os_build.unwrap().name, name);
}
