//! Table columns of the built-in kinds, as `kubectl get` shows them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Columns, Header};
use crate::table::age_of;

const fn column(name: &'static str) -> Header {
    Header {
        name,
        kind: "string",
        priority: 0,
    }
}

const fn wide(name: &'static str) -> Header {
    Header {
        name,
        kind: "string",
        priority: 1,
    }
}

const fn count_of(name: &'static str) -> Header {
    Header {
        kind: "integer",
        ..column(name)
    }
}

const NAME: Header = column("Name");
const AGE: Header = column("Age");

pub(super) const NAMESPACE: Columns = Columns::Code {
    header: &[NAME, column("Status"), AGE],
    row: |object, now| {
        vec![
            name(object),
            object["status"]["phase"].clone(),
            age(object, now),
        ]
    },
};

pub(super) const NODE: Columns = Columns::Code {
    header: &[
        NAME,
        column("Status"),
        column("Roles"),
        AGE,
        column("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    row: node,
};

pub(super) const POD: Columns = Columns::Code {
    header: &[
        NAME,
        column("Ready"),
        column("Status"),
        column("Restarts"),
        AGE,
        wide("IP"),
        wide("Node"),
    ],
    row: pod,
};

pub(super) const SECRET: Columns = Columns::Code {
    header: &[NAME, column("Type"), count_of("Data"), AGE],
    row: |object, now| {
        vec![
            name(object),
            object["type"].clone(),
            json!(count(&object["data"])),
            age(object, now),
        ]
    },
};

pub(super) const CONFIG_MAP: Columns = Columns::Code {
    header: &[NAME, count_of("Data"), AGE],
    row: |object, now| {
        let entries = count(&object["data"]) + count(&object["binaryData"]);
        vec![name(object), json!(entries), age(object, now)]
    },
};

pub(super) const SERVICE_ACCOUNT: Columns = Columns::Code {
    header: &[NAME, count_of("Secrets"), AGE],
    row: |object, now| {
        let secrets = object["secrets"].as_array().map_or(0, Vec::len);
        vec![name(object), json!(secrets), age(object, now)]
    },
};

pub(super) const EVENT: Columns = Columns::Code {
    header: &[
        column("Last Seen"),
        column("Type"),
        column("Reason"),
        column("Object"),
        wide("Subobject"),
        wide("Source"),
        column("Message"),
        wide("First Seen"),
        Header {
            name: "Count",
            kind: "integer",
            priority: 1,
        },
        wide("Name"),
    ],
    row: event,
};

pub(super) const LEASE: Columns = Columns::Code {
    header: &[NAME, column("Holder"), AGE],
    row: |object, now| {
        vec![
            name(object),
            text(&object["spec"]["holderIdentity"]),
            age(object, now),
        ]
    },
};

pub(super) const DEFINITION: Columns = Columns::Code {
    header: &[
        NAME,
        Header {
            name: "Created At",
            kind: "date",
            priority: 0,
        },
    ],
    row: |object, _| vec![name(object), text(&object["metadata"]["creationTimestamp"])],
};

fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

fn age(object: &Value, now: Timestamp) -> Value {
    json!(age_of(&object["metadata"]["creationTimestamp"], now))
}

fn text(value: &Value) -> Value {
    json!(value.as_str().unwrap_or_default())
}

fn count(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

fn or_none(value: String) -> Value {
    if value.is_empty() {
        json!("<none>")
    } else {
        json!(value)
    }
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = object["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = Vec::new();
    for (label, value) in object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
    {
        if let Some(role) = label.strip_prefix("node-role.kubernetes.io/") {
            roles.push(role);
        } else if label == "kubernetes.io/role" {
            roles.extend(value.as_str());
        }
    }
    roles.retain(|role| !role.is_empty());
    roles.sort_unstable();
    roles.dedup();
    let address = |kind: &str| {
        let addresses = object["status"]["addresses"].as_array();
        let found = addresses.into_iter().flatten().find(|a| a["type"] == kind);
        or_none(found.map_or_else(String::new, |a| {
            a["address"].as_str().unwrap_or_default().into()
        }))
    };
    let info = |field: &str| {
        let value = &object["status"]["nodeInfo"][field];
        match value.as_str() {
            Some(text) if !text.is_empty() => json!(text),
            _ => json!("<unknown>"),
        }
    };
    vec![
        name(object),
        json!(status),
        or_none(roles.join(",")),
        age(object, now),
        text(&object["status"]["nodeInfo"]["kubeletVersion"]),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn pod(object: &Value, now: Timestamp) -> Vec<Value> {
    let statuses = object["status"]["containerStatuses"].as_array();
    let statuses = statuses.map_or(&[][..], Vec::as_slice);
    let total = object["spec"]["containers"].as_array().map_or(0, Vec::len);
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    let restarts: u64 = statuses
        .iter()
        .filter_map(|status| status["restartCount"].as_u64())
        .sum();
    let status = if object["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else {
        object["status"]["reason"]
            .as_str()
            .or(object["status"]["phase"].as_str())
            .unwrap_or("Pending")
    };
    let or_none = |value: &Value| or_none(value.as_str().unwrap_or_default().to_owned());
    vec![
        name(object),
        json!(format!("{ready}/{total}")),
        json!(status),
        json!(restarts.to_string()),
        age(object, now),
        or_none(&object["status"]["podIP"]),
        or_none(&object["spec"]["nodeName"]),
    ]
}

fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |fields: &[&Value]| -> Value {
        let found = fields.iter().find(|value| value.is_string());
        found.map_or(Value::Null, |value| (*value).clone())
    };
    let created = &object["metadata"]["creationTimestamp"];
    let series = &object["series"];
    let first = first_of(&[&object["firstTimestamp"], &object["eventTime"], created]);
    let last = first_of(&[
        &series["lastObservedTime"],
        &object["lastTimestamp"],
        &first,
    ]);
    let involved = &object["involvedObject"];
    let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let source = match (&object["source"]["component"], &object["source"]["host"]) {
        (Value::String(component), Value::String(host)) => format!("{component}, {host}"),
        (Value::String(component), _) => component.clone(),
        _ => part(&object["reportingComponent"]),
    };
    let occurrences = series["count"]
        .as_u64()
        .or(object["count"].as_u64())
        .unwrap_or(1);
    vec![
        json!(age_of(&last, now)),
        text(&object["type"]),
        text(&object["reason"]),
        json!(format!(
            "{}/{}",
            part(&involved["kind"]).to_lowercase(),
            part(&involved["name"])
        )),
        text(&involved["fieldPath"]),
        json!(source),
        json!(part(&object["message"]).trim()),
        json!(age_of(&first, now)),
        json!(occurrences),
        name(object),
    ]
}
