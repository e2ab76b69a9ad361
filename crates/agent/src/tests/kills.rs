//! SIGKILL at every step: one reboot, whole files, the right end.

use proptest::prelude::*;
use serde_json::json;

use super::kill::Place;
use super::world::{World, layered, rendered};

/// A live update and then one with a reboot, killed at these places.
async fn journey(kills: Vec<(Place, u32)>) -> World {
    journey_of(World::new().await, kills).await
}

async fn journey_of(mut world: World, kills: Vec<(Place, u32)>) -> World {
    world.machine.kill.at(kills);
    world.registered().await;
    world.progress_object().await;
    let image = world.machine.booted_image();
    let units = json!([{"name": "sshd.service", "enabled": true}]);
    world
        .settle(&[("/etc/motd", "one"), ("/var/shared", "one")], units)
        .await;
    let new = world.machine.publish(layered());
    let units = json!([{"name": "sshd.service", "enabled": true}, {"name": "autofs.service", "enabled": true}]);
    let files = [("/etc/auto.misc", "two"), ("/var/shared", "two")];
    world
        .reach("rendered-2", rendered(image, &files, units), Some(new))
        .await;
    assert_eq!(world.machine.booted_image(), new);
    assert_eq!(world.machine.reboots(), 1, "one reboot");
    let read = |path| world.machine.read(path);
    assert_eq!(
        [read("/etc/auto.misc"), read("/var/shared")],
        ["two", "two"]
    );
    assert_eq!(read("/etc/motd"), "from the base image\n");
    let links = world
        .machine
        .root()
        .join("etc/systemd/system/multi-user.target.wants");
    assert!(links.join("autofs.service").is_symlink() && links.join("sshd.service").is_symlink());
    let old = world.machine.other_root();
    assert_eq!(
        std::fs::read_to_string(old.join("etc/motd")).unwrap(),
        "one",
        "the old deployment is untouched"
    );
    assert_eq!(
        world.annotations().await["lastAppliedDrain"],
        "uncordon-rendered-2"
    );
    world
}

/// A host that makes deployments at shutdown.
async fn staging() -> World {
    let world = World::new().await;
    world.machine.stage();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_once_at_every_kind_of_step() {
    killed_everywhere(journey(Vec::new()).await, World::new().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_once_at_every_kind_of_step_on_a_host_that_stages() {
    let calm = journey_of(staging().await, Vec::new()).await;
    killed_everywhere(calm, staging().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_leaves_out_the_configuration_is_made_good_in_the_boot() {
    let world = staging().await;
    world.machine.skip_finalize();
    let world = journey_of(world, Vec::new()).await;
    let jobs = world.machine.jobs();
    assert!(
        jobs.contains(&"start default.target".to_owned()),
        "{jobs:?}"
    );
}

async fn killed_everywhere(calm: World, world: World) {
    let places: Vec<(Place, u32)> = calm
        .machine
        .kill
        .seen()
        .into_iter()
        .filter(|(_, times)| *times == 0)
        .collect();
    assert!(places.len() > 10, "{places:?}");
    let wanted = u32::try_from(places.len()).unwrap();
    let mut world = journey_of(world, places).await;
    // The last places are passed after the node says that it has arrived.
    let machine = world.machine.clone();
    world
        .play("dead everywhere", |_| machine.kill.deaths() == wanted)
        .await;
    world.until_done("rendered-2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_on_the_way_back() {
    let mut world = World::new().await;
    world.machine.kill.at([
        (Place::Before("rollback"), 0),
        (Place::After("rollback"), 0),
        (Place::Before("reboot"), 1),
        (Place::After("reboot"), 1),
    ]);
    world.registered().await;
    let image = world.machine.booted_image();
    world.settle(&[("/etc/motd", "one")], json!([])).await;
    world.until_taken_back().await;
    assert_eq!(
        (world.machine.booted_image(), world.machine.reboots()),
        (image, 2)
    );
    assert_eq!(world.machine.read("/etc/motd"), "one");
    let deaths = world.machine.kill.deaths();
    assert!(deaths >= 3, "{deaths}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn killed_anywhere(kills in proptest::collection::vec((0..16_usize, 0..12_u32), 1..6)) {
        let places = [
            Place::Before("status"), Place::Before("pull"), Place::After("pull"), Place::Before("deploy"),
            Place::After("deploy"), Place::Before("reboot"), Place::After("reboot"), Place::Before("unit"),
            Place::Before("daemon-reload"), Place::Before("job"), Place::After("job"), Place::Before("cleanup"),
        ];
        let kills = kills.into_iter().map(|(place, times)| match places.get(place) {
            Some(place) => (*place, times % 2),
            // Looking at the deployments is the commonest call: between any two others there is one.
            None => (Place::Before("status"), times * 3),
        });
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(journey(kills.collect()));
    }
}
