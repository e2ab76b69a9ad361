//! What a MachineOSConfig says of its registries before anything is built.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use model::api::{MachineConfigNode, MachineOSConfig};
use model::condition::{self, BuildReason, OsConfigConditionType as Type};
use model::keys;
use serde_json::json;

use super::build::{layered, secret};
use super::fake::failure;
use super::world::{World, eventually};
use crate::registry::Answer;

/// The condition as `True AsExpected: message`.
async fn told(world: &World, kind: Type) -> String {
    let config: MachineOSConfig = world.get("worker").await;
    let conditions = config.status.unwrap_or_default().conditions;
    match condition::get(&conditions, kind) {
        Some(found) => format!("{} {}: {}", found.status, found.reason, found.message),
        None => "absent".to_owned(),
    }
}

async fn until(world: &World, kind: Type, expected: &str) -> String {
    eventually(&format!("{kind} has `{expected}`"), || async {
        let text = told(world, kind).await;
        if text.contains(expected) {
            Ok(text)
        } else {
            Err(text)
        }
    })
    .await
}

async fn put(world: &World, name: &str, text: &str) {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    let object = secret(name, text);
    match secrets.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let merged = PatchParams::default();
            secrets
                .patch(name, &merged, &Patch::Merge(&object))
                .await
                .unwrap();
        }
        other => drop(other.unwrap()),
    }
}

fn login(user: &str, password: &str) -> String {
    let auth = STANDARD.encode(format!("{user}:{password}"));
    json!({"auths": {"registry.test": {"auth": auth}}}).to_string()
}

#[tokio::test]
async fn answers_are_told_and_asked_for_once() {
    let mut world = World::new().await;
    put(&world, keys::GLOBAL_PULL_SECRET, &login("builder", "one")).await;
    put(&world, keys::NODE_PULL_SECRET, &login("node", "one")).await;
    layered(&world, &[]).await;
    let secret = "Secret `global-pull-secret-copy`";
    until(
        &world,
        Type::BaseImagePullable,
        &format!("can be pulled with {secret}"),
    )
    .await;
    until(
        &world,
        Type::ImagePushable,
        "True AsExpected: images can be pushed to `registry.test/os/image`",
    )
    .await;
    until(&world, Type::NodesCanPull, "with Secret `node-pull-secret`").await;
    until(&world, Type::CredentialsExpiring, "False AsExpected").await;
    // The image that is built is another question.
    let built = world
        .until_succeeded()
        .await
        .status
        .unwrap()
        .digested_image_push_spec
        .unwrap();
    until(&world, Type::NodesCanPull, &built).await;
    let asked = |of: &str| {
        world
            .registries
            .asked()
            .iter()
            .filter(|asked| asked.starts_with(of))
            .count()
    };
    assert_eq!((asked("push"), asked("pull registry.test/os/base")), (1, 1));

    put(&world, keys::GLOBAL_PULL_SECRET, &login("builder", "two")).await;
    eventually("the registry is asked again", || async {
        match (asked("push"), asked("pull registry.test/os/base")) {
            (2, 2) => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    assert!(
        world
            .events("worker")
            .await
            .iter()
            .all(|event| !event.contains("can be pushed"))
    );
    world.stop().await;
}

#[tokio::test]
async fn a_refusal_is_told_with_its_secret_and_stops_no_build() {
    let world = World::new().await;
    put(
        &world,
        keys::GLOBAL_PULL_SECRET,
        &login("builder", "hidden"),
    )
    .await;
    let refused = "credentials for `registry.test` were refused for `os/image`";
    let refusal = failure(BuildReason::Unauthorized, refused, true);
    world.registries.answer_push(Answer::No(refusal));
    layered(&world, &[]).await;
    let text = until(&world, Type::ImagePushable, "False Unauthorized").await;
    for part in [
        refused,
        "Secret `global-pull-secret-copy`",
        keys::NAMESPACE,
        keys::DOCKER_CONFIG_KEY,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("hidden"));
    world.until_succeeded().await;
    let count = async || {
        let events = world.events("worker").await;
        events
            .iter()
            .filter(|event| event.contains(refused))
            .count()
    };
    eventually("one event", || async {
        if count().await == 1 { Ok(()) } else { Err(()) }
    })
    .await;

    world.registries.answer_push(Answer::Yes);
    put(
        &world,
        keys::GLOBAL_PULL_SECRET,
        &login("builder", "better"),
    )
    .await;
    until(&world, Type::ImagePushable, "True AsExpected").await;
    eventually("its end is told", || async {
        let events = world.events("worker").await;
        let ended = events
            .iter()
            .any(|event| event.starts_with("ImagePushable: "));
        if ended { Ok(()) } else { Err(events) }
    })
    .await;
    assert_eq!(count().await, 1);
}

#[tokio::test]
async fn a_registry_that_hangs_holds_up_nothing_else() {
    let world = World::new().await;
    world.registries.hang();
    layered(&world, &[]).await;
    until(&world, Type::BaseImagePullable, "True AsExpected").await;
    until(&world, Type::NodesCanPull, "True AsExpected").await;
    world.until_succeeded().await;
    assert_eq!(told(&world, Type::ImagePushable).await, "absent");
    until(&world, Type::ImagePushable, "Unknown RegistryUnavailable").await;
}

#[tokio::test]
async fn a_token_that_ends_soon_is_warned_about_once() {
    let world = World::new().await;
    let token = |minutes: i64| {
        let now = Timestamp::now();
        let at = |minutes: i64| (now + SignedDuration::from_mins(minutes)).as_second();
        let claims = json!({"iat": at(minutes - 600), "exp": at(minutes)}).to_string();
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    };
    put(
        &world,
        keys::GLOBAL_PULL_SECRET,
        &login("builder", &token(100)),
    )
    .await;
    layered(&world, &[]).await;
    let text = until(&world, Type::CredentialsExpiring, "True Expiring: ").await;
    assert!(
        text.contains("the token for `registry.test` in Secret `global-pull-secret-copy`"),
        "{text}"
    );
    world.until_succeeded().await;
    let events = world.events("worker").await;
    let told = events
        .iter()
        .filter(|event| event.contains("the token for"));
    assert_eq!(told.count(), 1, "{events:?}");
    put(
        &world,
        keys::GLOBAL_PULL_SECRET,
        &login("builder", &token(-1)),
    )
    .await;
    until(&world, Type::CredentialsExpiring, "True Expired: ").await;
    put(
        &world,
        keys::GLOBAL_PULL_SECRET,
        &login("builder", &token(599)),
    )
    .await;
    until(&world, Type::CredentialsExpiring, "False AsExpected").await;
}

#[tokio::test]
async fn what_nodes_say_counts() {
    let world = World::new().await;
    layered(&world, &[]).await;
    until(&world, Type::NodesCanPull, "True").await;
    eventually("the node has its object", || async {
        let found = world
            .all::<MachineConfigNode>()
            .get_opt("worker-1")
            .await
            .unwrap();
        found.map(drop).ok_or(())
    })
    .await;
    let mut conditions: Vec<Condition> = Vec::new();
    condition::set(
        &mut conditions,
        model::condition::NodeConditionType::NodeDegraded,
        model::condition::Status::True,
        model::condition::NodeReason::PullFailed,
        "no route to host",
        Timestamp::now(),
    );
    let status = json!({"status": {"conditions": conditions}});
    world
        .all::<MachineConfigNode>()
        .patch_status("worker-1", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    // As its agent does, which brings the pool to say so.
    let degraded = json!({"metadata": {"annotations": {keys::STATE: "Degraded", keys::REASON: "no route to host"}}});
    world.merge::<Node>("worker-1", degraded).await;
    let text = until(&world, Type::NodesCanPull, "False PullFailed").await;
    assert!(
        text.contains("node `worker-1` cannot pull its image: no route to host"),
        "{text}"
    );
}
