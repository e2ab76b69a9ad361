//! Several builders, and several builds at one.

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::Api;
use model::api::MachineOSBuild;
use model::build_state::BuildState;
use model::keys;
use serde_json::json;

use super::fake::FakeBuilder;
use super::world::{BASE, World, eventually, ignition};

/// Pools with an image each.
async fn pools(world: &World, names: &[&str]) {
    for name in names {
        let mut spec = ignition(&[("/etc/motd", name)], &[]);
        spec["osImageURL"] = json!(BASE);
        world.config(&format!("50-{name}"), name, spec).await;
        world.pool(name, true).await;
        world
            .os_config(name, &format!("FROM configs AS final\nRUN echo {name}"))
            .await;
    }
}

async fn holder(world: &World, build: &MachineOSBuild) -> (Option<String>, Option<i32>) {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    let lease = leases.get(&build.name_any()).await.unwrap();
    let spec = lease.spec.unwrap();
    (spec.holder_identity, spec.lease_transitions)
}

#[tokio::test]
async fn a_builder_that_stops_hands_its_build_to_another_at_once() {
    let mut world = World::without_loops();
    world.start_controllers();
    let (first, second) = (FakeBuilder::default(), FakeBuilder::default());
    first.hold();
    second.hold();
    pools(&world, &["worker"]).await;
    let (stop, running) = world.start_builder("a", &first, 1);
    first.until_asked(1).await;
    let build = world.builds().await.remove(0);
    let (other, other_running) = world.start_builder("b", &second, 1);
    stop.cancel();
    running.await.unwrap();
    second.until_asked(1).await;
    // The claim was given back: it was made anew, not taken over when it had run out.
    assert_eq!(
        holder(&world, &build).await,
        (Some("b".to_owned()), Some(0))
    );
    second.let_go();
    let done = world.until_succeeded().await;
    assert_eq!(done.uid(), build.uid());
    assert_eq!((first.pushed().len(), second.pushed().len()), (0, 1));
    other.cancel();
    other_running.await.unwrap();
}

#[tokio::test]
async fn two_builders_share_the_work_and_never_a_build() {
    let mut world = World::without_loops();
    world.start_controllers();
    let builders = [FakeBuilder::default(), FakeBuilder::default()];
    let running: Vec<_> = builders
        .iter()
        .zip(["a", "b"])
        .map(|(builder, name)| world.start_builder(name, builder, 2))
        .collect();
    let names = ["one", "two", "three", "four", "five", "six"];
    pools(&world, &names).await;
    eventually("all are built", || async {
        let builds = world.builds().await;
        let done =
            |build: &&MachineOSBuild| matches!(BuildState::of(build), BuildState::Succeeded { .. });
        match builds.iter().filter(done).count() {
            done if done == names.len() => Ok(()),
            done => Err(done),
        }
    })
    .await;
    let asked: usize = builders
        .iter()
        .map(|builder| builder.requests().len())
        .sum();
    assert_eq!(asked, names.len());
    for (stop, running) in running {
        stop.cancel();
        running.await.unwrap();
    }
}

#[tokio::test]
async fn a_builder_builds_as_many_at_once_as_it_may() {
    let mut world = World::without_loops();
    world.start_controllers();
    let builder = FakeBuilder::default();
    builder.hold();
    let (stop, running) = world.start_builder("a", &builder, 2);
    pools(&world, &["one", "two", "three"]).await;
    builder.until_asked(2).await;
    let building =
        |build: &MachineOSBuild| matches!(BuildState::of(build), BuildState::Building { .. });
    eventually("two are building and one waits", || async {
        let builds = world.builds().await;
        match (
            builds.iter().filter(|build| building(build)).count(),
            builds.len(),
        ) {
            (2, 3) => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    assert_eq!(builder.requests().len(), 2);
    builder.let_go();
    builder.until_asked(3).await;
    stop.cancel();
    running.await.unwrap();
}
