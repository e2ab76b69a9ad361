//! Lists and watches, and the shapes they come in.

use http::{Method, Request};
use serde_json::{Value, json};

use super::api::Api;

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_moment() {
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    let maps = format!("/api/v1/namespaces/{ns}/configmaps");
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"ours": "yes"}}});
    for name in ["a", "b", "c"] {
        assert_eq!(api.post(&maps, &map(name)).await.code, 201);
    }
    let names = |list: &Value| -> Vec<String> {
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

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_form_that_was_asked_for() {
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    let maps = format!("/api/v1/namespaces/{ns}/configmaps");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: written\ndata:\n  key: '1'\n";
    let made = api
        .body(Method::POST, &maps, "application/yaml", yaml)
        .await;
    assert_eq!(made.code, 201, "{}", made.json());
    let path = format!("{maps}/written");
    let shown = api.get_as(&path, "application/yaml").await;
    assert_eq!(shown.header("content-type"), "application/yaml");
    let read: Value = serde_saphyr::from_str(std::str::from_utf8(&shown.body).unwrap()).unwrap();
    assert_eq!(read["data"]["key"], "1");
    let apply = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: written}\ndata: {other: '2'}\n";
    let applied = api
        .body(
            Method::PATCH,
            &format!("{path}?fieldManager=test"),
            "application/apply-patch+yaml",
            apply,
        )
        .await;
    assert_eq!(applied.code, 200, "{}", applied.json());
    assert_eq!(applied.json()["data"], json!({"key": "1", "other": "2"}));

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    assert_eq!(api.get_as(&maps, table).await.json()["kind"], "Table");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = api.get_as(&maps, partial).await.json();
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("data").is_none());

    let large = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"},
        "data": {"text": "lorem ipsum ".repeat(30_000)},
    });
    assert_eq!(api.post(&maps, &large).await.code, 201);
    let asked = |coding: &'static str| {
        Request::get(format!("{maps}/large")).header("accept-encoding", coding)
    };
    let packed = api.send(asked("gzip"), Vec::new()).await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.body.len() < 100_000);
    let plain = api.send(asked("identity"), Vec::new()).await;
    assert_eq!(plain.header("content-encoding"), "");
    assert_eq!(plain.json()["data"], large["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_fields_select_and_scale() {
    let api = Api::connect().await;
    let group = format!("c{}.example.com", std::process::id());
    let text = json!({"type": "string"});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("gadgets.{group}")},
        "spec": {
            "group": group, "scope": "Cluster",
            "names": {"plural": "gadgets", "kind": "Gadget"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "color": text, "replicas": {"type": "integer"},
                    }},
                    "status": {"type": "object", "properties": {
                        "selector": text, "replicas": {"type": "integer"},
                    }},
                }}},
            }],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let made = api.post(definitions, &definition).await;
    assert_eq!(made.code, 201, "{}", made.json());
    let gadgets = format!("/apis/{group}/v1/gadgets");
    // Elsewhere a new kind needs a moment.
    for _ in 0..600 {
        if api.get(&gadgets).await.code == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    for (name, color) in [("a", "red"), ("b", "blue")] {
        let gadget = json!({
            "apiVersion": format!("{group}/v1"), "kind": "Gadget", "metadata": {"name": name},
            "spec": {"color": color, "replicas": 1},
        });
        assert_eq!(api.post(&gadgets, &gadget).await.code, 201);
    }
    let blue = api
        .get(&format!("{gadgets}?fieldSelector=spec.color%3Dblue"))
        .await
        .json();
    assert_eq!(blue["items"].as_array().unwrap().len(), 1);
    assert_eq!(blue["items"][0]["metadata"]["name"], "b");
    let scale = format!("{gadgets}/a/scale");
    let shown = api.get(&scale).await.json();
    assert_eq!(shown["kind"], "Scale");
    assert_eq!(shown["spec"]["replicas"], 1);
    let patch = r#"{"spec":{"replicas":5}}"#;
    let patched = api
        .body(Method::PATCH, &scale, "application/merge-patch+json", patch)
        .await;
    assert_eq!(patched.code, 200, "{}", patched.json());
    assert_eq!(patched.json()["spec"]["replicas"], 5);
    let mut stale = shown.clone();
    stale["spec"]["replicas"] = json!(7);
    let refused = api
        .body(Method::PUT, &scale, "application/json", stale.to_string())
        .await;
    assert_eq!(refused.code, 409, "{}", refused.json());
    let object = api.get(&format!("{gadgets}/a")).await.json();
    assert_eq!(object["spec"], json!({"color": "red", "replicas": 5}));
    let gone = Request::delete(format!("{definitions}/gadgets.{group}"));
    assert_eq!(api.send(gone, Vec::new()).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests() {
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    api.get(&format!("/api/v1/namespaces/{ns}/configmaps"))
        .await;
    let metrics = api.get("/metrics").await;
    assert_eq!(metrics.code, 200);
    let text = String::from_utf8(metrics.body).unwrap();
    let counted = text.lines().any(|line| {
        line.starts_with("apiserver_request_total{") && line.contains("resource=\"configmaps\"")
    });
    assert!(counted, "{text}");
}
