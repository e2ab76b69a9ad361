//! Whatever a client sends, the server has an answer that is not its own fault.

#![allow(clippy::unwrap_used)]

mod common;

use axum::body::Body;
use common::{ADMIN, Fixture};
use http::{Method, Request};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Places, each with the kind that belongs there.
const PLACES: &[(&str, &str, &str)] = &[
    ("/api/v1/namespaces", "v1", "Namespace"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/api/v1/namespaces/default/pods", "v1", "Pod"),
    ("/api/v1/namespaces/default/secrets", "v1", "Secret"),
    ("/api/v1/namespaces/default/configmaps", "v1", "ConfigMap"),
    ("/api/v1/namespaces/default/events", "v1", "Event"),
    (
        "/apis/events.k8s.io/v1/namespaces/default/events",
        "events.k8s.io/v1",
        "Event",
    ),
    (
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        "coordination.k8s.io/v1",
        "Lease",
    ),
    (
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
    ),
    (
        "/apis/example.com/v1/namespaces/default/widgets",
        "example.com/v1",
        "Widget",
    ),
];

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z/.$]{0,6}".prop_map(Value::from),
    ];
    // Names that code looks at, so that the values meet it.
    let name = prop_oneof![
        Just("metadata"),
        Just("spec"),
        Just("status"),
        Just("data"),
        Just("stringData"),
        Just("type"),
        Just("labels"),
        Just("annotations"),
        Just("finalizers"),
        Just("names"),
        Just("versions"),
        Just("conditions"),
        Just("ownerReferences"),
        Just("managedFields"),
        Just("schema"),
        Just("openAPIV3Schema"),
        Just("properties"),
        Just("taints"),
        Just("parts"),
        Just("$patch"),
        Just("$setElementOrder/taints"),
        Just("source"),
        Just("series"),
    ]
    .prop_map(String::from);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

async fn send(
    fixture: &Fixture,
    method: Method,
    path: &str,
    media_type: &str,
    body: String,
) -> u16 {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media_type)
        .body(Body::from(body))
        .unwrap();
    let router = fixture.server.router_as(ADMIN);
    router.oneshot(request).await.unwrap().status().as_u16()
}

async fn attack(fixture: &Fixture, place: usize, fields: &Value) -> Result<(), TestCaseError> {
    let (path, api_version, kind) = PLACES[place % PLACES.len()];
    let mut object = fields.clone();
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), json!(api_version));
        map.insert("kind".into(), json!(kind));
        let metadata = map.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("name".into(), json!("target"));
        }
    }
    let one = format!("{path}/target?fieldManager=x&force=true");
    let text = object.to_string();
    let mut calls = vec![
        (
            Method::POST,
            path.to_owned(),
            "application/json",
            text.clone(),
        ),
        (Method::PUT, one.clone(), "application/json", text.clone()),
        (
            Method::PATCH,
            one.clone(),
            "application/apply-patch+yaml",
            text.clone(),
        ),
        (
            Method::PATCH,
            one.clone(),
            "application/merge-patch+json",
            fields.to_string(),
        ),
        (
            Method::PATCH,
            one.clone(),
            "application/strategic-merge-patch+json",
            fields.to_string(),
        ),
        (
            Method::PATCH,
            format!("{path}/target/status?fieldManager=x"),
            "application/merge-patch+json",
            text,
        ),
        (Method::GET, one.clone(), "application/json", String::new()),
    ];
    let value = json!([{"op": "add", "path": "/spec", "value": fields}]);
    calls.push((
        Method::PATCH,
        one.clone(),
        "application/json-patch+json",
        value.to_string(),
    ));
    let value = json!([{"op": "replace", "path": "", "value": fields}]);
    calls.push((
        Method::PATCH,
        one.clone(),
        "application/json-patch+json",
        value.to_string(),
    ));
    calls.push((Method::DELETE, one, "application/json", fields.to_string()));
    for (method, path, media_type, body) in calls {
        let code = send(fixture, method.clone(), &path, media_type, body.clone()).await;
        prop_assert!(
            code < 500,
            "{code} for {method} {path} {media_type}: {body}"
        );
    }
    Ok(())
}

#[test]
fn no_document_makes_the_server_fail() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(async { Fixture::new() });
    let config = ProptestConfig {
        cases: 200,
        ..ProptestConfig::default()
    };
    proptest!(config, |(place in any::<usize>(), fields in json_value())| {
        runtime.block_on(attack(&fixture, place, &fields))?;
    });
}

#[test]
fn no_query_makes_the_server_fail() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(async { Fixture::new() });
    let name = prop_oneof![
        Just("labelSelector"),
        Just("fieldSelector"),
        Just("limit"),
        Just("continue"),
        Just("resourceVersion"),
        Just("resourceVersionMatch"),
        Just("watch"),
        Just("timeoutSeconds"),
        Just("sendInitialEvents"),
        Just("includeObject"),
    ];
    // Characters that need no escaping but mean something to selectors.
    let value = "[a-z0-9!=<>(),.%2C*/-]{0,16}";
    let config = ProptestConfig {
        cases: 300,
        ..ProptestConfig::default()
    };
    proptest!(config, |(place in any::<usize>(), query in prop::collection::vec((name, value), 0..4))| {
        let (path, ..) = PLACES[place % PLACES.len()];
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let uri = format!("{path}?{}", query.join("&"));
        if uri.parse::<http::Uri>().is_ok() {
            let code = runtime.block_on(send(&fixture, Method::GET, &uri, "application/json", String::new()));
            // 504 says that a resourceVersion is from the future.
            prop_assert!(code < 500 || code == 504, "{code} for {uri}");
        }
    });
}
