//! The build loop and the builder's, and what users do wrong.

use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use model::api::{MachineConfig, MachineConfigPool, MachineOSBuild, MachineOSConfig};
use model::build_state::BuildState;
use model::condition::PoolConditionType::{Degraded, ImageBuildDegraded, Updating};
use model::condition::{self, BuildReason, OsConfigConditionType};
use model::keys;
use serde_json::json;

use super::fake::{FakeAgent, failure};
use super::world::{BASE, World, eventually, ignition};

const CONTAINERFILE: &str = "FROM configs AS final\nRUN dnf install -y autofs";

/// A pool with a base image, a MachineOSConfig and a node that is at an older config, without an image.
pub(super) async fn layered(world: &World, units: &[&str]) -> FakeAgent {
    let mut spec = ignition(&[("/etc/motd", "one")], units);
    spec["osImageURL"] = json!(BASE);
    world.config("50-image", "worker", spec).await;
    world.pool("worker", false).await;
    world.os_config("worker", CONTAINERFILE).await;
    world.register("worker-1", &["worker"]).await
}

async fn untouched(world: &World) {
    let node: Node = world.get("worker-1").await;
    assert!(
        !node.annotations().contains_key(keys::DESIRED_CONFIG),
        "{node:?}"
    );
}

async fn containerfile(world: &World, text: &str) {
    let change =
        json!({"spec": {"containerFile": [{"containerfileArch": "NoArch", "content": text}]}});
    world.merge::<MachineOSConfig>("worker", change).await;
}

#[tokio::test]
async fn an_image_is_built_once_and_rolled_out_with_its_config() {
    let world = World::new().await;
    world.builder.install("autofs.service");
    let agent = layered(&world, &["autofs.service"]).await;
    let build = world.until_succeeded().await;
    let status = build.status.clone().unwrap();
    assert!(status.build_start.is_some() && status.build_end.is_some());
    assert_eq!(status.conditions.len(), 5);
    let image = status.digested_image_push_spec.unwrap();
    assert!(
        image.starts_with("registry.test/os/image@sha256:"),
        "{image}"
    );
    assert_eq!(
        world.builder.pushed(),
        [format!("registry.test/os/image:{}", build.name_any())]
    );

    let mut agents = [agent];
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    let [agent] = agents;
    assert_eq!(agent.reached.len(), 1, "{agent:?}");
    assert_eq!(agent.reached[0].1.as_deref(), Some(image.as_str()));

    let config: MachineOSConfig = world.get("worker").await;
    let name = build.name_any();
    assert_eq!(config.annotations().get(keys::CURRENT_BUILD), Some(&name));
    let status = config.status.unwrap();
    assert_eq!(status.current_image_pull_spec, Some(image));
    assert_eq!(status.machine_os_build.unwrap().name, name);
    assert_eq!(world.builder.requests().len(), 1);
    let log: ConfigMap = Api::namespaced(world.client.clone(), keys::NAMESPACE)
        .get(&format!("log-{name}"))
        .await
        .unwrap();
    let text = model::build_log::Position::default().advance(log.data.as_ref());
    assert!(text.starts_with("[1/2] RUN true\n"), "{text}");
}

#[tokio::test]
async fn a_live_change_makes_no_build_and_keeps_the_image() {
    let world = World::new().await;
    let mut agents = [layered(&world, &[]).await];
    world.play(&mut agents).await;
    let mut spec = ignition(&[("/etc/motd", "two")], &[]);
    spec["osImageURL"] = json!(BASE);
    world
        .merge::<MachineConfig>("50-image", json!({"spec": spec}))
        .await;
    eventually("two configs reached", || async {
        let node: Node = world.get("worker-1").await;
        let get = |key: &str| node.annotations().get(key).cloned();
        let moved = get(keys::DESIRED_CONFIG) != get(keys::CURRENT_CONFIG);
        if moved { Ok(()) } else { Err("same") }
    })
    .await;
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    let reached = &agents[0].reached;
    assert_eq!(reached.len(), 2);
    assert_ne!(reached[0].0, reached[1].0);
    assert_eq!(reached[0].1, reached[1].1);
    assert_eq!(world.builder.requests().len(), 1);
    assert_eq!(world.builds().await.len(), 1);
}

#[tokio::test]
async fn a_unit_that_exists_nowhere_fails_the_build_and_touches_no_node() {
    let world = World::new().await;
    layered(&world, &["autofs.service"]).await;
    world
        .until_build("failed", |state| matches!(state, BuildState::Failed { .. }))
        .await;
    let text = world
        .until_condition("worker", ImageBuildDegraded, "True BuildFailed")
        .await;
    for part in ["`50-image`", "`autofs.service`"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    world
        .until_condition("worker", Degraded, "`autofs.service`")
        .await;
    world
        .until_condition("worker", Updating, "False BuildFailed")
        .await;
    untouched(&world).await;
    assert!(world.builder.pushed().is_empty());

    // The image inputs stay what they are: only the unit that nobody has goes.
    let mut spec = ignition(&[], &[]);
    spec["osImageURL"] = json!(BASE);
    world
        .merge::<MachineConfig>("50-image", json!({"spec": spec}))
        .await;
    world.until_succeeded().await;
    world
        .until_condition("worker", ImageBuildDegraded, "False BuildSuccess")
        .await;
}

#[tokio::test]
async fn a_later_config_is_checked_against_the_image_that_is_there() {
    let world = World::new().await;
    world.builder.install("autofs.service");
    let mut agents = [layered(&world, &[]).await];
    world.play(&mut agents).await;
    let units = |units: &[&str]| {
        let mut spec = ignition(&[], units);
        spec["osImageURL"] = json!(BASE);
        json!({"spec": spec})
    };
    world
        .merge::<MachineConfig>("50-image", units(&["nowhere.service"]))
        .await;
    let text = world
        .until_condition("worker", ImageBuildDegraded, "True BuildFailed")
        .await;
    for part in ["`50-image`", "`nowhere.service`"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    world
        .merge::<MachineConfig>("50-image", units(&["autofs.service"]))
        .await;
    world
        .until_condition("worker", ImageBuildDegraded, "False BuildSuccess")
        .await;
    world
        .until_condition("worker", Updating, "True NodesUpdating")
        .await;
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    assert_eq!(agents[0].reached.len(), 2, "{agents:?}");
    assert_eq!(world.builder.requests().len(), 1);
}

#[tokio::test]
async fn a_failed_step_is_shown_until_the_containerfile_is_corrected() {
    let world = World::new().await;
    let told =
        "step 2 of 2, line 2: `RUN dnf install -y autofs` exited with status 1\nno package autofs";
    world
        .builder
        .fail(Some(failure(BuildReason::StepFailed, told, false)));
    layered(&world, &[]).await;
    let build = world
        .until_build("failed", |state| matches!(state, BuildState::Failed { .. }))
        .await;
    assert_eq!(
        BuildState::of(&build),
        BuildState::Failed {
            message: told.to_owned()
        }
    );
    world
        .until_condition("worker", ImageBuildDegraded, told)
        .await;
    let events = world.events(&build.name_any()).await;
    assert!(
        events.contains(&format!("BuildFailed: {told}")),
        "{events:?}"
    );
    untouched(&world).await;
    assert_eq!(world.builder.requests().len(), 1);

    world.builder.fail(None);
    containerfile(&world, "FROM configs AS final\nRUN true").await;
    let second = world.until_succeeded().await;
    assert_ne!(second.name_any(), build.name_any());
    assert_eq!(world.builder.requests().len(), 2);
}

#[tokio::test]
async fn a_registry_that_is_down_is_shown_and_tried_again() {
    let world = World::new().await;
    let down = "registry `registry.test` cannot be reached";
    world
        .builder
        .fail(Some(failure(BuildReason::RegistryUnavailable, down, true)));
    layered(&world, &[]).await;
    world
        .until_condition("worker", ImageBuildDegraded, "True BuildRetrying")
        .await;
    let build = world
        .until_build("retrying", |state| {
            matches!(state, BuildState::Building { message, retrying: true } if message.contains(down))
        })
        .await;
    untouched(&world).await;
    world.builder.fail(None);
    let same = world.until_succeeded().await;
    assert_eq!(same.uid(), build.uid());
}

#[tokio::test]
async fn a_tag_is_resolved_once_and_a_registry_that_is_down_says_so() {
    let world = World::new().await;
    let down = "registry `registry.test` cannot be reached";
    world
        .registries
        .fail(Some(failure(BuildReason::RegistryUnavailable, down, true)));
    let mut spec = ignition(&[], &[]);
    spec["osImageURL"] = json!("registry.test/os/base:latest");
    world.config("50-image", "worker", spec).await;
    world.pool("worker", false).await;
    world.os_config("worker", CONTAINERFILE).await;
    world
        .until_condition("worker", ImageBuildDegraded, down)
        .await;
    let config: MachineOSConfig = world.get("worker").await;
    let conditions = config.status.unwrap().conditions;
    let degraded = condition::get(&conditions, OsConfigConditionType::Degraded).unwrap();
    assert!(degraded.message.contains(down));

    world.registries.fail(None);
    let build = world.until_succeeded().await;
    let base = &build.annotations()["caprock.dev/base-image"];
    assert!(base.starts_with("registry.test/os/base@sha256:"), "{base}");
    world.registries.fail(Some(failure(
        BuildReason::RegistryUnavailable,
        "asked again",
        true,
    )));
    world
        .merge::<MachineConfig>("50-image", json!({"spec": {"kernelArguments": ["quiet"]}}))
        .await;
    world
        .until_condition("worker", ImageBuildDegraded, "False BuildSuccess")
        .await;
    assert_eq!(world.builds().await.len(), 1);
}

#[tokio::test]
async fn a_missing_secret_is_named_and_its_arrival_starts_the_build() {
    let world = World::new().await;
    layered(&world, &[]).await;
    world.until_succeeded().await;
    let change = json!({"spec": {
        "renderedImagePushSecret": {"name": "push-secret"},
        "renderedImagePushSpec": "registry.test/os/elsewhere:latest",
    }});
    world.merge::<MachineOSConfig>("worker", change).await;
    let text = world
        .until_condition("worker", ImageBuildDegraded, "True BuildRetrying")
        .await;
    for part in ["`spec.renderedImagePushSecret.name`", "`push-secret`"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    let mut secret = secret("push-secret", r#"{"auths":{"registry.test":{"auth":"!"}}}"#);
    let made = secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    world
        .until_condition("worker", ImageBuildDegraded, "`auth` is not base64")
        .await;
    secret.metadata = made.metadata;
    secret.data = docker_config(r#"{"auths":{}}"#);
    secrets
        .replace("push-secret", &PostParams::default(), &secret)
        .await
        .unwrap();
    world
        .until_condition("worker", ImageBuildDegraded, "False BuildSuccess")
        .await;
}

pub(super) fn secret(name: &str, text: &str) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(keys::DOCKER_CONFIG_TYPE.to_owned()),
        data: docker_config(text),
        ..Secret::default()
    }
}

fn docker_config(text: &str) -> Option<std::collections::BTreeMap<String, ByteString>> {
    let bytes = ByteString(text.as_bytes().to_vec());
    Some([(keys::DOCKER_CONFIG_KEY.to_owned(), bytes)].into())
}

#[tokio::test]
async fn a_missing_base_image_is_said_only_where_one_is_needed() {
    let world = World::new().await;
    world
        .config("50-motd", "worker", ignition(&[("/etc/motd", "x")], &[]))
        .await;
    world.pool("worker", false).await;
    world
        .until_condition("worker", ImageBuildDegraded, "False NoLayeredObjects")
        .await;
    world.os_config("worker", CONTAINERFILE).await;
    let text = world
        .until_condition("worker", ImageBuildDegraded, "True BuildFailed")
        .await;
    for part in ["`spec.osImageURL`", keys::OS_IMAGE_URL_CONFIG_MAP] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(keys::OS_IMAGE_URL_CONFIG_MAP.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([(keys::BASE_OS_IMAGE_KEY.to_owned(), BASE.to_owned())].into()),
        ..ConfigMap::default()
    };
    Api::<ConfigMap>::namespaced(world.client.clone(), keys::NAMESPACE)
        .create(&PostParams::default(), &map)
        .await
        .unwrap();
    world.until_succeeded().await;
}

#[tokio::test]
async fn a_missing_pool_is_named() {
    let world = World::new().await;
    world.os_config("worker", CONTAINERFILE).await;
    eventually("condition", || async {
        let config: MachineOSConfig = world.get("worker").await;
        let conditions = config.status.unwrap_or_default().conditions;
        let told = conditions
            .iter()
            .any(|c| c.reason == "PoolNotFound" && c.message.contains("`worker`"));
        if told { Ok(()) } else { Err(conditions) }
    })
    .await;
}

#[tokio::test]
async fn a_newer_build_interrupts_the_older() {
    let world = World::new().await;
    world.builder.hold();
    layered(&world, &[]).await;
    let building = |state: &BuildState| matches!(state, BuildState::Building { .. });
    let first = world.until_build("building", building).await;
    containerfile(&world, "FROM configs AS final\nRUN echo better").await;
    let stopped = world
        .until_build("interrupted", |state| {
            matches!(state, BuildState::Interrupted { .. })
        })
        .await;
    assert_eq!(stopped.uid(), first.uid());
    world.builder.let_go();
    let second = world.until_succeeded().await;
    assert_ne!(second.uid(), first.uid());

    // Going back to inputs whose build was stopped builds them after all.
    containerfile(&world, CONTAINERFILE).await;
    let name = first.name_any();
    let again = eventually("built again", || async {
        let builds = world.builds().await;
        let found = builds.into_iter().find(|build| {
            build.name_any() == name
                && matches!(BuildState::of(build), BuildState::Succeeded { .. })
        });
        found.ok_or("not yet")
    })
    .await;
    assert_ne!(again.uid(), first.uid());
}

#[tokio::test]
async fn a_crash_in_the_middle_leaves_one_build_that_is_finished() {
    let mut world = World::new().await;
    world.builder.hold();
    let agent = layered(&world, &[]).await;
    let building = |state: &BuildState| matches!(state, BuildState::Building { .. });
    let before = world.until_build("building", building).await;
    world.crash().await;
    untouched(&world).await;
    world.builder.let_go();
    world.start();
    let after = world.until_succeeded().await;
    assert_eq!(after.uid(), before.uid());
    assert_eq!(
        after.status.unwrap().build_start,
        before.status.unwrap().build_start
    );
    let mut agents = [agent];
    world.play(&mut agents).await;
    world.crash().await;
    world.start();
    world.until_updated("worker").await;
    assert_eq!(agents[0].reached.len(), 1);
    assert_eq!(world.builds().await.len(), 1);
    assert_eq!(world.builder.pushed().len(), 1);
}

#[tokio::test]
async fn a_restart_of_the_api_server_is_survived() {
    let mut world = World::new().await;
    world.builder.hold();
    let agent = layered(&world, &[]).await;
    let building = |state: &BuildState| matches!(state, BuildState::Building { .. });
    world.until_build("building", building).await;
    world.restart_server().await;
    world.builder.let_go();
    world.until_succeeded().await;
    world.play(&mut [agent]).await;
    world.until_updated("worker").await;
    world.stop().await;
}

#[tokio::test]
async fn a_rebuild_is_granted_once_and_without_the_cache() {
    let world = World::new().await;
    layered(&world, &[]).await;
    let first = world.until_succeeded().await;
    for _ in 0..2 {
        let before = world.builds().await.len();
        let wish = json!({"metadata": {"annotations": {keys::REBUILD: ""}}});
        world.merge::<MachineOSConfig>("worker", wish).await;
        eventually("rebuilt", || async {
            let builds = world.builds().await;
            let done = |build: &MachineOSBuild| {
                matches!(BuildState::of(build), BuildState::Succeeded { .. })
            };
            if builds.len() == before + 1 && builds.iter().all(done) {
                Ok(())
            } else {
                Err(builds.len())
            }
        })
        .await;
    }
    let config: MachineOSConfig = world.get("worker").await;
    assert!(!config.annotations().contains_key(keys::REBUILD));
    let cached: Vec<bool> = world
        .builder
        .requests()
        .iter()
        .map(|(_, cache)| *cache)
        .collect();
    assert_eq!(cached, [true, false, false]);
    let again: MachineOSBuild = world.get(&first.name_any()).await;
    assert_eq!(again.uid(), first.uid());
}

#[tokio::test]
async fn without_its_machine_os_config_a_pool_goes_back_to_the_base_image() {
    let world = World::new().await;
    let mut agents = [layered(&world, &[]).await];
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    world
        .all::<MachineOSConfig>()
        .delete("worker", &DeleteParams::default())
        .await
        .unwrap();
    eventually("told", || async {
        let node: Node = world.get("worker-1").await;
        match node.annotations().get(keys::DESIRED_IMAGE) {
            None => Ok(()),
            Some(image) => Err(image.clone()),
        }
    })
    .await;
    let image = agents[0].reached[0].1.clone().unwrap();
    assert_eq!(world.registries.removed(), Vec::<String>::new());
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    assert_eq!(agents[0].reached.last().unwrap().1, None);
    // Nobody names the image any more.
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    eventually("collected", || async {
        let maps = maps.list(&ListParams::default()).await.unwrap().items;
        let names: Vec<String> = maps.iter().map(ResourceExt::name_any).collect();
        let left = names.iter().any(|name| name.contains("image-"));
        let removed = world.registries.removed();
        match !left && removed == [image.clone()] && world.builds().await.is_empty() {
            true => Ok(()),
            false => Err((names, removed)),
        }
    })
    .await;
}

#[tokio::test]
async fn without_its_pool_a_node_goes_back_to_the_pool_that_it_had() {
    let world = World::new().await;
    let mut spec = ignition(&[("/etc/motd", "one")], &[]);
    spec["osImageURL"] = json!(BASE);
    world.config("50-image", "worker", spec).await;
    world.pool("worker", false).await;
    world.pool("edge", false).await;
    let own = ignition(&[("/etc/edge", "one")], &["autofs.service"]);
    world.config("60-edge", "edge", own).await;
    world.builder.install("autofs.service");
    world.os_config("edge", CONTAINERFILE).await;
    let mut agents = [world.register("worker-1", &["worker", "edge"]).await];
    world.play(&mut agents).await;
    world.until_updated("edge").await;
    assert!(agents[0].reached.last().unwrap().1.is_some());
    let pools = world.all::<MachineConfigPool>();
    pools
        .delete("edge", &DeleteParams::default())
        .await
        .unwrap();
    eventually("told", || async {
        let node: Node = world.get("worker-1").await;
        let desired = node
            .annotations()
            .get(keys::DESIRED_CONFIG)
            .cloned()
            .unwrap();
        match desired.starts_with("rendered-worker-") {
            true => Ok(()),
            false => Err(desired),
        }
    })
    .await;
    world.play(&mut agents).await;
    world.until_updated("worker").await;
    assert_eq!(agents[0].reached.last().unwrap().1, None);
}

#[tokio::test]
async fn claims_are_given_back() {
    let world = World::new().await;
    layered(&world, &[]).await;
    world.until_succeeded().await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    eventually("no claims", || async {
        let left = leases.list(&ListParams::default()).await.unwrap().items;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn refused_credentials_are_told_with_their_secret() {
    let world = World::new().await;
    let refused = "credentials for `registry.test` were refused";
    world
        .builder
        .fail(Some(failure(BuildReason::Unauthorized, refused, true)));
    layered(&world, &[]).await;
    let text = world
        .until_condition("worker", ImageBuildDegraded, refused)
        .await;
    assert!(text.contains("Secret `global-pull-secret-copy`"), "{text}");
    untouched(&world).await;
}
