//! Built-in kinds that are kept as data: RBAC, which the authorizer reads, admission policies, which writes are measured
//! against, and what clients such as `helm` write and nothing here acts on.

use serde_json::{Value, json};

use super::builtin::Entry;
use super::{Behaviour, Column, Columns, NameRule, rbac};
use crate::admission::{self, GROUP as ADMISSION};
use crate::auth::policy::GROUP as RBAC;
use crate::jsonpath::JsonPath;

/// Name, type and JSONPath of a column.
type Cell = (&'static str, &'static str, &'static str);

const AGE: Cell = ("Age", "date", ".metadata.creationTimestamp");

/// The rows for the table of built-in kinds.
pub(super) fn entries() -> Vec<Entry> {
    let mut rows = rbac_kinds();
    rows.extend(admission_kinds());
    rows.extend(workloads());
    rows.extend(others());
    rows
}

fn rbac_kinds() -> Vec<Entry> {
    let behaviour = Behaviour {
        names: NameRule::PathSegment,
        ..Behaviour::PLAIN
    };
    let role = Behaviour {
        validate: rbac::validate_role,
        ..behaviour
    };
    let binding = Behaviour {
        prepare: rbac::prepare_binding,
        validate: rbac::validate_binding,
        ..behaviour
    };
    let created = ("Created At", "string", ".metadata.creationTimestamp");
    let role_of = ("Role", "string", ".roleRef.name");
    let row = |plural, kind, namespaced, cells: &[Cell], behaviour| Entry {
        namespaced,
        status: false,
        behaviour,
        ..row(RBAC, plural, kind, &[], cells)
    };
    vec![
        row("roles", "Role", true, &[created], role),
        row("clusterroles", "ClusterRole", false, &[created], role),
        row(
            "rolebindings",
            "RoleBinding",
            true,
            &[role_of, AGE],
            binding,
        ),
        row(
            "clusterrolebindings",
            "ClusterRoleBinding",
            false,
            &[role_of, AGE],
            binding,
        ),
    ]
}

fn admission_kinds() -> Vec<Entry> {
    let param_kind = ("ParamKind", "string", ".spec.paramKind.kind");
    let policy = ("PolicyName", "string", ".spec.policyName");
    let param_ref = ("ParamRef", "string", ".spec.paramRef.name");
    let behaviour = Behaviour {
        generation: true,
        ..Behaviour::PLAIN
    };
    vec![
        Entry {
            namespaced: false,
            behaviour: Behaviour {
                prepare: prepare_policy,
                validate: admission::validate,
                ..behaviour
            },
            ..row(
                ADMISSION,
                "validatingadmissionpolicies",
                "ValidatingAdmissionPolicy",
                &[],
                &[param_kind, AGE],
            )
        },
        Entry {
            namespaced: false,
            status: false,
            behaviour: Behaviour {
                prepare: prepare_policy_binding,
                validate: admission::validate_binding,
                ..behaviour
            },
            ..row(
                ADMISSION,
                "validatingadmissionpolicybindings",
                "ValidatingAdmissionPolicyBinding",
                &[],
                &[policy, param_ref, AGE],
            )
        },
    ]
}

/// Fills in what clients leave out, as Kubernetes does.
fn prepare_policy(policy: &mut Value) {
    let spec = &mut policy["spec"];
    if spec["failurePolicy"].is_null() {
        spec["failurePolicy"] = json!("Fail");
    }
    prepare_constraints(&mut spec["matchConstraints"]);
}

fn prepare_policy_binding(binding: &mut Value) {
    prepare_constraints(&mut binding["spec"]["matchResources"]);
    if let Some(spec) = binding["spec"].as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
}

fn prepare_constraints(constraints: &mut Value) {
    if !constraints.is_object() {
        return;
    }
    for (field, default) in [
        ("matchPolicy", json!("Equivalent")),
        ("namespaceSelector", json!({})),
        ("objectSelector", json!({})),
    ] {
        if constraints[field].is_null() {
            constraints[field] = default;
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let rules = constraints.get_mut(field).and_then(Value::as_array_mut);
        for rule in rules.into_iter().flatten() {
            if rule["scope"].is_null() {
                rule["scope"] = json!("*");
            }
        }
    }
}

fn workloads() -> Vec<Entry> {
    let desired = ("Desired", "integer", ".spec.replicas");
    let current = ("Current", "integer", ".status.replicas");
    let ready = ("Ready", "integer", ".status.readyReplicas");
    let scaled = |plural, kind, short_names, cells: &[Cell]| Entry {
        scale: true,
        categories: &["all"],
        ..row("apps", plural, kind, short_names, cells)
    };
    let all = |group, plural, kind, short_names, cells: &[Cell]| Entry {
        categories: &["all"],
        ..row(group, plural, kind, short_names, cells)
    };
    vec![
        scaled(
            "deployments",
            "Deployment",
            &["deploy"],
            &[
                ready,
                ("Up-to-date", "integer", ".status.updatedReplicas"),
                ("Available", "integer", ".status.availableReplicas"),
                AGE,
            ],
        ),
        scaled(
            "replicasets",
            "ReplicaSet",
            &["rs"],
            &[desired, current, ready, AGE],
        ),
        scaled("statefulsets", "StatefulSet", &["sts"], &[ready, AGE]),
        all(
            "apps",
            "daemonsets",
            "DaemonSet",
            &["ds"],
            &[
                ("Desired", "integer", ".status.desiredNumberScheduled"),
                ("Ready", "integer", ".status.numberReady"),
                AGE,
            ],
        ),
        all(
            "batch",
            "jobs",
            "Job",
            &[],
            &[("Completions", "integer", ".status.succeeded"), AGE],
        ),
        all(
            "batch",
            "cronjobs",
            "CronJob",
            &["cj"],
            &[
                ("Schedule", "string", ".spec.schedule"),
                ("Suspend", "boolean", ".spec.suspend"),
                AGE,
            ],
        ),
    ]
}

fn others() -> Vec<Entry> {
    vec![
        Entry {
            categories: &["all"],
            ..row(
                "",
                "services",
                "Service",
                &["svc"],
                &[
                    ("Type", "string", ".spec.type"),
                    ("Cluster-IP", "string", ".spec.clusterIP"),
                    AGE,
                ],
            )
        },
        row(
            "",
            "persistentvolumeclaims",
            "PersistentVolumeClaim",
            &["pvc"],
            &[("Status", "string", ".status.phase"), AGE],
        ),
        row(
            "networking.k8s.io",
            "ingresses",
            "Ingress",
            &["ing"],
            &[("Class", "string", ".spec.ingressClassName"), AGE],
        ),
        Entry {
            status: false,
            ..row(
                "networking.k8s.io",
                "networkpolicies",
                "NetworkPolicy",
                &["netpol"],
                &[AGE],
            )
        },
        row(
            "policy",
            "poddisruptionbudgets",
            "PodDisruptionBudget",
            &["pdb"],
            &[
                ("Min Available", "string", ".spec.minAvailable"),
                ("Max Unavailable", "string", ".spec.maxUnavailable"),
                AGE,
            ],
        ),
        Entry {
            namespaced: false,
            status: false,
            ..row(
                "scheduling.k8s.io",
                "priorityclasses",
                "PriorityClass",
                &["pc"],
                &[
                    ("Value", "integer", ".value"),
                    ("Global-Default", "boolean", ".globalDefault"),
                    AGE,
                ],
            )
        },
    ]
}

/// A namespaced kind with a status.
fn row(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    cells: &[Cell],
) -> Entry {
    let columns = cells.iter().map(|(name, kind, path)| Column {
        name: (*name).into(),
        kind: (*kind).into(),
        format: String::new(),
        description: String::new(),
        priority: 0,
        path: JsonPath::parse(path).expect("constant paths are well formed"),
    });
    Entry {
        short_names,
        status: true,
        behaviour: Behaviour {
            generation: true,
            ..Behaviour::PLAIN
        },
        ..Entry::new(group, plural, kind, Columns::Paths(columns.collect()))
    }
}
