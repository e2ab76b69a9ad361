//! A node that the Machine Config Operator has configured, and that Caprock takes over.

use std::fs;

use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use model::keys;
use model::node::annotation;
use oci::Digest;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::world::{NODE, SERVICE, World, rendered};
use crate::Acts;

const CONFIG: &str = "rendered-worker-0123456789abcdef0123456789abcdef";

/// What a cluster's own operator gives a node: text of its units, registries that decide about drains, and what only an
/// image or the installer can give.
fn theirs(image: Digest) -> Value {
    let files = [
        ("/etc/motd", "theirs"),
        ("/etc/chrony.conf", "server ntp"),
        (
            "/etc/containers/registries.conf",
            "unqualified-search-registries = ['r.test']%0A",
        ),
        ("/var/shared", "theirs"),
    ];
    let units = json!([{"name": "kubelet.service", "enabled": true, "contents": SERVICE}]);
    let mut spec = rendered(image, &files, units);
    spec["extensions"] = json!(["usbguard"]);
    spec["kernelType"] = json!("realtime");
    spec["fips"] = json!(true);
    spec
}

/// The node as the operator leaves it: configured, and telling so.
async fn node(image: Option<Digest>) -> World {
    let world = World::new().await;
    let root = world.machine.root();
    for (path, text) in [
        ("etc/motd", "theirs"),
        ("etc/chrony.conf", "server ntp"),
        (
            "etc/containers/registries.conf",
            "unqualified-search-registries = ['r.test']\n",
        ),
        ("var/shared", "theirs"),
        ("etc/systemd/system/kubelet.service", SERVICE),
        // What the image brings and the installer had changed.
        (
            "etc/machine-config-daemon/orig/etc/motd.mcdorig",
            "by the installer",
        ),
    ] {
        let place = root.join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    std::os::unix::fs::symlink(
        "/etc/systemd/system/kubelet.service",
        wants.join("kubelet.service"),
    )
    .unwrap();
    let image = image.unwrap_or_else(|| world.machine.booted_image());
    world.config(CONFIG, theirs(image)).await;
    let done = format!("uncordon-{CONFIG}");
    let object = json!({"metadata": {"name": NODE, "annotations": {
        keys::CURRENT_CONFIG: CONFIG, keys::DESIRED_CONFIG: CONFIG,
        keys::DESIRED_DRAIN: done, keys::LAST_APPLIED_DRAIN: done,
        keys::STATE: "Done", keys::REASON: "",
    }}});
    let object: Node = serde_json::from_value(object).unwrap();
    world
        .all::<Node>()
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
    world.progress_object().await;
    world
}

async fn until_taken_over(world: &mut World) {
    world
        .play("the node is taken over", |node| {
            let says = |key| annotation(node, key);
            says(keys::VERSION).is_some() && says(keys::STATE) == Some("Done")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_taken_over_is_not_touched() {
    let mut world = node(None).await;
    world.start();
    until_taken_over(&mut world).await;
    let image = world.machine.booted_image();
    // The same content under Caprock's name.
    world.reach("rendered-2", theirs(image), None).await;
    assert_eq!(world.machine.jobs(), Vec::<String>::new());
    assert_eq!((world.machine.reboots(), world.machine.pulls()), (0, 0));
    let annotations = world.annotations().await;
    assert!(
        annotations["desiredDrain"].starts_with("uncordon-"),
        "{annotations:?}"
    );
    let node = world.all::<Node>().get(NODE).await.unwrap();
    assert_ne!(node.spec.unwrap_or_default().unschedulable, Some(true));

    // What leaves the configuration goes the way in which its operator would have let it go.
    let mut less = rendered(image, &[], json!([]));
    for field in ["extensions", "kernelType", "fips"] {
        less[field] = theirs(image)[field].clone();
    }
    world.reach("rendered-3", less, None).await;
    let left =
        ["/etc/motd", "/etc/chrony.conf", "/var/shared"].map(|path| world.machine.read(path));
    assert_eq!(
        left,
        ["by the installer", "entity not found", "entity not found"]
    );
    assert_eq!(world.machine.reboots(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_operator_had_not_kept_is_drift_and_reboots_nothing() {
    let mut world = node(None).await;
    fs::write(world.machine.root().join("etc/chrony.conf"), "by hand").unwrap();
    world.start();
    let reason = world.until_degraded().await;
    assert!(reason.contains("/etc/chrony.conf"), "{reason}");
    assert_eq!(world.machine.jobs(), Vec::<String>::new());
    assert_eq!(world.machine.reboots(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_runs_another_image_than_it_says_is_left_alone() {
    let mut world = node(Some(Digest::of(b"another"))).await;
    world.start();
    let reason = world.until_degraded().await;
    assert!(reason.contains("currentConfig"), "{reason}");
    world.kill().await;
    world.start();
    world.until_degraded().await;
    assert_eq!((world.machine.reboots(), world.machine.pulls()), (0, 0));
    assert!(!world.annotations().await.contains_key("version"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_that_an_image_was_chosen_from_is_no_other_image() {
    let list = Digest::of(b"an image for each architecture");
    for (said, told) in [(Some(list), list), (None, list)] {
        let mut world = node(said).await;
        let image = world.machine.booted_image();
        world.machine.name_by_list(image, told);
        world.start();
        until_taken_over(&mut world).await;
        // Whichever of the two names the next config has.
        for (config, name) in [("rendered-2", list), ("rendered-3", image)] {
            world.reach(config, theirs(name), None).await;
        }
        assert_eq!((world.machine.reboots(), world.machine.pulls()), (0, 0));
        assert_eq!(world.machine.jobs(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_second_take_over_nothing_counts_that_was_remembered_of_the_first() {
    const LATER: &str = "rendered-worker-fedcba9876543210fedcba9876543210";
    let acts = |takeover: &str| Acts::Caprock {
        takeover: Some(takeover.to_owned()),
    };
    let mut world = node(None).await;
    let (tell, ours) = watch::channel(acts("first"));
    world.ours = Some(ours);
    world.start();
    until_taken_over(&mut world).await;
    let image = world.machine.booted_image();
    let mut mine = theirs(image);
    mine["config"]["storage"]["files"][0]["contents"]["source"] = json!("data:,mine");
    world.reach("rendered-2", mine, None).await;
    assert_eq!(world.machine.read("/etc/motd"), "mine");

    // The cluster is given back. The other operator writes a service anew and has it started, and says so.
    tell.send_replace(Acts::Other);
    world.kill().await;
    let service = format!("# later\n{SERVICE}");
    let mut later = theirs(image);
    later["config"]["systemd"]["units"][0]["contents"] = json!(service);
    let root = world.machine.root();
    fs::write(root.join("etc/motd"), "theirs").unwrap();
    fs::write(root.join("etc/systemd/system/kubelet.service"), &service).unwrap();
    world.config(LATER, later.clone()).await;
    world
        .annotate(json!({keys::CURRENT_CONFIG: LATER, keys::DESIRED_CONFIG: LATER}))
        .await;
    let before = world.machine.jobs();

    tell.send_replace(acts("second"));
    world.start();
    world.until_done(LATER).await;
    world.reach("rendered-3", later, None).await;
    assert_eq!(world.machine.jobs(), before);
    assert_eq!((world.machine.reboots(), world.machine.pulls()), (0, 0));

    // Of the second one everything counts: who is killed goes on.
    world.kill().await;
    fs::write(root.join("etc/motd"), "by hand").unwrap();
    world.start();
    let reason = world.until_degraded().await;
    assert!(reason.contains("/etc/motd"), "{reason}");
}
