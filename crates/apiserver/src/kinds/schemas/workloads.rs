//! Schemas of the kinds that are kept as data: nothing here runs pods or opens ports, but clients read and write them,
//! and their patches need the keys of lists.

use serde_json::{Value, json};

use super::{condition, core, count, flag, keyed, list, object, open, text, texts};

fn selector() -> Value {
    let expression = object(
        "A requirement on one label.",
        [
            ("key", text("The label.")),
            ("operator", text("In, NotIn, Exists or DoesNotExist.")),
            ("values", list("Values to compare with.", text(""))),
        ],
    );
    let mut selector = object(
        "Selects objects by their labels.",
        [
            ("matchLabels", texts("Labels and their values.")),
            (
                "matchExpressions",
                list("Further requirements.", expression),
            ),
        ],
    );
    selector["x-kubernetes-map-type"] = json!("atomic");
    selector
}

fn int_or_string(description: &str) -> Value {
    json!({"x-kubernetes-int-or-string": true, "description": description})
}

fn template() -> Value {
    object(
        "The pods to make.",
        [
            ("metadata", open(object("Metadata of the pods.", []))),
            ("spec", core::pod()["properties"]["spec"].clone()),
        ],
    )
}

fn status() -> Value {
    open(object(
        "Seen state.",
        [
            ("replicas", count("How many there are.")),
            ("readyReplicas", count("How many are ready.")),
            (
                "observedGeneration",
                json!({"type": "integer", "format": "int64"}),
            ),
            (
                "conditions",
                keyed("Details of the state.", "type", open(condition())),
            ),
        ],
    ))
}

/// Kinds that keep pods: apps/v1.
pub(super) fn workload(what: &'static str) -> Value {
    let spec = open(object(
        "Desired state.",
        [
            ("replicas", count("How many pods there should be.")),
            ("selector", selector()),
            ("template", template()),
        ],
    ));
    object(what, [("spec", spec), ("status", status())])
}

pub(super) fn job() -> Value {
    let spec = open(object(
        "Desired state.",
        [
            ("parallelism", count("How many pods run at a time.")),
            ("completions", count("How many pods have to succeed.")),
            ("backoffLimit", count("How many failures are tolerated.")),
            ("suspend", flag("No pods are made.")),
            ("selector", selector()),
            ("template", template()),
        ],
    ));
    object(
        "Job runs pods to their end.",
        [("spec", spec), ("status", status())],
    )
}

pub(super) fn cron_job() -> Value {
    let spec = open(object(
        "Desired state.",
        [
            ("schedule", text("When, as cron writes it.")),
            ("suspend", flag("No jobs are made.")),
            (
                "jobTemplate",
                open(object(
                    "The jobs to make.",
                    [("spec", job()["properties"]["spec"].clone())],
                )),
            ),
        ],
    ));
    object(
        "CronJob makes jobs at certain times.",
        [("spec", spec), ("status", open(object("Seen state.", [])))],
    )
}

pub(super) fn service() -> Value {
    let port = open(object(
        "A port.",
        [
            ("name", text("Name of the port.")),
            (
                "protocol",
                json!({"type": "string", "default": "TCP", "description": "TCP, UDP or SCTP."}),
            ),
            ("port", count("The port of the service.")),
            ("targetPort", int_or_string("The port of the pods.")),
            ("nodePort", count("The port of the nodes.")),
        ],
    ));
    let mut ports = keyed("Ports of the service.", "port", port);
    ports["x-kubernetes-list-map-keys"] = json!(["port", "protocol"]);
    let mut labels = texts("Labels of the pods behind it.");
    labels["x-kubernetes-map-type"] = json!("atomic");
    let spec = open(object(
        "Desired state.",
        [
            (
                "type",
                text("ClusterIP, NodePort, LoadBalancer or ExternalName."),
            ),
            ("clusterIP", text("Address of the service.")),
            ("selector", labels),
            ("ports", ports),
        ],
    ));
    object(
        "Service names a set of pods. It is stored here; no traffic is routed.",
        [("spec", spec), ("status", open(object("Seen state.", [])))],
    )
}

pub(super) fn disruption_budget() -> Value {
    let spec = object(
        "How many of the selected pods have to stay.",
        [
            (
                "minAvailable",
                int_or_string("Pods that must stay, as a number or a percentage."),
            ),
            (
                "maxUnavailable",
                int_or_string("Pods that may be away, as a number or a percentage."),
            ),
            ("selector", selector()),
            (
                "unhealthyPodEvictionPolicy",
                text("IfHealthyBudget or AlwaysAllow."),
            ),
        ],
    );
    let status = open(object(
        "Seen state; evictions count the pods themselves.",
        [
            ("currentHealthy", count("Pods that are healthy.")),
            ("desiredHealthy", count("Pods that have to be healthy.")),
            ("disruptionsAllowed", count("Pods that may be evicted now.")),
            ("expectedPods", count("Pods that are selected.")),
            (
                "observedGeneration",
                json!({"type": "integer", "format": "int64"}),
            ),
            (
                "conditions",
                keyed("Details of the state.", "type", open(condition())),
            ),
        ],
    ));
    object(
        "PodDisruptionBudget limits how many pods of a set are evicted at a time.",
        [("spec", spec), ("status", status)],
    )
}

pub(super) fn priority_class() -> Value {
    object(
        "PriorityClass says who is scheduled first. It is stored here, nothing is scheduled.",
        [
            ("value", count("The priority; higher comes first.")),
            ("globalDefault", flag("Pods that name no class have it.")),
            ("description", text("When to use it.")),
            ("preemptionPolicy", text("PreemptLowerPriority or Never.")),
        ],
    )
}

/// Kinds whose fields are stored as they come.
pub(super) fn anything(what: &'static str) -> Value {
    open(object(
        what,
        [
            ("spec", open(object("Desired state.", []))),
            ("status", open(object("Seen state.", []))),
        ],
    ))
}
