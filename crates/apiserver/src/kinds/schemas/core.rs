//! Schemas of the core kinds, except events.

use serde_json::{Value, json};

use super::{
    condition, count, flag, keyed, list, object, open, quantities, reference, set, text, texts,
    time,
};

pub(super) fn namespace() -> Value {
    object(
        "Namespace provides a scope for names.",
        [
            (
                "spec",
                object(
                    "How the namespace behaves.",
                    [(
                        "finalizers",
                        list("What has to happen before the namespace may go.", text("")),
                    )],
                ),
            ),
            (
                "status",
                object(
                    "State of the namespace.",
                    [
                        ("phase", text("Active or Terminating.")),
                        (
                            "conditions",
                            keyed("Details of the state.", "type", condition()),
                        ),
                    ],
                ),
            ),
        ],
    )
}

pub(super) fn node() -> Value {
    let taint = object(
        "A mark that keeps pods away unless they tolerate it.",
        [
            ("key", text("Name of the taint.")),
            ("value", text("Value of the taint.")),
            ("effect", text("NoSchedule, PreferNoSchedule or NoExecute.")),
            ("timeAdded", time("When the taint was added.")),
        ],
    );
    let address = object(
        "An address of the node.",
        [
            (
                "type",
                text("Hostname, InternalIP, ExternalIP, InternalDNS or ExternalDNS."),
            ),
            ("address", text("The address.")),
        ],
    );
    let image = object(
        "A container image on the node.",
        [
            ("names", list("Names of the image.", text("A name."))),
            ("sizeBytes", json!({"type": "integer", "format": "int64"})),
        ],
    );
    let endpoint = object("A port of a daemon.", [("Port", count("The port."))]);
    let info = object(
        "What the node is made of.",
        [
            ("architecture", text("Architecture of the machine.")),
            ("bootID", text("Identity of the current boot.")),
            (
                "containerRuntimeVersion",
                text("Version of the container runtime."),
            ),
            ("kernelVersion", text("Version of the kernel.")),
            ("kubeProxyVersion", text("No longer used.")),
            ("kubeletVersion", text("Version of the node's agent.")),
            ("machineID", text("Identity of the installation.")),
            ("operatingSystem", text("The operating system.")),
            ("osImage", text("Name of the OS image.")),
            ("systemUUID", text("Identity of the machine.")),
            ("swap", open(object("Swap of the node.", []))),
        ],
    );
    object(
        "Node is a machine of the cluster.",
        [
            (
                "spec",
                object(
                    "How the node should behave.",
                    [
                        ("podCIDR", text("Addresses for the node's pods.")),
                        ("podCIDRs", set("Addresses for the node's pods.")),
                        ("providerID", text("Identity of the node at its provider.")),
                        (
                            "unschedulable",
                            flag("No new pods; set by `kubectl cordon`."),
                        ),
                        ("taints", list("Marks that keep pods away.", taint)),
                        ("externalID", text("No longer used.")),
                        ("configSource", open(object("No longer used.", []))),
                    ],
                ),
            ),
            (
                "status",
                object(
                    "State of the node, written by its agent.",
                    [
                        ("capacity", quantities("What the node has.")),
                        ("allocatable", quantities("What pods may use.")),
                        ("phase", text("No longer used.")),
                        (
                            "conditions",
                            keyed("Details of the state.", "type", condition()),
                        ),
                        (
                            "addresses",
                            keyed("Where the node can be reached.", "type", address),
                        ),
                        (
                            "daemonEndpoints",
                            object("Ports of daemons.", [("kubeletEndpoint", endpoint)]),
                        ),
                        ("nodeInfo", info),
                        ("images", list("Container images on the node.", image)),
                        ("volumesInUse", list("Volumes in use.", text("A volume."))),
                        (
                            "volumesAttached",
                            list("Volumes attached.", open(object("A volume.", []))),
                        ),
                        ("config", open(object("No longer used.", []))),
                        (
                            "runtimeHandlers",
                            list("Runtime handlers.", open(object("A handler.", []))),
                        ),
                        ("features", open(object("Features of the node.", []))),
                    ],
                ),
            ),
        ],
    )
}

pub(super) fn pod() -> Value {
    let container = || {
        open(object(
            "A container of the pod.",
            [
                ("name", text("Name of the container.")),
                ("image", text("Image of the container.")),
                ("command", list("The entry point.", text("A word."))),
                (
                    "args",
                    list("Arguments of the entry point.", text("A word.")),
                ),
                ("ports", container_ports()),
                (
                    "env",
                    keyed(
                        "Environment variables.",
                        "name",
                        named("A variable.", "name"),
                    ),
                ),
                (
                    "volumeMounts",
                    keyed(
                        "Volumes of the container.",
                        "mountPath",
                        named("A volume.", "mountPath"),
                    ),
                ),
            ],
        ))
    };
    object(
        "Pod is a group of containers on a node. Pods are stored and listed here, not run.",
        [
            (
                "spec",
                open(object(
                    "How the pod should behave.",
                    [
                        ("nodeName", text("Node of the pod.")),
                        ("serviceAccountName", text("Account of the pod.")),
                        ("restartPolicy", text("Always, OnFailure or Never.")),
                        ("priorityClassName", text("Priority of the pod.")),
                        (
                            "terminationGracePeriodSeconds",
                            json!({"type": "integer", "format": "int64"}),
                        ),
                        (
                            "containers",
                            keyed("Containers of the pod.", "name", container()),
                        ),
                        (
                            "initContainers",
                            keyed("Containers that run first.", "name", container()),
                        ),
                        (
                            "volumes",
                            keyed("Volumes of the pod.", "name", named("A volume.", "name")),
                        ),
                        (
                            "tolerations",
                            list("Taints that are tolerated.", open(object("", []))),
                        ),
                    ],
                )),
            ),
            (
                "status",
                open(object(
                    "State of the pod.",
                    [
                        (
                            "phase",
                            text("Pending, Running, Succeeded, Failed or Unknown."),
                        ),
                        ("reason", text("Why, in one word.")),
                        ("message", text("Why, for people.")),
                        (
                            "conditions",
                            keyed("Details of the state.", "type", open(condition())),
                        ),
                        ("podIP", text("Address of the pod.")),
                    ],
                )),
            ),
        ],
    )
}

/// An item of a list that is keyed by `key`.
fn named(what: &str, key: &str) -> Value {
    let mut item = open(object(what, []));
    item["properties"] = json!({ key: text("What the item is told apart by.") });
    item
}

fn container_ports() -> Value {
    let port = open(object(
        "A port of the container.",
        [
            ("containerPort", count("The port.")),
            (
                "protocol",
                json!({"type": "string", "default": "TCP", "description": "TCP, UDP or SCTP."}),
            ),
        ],
    ));
    let mut ports = keyed("Ports of the container.", "containerPort", port);
    ports["x-kubernetes-list-map-keys"] = json!(["containerPort", "protocol"]);
    ports
}

pub(super) fn secret() -> Value {
    let bytes = json!({
        "type": "object", "description": "Contents, base64-encoded.",
        "additionalProperties": {"type": "string", "format": "byte"},
    });
    object(
        "Secret holds data that is to be kept confidential.",
        [
            ("data", bytes),
            (
                "stringData",
                texts("Contents as plain text, merged into data when written."),
            ),
            (
                "type",
                text("What the contents are for; cannot be changed."),
            ),
            (
                "immutable",
                flag("The contents cannot be changed any more."),
            ),
        ],
    )
}

pub(super) fn config_map() -> Value {
    let bytes = json!({
        "type": "object", "description": "Binary contents, base64-encoded.",
        "additionalProperties": {"type": "string", "format": "byte"},
    });
    object(
        "ConfigMap holds configuration.",
        [
            ("data", texts("Contents.")),
            ("binaryData", bytes),
            (
                "immutable",
                flag("The contents cannot be changed any more."),
            ),
        ],
    )
}

pub(super) fn service_account() -> Value {
    let local = object("A secret.", [("name", text("Name of the secret."))]);
    object(
        "ServiceAccount is an identity for programs.",
        [
            (
                "secrets",
                keyed("Secrets of the account.", "name", reference("A secret.")),
            ),
            (
                "imagePullSecrets",
                list("Secrets for pulling images.", local),
            ),
            (
                "automountServiceAccountToken",
                flag("Whether pods get a token of the account."),
            ),
        ],
    )
}
