//! What builds take from ConfigMaps and Secrets.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ObjectMeta, PostParams};
use model::api::MachineOSConfig;
use model::condition::PoolConditionType::ImageBuildDegraded;
use model::keys;
use serde_json::json;

use super::build::{layered, secret};
use super::world::{World, eventually};
use crate::cache::{Cache, Readers};
use crate::registry::{Purpose, access};

#[tokio::test]
async fn sources_are_taken_by_name_and_their_content_makes_the_build() {
    let world = World::new().await;
    layered(&world, &[]).await;
    let plain = world.until_succeeded().await;
    let map = |text: &str| ConfigMap {
        metadata: ObjectMeta {
            name: Some("site".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([("site.conf".to_owned(), text.to_owned())].into()),
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    let ask = json!({"metadata": {"annotations": {
        "build-context.caprock.dev/site": "configmap:site",
        "build-secret.caprock.dev/login": "login/password",
    }}});
    world.merge::<MachineOSConfig>("worker", ask).await;
    let text = world
        .until_condition("worker", ImageBuildDegraded, "no ConfigMap `site`")
        .await;
    assert!(
        text.contains("annotation `build-context.caprock.dev/site`"),
        "{text}"
    );
    let options = PostParams::default();
    maps.create(&options, &map("one")).await.unwrap();
    world
        .until_condition("worker", ImageBuildDegraded, "no Secret `login`")
        .await;
    let mut login = secret("login", "{}");
    secrets.create(&options, &login).await.unwrap();
    world
        .until_condition("worker", ImageBuildDegraded, "has no key `password`")
        .await;
    login.string_data = Some([("password".to_owned(), "s3cret".to_owned())].into());
    let apply = kube::api::Patch::Merge(&login);
    let done = secrets.patch("login", &Default::default(), &apply).await;
    done.unwrap();
    world
        .until_condition("worker", ImageBuildDegraded, "False BuildSuccess")
        .await;
    let last = |world: &World| world.builder.sources().last().cloned().unwrap();
    assert_eq!(last(&world), "site/site.conf=one {\"login\"}");

    maps.replace("site", &options, &map("two")).await.unwrap();
    eventually("another build", || async {
        match last(&world) {
            seen if seen == "site/site.conf=two {\"login\"}" => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    world
        .until_condition("worker", ImageBuildDegraded, "False BuildSuccess")
        .await;
    let objects = format!(
        "{:?} {:?}",
        world.builds().await,
        world.list::<ConfigMap>().await
    );
    assert!(!objects.contains("s3cret"));

    // Without them it is the build that there was.
    let none = json!({"metadata": {"annotations": {
        "build-context.caprock.dev/site": null,
        "build-secret.caprock.dev/login": null,
    }}});
    world.merge::<MachineOSConfig>("worker", none).await;
    eventually("the first build", || async {
        let config = world.get::<MachineOSConfig>("worker").await;
        let wanted = config.status.and_then(|status| status.machine_os_build);
        match wanted {
            Some(wanted) if Some(&wanted.name) == plain.metadata.name.as_ref() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The older form of credentials, as `kubernetes.io/dockercfg` has it; and one that would have a program run.
#[tokio::test]
async fn credentials_in_a_secret_are_data_and_start_nothing() {
    let world = World::without_loops();
    let mut old = secret("old", "{}");
    old.type_ = Some("kubernetes.io/dockercfg".to_owned());
    let text = r#"{"registry.test": {"auth": "dTpw", "email": "a@b"}}"#;
    old.data = Some([(".dockercfg".to_owned(), ByteString(text.into()))].into());
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    secrets.create(&PostParams::default(), &old).await.unwrap();
    let helped = r#"{"credsStore": "evil", "credHelpers": {"registry.test": "evil"}, "auths": {}}"#;
    let helped = secret("helped", helped);
    secrets
        .create(&PostParams::default(), &helped)
        .await
        .unwrap();
    let mut watches = tokio::task::JoinSet::new();
    let readers = Readers {
        controllers: true,
        builder: false,
    };
    let (cache, filled) = Cache::start(&world.client, readers, &mut watches);
    filled.await.unwrap();
    let found = access(&cache, Purpose::Push, Some("old")).unwrap();
    assert!(found.auth.credentials_for("registry.test", "os").is_some());
    let found = access(&cache, Purpose::Push, Some("helped")).unwrap();
    assert!(found.auth.is_empty() && found.keychain.is_none());
}
