//! Who may do what: RBAC, tokens of service accounts, impersonation, client certificates, reviews.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde_json::{Value, json};

use super::api::{Api, client_of, kubectl_is_there, send};

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_manages_access() {
    if !kubectl_is_there() {
        return;
    }
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    api.ok(&format!("-n {ns} create serviceaccount robot"))
        .await;
    let robot = format!("system:serviceaccount:{ns}:robot");
    let can = async |question: &str| {
        let line = format!("-n {ns} auth can-i {question} --as={robot}");
        api.run(&line, "").await.1.trim().to_owned()
    };
    assert_eq!(can("get configmaps").await, "no");
    api.ok(&format!(
        "-n {ns} create role reader --verb=get,list --resource=configmaps"
    ))
    .await;
    api.ok(&format!(
        "-n {ns} create rolebinding readers --role=reader --serviceaccount={ns}:robot"
    ))
    .await;
    assert_eq!(can("get configmaps").await, "yes");
    assert_eq!(can("delete configmaps").await, "no");
    assert_eq!(can("get secrets").await, "no");
    let listed = api
        .ok(&format!("-n {ns} auth can-i --list --as={robot}"))
        .await;
    assert!(listed.contains("configmaps"), "{listed}");

    api.ok(&format!("-n {ns} create configmap c --from-literal=a=b"))
        .await;
    api.ok(&format!("-n {ns} get configmap c --as={robot}"))
        .await;
    api.fails(
        &format!("-n {ns} delete configmap c --as={robot}"),
        "",
        &format!("User \"{robot}\" cannot delete resource \"configmaps\" in API group \"\" in the namespace \"{ns}\""),
    )
    .await;

    let token = api
        .ok(&format!("-n {ns} create token robot --duration=20m"))
        .await;
    let whoami = api.ok("auth whoami --as=jane --as-group=devs").await;
    assert!(
        whoami.contains("jane") && whoami.contains("devs"),
        "{whoami}"
    );
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token.trim()},
    });
    let reviewed = api
        .post("/apis/authentication.k8s.io/v1/tokenreviews", &review)
        .await
        .json();
    assert_eq!(reviewed["status"]["authenticated"], true, "{reviewed}");
    assert_eq!(reviewed["status"]["user"]["username"], json!(robot));
    api.ok(&format!("-n {ns} describe rolebinding readers"))
        .await;
    api.ok(&format!("delete namespace {ns} --timeout=90s"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_pod_tells_its_node_and_goes_with_the_pod() {
    let api = Api::connect().await;
    if api.embedded.is_none() {
        return;
    }
    let ns = &api.namespace().await;
    let nodes = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"}});
    assert_eq!(api.post("/api/v1/nodes", &nodes).await.code, 201);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    let accounts = format!("/api/v1/namespaces/{ns}/serviceaccounts");
    assert_eq!(api.post(&accounts, &account).await.code, 201);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "worker-1", "containers": [{"name": "c", "image": "i"}]},
    });
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    assert_eq!(api.post(&pods, &pod).await.code, 201);
    let token_for = async |kind: &str, name: &str| {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}},
        });
        let given = api.post(&format!("{accounts}/a/token"), &request).await;
        assert_eq!(given.code, 201, "{}", given.json());
        given.json()["status"]["token"].clone()
    };
    let review = async |token: &Value| {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        api.post(path, &review).await.json()["status"].clone()
    };
    let known = |status: &Value, key: &str| {
        status["user"]["extra"][format!("authentication.kubernetes.io/{key}")][0].clone()
    };
    let of_pod = token_for("Pod", "p").await;
    let status = review(&of_pod).await;
    assert_eq!(known(&status, "node-name"), "worker-1", "{status}");
    assert_eq!(known(&status, "pod-name"), "p", "{status}");
    assert!(known(&status, "pod-uid").is_string() && known(&status, "node-uid").is_string());
    let status = review(&token_for("Node", "worker-1").await).await;
    assert_eq!(known(&status, "node-name"), "worker-1", "{status}");
    assert_eq!(known(&status, "pod-name"), Value::Null, "{status}");
    let gone = api
        .send(Request::delete(format!("{pods}/p")), Vec::new())
        .await;
    assert_eq!(gone.code, 200);
    assert_ne!(review(&of_pod).await["authenticated"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_acts_as_its_account_until_the_account_goes() {
    let api = Api::connect().await;
    let Some(embedded) = &api.embedded else {
        return;
    };
    let ns = &api.namespace().await;
    let accounts = format!("/api/v1/namespaces/{ns}/serviceaccounts");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    assert_eq!(api.post(&accounts, &account).await.code, 201);
    let request = |seconds: i64| {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        })
    };
    let path = format!("{accounts}/a/token");
    let refused = api.post(&path, &request(60)).await;
    assert_eq!(refused.code, 422, "{}", refused.json());
    let missing = api
        .post(&format!("{accounts}/none/token"), &request(600))
        .await;
    assert_eq!(missing.code, 404);
    let given = api.post(&path, &request(600)).await;
    assert_eq!(given.code, 201, "{}", given.json());
    let token = given.json()["status"]["token"].as_str().unwrap().to_owned();

    let client = client_of(&embedded.kubeconfig(&json!({"token": token}))).await;
    let get = async |path: String| send(&client, Request::get(path), Vec::new()).await.code;
    let maps = format!("/api/v1/namespaces/{ns}/configmaps");
    assert_eq!(get("/api".into()).await, 200);
    assert_eq!(get(maps.clone()).await, 403);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "viewers"},
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "name": format!("system:serviceaccounts:{ns}")}],
    });
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings");
    assert_eq!(api.post(&bindings, &binding).await.code, 201);
    assert_eq!(
        get(maps.clone()).await,
        200,
        "view has the rules that are aggregated to it"
    );
    assert_eq!(get(format!("/api/v1/namespaces/{ns}/secrets")).await, 403);
    assert_eq!(get("/api/v1/configmaps".into()).await, 403);

    let gone = api
        .send(Request::delete(format!("{accounts}/a")), Vec::new())
        .await;
    assert_eq!(gone.code, 200);
    assert_eq!(get(maps).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_away_more_than_they_have() {
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
    let binding = |name: &str, role: &str, user: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        })
    };
    let role = |rule: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"generateName": "r-"}, "rules": [rule],
        })
    };
    let bindings = format!("{rbac}/rolebindings");
    assert_eq!(
        api.post(&bindings, &binding("a", "admin", "ann"))
            .await
            .code,
        201
    );
    let as_ann = async |path: &str, body: Value| {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .header("impersonate-user", "ann");
        api.send(request, body.to_string().into_bytes()).await
    };
    let roles = format!("{rbac}/roles");
    let modest = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]});
    assert_eq!(as_ann(&roles, role(modest)).await.code, 201);
    for greedy in [
        json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}),
        json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
    ] {
        let refused = as_ann(&roles, role(greedy)).await;
        assert_eq!(refused.code, 403, "{}", refused.json());
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(
            message.contains("is attempting to grant RBAC permissions not currently held"),
            "{message}"
        );
    }
    assert_eq!(
        as_ann(&bindings, binding("b", "view", "bob")).await.code,
        201
    );
    assert_eq!(
        as_ann(&bindings, binding("c", "cluster-admin", "ann"))
            .await
            .code,
        403
    );
    // Acting as somebody else is a right of its own, and the master group is a group like any other there.
    let mut request = Request::get("/api/v1/nodes").header("impersonate-user", "ann");
    assert_eq!(api.send(request, Vec::new()).await.code, 403);
    request = Request::get("/api/v1/nodes")
        .header("impersonate-user", "ann")
        .header("impersonate-group", "system:masters");
    assert_eq!(api.send(request, Vec::new()).await.code, 200);
    request = Request::get("/api/v1/nodes").header("impersonate-group", "system:masters");
    assert!(matches!(
        api.send(request, Vec::new()).await.code,
        400 | 500
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_names_user_and_group() {
    let api = Api::connect().await;
    let Some(embedded) = &api.embedded else {
        return;
    };
    let whoami = async |name: &str, group: &str| {
        let (certificate, key) = embedded.authority.client(name, group);
        let user = json!({
            "client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(key),
        });
        let client = client_of(&embedded.kubeconfig(&user)).await;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
        });
        let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
        let request = request.header("content-type", "application/json");
        let review = send(&client, request, review.to_string().into_bytes()).await;
        let nodes = send(&client, Request::get("/api/v1/nodes"), Vec::new()).await;
        (review.json()["status"]["userInfo"].clone(), nodes.code)
    };
    let (info, code) = whoami("root", "system:masters").await;
    assert_eq!(info["username"], "root");
    assert_eq!(code, 200);
    let (info, code) = whoami("jane", "devs").await;
    assert_eq!(info["groups"], json!(["devs", "system:authenticated"]));
    assert_eq!(code, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_answer_about_others() {
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": "nobody-special",
            "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": ns},
        },
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = api.post(path, &review).await;
    assert_eq!(answer.code, 201);
    assert_eq!(answer.json()["status"]["allowed"], false);
    let mut local = review.clone();
    local["kind"] = json!("LocalSubjectAccessReview");
    let path = format!("/apis/authorization.k8s.io/v1/namespaces/{ns}/localsubjectaccessreviews");
    assert_eq!(api.post(&path, &local).await.code, 201);
    local["spec"]["resourceAttributes"]["namespace"] = json!("default");
    assert_eq!(api.post(&path, &local).await.code, 422);
}
