//! Who may come in, and what somebody may do there.

use apiserver::{Names, Rule, Token};
use http::Method;
use serde_json::{Value, json};

use crate::call::{Call, post};
use crate::common::Fixture;

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
        Call::token(&path, "patch-token")
            .method(Method::PATCH)
            .body("application/apply-patch+yaml", node.to_string().as_bytes())
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
