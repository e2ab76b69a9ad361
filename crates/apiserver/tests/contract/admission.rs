//! ValidatingAdmissionPolicy, with the examples of Kubernetes' documentation.

use std::time::{Duration, Instant};

use http::{Method, Request};
use serde_json::{Value, json};

use super::api::{Answer, Api};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

/// A policy that goes when the test is over, in force in one namespace.
struct InForce<'a> {
    api: &'a Api,
    namespace: String,
    name: String,
}

impl<'a> InForce<'a> {
    /// `against` is an object that the policy has something against.
    async fn new(api: &'a Api, spec: Value, binding: Value, against: &Value) -> Self {
        let namespace = api.namespace().await;
        Self::within(api, namespace, spec, binding, against).await
    }

    async fn within(
        api: &'a Api,
        namespace: String,
        spec: Value,
        mut binding: Value,
        against: &Value,
    ) -> Self {
        let name = format!("{namespace}.example.com");
        let made = api.post(POLICIES, &policy(&name, spec)).await;
        assert_eq!(made.code, 201, "{}", made.json());
        binding["policyName"] = json!(name);
        binding["matchResources"] = json!({"namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": namespace},
        }});
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": format!("{name}.binding")}, "spec": binding,
        });
        let made = api.post(BINDINGS, &object).await;
        assert_eq!(made.code, 201, "{}", made.json());
        let this = Self {
            api,
            namespace,
            name,
        };
        this.wait(against).await;
        this
    }

    /// Other servers take up a policy a while after it was written.
    async fn wait(&self, against: &Value) {
        let refused = |answer: &Answer| answer.code != 201 || !answer.header("warning").is_empty();
        self.wait_for(against, refused).await;
    }

    async fn wait_for(&self, object: &Value, arrived: impl Fn(&Answer) -> bool) {
        let until = Instant::now() + Duration::from_secs(120);
        let path = format!("{}?dryRun=All", self.path(object));
        loop {
            let answer = self.api.post(&path, object).await;
            if arrived(&answer) {
                return;
            }
            assert!(Instant::now() < until, "the policy is not in force");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn path(&self, object: &Value) -> String {
        match object["kind"].as_str().unwrap() {
            "Deployment" => format!("/apis/apps/v1/namespaces/{}/deployments", self.namespace),
            "ConfigMap" => format!("/api/v1/namespaces/{}/configmaps", self.namespace),
            other => panic!("{other}"),
        }
    }

    async fn create(&self, object: Value) -> Answer {
        self.api.post(&self.path(&object), &object).await
    }

    async fn end(self) {
        for path in [
            format!("{BINDINGS}/{}.binding", self.name),
            format!("{POLICIES}/{}", self.name),
            format!("/api/v1/namespaces/{}", self.namespace),
        ] {
            let code = delete(self.api, &path).await.code;
            assert!(matches!(code, 200 | 202), "{path}: {code}");
        }
    }
}

async fn delete(api: &Api, path: &str) -> Answer {
    api.send(Request::delete(path), Vec::new()).await
}

async fn merge(api: &Api, path: &str, change: &Value) -> Answer {
    let media_type = "application/merge-patch+json";
    api.body(Method::PATCH, path, media_type, change.to_string())
        .await
}

fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn about(group: &str, resources: &[&str], operations: &[&str]) -> Value {
    json!({"resourceRules": [{
        "apiGroups": [group], "apiVersions": ["v1"], "operations": operations, "resources": resources,
    }]})
}

fn deployment(name: &str, replicas: i64, labels: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "registry.test/a:1"}]},
            },
        },
    })
}

fn map(name: &str, labels: Value, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels}, "data": data,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_limited() {
    let api = Api::connect().await;
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": about("apps", &["deployments", "deployments/scale"], &["CREATE", "UPDATE"]),
        "validations": [{"expression": "object.spec.replicas <= 5"}],
    });
    let policy = InForce::new(
        &api,
        spec,
        json!({"validationActions": ["Deny"]}),
        &deployment("many", 6, json!({})),
    )
    .await;
    let refused = policy.create(deployment("many", 6, json!({}))).await;
    assert_eq!(refused.code, 422, "{}", refused.json());
    let refused = refused.json();
    assert_eq!(refused["reason"], "Invalid");
    let words = format!(
        "deployments.apps \"many\" is forbidden: ValidatingAdmissionPolicy '{0}' with binding '{0}.binding' denied \
         request: failed expression: object.spec.replicas <= 5",
        policy.name
    );
    assert_eq!(refused["message"], json!(words));
    assert_eq!(
        policy.create(deployment("few", 5, json!({}))).await.code,
        201
    );
    let path = format!(
        "/apis/apps/v1/namespaces/{}/deployments/few",
        policy.namespace
    );
    let more = json!({"spec": {"replicas": 7}});
    for path in [path.clone(), format!("{path}/scale")] {
        let refused = merge(&api, &path, &more).await;
        assert_eq!(refused.code, 422, "{path}: {}", refused.json());
        let fewer = merge(&api, &path, &json!({"spec": {"replicas": 3}})).await;
        assert_eq!(fewer.code, 200, "{path}: {}", fewer.json());
    }
    policy.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_come_from_objects() {
    let api = Api::connect().await;
    let namespace = api.namespace().await;
    let limit = map(
        "limit",
        json!({"environment": "test"}),
        json!({"maxReplicas": "3"}),
    );
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    assert_eq!(api.post(&maps, &limit).await.code, 201);
    let spec = json!({
        "failurePolicy": "Fail",
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": about("apps", &["deployments"], &["CREATE"]),
        "validations": [{
            "expression": "object.spec.replicas <= int(params.data.maxReplicas)",
            "messageExpression": "'object.spec.replicas must be no greater than ' + params.data.maxReplicas",
            "reason": "Forbidden",
        }],
    });
    let reference = json!({"name": "limit", "parameterNotFoundAction": "Deny"});
    let binding = json!({"paramRef": reference, "validationActions": ["Deny"]});
    let policy = InForce::within(
        &api,
        namespace,
        spec,
        binding,
        &deployment("many", 4, json!({})),
    )
    .await;
    // Parameters may come later than the policy.
    let few = deployment("few", 3, json!({}));
    policy.wait_for(&few, |answer| answer.code == 201).await;
    let refused = policy.create(deployment("many", 4, json!({}))).await;
    assert_eq!(refused.code, 403, "{}", refused.json());
    let told = refused.json()["message"].to_string();
    assert!(
        told.contains("denied request: object.spec.replicas must be no greater than 3"),
        "{told}"
    );
    assert_eq!(
        policy.create(deployment("few", 3, json!({}))).await.code,
        201
    );
    assert_eq!(delete(&api, &format!("{maps}/limit")).await.code, 200);
    policy.wait(&deployment("any", 1, json!({}))).await;
    let refused = policy.create(deployment("any", 1, json!({}))).await;
    assert_eq!(refused.code, 422, "{}", refused.json());
    let told = refused.json()["message"].to_string();
    assert!(told.contains("no params found"), "{told}");
    policy.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_variables_make_expressions_readable() {
    let api = Api::connect().await;
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": about("", &["configmaps"], &["CREATE", "UPDATE", "DELETE"]),
        "matchConditions": [
            {"name": "exclude-leases", "expression": "!(request.resource.group == 'coordination.k8s.io' && request.resource.resource == 'leases')"},
            {"name": "exclude-rbac", "expression": "request.resource.group != 'rbac.authorization.k8s.io'"},
            {"name": "exclude-root-ca", "expression": "request.name != 'kube-root-ca.crt'"},
        ],
        "variables": [
            {"name": "labels", "expression": "has(object.metadata.labels) ? object.metadata.labels : {}"},
            {"name": "environment", "expression": "'environment' in variables.labels ? variables.labels['environment'] : 'prod'"},
            {"name": "broken", "expression": "object.data.absent"},
        ],
        "validations": [
            {
                "expression": "request.operation == 'DELETE' || variables.environment == request.namespace && request.namespace == namespaceObject.metadata.name || size(oldObject == null ? {} : oldObject.data) > 0",
                "messageExpression": "'only ' + variables.environment + ' maps are allowed'",
            },
            {
                "expression": "request.operation != 'DELETE' || oldObject.data.key == 'gone'",
                "message": "this map stays",
            },
            {"expression": "request.operation == 'DELETE' || !has(object.data.probe) || variables.broken == 'a'"},
        ],
    });
    let binding = json!({"validationActions": ["Deny"]});
    let policy = InForce::new(
        &api,
        spec,
        binding,
        &map("a", json!({}), json!({"key": "b"})),
    )
    .await;
    let told = async |object: Value| {
        let answer = policy.create(object).await;
        assert_eq!(answer.code, 422, "{}", answer.json());
        answer.json()["message"].as_str().unwrap().to_owned()
    };
    let refused = told(map("a", json!({}), json!({"key": "b"}))).await;
    assert!(refused.contains("only prod maps are allowed"), "{refused}");
    let own = json!({"environment": policy.namespace});
    let broken = told(map("a", own.clone(), json!({"probe": "1"}))).await;
    assert!(broken.contains("resulted in error"), "{broken}");
    assert!(broken.contains("broken"), "{broken}");
    let made = policy.create(map("a", own, json!({"key": "b"}))).await;
    assert_eq!(made.code, 201, "{}", made.json());
    let path = format!("/api/v1/namespaces/{}/configmaps/a", policy.namespace);
    let stays = delete(&api, &path).await;
    assert_eq!(stays.code, 422, "{}", stays.json());
    let told = stays.json()["message"].to_string();
    assert!(told.contains("this map stays"), "{told}");
    let changed = merge(&api, &path, &json!({"data": {"key": "gone"}})).await;
    assert_eq!(changed.code, 200, "{}", changed.json());
    assert_eq!(delete(&api, &path).await.code, 200);
    policy.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_let_pass_and_failures_may_be_ignored() {
    let api = Api::connect().await;
    let spec = |policy: &str| {
        json!({
            "failurePolicy": policy,
            "matchConstraints": {
                "resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["*"],
                }],
                "excludeResourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["secrets"],
                }],
                "objectSelector": {"matchExpressions": [
                    {"key": "exempt", "operator": "DoesNotExist"},
                ]},
            },
            "validations": [
                {"expression": "object.metadata.name.matches('^[a-z]+$')", "message": "a name of letters"},
                {"expression": "object.data.nothing.here == 'a'"},
            ],
        })
    };
    let warns = InForce::new(
        &api,
        spec("Ignore"),
        json!({"validationActions": ["Warn", "Audit"]}),
        &map("a1", json!({}), json!({})),
    )
    .await;
    let made = warns.create(map("a1", json!({}), json!({}))).await;
    assert_eq!(made.code, 201, "{}", made.json());
    let warning = made.header("warning");
    let expected = format!(
        "Validation failed for ValidatingAdmissionPolicy '{0}' with binding '{0}.binding': a name of letters",
        warns.name
    );
    assert!(warning.contains(&expected), "{warning}");
    let made = warns
        .create(map("a2", json!({"exempt": ""}), json!({})))
        .await;
    assert_eq!((made.code, made.header("warning")), (201, ""));
    warns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_policy_is_said_when_it_is_written() {
    let api = Api::connect().await;
    let on_deployments = about("apps", &["deployments"], &["CREATE"]);
    let with = |validation: Value| json!({"matchConstraints": on_deployments, "validations": [validation]});
    for (spec, expected) in [
        (
            with(json!({"expression": "object.spec.replicas <="})),
            "spec.validations[0].expression",
        ),
        (
            with(json!({"expression": "missing.spec"})),
            "undeclared reference to 'missing'",
        ),
        (with(json!({"expression": "'a'"})), "must evaluate to bool"),
        (
            with(json!({"expression": "request.nothing == 'a'"})),
            "undefined field 'nothing'",
        ),
        (
            with(json!({"expression": "variables.nothing == 'a'"})),
            "undeclared reference to 'variables'",
        ),
        (
            json!({
                "matchConstraints": on_deployments,
                "variables": [{"name": "a", "expression": "'a'"}],
                "validations": [{"expression": "variables.nothing == 'a'"}],
            }),
            "undefined field 'nothing'",
        ),
        (
            with(json!({"expression": "params.a == 'a'"})),
            "undeclared reference to 'params'",
        ),
        (
            with(json!({"expression": "true", "messageExpression": "1"})),
            "must evaluate to string",
        ),
        (
            with(json!({"expression": "true", "reason": "Because"})),
            "Unsupported value",
        ),
        (
            json!({"matchConstraints": on_deployments}),
            "validations or auditAnnotations must contain at least one item",
        ),
        (
            json!({"validations": [{"expression": "true"}]}),
            "spec.matchConstraints",
        ),
        (
            json!({
                "matchConstraints": on_deployments, "validations": [{"expression": "true"}],
                "matchConditions": [{"name": "a", "expression": "request.operation"}],
            }),
            "must evaluate to bool",
        ),
    ] {
        let answer = api
            .post(POLICIES, &policy("wrong.example.com", spec.clone()))
            .await;
        assert_eq!(answer.code, 422, "{spec}: {}", answer.json());
        let told = answer.json()["message"].to_string();
        assert!(told.contains(expected), "{spec}: {told}");
    }
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "wrong.example.com"},
        "spec": {"policyName": "p", "validationActions": ["Deny", "Warn"]},
    });
    let answer = api.post(BINDINGS, &binding).await;
    assert_eq!(answer.code, 422, "{}", answer.json());
}

/// A hostile object makes an expression give up, not the server.
#[tokio::test(flavor = "multi_thread")]
async fn work_is_bounded() {
    let api = Api::connect().await;
    let nested = "object.data.all(a, object.data.all(b, object.data.all(c, a + b + c != 'x')))";
    let spec = json!({
        "matchConstraints": about("", &["configmaps"], &["CREATE"]),
        "matchConditions": [{"name": "big", "expression": "request.name == 'big'"}],
        "validations": [{"expression": nested}],
    });
    let data: Value = (0..5000)
        .map(|n| (format!("k{n}"), json!("v")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let big = map("big", json!({}), data);
    let started = Instant::now();
    let binding = json!({"validationActions": ["Deny"]});
    let policy = InForce::new(&api, spec, binding, &big).await;
    let refused = policy.create(big).await;
    assert_eq!(refused.code, 422, "{}", refused.json());
    let told = refused.json()["message"].to_string();
    assert!(told.contains("cost"), "{told}");
    // Without a bound these are 10^11 steps: hours.
    assert!(started.elapsed() < Duration::from_secs(120));
    policy.end().await;
}
