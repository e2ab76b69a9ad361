//! The server as kube-rs sees it, in process.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, widget};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams,
    ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

fn widgets(fixture: &Fixture) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("example.com", "v1", "Widget");
    Api::default_namespaced_with(
        fixture.client(),
        &ApiResource::from_gvk_with_plural(&kind, "widgets"),
    )
}

fn dynamic(value: serde_json::Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("expected an API error, got {other}"),
    }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        data: Some([("key".to_owned(), value.to_owned())].into()),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn typed_objects_are_created_read_replaced_and_deleted() {
    let fixture = Fixture::new();
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let created = maps
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    assert!(created.metadata.uid.is_some());
    assert!(created.metadata.creation_timestamp.is_some());
    assert_eq!(created.metadata.namespace.as_deref(), Some("default"));

    let again = maps
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap_err();
    assert_eq!(code(&again), 409);

    let mut changed = created.clone();
    changed.data = Some([("key".to_owned(), "2".to_owned())].into());
    let replaced = maps
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap();
    assert_ne!(
        replaced.metadata.resource_version,
        created.metadata.resource_version
    );
    let stale = maps
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap_err();
    assert_eq!(code(&stale), 409);

    assert_eq!(
        maps.get("a").await.unwrap().data,
        Some([("key".to_owned(), "2".to_owned())].into())
    );
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
    assert_eq!(code(&maps.get("a").await.unwrap_err()), 404);
}

#[tokio::test]
async fn generation_counts_spec_changes_and_status_is_apart() {
    let fixture = Fixture::new();
    let api = widgets(&fixture);
    let mut object = widget("w", 1);
    object["status"] = json!({"phase": "ignored"});
    let created = api
        .create(&PostParams::default(), &dynamic(object))
        .await
        .unwrap();
    assert_eq!(created.metadata.generation, Some(1));
    assert!(created.data.get("status").is_none());
    assert_eq!(created.data["spec"]["color"], "red");

    let patch = Patch::Merge(json!({"status": {"phase": "Busy"}, "spec": {"size": 50}}));
    let params = PatchParams::default();
    let patched = api.patch_status("w", &params, &patch).await.unwrap();
    assert_eq!(patched.metadata.generation, Some(1));
    assert_eq!(patched.data["status"]["phase"], "Busy");
    assert_eq!(patched.data["spec"]["size"], 1);

    let patched = api.patch("w", &params, &patch).await.unwrap();
    assert_eq!(patched.metadata.generation, Some(2));
    assert_eq!(patched.data["spec"]["size"], 50);
    assert_eq!(patched.data["status"]["phase"], "Busy");

    let labels = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let patched = api.patch("w", &params, &labels).await.unwrap();
    assert_eq!(patched.metadata.generation, Some(2));

    let before = patched.metadata.resource_version;
    let same = api.patch("w", &params, &labels).await.unwrap();
    assert_eq!(same.metadata.resource_version, before, "nothing changed");
}

#[tokio::test]
async fn json_patches_and_strategic_patches_apply() {
    let fixture = Fixture::new();
    let nodes: Api<Node> = Api::all(fixture.client());
    let node = serde_json::from_value(json!({
        "metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]},
    }));
    nodes
        .create(&PostParams::default(), &node.unwrap())
        .await
        .unwrap();
    nodes.cordon("n").await.unwrap();
    let strategic = json!({"metadata": {"labels": {"x": "y"}}});
    let node = nodes
        .patch("n", &PatchParams::default(), &Patch::Strategic(strategic))
        .await
        .unwrap();
    assert_eq!(node.metadata.labels.unwrap()["x"], "y");
    assert_eq!(node.spec.unwrap().unschedulable, Some(true));
    let operations = serde_json::from_value(json!([
        {"op": "test", "path": "/metadata/labels/x", "value": "y"},
        {"op": "remove", "path": "/metadata/labels/x"},
    ]));
    let patch = Patch::Json::<()>(operations.unwrap());
    let node = nodes
        .patch("n", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(node.metadata.labels.unwrap_or_default().len(), 0);
    let failing = nodes.patch("n", &PatchParams::default(), &patch).await;
    assert_eq!(code(&failing.unwrap_err()), 422);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_removed() {
    let fixture = Fixture::new();
    let api = widgets(&fixture);
    let mut object = widget("w", 1);
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.create(&PostParams::default(), &dynamic(object))
        .await
        .unwrap();
    let pending = api.delete("w", &DeleteParams::default()).await.unwrap();
    assert!(pending.is_left(), "the object is returned while it waits");
    assert!(
        api.get("w")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    );
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/more"]}}));
    let refused = api.patch("w", &PatchParams::default(), &more).await;
    assert_eq!(code(&refused.unwrap_err()), 422);
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("w", &PatchParams::default(), &none)
        .await
        .unwrap();
    assert!(api.get_opt("w").await.unwrap().is_none());
}

#[tokio::test]
async fn watches_follow_selections() {
    let fixture = Fixture::new();
    let api = widgets(&fixture);
    let params = WatchParams::default().labels("on=yes").timeout(20);
    let start = api.list(&ListParams::default()).await.unwrap();
    let from = start.metadata.resource_version.unwrap();
    let mut events = api.watch(&params, &from).await.unwrap().boxed();

    api.create(&PostParams::default(), &dynamic(widget("w", 1)))
        .await
        .unwrap();
    for labels in [
        json!({"on": "yes"}),
        json!({"more": "x"}),
        json!({"on": null}),
    ] {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        api.patch("w", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            WatchEvent::Bookmark(_) => "bookmark",
            WatchEvent::Error(_) => "error",
        });
    }
    assert_eq!(seen, ["added", "modified", "deleted"]);
}

#[tokio::test]
async fn both_kinds_of_watcher_see_what_exists_and_what_comes() {
    let fixture = Fixture::new();
    let api = widgets(&fixture);
    api.create(&PostParams::default(), &dynamic(widget("old", 1)))
        .await
        .unwrap();
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut objects = watcher(api.clone(), config).applied_objects().boxed();
        let first = objects.try_next().await.unwrap().unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("old"));
        let name = format!("new-{}", first.metadata.generation.unwrap());
        api.create(&PostParams::default(), &dynamic(widget(&name, 1)))
            .await
            .unwrap();
        let second = objects.try_next().await.unwrap().unwrap();
        assert_eq!(second.metadata.name.as_deref(), Some(name.as_str()));
        api.delete(&name, &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
async fn lists_come_in_consistent_pages() {
    let fixture = Fixture::new();
    let api = widgets(&fixture);
    for index in 0..7 {
        let object = dynamic(widget(&format!("w{index}"), index));
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(3);
    loop {
        let page = api.list(&params).await.unwrap();
        names.extend(page.items.into_iter().map(|o| o.metadata.name.unwrap()));
        let Some(next) = page.metadata.continue_.filter(|next| !next.is_empty()) else {
            break;
        };
        params = ListParams::default().limit(3).continue_token(&next);
        // The snapshot of the first page is what counts.
        api.delete("w6", &DeleteParams::default()).await.ok();
    }
    assert_eq!(names, ["w0", "w1", "w2", "w3", "w4", "w5", "w6"]);
    let one = api
        .list(&ListParams::default().fields("metadata.name=w3"))
        .await
        .unwrap();
    assert_eq!(one.items.len(), 1);
}

#[tokio::test]
async fn secrets_take_string_data() {
    let fixture = Fixture::new();
    let secrets: Api<Secret> = Api::default_namespaced(fixture.client());
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"generateName": "s-"}, "stringData": {"a": "b"},
    }))
    .unwrap();
    let created = secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    assert!(created.metadata.name.unwrap().starts_with("s-"));
    assert_eq!(created.data.unwrap()["a"].0, b"b");
    assert_eq!(created.string_data, None);
    assert_eq!(created.type_.as_deref(), Some("Opaque"));
}

#[tokio::test]
async fn wrapped_base64_is_taken_and_ill_formed_base64_is_not_repeated() {
    let fixture = Fixture::new();
    let kind = ApiResource::erase::<Secret>(&());
    let secrets: Api<DynamicObject> = Api::default_namespaced_with(fixture.client(), &kind);
    let with = |name: &str, value: &str| {
        let object = json!({"metadata": {"name": name}, "data": {"a": value}});
        serde_json::from_value::<DynamicObject>(object).unwrap()
    };
    let wrapped = with("wrapped", "cGFz\nc3dvcmQ=\n");
    let created = secrets.create(&PostParams::default(), &wrapped).await;
    assert_eq!(created.unwrap().data["data"]["a"], "cGFzc3dvcmQ=");
    let ill_formed = with("ill-formed", "cGFzc3dvcmQ");
    let refused = secrets.create(&PostParams::default(), &ill_formed).await;
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(
        refused.contains("of type byte") && !refused.contains("cGFz"),
        "{refused}"
    );
}

#[tokio::test]
async fn server_side_apply_creates_and_merges() {
    let fixture = Fixture::new();
    let api = widgets(&fixture);
    let params = PatchParams::apply("test").force();
    let applied = api
        .patch("w", &params, &Patch::Apply(widget("w", 3)))
        .await
        .unwrap();
    assert_eq!(applied.data["spec"]["size"], 3);
    let status = json!({
        "apiVersion": "example.com/v1", "kind": "Widget",
        "status": {"phase": "Done"},
    });
    let applied = api
        .patch_status("w", &params, &Patch::Apply(status))
        .await
        .unwrap();
    assert_eq!(applied.data["status"]["phase"], "Done");
    assert_eq!(applied.data["spec"]["size"], 3);
}

#[tokio::test]
async fn server_side_apply_keeps_to_its_own_fields() {
    let fixture = Fixture::new();
    let api = widgets(&fixture);
    let apply = |manager: &str, size: Option<i64>, color: Option<&str>| {
        let mut spec = json!({});
        if let Some(size) = size {
            spec["size"] = json!(size);
        }
        if let Some(color) = color {
            spec["color"] = json!(color);
        }
        let object = json!({"apiVersion": "example.com/v1", "kind": "Widget", "spec": spec});
        let params = PatchParams::apply(manager);
        let api = api.clone();
        async move { api.patch("w", &params, &Patch::Apply(object)).await }
    };
    apply("one", Some(1), None).await.unwrap();
    let both = apply("two", None, Some("blue")).await.unwrap();
    assert_eq!(both.data["spec"], json!({"size": 1, "color": "blue"}));
    let managers = both.metadata.managed_fields.unwrap();
    assert_eq!(managers.len(), 2);

    let refused = apply("two", Some(2), Some("blue")).await.unwrap_err();
    match refused {
        kube::Error::Api(status) => {
            assert_eq!(status.code, 409);
            let details = status.details.unwrap();
            assert_eq!(details.causes[0].reason, "FieldManagerConflict");
            assert_eq!(details.causes[0].field, ".spec.size");
        }
        other => panic!("expected a conflict, got {other}"),
    }
    // A field that is no longer applied goes; its default comes back.
    let gone = apply("two", None, None).await.unwrap();
    assert_eq!(gone.data["spec"], json!({"size": 1, "color": "red"}));
    let again = apply("two", None, None).await.unwrap();
    assert_eq!(
        again.metadata.resource_version,
        gone.metadata.resource_version
    );
}

#[tokio::test]
async fn pods_are_stored_and_can_be_evicted() {
    let fixture = Fixture::new();
    let pods: Api<Pod> = Api::default_namespaced(fixture.client());
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let on_node = ListParams::default().fields("spec.nodeName=n");
    assert_eq!(pods.list(&on_node).await.unwrap().items.len(), 1);
    let elsewhere = ListParams::default().fields("spec.nodeName=m");
    assert_eq!(pods.list(&elsewhere).await.unwrap().items.len(), 0);
    pods.evict("p", &EvictParams::default()).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());
    let gone = pods.evict("p", &EvictParams::default()).await;
    assert_eq!(code(&gone.unwrap_err()), 404);
}
