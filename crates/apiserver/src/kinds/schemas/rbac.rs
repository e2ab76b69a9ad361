//! Schemas of the RBAC kinds.

use serde_json::{Value, json};

use super::{list, object, open, text};

fn words(description: &str) -> Value {
    list(description, text(""))
}

fn rules() -> Value {
    let mut rule = object(
        "Verbs on resources or paths.",
        [
            (
                "verbs",
                words("What may be done: get, list, watch, create, …, or * for anything."),
            ),
            (
                "apiGroups",
                words("Groups of the resources; the empty string is the core group, * is any."),
            ),
            (
                "resources",
                words("Plural names, subresources as pods/status; * is any."),
            ),
            (
                "resourceNames",
                words("Only objects of these names; empty is any."),
            ),
            (
                "nonResourceURLs",
                words("Paths that are no resources; a star at the end stands for anything."),
            ),
        ],
    );
    rule["required"] = json!(["verbs"]);
    list("What the role allows; rules only add up.", rule)
}

pub(super) fn role() -> Value {
    object(
        "Role is a set of rules for one namespace.",
        [("rules", rules())],
    )
}

pub(super) fn cluster_role() -> Value {
    let selector = open(object("A label selector.", []));
    object(
        "ClusterRole is a set of rules that can be bound in a namespace or everywhere.",
        [
            ("rules", rules()),
            (
                "aggregationRule",
                object(
                    "The role has the rules of other ClusterRoles.",
                    [(
                        "clusterRoleSelectors",
                        list("Selects ClusterRoles by their labels.", selector),
                    )],
                ),
            ),
        ],
    )
}

pub(super) fn binding(what: &'static str) -> Value {
    let mut subject = object(
        "A user, a group or a service account.",
        [
            (
                "apiGroup",
                text("rbac.authorization.k8s.io for users and groups, empty for accounts."),
            ),
            ("kind", text("User, Group or ServiceAccount.")),
            ("name", text("Name of the subject.")),
            ("namespace", text("Namespace of the service account.")),
        ],
    );
    subject["required"] = json!(["kind", "name"]);
    let mut role = object(
        "The role that is given; it cannot be changed.",
        [
            ("apiGroup", text("rbac.authorization.k8s.io.")),
            ("kind", text("Role or ClusterRole.")),
            ("name", text("Name of the role.")),
        ],
    );
    role["required"] = json!(["kind", "name"]);
    role["x-kubernetes-map-type"] = json!("atomic");
    let mut binding = object(
        what,
        [
            ("subjects", list("Who gets the rules.", subject)),
            ("roleRef", role),
        ],
    );
    binding["required"] = json!(["roleRef"]);
    binding
}
