//! Kinds that CustomResourceDefinitions make: their versions, and what becomes of objects when a definition changes.

use http::Method;
use serde_json::{Value, json};

use crate::call::{Call, WIDGETS, get, post};
use crate::common::{self, Fixture, widget};

#[tokio::test]
async fn versions_of_a_kind_show_the_same_objects() {
    let fixture = Fixture::with(|config| {
        let versions = config.crds[0]["spec"]["versions"].as_array_mut().unwrap();
        let mut beta = versions[0].clone();
        beta["name"] = json!("v1beta1");
        beta["storage"] = json!(false);
        beta["deprecated"] = json!(true);
        versions.push(beta);
    });
    let beta = WIDGETS.replace("/v1/", "/v1beta1/");
    let mut object = widget("w", 1);
    object["apiVersion"] = json!("example.com/v1beta1");
    let (code, headers, body) = post(&beta, &object).send(&fixture).await;
    assert_eq!(code, 201);
    let warning = headers["warning"].to_str().unwrap();
    assert!(
        warning.contains("example.com/v1beta1 Widget is deprecated"),
        "{warning}"
    );
    let created: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(created["apiVersion"], "example.com/v1beta1");
    let (_, stored) = get(&format!("{WIDGETS}/w")).answer(&fixture).await;
    assert_eq!(stored["apiVersion"], "example.com/v1");
    assert_eq!(stored["metadata"]["uid"], created["metadata"]["uid"]);
    let (_, list) = get(&beta).answer(&fixture).await;
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");
    let (_, group) = get("/apis/example.com").answer(&fixture).await;
    assert_eq!(group["preferredVersion"]["version"], "v1");
}

#[tokio::test]
async fn malformed_definitions_are_refused_at_start_and_later() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = common::config(&directory);
    config.crds[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["type"] =
        json!("wrong");
    let error = apiserver::ApiServer::open(config).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot install CustomResourceDefinition `widgets.example.com`: "),
        "{error}"
    );
    assert!(error.contains("unsupported type `wrong`"), "{error}");

    let fixture = Fixture::new();
    let mut definition = common::widget_definition();
    definition["metadata"]["name"] = json!("gadgets.example.com");
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, status) = post(path, &definition).answer(&fixture).await;
    assert_eq!(code, 422);
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn a_definition_may_serve_nothing_and_may_not_take_built_in_groups() {
    let fixture = Fixture::new();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut stolen = common::widget_definition();
    stolen["metadata"]["name"] = json!("leases.coordination.k8s.io");
    stolen["spec"]["group"] = json!("coordination.k8s.io");
    stolen["spec"]["names"]["plural"] = json!("leases");
    assert_eq!(post(path, &stolen).answer(&fixture).await.0, 422);

    let one = format!("{path}/widgets.example.com");
    let (_, mut definition) = get(&one).answer(&fixture).await;
    definition["spec"]["versions"][0]["served"] = json!(false);
    let hidden = Call::new(Method::PUT, &one).json(&definition);
    assert_eq!(hidden.answer(&fixture).await.0, 200);
    assert_eq!(get(WIDGETS).answer(&fixture).await.0, 404);
    let delete = Call::new(Method::DELETE, &one);
    assert_eq!(delete.answer(&fixture).await.0, 200);
}

#[tokio::test]
async fn objects_from_before_a_stricter_definition_can_still_be_worked_with() {
    let fixture = Fixture::new();
    let mut object = widget("w", 50);
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    post(WIDGETS, &object).answer(&fixture).await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
    let (_, mut definition) = get(path).answer(&fixture).await;
    let spec =
        &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["size"]["maximum"] = json!(10);
    Call::new(Method::PUT, path)
        .json(&definition)
        .answer(&fixture)
        .await;
    let one = format!("{WIDGETS}/w");
    let patch = |body: Value| {
        let body = body.to_string();
        Call::new(Method::PATCH, &one).body("application/merge-patch+json", body.as_bytes())
    };
    let color = patch(json!({"spec": {"color": "blue"}}));
    assert_eq!(color.answer(&fixture).await.0, 200);
    let larger = patch(json!({"spec": {"size": 60}}));
    assert_eq!(larger.answer(&fixture).await.0, 422);
    assert_eq!(
        Call::new(Method::DELETE, &one).answer(&fixture).await.0,
        200
    );
    let release = patch(json!({"metadata": {"finalizers": null}}));
    assert_eq!(release.answer(&fixture).await.0, 200);
    assert_eq!(get(&one).answer(&fixture).await.0, 404);
}
