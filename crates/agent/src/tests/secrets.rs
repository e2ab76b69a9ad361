//! Files whose content comes from a Secret.

use std::os::unix::fs::PermissionsExt;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use model::api::{CLUSTER, MachineConfiguration};
use model::file_secret::{SecretKey, Value, Values};
use model::keys;
use serde_json::json;

use super::world::{World, layered, rendered};

const BIND: &str = "/etc/sssd/conf.d/bind.conf";
const SHARED: &str = "/var/lib/app/token";

/// Gives the node the value, as the controllers do.
async fn give(world: &World, value: &str, version: &str) {
    let from: SecretKey = "sssd/bind.conf".parse().unwrap();
    let value = Value {
        bytes: value.as_bytes().to_vec(),
        version: version.to_owned(),
    };
    let values = json!(Values::from([(from, value)])).to_string();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": super::world::NODE},
        "type": keys::DOCKER_CONFIG_TYPE,
        "stringData": {keys::DOCKER_CONFIG_KEY: "{\"auths\":{}}", keys::NODE_FILES_KEY: values},
    });
    let secrets: Api<Secret> = Api::namespaced(world.client(), keys::NODE_SECRET_NAMESPACE);
    let apply = PatchParams::apply("test").force();
    secrets
        .patch(super::world::NODE, &apply, &Patch::Apply(secret))
        .await
        .unwrap();
}

/// A rendered config with both files.
fn config(world: &World, motd: &str) -> serde_json::Value {
    let mut spec = rendered(
        world.machine.booted_image(),
        &[("/etc/motd", motd)],
        json!([]),
    );
    let files = spec["config"]["storage"]["files"].as_array_mut().unwrap();
    for path in [BIND, SHARED] {
        let source = json!({"source": "secret:sssd/bind.conf"});
        files.push(json!({"path": path, "mode": 0o600, "contents": source}));
    }
    spec
}

async fn until_written(world: &mut World, text: &str) {
    let machine = world.machine.clone();
    let both = move || {
        [BIND, SHARED].iter().all(|path| {
            let path = machine.root().join(path.trim_start_matches('/'));
            std::fs::read_to_string(path).is_ok_and(|found| found == text)
        })
    };
    let text = format!("`{text}` is written");
    world
        .play(&text, move |node| {
            let state = model::node::annotation(node, keys::STATE);
            both() && state == Some("Done")
        })
        .await;
}

/// The node tells which version of the Secret its files have, and which one waits.
async fn until_told(world: &mut World, version: &str, waits: Option<&str>) {
    let told = |version: &str| json!({"sssd/bind.conf": version}).to_string();
    let (has, waits) = (told(version), waits.map(told));
    world
        .play("versions are told", move |node| {
            let says = |key| model::node::annotation(node, key);
            says(keys::FILE_SECRETS) == Some(has.as_str())
                && says(keys::HELD_BACK) == waits.as_deref()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_written_and_followed_without_a_reboot() {
    let mut world = World::settled(&[("/etc/motd", "one")]).await;
    world.config("rendered-2", config(&world, "one")).await;
    world.desire("rendered-2", None).await;
    // Without its value there is nothing that the node could go to, and nothing is wrong with the node.
    give(&world, "first", "11").await;
    world.until_done("rendered-2").await;
    until_written(&mut world, "first").await;
    let mode = |path: &str| {
        let path = world.machine.root().join(path.trim_start_matches('/'));
        path.metadata().unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((mode(BIND), mode(SHARED)), (0o600, 0o600));
    let jobs = world.machine.jobs().len();
    give(&world, "second", "12").await;
    until_written(&mut world, "second").await;
    let jobs = world.machine.jobs().split_off(jobs);
    assert!(jobs.iter().all(|job| !job.contains("reboot")), "{jobs:?}");
    // The same value of another version is no change.
    give(&world, "second", "13").await;
    until_told(&mut world, "13", None).await;
    assert_eq!(world.machine.reboots(), 0);
    // What it was given stays when it is given no more.
    let secrets: Api<Secret> = Api::namespaced(world.client(), keys::NODE_SECRET_NAMESPACE);
    let gone = json!({"data": {keys::NODE_FILES_KEY: null}});
    secrets
        .patch(
            super::world::NODE,
            &PatchParams::default(),
            &Patch::Merge(gone),
        )
        .await
        .unwrap();
    world.config("rendered-3", config(&world, "three")).await;
    world.desire("rendered-3", None).await;
    world.until_done("rendered-3").await;
    until_written(&mut world, "second").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_from_a_value_is_told_without_it() {
    let mut world = World::settled(&[]).await;
    give(&world, "first", "11").await;
    let mut spec = config(&world, "one");
    spec["config"]["storage"]["files"][1]["mode"] = json!(0o644);
    world.reach("rendered-2", spec, None).await;
    world.machine.edit(BIND, "other");
    let reason = world.until_degraded().await;
    let told = "`/etc/sssd/conf.d/bind.conf` has other content";
    assert!(reason.contains(told), "{reason}");
    assert!(
        !reason.contains("first") && !reason.contains("other`"),
        "{reason}"
    );
}

/// Also one that is configured only at shutdown, from what was kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_made_with_the_values() {
    for staged in [false, true] {
        let mut world = World::settled(&[]).await;
        give(&world, "first", "11").await;
        world.reach("rendered-2", config(&world, "one"), None).await;
        if staged {
            world.machine.stage();
        }
        let layered = world.machine.publish(layered());
        let mut spec = config(&world, "two");
        spec["osImageURL"] = json!(super::world::pull_spec(layered));
        world.config("rendered-3", spec).await;
        give(&world, "second", "12").await;
        world.desire("rendered-3", None).await;
        world.until_done("rendered-3").await;
        until_written(&mut world, "second").await;
        assert_eq!(world.machine.reboots(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_would_reboot_waits_for_the_next_update() {
    let mut world = World::settled(&[]).await;
    let policy = json!({"files": [{"path": BIND, "actions": [{"type": "Reboot"}]}]});
    let spec = json!({"nodeDisruptionPolicy": policy});
    let object = MachineConfiguration::new(CLUSTER, serde_json::from_value(spec).unwrap());
    let api = world.all::<MachineConfiguration>();
    api.create(&Default::default(), &object).await.unwrap();
    give(&world, "first", "11").await;
    world.reach("rendered-2", config(&world, "one"), None).await;
    let reboots = world.machine.reboots();
    give(&world, "second", "12").await;
    let told = async {
        while !world.events().await.contains(&"SecretHeldBack".to_owned()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), told)
        .await
        .unwrap();
    assert_eq!(world.machine.read(BIND), "first");
    assert_eq!(world.machine.reboots(), reboots);
    until_told(&mut world, "11", Some("12")).await;
    world.config("rendered-3", config(&world, "three")).await;
    world.desire("rendered-3", None).await;
    world.until_done("rendered-3").await;
    until_written(&mut world, "second").await;
    assert_eq!(world.machine.reboots(), reboots + 1);
    until_told(&mut world, "12", None).await;
}

/// An agent from before files came from Secrets does not write down with what they were written.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_an_older_agent_forgot_are_known_again() {
    let mut world = World::settled(&[]).await;
    give(&world, "first", "11").await;
    world.reach("rendered-2", config(&world, "one"), None).await;
    until_written(&mut world, "first").await;
    world.kill().await;
    let state = world.machine.state_dir();
    let records = state.join("deployments").read_dir_utf8().unwrap();
    let records = records.map(|entry| entry.unwrap().into_path());
    for path in records.chain([state.join("shared.json")]) {
        let text = std::fs::read(&path).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        json.as_object_mut().unwrap().remove("values");
        std::fs::write(&path, json.to_string()).unwrap();
    }
    world.start();
    until_told(&mut world, "11", None).await;
    give(&world, "second", "12").await;
    until_written(&mut world, "second").await;
    assert_eq!(world.machine.reboots(), 0);
}
