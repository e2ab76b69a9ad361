//! Deletion and what follows from it.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::Fixture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// Waits until `done` says so; the limit is only there to fail instead of hanging.
async fn until<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(Instant::now() < limit, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn create_map(api: &Api<ConfigMap>, name: &str, owners: &[(&ConfigMap, bool)]) -> ConfigMap {
    let owners: Vec<_> = owners
        .iter()
        .map(|(owner, block)| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "name": owner.metadata.name, "uid": owner.metadata.uid,
                "blockOwnerDeletion": block,
            })
        })
        .collect();
    let object = json!({"metadata": {"name": name, "ownerReferences": owners}});
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

#[tokio::test]
async fn dependents_go_with_their_last_owner() {
    let fixture = Fixture::new();
    let api: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let first = create_map(&api, "first", &[]).await;
    let second = create_map(&api, "second", &[]).await;
    let child = create_map(&api, "child", &[(&first, false)]).await;
    create_map(&api, "grandchild", &[(&child, false)]).await;
    create_map(&api, "shared", &[(&first, false), (&second, false)]).await;
    api.delete("first", &DeleteParams::default()).await.unwrap();
    for name in ["child", "grandchild"] {
        let gone = || async { api.get_opt(name).await.unwrap().is_none() };
        until(name, gone).await;
    }
    until("the owner that is gone is forgotten", || async {
        let shared = api.get("shared").await.unwrap();
        shared.metadata.owner_references.unwrap_or_default().len() == 1
    })
    .await;
    api.delete("second", &DeleteParams::default())
        .await
        .unwrap();
    until("shared goes", || async {
        api.get_opt("shared").await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn an_owner_that_never_was_takes_its_dependents_along() {
    let fixture = Fixture::new();
    let api: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let owner = create_map(&api, "owner", &[]).await;
    api.delete("owner", &DeleteParams::default()).await.unwrap();
    create_map(&api, "late", &[(&owner, false)]).await;
    until("late goes", || async {
        api.get_opt("late").await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn foreground_deletion_waits_for_dependents() {
    let fixture = Fixture::new();
    let api: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let owner = create_map(&api, "owner", &[]).await;
    create_map(&api, "child", &[(&owner, true)]).await;
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    let params = PatchParams::default();
    api.patch("child", &params, &hold).await.unwrap();
    api.delete("owner", &DeleteParams::foreground())
        .await
        .unwrap();
    until("the child is marked", || async {
        let child = api.get("child").await.unwrap();
        child.metadata.deletion_timestamp.is_some()
    })
    .await;
    assert!(api.get_opt("owner").await.unwrap().is_some());
    // Only the finalizer of the test: the collector takes care of its own.
    let release = json!([{"op": "test", "path": "/metadata/finalizers/0", "value": "example.com/hold"},
                         {"op": "remove", "path": "/metadata/finalizers/0"}]);
    let release = Patch::Json::<()>(serde_json::from_value(release).unwrap());
    api.patch("child", &params, &release).await.unwrap();
    for name in ["child", "owner"] {
        let gone = || async { api.get_opt(name).await.unwrap().is_none() };
        until(name, gone).await;
    }
}

#[tokio::test]
async fn orphans_stay() {
    let fixture = Fixture::new();
    let api: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let owner = create_map(&api, "owner", &[]).await;
    create_map(&api, "child", &[(&owner, true)]).await;
    api.delete("owner", &DeleteParams::orphan()).await.unwrap();
    until("the owner goes", || async {
        api.get_opt("owner").await.unwrap().is_none()
    })
    .await;
    let child = api.get("child").await.unwrap();
    assert!(
        child
            .metadata
            .owner_references
            .unwrap_or_default()
            .is_empty()
    );
    assert!(child.metadata.deletion_timestamp.is_none());
}

#[tokio::test]
async fn a_namespace_goes_with_its_contents() {
    let fixture = Fixture::new();
    let namespaces: Api<Namespace> = Api::all(fixture.client());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let api: Api<ConfigMap> = Api::namespaced(fixture.client(), "n");
    create_map(&api, "a", &[]).await;
    namespaces
        .delete("n", &DeleteParams::default())
        .await
        .unwrap();
    until("the namespace goes", || async {
        namespaces.get_opt("n").await.unwrap().is_none()
    })
    .await;
    assert!(api.get_opt("a").await.unwrap().is_none());
    let refused = namespaces.delete("default", &DeleteParams::default()).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
}

#[tokio::test]
async fn a_definition_goes_with_its_objects() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let request = |uri: &str, body: Vec<u8>| {
        http::Request::post(uri)
            .header("content-type", "application/json")
            .body(body)
            .unwrap()
    };
    let path = "/apis/example.com/v1/namespaces/default/widgets";
    let body = serde_json::to_vec(&common::widget("w", 1)).unwrap();
    client
        .request_text(request(path, body.clone()))
        .await
        .unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions
        .delete("widgets.example.com", &DeleteParams::default())
        .await
        .unwrap();
    until("the definition goes", || async {
        let found = definitions.get_opt("widgets.example.com").await.unwrap();
        found.is_none()
    })
    .await;
    let gone = client.request_text(request(path, body)).await;
    assert!(matches!(gone, Err(kube::Error::Api(status)) if status.code == 404));
    let again = serde_json::from_value(common::widget_definition()).unwrap();
    definitions
        .create(&PostParams::default(), &again)
        .await
        .unwrap();
    let list = http::Request::get(path).body(Vec::new()).unwrap();
    let list: serde_json::Value = client.request(list).await.unwrap();
    assert_eq!(list["items"], json!([]));
}
