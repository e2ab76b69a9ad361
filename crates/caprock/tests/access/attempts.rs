//! What somebody tries who has the credential of one part: each line must be refused for the reason that it names, or
//! work where it names none.

use kube::Client;
use serde_json::{Value, json};

use super::cluster::{Cluster, SYSTEM, send};
use super::deploy;

/// Method, path, body, and what the refusal says; nothing where it works.
type Attempt<'a> = (&'a str, &'a str, Value, Option<&'a str>);

const NODES: &str = "/api/v1/nodes";
const PROGRESS: &str = "/apis/machineconfiguration.openshift.io/v1/machineconfignodes";
const OF_NODES: &str = "/api/v1/namespaces/caprock-nodes";
const OURS: &str = "/api/v1/namespaces/openshift-machine-config-operator";

async fn check(who: &str, client: &Client, attempts: &[Attempt<'_>]) {
    for (method, path, body, refused) in attempts {
        let answer = send(client, method, path, body).await;
        let shown = format!(
            "{who}: {method} {path} {body}: {} {}",
            answer.code,
            answer.message()
        );
        match refused {
            None => assert!((200..300).contains(&answer.code), "{shown}"),
            Some(expected) => {
                assert!(matches!(answer.code, 403 | 422), "{shown}");
                assert!(answer.message().contains(expected), "{shown}");
            }
        }
    }
}

fn annotate(key: &str, value: Value) -> Value {
    json!({"metadata": {"annotations": {key: value}}})
}

fn token_request(seconds: i64) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": seconds},
    })
}

fn event(about: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "access-", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": about},
        "reason": "Tested", "message": "an event of a test", "type": "Normal",
    })
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

fn path(parts: &[&str]) -> String {
    parts.join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_does_more_than_their_part() {
    let cluster = Cluster::connect().await;
    let pool = json!({
        "apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineConfigPool",
        "metadata": {"name": "access-test"},
        "spec": {
            "paused": true,
            "machineConfigSelector": {"matchLabels": {"machineconfiguration.openshift.io/role": "access-test"}},
            "nodeSelector": {"matchLabels": {"node-role.kubernetes.io/access-test": ""}},
        },
    });
    let pools = "/apis/machineconfiguration.openshift.io/v1/machineconfigpools";
    cluster.make(pools, &pool).await;
    for node in ["access-a", "access-b"] {
        cluster.node(node, "access-test").await;
    }
    for node in ["access-a", "access-b"] {
        for kind in ["secrets", "serviceaccounts"] {
            cluster.until_there(&path(&[OF_NODES, kind, node])).await;
        }
        cluster.until_there(&path(&[PROGRESS, node])).await;
    }
    the_agents_pod(&cluster).await;
    the_nodes_account(&cluster).await;
    the_other_parts(&cluster).await;
    let removed = [
        path(&[pools, "access-test"]),
        path(&[NODES, "access-a"]),
        path(&[NODES, "access-b"]),
        format!("/api/v1/namespaces/{SYSTEM}/pods/agent-access-a"),
        format!("/api/v1/namespaces/{SYSTEM}/pods/agent-access-b"),
    ];
    for path in removed {
        send(&cluster.client, "DELETE", &path, &Value::Null).await;
    }
}

/// Whoever has taken the token of the agent's pod.
async fn the_agents_pod(cluster: &Cluster) {
    let pod = Some("agent-access-a");
    let token = deploy::token(&cluster.client, SYSTEM, "caprock-agent", pod).await;
    let client = cluster.client_as(&token);
    let own = path(&[OF_NODES, "serviceaccounts/access-a/token"]);
    let other = path(&[OF_NODES, "serviceaccounts/access-b/token"]);
    let controller =
        format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts/caprock-controller/token");
    let node = path(&[NODES, "access-a"]);
    let secret = path(&[OF_NODES, "secrets/access-a"]);
    check(
        "the agent's pod",
        &client,
        &[
            ("POST", &own, token_request(3600), None),
            ("POST", &own, token_request(7200), Some("an hour at most")),
            ("POST", &other, token_request(3600), Some("that node alone")),
            (
                "POST",
                &controller,
                token_request(3600),
                Some("cannot create resource"),
            ),
            ("GET", &node, Value::Null, Some("cannot get resource")),
            (
                "PATCH",
                &node,
                annotate("a", json!("b")),
                Some("cannot patch resource"),
            ),
            ("GET", &secret, Value::Null, Some("cannot get resource")),
        ],
    )
    .await;
    let unbound = deploy::token(&cluster.client, SYSTEM, "caprock-agent", None).await;
    check(
        "a token of no pod",
        &cluster.client_as(&unbound),
        &[("POST", &own, token_request(3600), Some("bound to no node"))],
    )
    .await;
}

/// Whoever has broken into node A.
async fn the_nodes_account(cluster: &Cluster) {
    let token = deploy::token(&cluster.client, "caprock-nodes", "access-a", None).await;
    let client = cluster.client_as(&token);
    let (own, other) = (path(&[NODES, "access-a"]), path(&[NODES, "access-b"]));
    let progress = |node: &str| path(&[PROGRESS, node, "status"]);
    let (own_progress, other_progress) = (progress("access-a"), progress("access-b"));
    let secret = |node: &str| path(&[OF_NODES, "secrets", node]);
    let (own_secret, other_secret) = (secret("access-a"), secret("access-b"));
    let all_secrets = path(&[OF_NODES, "secrets"]);
    let pull_secret = path(&[OURS, "secrets/global-pull-secret-copy"]);
    let some_map = path(&[OURS, "configmaps/machine-config-osimageurl"]);
    let (own_status, own_spec) = (path(&[&own, "status"]), path(&[PROGRESS, "access-a"]));
    let token_of = |node: &str| path(&[OF_NODES, "serviceaccounts", node, "token"]);
    let (own_token, other_token) = (token_of("access-a"), token_of("access-b"));
    let apply = format!("{own}?fieldManager=test&force=true");
    let applied = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "access-a", "labels": {"canary": "true"}},
    });
    let replaced = json!([{"op": "replace", "path": "/metadata/labels", "value": {}}]);
    let done = annotate("machineconfiguration.openshift.io/state", json!("Done"));
    let told = |key: &str| {
        annotate(
            &format!("machineconfiguration.openshift.io/{key}"),
            json!("rendered-x"),
        )
    };
    let status = json!({"status": {"observedGeneration": 1}});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "access-a"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    });
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/caprock-nodes/roles";
    let events = "/api/v1/namespaces/default/events";
    let config = "/apis/machineconfiguration.openshift.io/v1/machineconfigs/access-none";
    let foreign = Some("writes no annotations of its Node but those");
    check(
        "node A",
        &client,
        &[
            ("GET", &own, Value::Null, None),
            ("PATCH", &own, done.clone(), None),
            ("PATCH", &own_progress, status.clone(), None),
            ("GET", &own_secret, Value::Null, None),
            ("POST", events, event("access-a"), None),
            ("PATCH", &other, done.clone(), Some("its own Node alone")),
            ("PATCH", &own, told("desiredConfig"), foreign),
            ("PATCH", &own, told("desiredImage"), foreign),
            ("PATCH", &own, told("lastAppliedDrain"), foreign),
            (
                "PATCH",
                &own,
                annotate("example.com/any", json!("a")),
                foreign,
            ),
            (
                "PATCH",
                &own,
                json!({"metadata": {"labels": {"canary": "true"}}}),
                Some("labels of its Node"),
            ),
            (
                "PATCH",
                &own,
                json!({"metadata": {"labels": {"node.caprock.dev/managed": null}}}),
                Some("labels of its Node"),
            ),
            ("JSON-PATCH", &own, replaced, Some("labels of its Node")),
            ("APPLY", &apply, applied, Some("labels of its Node")),
            (
                "PATCH",
                &own,
                json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
                Some("spec of its Node"),
            ),
            (
                "PATCH",
                &own,
                json!({"spec": {"unschedulable": true}}),
                Some("spec of its Node"),
            ),
            (
                "PATCH",
                &own,
                json!({"metadata": {"finalizers": ["example.com/stays"]}}),
                Some("owners and finalizers"),
            ),
            ("PATCH", &own_status, status.clone(), Some("nodes/status")),
            ("DELETE", &own, Value::Null, Some("cannot delete resource")),
            (
                "DELETE",
                &other,
                Value::Null,
                Some("cannot delete resource"),
            ),
            (
                "PATCH",
                &other_progress,
                status.clone(),
                Some("its own MachineConfigNode alone"),
            ),
            (
                "PATCH",
                &own_spec,
                json!({"spec": {"pool": {"name": "x"}}}),
                Some("cannot patch"),
            ),
            (
                "GET",
                &other_secret,
                Value::Null,
                Some("cannot get resource"),
            ),
            (
                "GET",
                &all_secrets,
                Value::Null,
                Some("cannot list resource"),
            ),
            (
                "GET",
                &pull_secret,
                Value::Null,
                Some("cannot get resource"),
            ),
            ("GET", &some_map, Value::Null, Some("cannot get resource")),
            (
                "PATCH",
                &own_secret,
                json!({"data": null}),
                Some("cannot patch resource"),
            ),
            (
                "POST",
                &own_token,
                token_request(3600),
                Some("cannot create resource"),
            ),
            (
                "POST",
                &other_token,
                token_request(3600),
                Some("cannot create resource"),
            ),
            (
                "POST",
                events,
                event("access-b"),
                Some("its own Node alone"),
            ),
            ("POST", roles, role, Some("cannot create resource")),
            (
                "PATCH",
                config,
                json!({"spec": {}}),
                Some("cannot patch resource"),
            ),
        ],
    )
    .await;
}

/// Whoever has broken into a builder, or into the controllers.
async fn the_other_parts(cluster: &Cluster) {
    let token = deploy::token(&cluster.client, SYSTEM, "caprock-builder", None).await;
    let maps = path(&[OURS, "configmaps"]);
    let log = path(&[&maps, "log-access-test"]);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/openshift-machine-config-operator/leases";
    let lead = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "caprock-controller"},
    });
    let of_nodes = path(&[OF_NODES, "secrets"]);
    check(
        "a builder",
        &cluster.client_as(&token),
        &[
            ("POST", &maps, map("log-access-test"), None),
            ("PATCH", &log, json!({"data": {"a": "c"}}), None),
            (
                "POST",
                &maps,
                map("registry-certs"),
                Some("no other ConfigMaps"),
            ),
            (
                "POST",
                &maps,
                map("machine-config-osimageurl"),
                Some("no other ConfigMaps"),
            ),
            ("POST", leases, lead, Some("does not lead the controllers")),
            ("GET", NODES, Value::Null, Some("cannot list resource")),
            ("GET", &of_nodes, Value::Null, Some("cannot list resource")),
        ],
    )
    .await;
    send(&cluster.client, "DELETE", &log, &Value::Null).await;

    let token = deploy::token(&cluster.client, SYSTEM, "caprock-controller", None).await;
    let roles = |namespace: &str| {
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles")
    };
    let role = |resource: &str, verb: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "access-test"},
            "rules": [{"apiGroups": [""], "resources": [resource], "verbs": [verb]}],
        })
    };
    let bind = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "access-test"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    });
    let system = format!("/api/v1/namespaces/{SYSTEM}/secrets");
    let pods = format!("/api/v1/namespaces/{SYSTEM}/pods");
    let elsewhere = "/api/v1/namespaces/kube-system/secrets";
    let pushed = path(&[&maps, "layered-image-access-test"]);
    let another = path(&[&maps, "access-test"]);
    cluster.make(&maps, &map("access-test")).await;
    let no_other = Some("no other ConfigMaps");
    check(
        "the controllers",
        &cluster.client_as(&token),
        &[
            ("POST", &maps, map("layered-image-access-test"), None),
            ("DELETE", &pushed, Value::Null, None),
            ("POST", &maps, map("registry-certs"), no_other),
            ("POST", &maps, map("caprock-takeover"), no_other),
            ("DELETE", &another, Value::Null, no_other),
            (
                "POST",
                &roles("caprock-nodes"),
                role("pods", "create"),
                Some("currently held"),
            ),
            (
                "POST",
                &roles("caprock-nodes"),
                role("secrets", "delete"),
                Some("currently held"),
            ),
            (
                "POST",
                &roles("kube-system"),
                role("secrets", "get"),
                Some("cannot create resource"),
            ),
            (
                "POST",
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                bind,
                Some("cannot create resource"),
            ),
            ("GET", &system, Value::Null, Some("cannot list resource")),
            ("GET", elsewhere, Value::Null, Some("cannot list resource")),
            ("POST", &pods, json!({}), Some("cannot create resource")),
        ],
    )
    .await;
    send(&cluster.client, "DELETE", &another, &Value::Null).await;
}
