//! Schemas of the built-in kinds, in the dialect of CRDs, so that one set of code checks, prunes, merges and
//! explains all kinds.

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
        ("", "Namespace") => namespace(),
        ("", "Node") => node(),
        ("", "Pod") => pod(),
        ("", "Secret") => secret(),
        ("", "ConfigMap") => config_map(),
        ("", "ServiceAccount") => service_account(),
        ("", "Event") => event(),
        ("events.k8s.io", "Event") => new_event(),
        ("coordination.k8s.io", "Lease") => lease(),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(),
        (group, kind) => unreachable!("every built-in kind has a schema: {group} {kind}"),
    }
}

fn namespace() -> Value {
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

fn node() -> Value {
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

fn pod() -> Value {
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
            ],
        ))
    };
    let named = |what: &str| open(object(what, [("name", text("Its name."))]));
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
                            keyed("Volumes of the pod.", "name", named("A volume.")),
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

fn secret() -> Value {
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

fn config_map() -> Value {
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

fn service_account() -> Value {
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

fn event() -> Value {
    object(
        "Event reports that something happened to an object.",
        [
            ("involvedObject", reference("The object.")),
            ("reason", text("What happened, in one word.")),
            ("message", text("What happened, for people.")),
            ("type", text("Normal or Warning.")),
            ("action", text("What was done.")),
            ("count", count("How often it happened.")),
            ("firstTimestamp", time("When it happened first.")),
            ("lastTimestamp", time("When it happened last.")),
            ("eventTime", time("When it happened first, exactly.")),
            ("series", event_series()),
            ("source", event_source()),
            ("related", reference("Another object that is concerned.")),
            ("reportingComponent", text("Who reports.")),
            ("reportingInstance", text("Which instance reports.")),
        ],
    )
}

fn new_event() -> Value {
    object(
        "Event reports that something happened to an object.",
        [
            ("regarding", reference("The object.")),
            ("reason", text("What happened, in one word.")),
            ("note", text("What happened, for people.")),
            ("type", text("Normal or Warning.")),
            ("action", text("What was done.")),
            ("eventTime", time("When it happened first, exactly.")),
            ("series", event_series()),
            ("related", reference("Another object that is concerned.")),
            ("reportingController", text("Who reports.")),
            ("reportingInstance", text("Which instance reports.")),
            ("deprecatedSource", event_source()),
            ("deprecatedCount", count("How often it happened.")),
            ("deprecatedFirstTimestamp", time("When it happened first.")),
            ("deprecatedLastTimestamp", time("When it happened last.")),
        ],
    )
}

fn event_series() -> Value {
    object(
        "Repetitions.",
        [
            ("count", count("How often it happened.")),
            ("lastObservedTime", time("When it happened last.")),
        ],
    )
}

fn event_source() -> Value {
    object(
        "Who reports.",
        [
            ("component", text("The component.")),
            ("host", text("The node.")),
        ],
    )
}

fn lease() -> Value {
    object(
        "Lease says who holds something, until when.",
        [(
            "spec",
            object(
                "The lease.",
                [
                    ("holderIdentity", text("Who holds it.")),
                    (
                        "leaseDurationSeconds",
                        count("How long it holds after a renewal."),
                    ),
                    ("acquireTime", time("When the holder got it.")),
                    ("renewTime", time("When the holder last renewed it.")),
                    ("leaseTransitions", count("How often it changed hands.")),
                    ("strategy", text("How the next holder is chosen.")),
                    ("preferredHolder", text("Who should hold it.")),
                ],
            ),
        )],
    )
}

fn definition() -> Value {
    let names = || {
        object(
            "Names of the kind.",
            [
                ("plural", text("As in URLs.")),
                ("singular", text("As people type it.")),
                ("kind", text("As in manifests.")),
                ("listKind", text("Kind of lists.")),
                (
                    "shortNames",
                    list("Abbreviations.", text("An abbreviation.")),
                ),
                (
                    "categories",
                    list("Groups such as `all`.", text("A category.")),
                ),
            ],
        )
    };
    let column = object(
        "A column of `kubectl get`.",
        [
            ("name", text("Heading.")),
            ("type", text("integer, number, string, boolean or date.")),
            ("format", text("Format of the type.")),
            ("description", text("What is shown.")),
            ("priority", count("Above zero: only with `-o wide`.")),
            ("jsonPath", text("Where the value is.")),
        ],
    );
    let scale = object(
        "The scale subresource.",
        [
            ("specReplicasPath", text("Where the desired number is.")),
            ("statusReplicasPath", text("Where the seen number is.")),
            ("labelSelectorPath", text("Where the selector is.")),
        ],
    );
    let version = object(
        "A version of the kind.",
        [
            ("name", text("Such as `v1`.")),
            ("served", flag("Whether clients can use it.")),
            (
                "storage",
                flag("Whether objects are stored in it; exactly one is."),
            ),
            ("deprecated", flag("Whether clients are warned.")),
            ("deprecationWarning", text("The warning.")),
            (
                "schema",
                object(
                    "What objects look like.",
                    [("openAPIV3Schema", open(object("A structural schema.", [])))],
                ),
            ),
            (
                "subresources",
                object(
                    "Parts with their own endpoint.",
                    [
                        ("status", open(object("The status is a subresource.", []))),
                        ("scale", scale),
                    ],
                ),
            ),
            (
                "additionalPrinterColumns",
                list("Columns of `kubectl get`.", column),
            ),
            (
                "selectableFields",
                list(
                    "Fields that field selectors may use.",
                    object("A field.", [("jsonPath", text("Where it is."))]),
                ),
            ),
        ],
    );
    object(
        "CustomResourceDefinition adds a kind to the API.",
        [
            (
                "spec",
                object(
                    "The kind.",
                    [
                        ("group", text("API group.")),
                        ("scope", text("Cluster or Namespaced.")),
                        ("names", names()),
                        ("versions", list("Versions of the kind.", version)),
                        (
                            "conversion",
                            open(object("How versions are converted: None.", [])),
                        ),
                        ("preserveUnknownFields", flag("No longer used.")),
                    ],
                ),
            ),
            (
                "status",
                object(
                    "State of the definition.",
                    [
                        (
                            "conditions",
                            keyed("Details of the state.", "type", condition()),
                        ),
                        ("acceptedNames", names()),
                        (
                            "storedVersions",
                            list("Versions that may be in the store.", text("")),
                        ),
                        (
                            "observedGeneration",
                            json!({"type": "integer", "format": "int64"}),
                        ),
                    ],
                ),
            ),
        ],
    )
}
