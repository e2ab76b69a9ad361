//! Requests and answers as they are on the wire: who may come in, and how errors look.

#![allow(clippy::unwrap_used)]

mod common;

use apiserver::{Names, Rule, Token};
use axum::body::Body;
use common::{ADMIN, Fixture, widget};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// One request: method, path, token, headers and body.
struct Call {
    request: http::request::Builder,
    body: Vec<u8>,
}

impl Call {
    fn new(method: Method, path: &str) -> Self {
        let request = Request::builder().method(method).uri(path);
        Self {
            request: request.header("authorization", format!("Bearer {ADMIN}")),
            body: Vec::new(),
        }
    }

    fn anonymous(path: &str) -> Self {
        Self {
            request: Request::builder().uri(path),
            body: Vec::new(),
        }
    }

    fn token(path: &str, token: &str) -> Self {
        let request = Request::builder().uri(path);
        Self {
            request: request.header("authorization", format!("Bearer {token}")),
            body: Vec::new(),
        }
    }

    fn method(mut self, method: Method) -> Self {
        self.request = self.request.method(method);
        self
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    fn json(self, body: &Value) -> Self {
        let body = body.to_string().into_bytes();
        let typed = self.header("content-type", "application/json");
        Self { body, ..typed }
    }

    async fn send(self, fixture: &Fixture) -> (StatusCode, http::HeaderMap, Vec<u8>) {
        let request = self.request.body(Body::from(self.body)).unwrap();
        let response = fixture.server.router().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, body.to_vec())
    }

    async fn answer(self, fixture: &Fixture) -> (u16, Value) {
        let (code, _, body) = self.send(fixture).await;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        (code.as_u16(), body)
    }
}

fn get(path: &str) -> Call {
    Call::new(Method::GET, path)
}

fn post(path: &str, body: &Value) -> Call {
    Call::new(Method::POST, path).json(body)
}

fn node_rules() -> Vec<Rule> {
    let rule = |verbs: &[&str], group: &str, resources: &[&str], names, namespace: Option<&str>| {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            group: "system:nodes".into(),
            verbs: strings(verbs),
            api_groups: vec![group.into()],
            resources: strings(resources),
            names,
            namespace: namespace.map(String::from),
        }
    };
    vec![
        rule(
            &["get", "list", "watch", "create", "update", "patch"],
            "",
            &["nodes", "nodes/status"],
            Names::OwnName,
            None,
        ),
        rule(&["get"], "", &["configmaps"], Names::Any, Some("default")),
    ]
}

fn with_node() -> Fixture {
    Fixture::with(|config| {
        config.rules = node_rules();
        config.rules.push(Rule {
            group: "patchers".into(),
            verbs: vec!["patch".into()],
            api_groups: vec![String::new()],
            resources: vec!["configmaps".into()],
            names: Names::Any,
            namespace: None,
        });
        let patcher = Token::new("patcher", &["patchers"], "patch-token");
        config.tokens.push(patcher);
        config.tokens.push(Token::new(
            "system:node:worker-1",
            &["system:nodes"],
            "node-token",
        ));
    })
}

#[tokio::test]
async fn without_a_token_only_health_answers() {
    let fixture = Fixture::new();
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/readyz/ping",
        "/readyz?verbose",
    ] {
        let (code, _) = Call::anonymous(path).answer(&fixture).await;
        assert_eq!(code, 200, "{path}");
    }
    for path in [
        "/",
        "/version",
        "/api",
        "/apis",
        "/api/v1",
        "/api/v1/nodes",
        "/openapi/v3",
        "/metrics",
        "/api/v1/nosuch",
    ] {
        for call in [Call::anonymous(path), Call::token(path, "wrong")] {
            let (code, status) = call.answer(&fixture).await;
            assert_eq!(code, 401, "{path}");
            assert_eq!(status["kind"], "Status");
            assert_eq!(status["reason"], "Unauthorized");
        }
    }
    let basic = Call::anonymous("/api").header("authorization", "Basic YTpi");
    assert_eq!(basic.answer(&fixture).await.0, 401);
}

#[tokio::test]
async fn a_node_may_do_what_its_rules_say_and_nothing_else() {
    let fixture = with_node();
    let node = |path: &str| Call::token(path, "node-token");
    let own = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"}});
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-2"}});
    let nodes = "/api/v1/nodes";
    let create = |body: &Value| node(nodes).method(Method::POST).json(body);
    assert_eq!(create(&own).answer(&fixture).await.0, 201);
    assert_eq!(create(&other).answer(&fixture).await.0, 403);
    post(nodes, &other).answer(&fixture).await;

    for (path, expected) in [
        ("/api/v1/nodes/worker-1", 200),
        ("/api/v1/nodes/worker-1/status", 200),
        ("/api/v1/nodes/worker-2", 403),
        ("/api/v1/nodes", 403),
        ("/api/v1/nodes?fieldSelector=metadata.name%3Dworker-1", 200),
        ("/api/v1/nodes?fieldSelector=metadata.name%3Dworker-2", 403),
        ("/api/v1/nodes?fieldSelector=metadata.name!%3Dworker-1", 403),
        ("/api/v1/namespaces/default/configmaps/none", 404),
        ("/api/v1/namespaces/kube-system/configmaps/none", 403),
        ("/api/v1/namespaces/default/secrets/none", 403),
        ("/api", 200),
        ("/metrics", 403),
    ] {
        assert_eq!(node(path).answer(&fixture).await.0, expected, "{path}");
    }
    let (_, status) = node("/api/v1/namespaces/default/secrets/s")
        .answer(&fixture)
        .await;
    assert_eq!(
        status,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "secrets \"s\" is forbidden: User \"system:node:worker-1\" cannot get resource \
                        \"secrets\" in API group \"\" in the namespace \"default\"",
            "reason": "Forbidden",
            "details": {"name": "s", "kind": "secrets"},
            "code": 403,
        })
    );
    let apply = |name: &str| {
        let node = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let path = format!("/api/v1/namespaces/default/configmaps/{name}?fieldManager=m");
        let mut call = Call::token(&path, "patch-token").method(Method::PATCH);
        call = call.header("content-type", "application/apply-patch+yaml");
        call.body = node.to_string().into_bytes();
        call
    };
    assert_eq!(
        apply("none").answer(&fixture).await.0,
        403,
        "patching is not creating"
    );
    let delete = node("/api/v1/nodes/worker-1").method(Method::DELETE);
    assert_eq!(delete.answer(&fixture).await.0, 403);
}

#[tokio::test]
async fn tokens_come_and_go_at_run_time() {
    let fixture = with_node();
    let call = || Call::token("/api", "late").answer(&fixture);
    assert_eq!(call().await.0, 401);
    let token = Token::new("system:node:late", &["system:nodes"], "late");
    fixture.server.set_tokens(vec![token]);
    assert_eq!(call().await.0, 200);
    fixture.server.set_tokens(Vec::new());
    assert_eq!(call().await.0, 401);
}

#[tokio::test]
async fn access_reviews_tell_the_truth() {
    let fixture = with_node();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (verb, resource, name, expected) in [
        ("get", "nodes", "worker-1", true),
        ("get", "nodes", "worker-2", false),
        ("delete", "nodes", "worker-1", false),
        ("get", "configmaps", "x", true),
    ] {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb, "resource": resource, "name": name, "namespace": "default",
            }},
        });
        let call = Call::token(path, "node-token")
            .method(Method::POST)
            .json(&review);
        let (code, answer) = call.answer(&fixture).await;
        assert_eq!(code, 201);
        assert_eq!(
            answer["status"]["allowed"], expected,
            "{verb} {resource} {name}"
        );
    }
}

#[tokio::test]
async fn errors_have_their_shapes() {
    let fixture = Fixture::new();
    let check = async |call: Call, code: u16, reason: &str, message: &str| {
        let (found, status) = call.answer(&fixture).await;
        assert_eq!(found, code, "{status}");
        assert_eq!(status["reason"], reason, "{status}");
        let told = status["message"].as_str().unwrap();
        assert!(told.contains(message), "{told}");
        status
    };
    let missing = check(
        get(&format!("{WIDGETS}/w")),
        404,
        "NotFound",
        "widgets.example.com \"w\" not found",
    )
    .await;
    assert_eq!(
        missing["details"],
        json!({"name": "w", "group": "example.com", "kind": "widgets"})
    );
    let nowhere = "/apis/example.com/v1/nosuch";
    check(
        get(nowhere),
        404,
        "NotFound",
        "could not find the requested resource",
    )
    .await;
    check(
        get("/apis/example.com/v1/widgets/w"),
        404,
        "NotFound",
        "could not find the requested resource",
    )
    .await;
    check(
        Call::new(Method::PUT, WIDGETS),
        405,
        "MethodNotAllowed",
        "does not allow this method",
    )
    .await;
    check(
        get(WIDGETS).header("accept", "application/xml"),
        406,
        "NotAcceptable",
        "application/json",
    )
    .await;
    check(
        Call::new(Method::POST, WIDGETS).header("content-type", "application/xml"),
        415,
        "UnsupportedMediaType",
        "application/json",
    )
    .await;
    let mut strategic = Call::new(Method::PATCH, &format!("{WIDGETS}/w"))
        .header("content-type", "application/strategic-merge-patch+json");
    strategic.body = b"{}".to_vec();
    check(strategic, 415, "UnsupportedMediaType", "merge-patch+json").await;
    let mut huge = Call::new(Method::POST, WIDGETS).header("content-type", "application/json");
    huge.body = vec![b' '; (3 << 20) + 1];
    check(huge, 413, "RequestEntityTooLarge", "limit is 3145728").await;
    let mut broken = Call::new(Method::POST, WIDGETS).header("content-type", "application/json");
    broken.body = b"{\"a\":".to_vec();
    check(broken, 400, "BadRequest", "not valid JSON").await;
    let mut wrong = widget("w", 1);
    wrong["kind"] = json!("Gadget");
    check(
        post(WIDGETS, &wrong),
        400,
        "BadRequest",
        "does not match the expected kind",
    )
    .await;
    let elsewhere = "/apis/example.com/v1/namespaces/none/widgets";
    let mut moved = widget("w", 1);
    moved["metadata"]["namespace"] = json!("none");
    check(
        post(elsewhere, &moved),
        404,
        "NotFound",
        "namespaces \"none\" not found",
    )
    .await;
    check(
        get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")),
        400,
        "BadRequest",
        "field label not supported: spec.size",
    )
    .await;
    check(
        get(&format!("{WIDGETS}?labelSelector=a%20in%20b")),
        400,
        "BadRequest",
        "unable to parse",
    )
    .await;
    check(
        get(&format!("{WIDGETS}?resourceVersion=999999")),
        504,
        "Timeout",
        "Too large resource version",
    )
    .await;
    check(
        get(&format!("{WIDGETS}?limit=1&continue=bm9uc2Vuc2U")),
        400,
        "BadRequest",
        "continue key is not valid",
    )
    .await;
}

#[tokio::test]
async fn invalid_objects_name_every_field() {
    let fixture = Fixture::new();
    let mut object = widget("Bad_Name", 101);
    object["spec"]["color"] = json!("pink");
    object["spec"]["tags"] = json!(["a", "a"]);
    object["spec"]["parts"] = json!([{"count": 1}, {"name": "x"}, {"name": "x"}]);
    object["metadata"]["labels"] = json!({"ok": "not ok"});
    let (code, status) = post(WIDGETS, &object).answer(&fixture).await;
    assert_eq!(code, 422);
    assert_eq!(status["reason"], "Invalid");
    assert_eq!(status["details"]["kind"], "Widget");
    let causes: Vec<String> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| {
            let reason = cause["reason"].as_str().unwrap();
            format!("{reason} {}", cause["field"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        causes,
        [
            "FieldValueInvalid metadata.name",
            "FieldValueInvalid metadata.labels",
            "FieldValueNotSupported spec.color",
            "FieldValueDuplicate spec.parts[2]",
            "FieldValueRequired spec.parts[0].name",
            "FieldValueInvalid spec.size",
            "FieldValueDuplicate spec.tags[1]",
        ]
    );
}

#[tokio::test]
async fn unknown_and_duplicate_fields_follow_field_validation() {
    let fixture = Fixture::new();
    let body = br#"{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "lables": {}},
        "spec": {"size": 1, "size": 2, "colour": "red", "free": {"any": 1}}}"#;
    let call = |validation: &str| {
        let path = format!("{WIDGETS}?fieldValidation={validation}&dryRun=All");
        let mut call = Call::new(Method::POST, &path).header("content-type", "application/json");
        call.body = body.to_vec();
        call
    };
    let problems = [
        "duplicate field \"spec.size\"",
        "unknown field \"spec.colour\" (did you mean \"color\"?)",
        "unknown field \"metadata.lables\" (did you mean \"labels\"?)",
    ];
    let (code, status) = call("Strict").answer(&fixture).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        format!(
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: {}",
            problems.join(", ")
        )
    );
    let (code, headers, body) = call("Warn").send(&fixture).await;
    assert_eq!(code, 201);
    let warnings: Vec<&str> = headers
        .get_all("warning")
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    assert_eq!(warnings.len(), 3);
    assert!(
        warnings[1].starts_with("299 - \"unknown field \\\"spec.colour\\\""),
        "{warnings:?}"
    );
    let object: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        object["spec"],
        json!({"size": 2, "color": "red", "free": {"any": 1}})
    );
    let (code, headers, _) = call("Ignore").send(&fixture).await;
    assert_eq!(code, 201);
    assert!(headers.get("warning").is_none());
    // All of it was a dry run.
    assert_eq!(get(&format!("{WIDGETS}/w")).answer(&fixture).await.0, 404);
}

#[tokio::test]
async fn tables_and_partial_objects_are_negotiated() {
    let fixture = Fixture::new();
    post(WIDGETS, &widget("w", 7)).answer(&fixture).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (_, table) = get(WIDGETS).header("accept", accept).answer(&fixture).await;
    assert_eq!(table["kind"], "Table");
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Size", "Ready", "Age"]);
    let row = &table["rows"][0];
    assert_eq!(row["cells"][0], "w");
    assert_eq!(row["cells"][1], 7);
    assert_eq!(row["cells"][2], Value::Null);
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");

    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let (_, list) = get(WIDGETS).header("accept", accept).answer(&fixture).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "w");
    assert!(list["items"][0].get("spec").is_none());
}

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
async fn events_are_one_thing_in_two_shapes() {
    let fixture = Fixture::new();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"},
        "regarding": {"kind": "Widget", "name": "w", "namespace": "default"},
        "note": "it happened", "reason": "Happened", "action": "Test", "type": "Normal",
        "reportingController": "test", "reportingInstance": "test-1",
        "eventTime": "2026-01-01T00:00:00.000000Z",
    });
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let (code, created) = post(path, &event).answer(&fixture).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["note"], "it happened");
    let core = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dw";
    let (_, list) = get(core).answer(&fixture).await;
    assert_eq!(list["items"][0]["message"], "it happened");
    assert_eq!(list["items"][0]["apiVersion"], "v1");
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
        let body = body.to_string().into_bytes();
        let call = Call::new(Method::PATCH, &one);
        let call = call.header("content-type", "application/merge-patch+json");
        Call { body, ..call }
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
