//! Schemas of the built-in kinds, in the dialect of CRDs, so that one set of code checks, prunes, merges and
//! explains all kinds.

mod admission;
mod core;
mod definition;
mod events;
mod rbac;
mod workloads;

use serde_json::{Map, Value, json};

fn typed(kind: &str, description: &str) -> Value {
    json!({"type": kind, "description": description})
}

fn text(description: &str) -> Value {
    typed("string", description)
}

fn flag(description: &str) -> Value {
    typed("boolean", description)
}

fn count(description: &str) -> Value {
    json!({"type": "integer", "format": "int32", "description": description})
}

fn time(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}

fn texts(description: &str) -> Value {
    json!({
        "type": "object", "description": description,
        "additionalProperties": {"type": "string"},
    })
}

/// Amounts such as `4`, `"500m"` and `"2Gi"`, by name.
fn quantities(description: &str) -> Value {
    json!({
        "type": "object", "description": description,
        "additionalProperties": {"x-kubernetes-int-or-string": true},
    })
}

fn object<const N: usize>(description: &str, fields: [(&str, Value); N]) -> Value {
    let properties: Map<String, Value> = fields
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect();
    json!({"type": "object", "description": description, "properties": properties})
}

/// An object whose further fields are stored as they come.
fn open(mut object: Value) -> Value {
    object["x-kubernetes-preserve-unknown-fields"] = json!(true);
    object
}

fn list(description: &str, items: Value) -> Value {
    json!({
        "type": "array", "description": description, "items": items,
        "x-kubernetes-list-type": "atomic",
    })
}

/// A list of distinct plain values that patches add to.
fn set(description: &str) -> Value {
    json!({
        "type": "array", "description": description, "items": {"type": "string"},
        "x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge",
    })
}

/// A list whose items are told apart by one field.
fn keyed(description: &str, key: &str, items: Value) -> Value {
    json!({
        "type": "array", "description": description, "items": items,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key],
        "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": key,
    })
}

fn reference(description: &str) -> Value {
    let mut reference = object(
        description,
        [
            ("apiVersion", text("API version of the object.")),
            ("kind", text("Kind of the object.")),
            ("namespace", text("Namespace of the object.")),
            ("name", text("Name of the object.")),
            ("uid", text("UID of the object.")),
            (
                "resourceVersion",
                text("Version of the object that is meant."),
            ),
            ("fieldPath", text("Part of the object that is meant.")),
        ],
    );
    reference["x-kubernetes-map-type"] = json!("atomic");
    reference
}

fn condition() -> Value {
    object(
        "One aspect of the state.",
        [
            ("type", text("The aspect.")),
            ("status", text("True, False or Unknown.")),
            ("reason", text("Why, in one word.")),
            ("message", text("Why, for people.")),
            (
                "observedGeneration",
                json!({"type": "integer", "format": "int64"}),
            ),
            ("lastHeartbeatTime", time("When this was last looked at.")),
            ("lastTransitionTime", time("When the status last changed.")),
            ("lastUpdateTime", time("When this was last written.")),
            ("lastProbeTime", time("When this was last probed.")),
        ],
    )
}

/// The schema of a built-in kind, without `apiVersion`, `kind` and `metadata`.
pub(super) fn of(group: &str, kind: &str) -> Value {
    match (group, kind) {
        ("", "Namespace") => core::namespace(),
        ("", "Node") => core::node(),
        ("", "Pod") => core::pod(),
        ("", "Secret") => core::secret(),
        ("", "ConfigMap") => core::config_map(),
        ("", "ServiceAccount") => core::service_account(),
        ("", "Event") => events::event(),
        ("events.k8s.io", "Event") => events::new_event(),
        ("coordination.k8s.io", "Lease") => events::lease(),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition::definition(),
        ("rbac.authorization.k8s.io", "Role") => rbac::role(),
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::cluster_role(),
        ("rbac.authorization.k8s.io", "RoleBinding") => {
            rbac::binding("RoleBinding gives a role to subjects in one namespace.")
        }
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => {
            rbac::binding("ClusterRoleBinding gives a ClusterRole to subjects everywhere.")
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => admission::policy(),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            admission::binding()
        }
        ("apps", "Deployment") => workloads::workload(
            "Deployment describes a set of equal pods. It is stored here, not run.",
        ),
        ("apps", "ReplicaSet") => workloads::workload(
            "ReplicaSet describes a number of equal pods. It is stored here, not run.",
        ),
        ("apps", "StatefulSet") => workloads::workload(
            "StatefulSet describes pods with identities. It is stored here, not run.",
        ),
        ("apps", "DaemonSet") => {
            workloads::workload("DaemonSet describes one pod per node. It is stored here, not run.")
        }
        ("batch", "Job") => workloads::job(),
        ("batch", "CronJob") => workloads::cron_job(),
        ("", "Service") => workloads::service(),
        ("scheduling.k8s.io", "PriorityClass") => workloads::priority_class(),
        ("policy", "PodDisruptionBudget") => workloads::disruption_budget(),
        ("", "PersistentVolumeClaim") => workloads::anything(
            "PersistentVolumeClaim asks for a volume. It is stored here, nothing binds it.",
        ),
        ("networking.k8s.io", "Ingress") => workloads::anything(
            "Ingress routes requests to services. It is stored here, nothing serves it.",
        ),
        ("networking.k8s.io", "NetworkPolicy") => workloads::anything(
            "NetworkPolicy limits traffic between pods. It is stored here, nothing enforces it.",
        ),
        (group, kind) => unreachable!("every built-in kind has a schema: {group} {kind}"),
    }
}
