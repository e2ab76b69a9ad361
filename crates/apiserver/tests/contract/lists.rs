//! Lists and watches, and the shapes they come in.

use serde_json::json;

use super::api::Api;

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_moment() {
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    let maps = format!("/api/v1/namespaces/{ns}/configmaps");
    let map = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"ours": "yes"}}})
    };
    for name in ["a", "b", "c"] {
        assert_eq!(api.post(&maps, &map(name)).await.code, 201);
    }
    let names = |list: &serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let selected = format!("{maps}?labelSelector=ours%3Dyes");
    let first = api.get(&format!("{selected}&limit=2")).await.json();
    assert_eq!(names(&first), ["a", "b"]);
    let next = first["metadata"]["continue"].as_str().unwrap();
    assert_eq!(api.post(&maps, &map("d")).await.code, 201);
    let second = api
        .get(&format!("{selected}&limit=2&continue={next}"))
        .await
        .json();
    assert_eq!(names(&second), ["c"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = api
        .get(&format!(
            "{selected}&resourceVersion={version}&resourceVersionMatch=Exact"
        ))
        .await
        .json();
    assert_eq!(names(&exact), ["a", "b", "c"]);
    for (query, code) in [
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("resourceVersion=1&resourceVersionMatch=Nonsense", 422),
        ("resourceVersion=x", 400),
        ("limit=x", 400),
        ("continue=x", 400),
        ("fieldSelector=spec.none%3D1", 400),
        ("labelSelector=%21%21", 400),
    ] {
        let answer = api.get(&format!("{maps}?{query}")).await;
        assert_eq!(answer.code, code, "{query}: {}", answer.json());
    }
}
