//! The roles and bindings that every Kubernetes has from its start, as far as there is something here to do with them.

use serde_json::{Value, json};

use super::policy::GROUP;

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
/// Marks what the server itself made.
const LABEL: &str = "kubernetes.io/bootstrapping";
/// Namespaced kinds that hold no credentials and give no rights.
const CORE: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "pods/eviction",
    "replicationcontrollers",
    "serviceaccounts",
    "services",
];
const CORE_READ_ONLY: &[&str] = &["events", "limitranges", "namespaces", "resourcequotas"];
const WORKLOADS: &[(&str, &[&str])] = &[
    (
        "apps",
        &[
            "daemonsets",
            "deployments",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
    ),
    ("batch", &["cronjobs", "jobs"]),
    ("networking.k8s.io", &["ingresses", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets"]),
    ("coordination.k8s.io", &["leases"]),
];

/// The objects, in the order in which they are created when they are missing.
pub(crate) fn objects() -> Vec<Value> {
    let any = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    let discovery = json!([{
        "nonResourceURLs": [
            "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez",
            "/openapi", "/openapi/*", "/readyz", "/version", "/version/",
        ],
        "verbs": ["get"],
    }]);
    let oneself = json!([
        {
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            "verbs": ["create"],
        },
        {
            "apiGroups": ["authentication.k8s.io"],
            "resources": ["selfsubjectreviews"],
            "verbs": ["create"],
        },
    ]);
    let aggregated = |into: &str| {
        let labels = json!({ format!("{GROUP}/aggregate-to-{into}"): "true" });
        json!([{"matchLabels": labels}])
    };
    vec![
        role("cluster-admin", &any, json!({})),
        role("system:discovery", &discovery, json!({})),
        role("system:basic-user", &oneself, json!({})),
        umbrella("admin", &aggregated("admin")),
        umbrella("edit", &aggregated("edit")),
        umbrella("view", &aggregated("view")),
        role(
            "system:aggregate-to-admin",
            &admin_rules(),
            json!({ format!("{GROUP}/aggregate-to-admin"): "true" }),
        ),
        role(
            "system:aggregate-to-edit",
            &edit_rules(),
            json!({
                format!("{GROUP}/aggregate-to-edit"): "true",
                format!("{GROUP}/aggregate-to-admin"): "true",
            }),
        ),
        role(
            "system:aggregate-to-view",
            &view_rules(),
            json!({
                format!("{GROUP}/aggregate-to-view"): "true",
                format!("{GROUP}/aggregate-to-edit"): "true",
                format!("{GROUP}/aggregate-to-admin"): "true",
            }),
        ),
        binding("cluster-admin", "system:masters"),
        binding("system:discovery", "system:authenticated"),
        binding("system:basic-user", "system:authenticated"),
    ]
}

fn view_rules() -> Value {
    let mut rules = vec![rule("", &[CORE, CORE_READ_ONLY].concat(), READ)];
    rules.extend(
        WORKLOADS
            .iter()
            .map(|(group, list)| rule(group, list, READ)),
    );
    Value::Array(rules)
}

fn edit_rules() -> Value {
    let mut rules = vec![
        rule("", CORE, WRITE),
        rule("", &["secrets"], &[READ, WRITE].concat()),
        rule("", &["serviceaccounts"], &["impersonate"]),
        rule("", &["serviceaccounts/token"], &["create"]),
    ];
    rules.extend(
        WORKLOADS
            .iter()
            .map(|(group, list)| rule(group, list, WRITE)),
    );
    Value::Array(rules)
}

fn admin_rules() -> Value {
    let both = [READ, WRITE].concat();
    json!([
        rule(GROUP, &["rolebindings", "roles"], &both),
        rule(
            "authorization.k8s.io",
            &["localsubjectaccessreviews"],
            &["create"]
        ),
    ])
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn role(name: &str, rules: &Value, mut labels: Value) -> Value {
    labels[LABEL] = json!("rbac-defaults");
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels},
        "rules": rules,
    })
}

/// A role that is the sum of others; the label on a part says which sums it belongs to.
fn umbrella(name: &str, selectors: &Value) -> Value {
    let mut object = role(name, &json!([]), json!({}));
    object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    object
}

fn binding(role: &str, group: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding",
        "metadata": {"name": role, "labels": {LABEL: "rbac-defaults"}},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": group}],
    })
}
