//! Objects through their life: kinds kept as data, scale, eviction.

use http::{Method, Request};
use serde_json::{Value, json};

use super::api::{Api, kubectl_is_there};

const WORKLOADS: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: example.com/web:1, ports: [{containerPort: 80}], env: [{name: A, value: '1'}]}
      - {name: log, image: example.com/log:1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 80}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn workloads_are_kept_as_data() {
    if !kubectl_is_there() {
        return;
    }
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    api.ok_with(&format!("-n {ns} apply -f -"), WORKLOADS).await;
    // A client-side apply patches one container of two: lists have keys.
    let changed = WORKLOADS.replace("example.com/web:1", "example.com/web:2");
    api.ok_with(&format!("-n {ns} apply -f -"), &changed).await;
    let images = "jsonpath={.spec.template.spec.containers[*].image}";
    let shown = api
        .ok(&format!("-n {ns} get deployment web -o {images}"))
        .await;
    assert_eq!(shown, "example.com/web:2 example.com/log:1");
    api.ok(&format!(
        "-n {ns} set image deployment/web log=example.com/log:2"
    ))
    .await;
    let shown = api
        .ok(&format!("-n {ns} get deployment web -o {images}"))
        .await;
    assert_eq!(shown, "example.com/web:2 example.com/log:2");
    api.ok(&format!("-n {ns} scale deployment web --replicas=3"))
        .await;
    let replicas = format!("-n {ns} get deployment web -o jsonpath={{.spec.replicas}}");
    assert_eq!(api.ok(&replicas).await, "3");
    api.fails(
        &format!("-n {ns} scale deployment web --current-replicas=1 --replicas=2"),
        "",
        "Expected replicas to be 1, was 3",
    )
    .await;
    let applied = WORKLOADS.replace("replicas: 2", "replicas: 4");
    api.ok_with(
        &format!("-n {ns} apply --server-side --force-conflicts -f -"),
        &applied,
    )
    .await;
    assert_eq!(api.ok(&replicas).await, "4");
    let all = api.ok(&format!("-n {ns} get all")).await;
    assert!(all.contains("deployment.apps/web") && all.contains("service/web"));
    api.ok(&format!("delete namespace {ns} --timeout=90s"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_holds_evictions_back() {
    let api = Api::connect().await;
    if api.embedded.is_none() {
        // On a real cluster a controller keeps the budget, and a kubelet the pods' status.
        return;
    }
    let ns = &api.namespace().await;
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    for name in ["a", "b"] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        assert_eq!(api.post(&pods, &pod).await.code, 201);
        let status = json!({"status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let path = format!("{pods}/{name}/status");
        let media_type = "application/merge-patch+json";
        let patched = api
            .body(Method::PATCH, &path, media_type, status.to_string())
            .await;
        assert_eq!(patched.code, 200, "{}", patched.json());
    }
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    });
    let budgets = format!("/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets");
    assert_eq!(api.post(&budgets, &budget).await.code, 201);
    let evict = async |name: &str| {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name},
        });
        api.post(&format!("{pods}/{name}/eviction"), &eviction)
            .await
    };
    assert_eq!(evict("a").await.code, 201);
    let refused = evict("b").await;
    assert_eq!(refused.code, 429);
    let status: Value = refused.json();
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["details"]["causes"][0]["reason"], "DisruptionBudget");
    let gone = Request::delete(format!("{budgets}/web"));
    assert_eq!(api.send(gone, Vec::new()).await.code, 200);
    assert_eq!(evict("b").await.code, 201);
}
