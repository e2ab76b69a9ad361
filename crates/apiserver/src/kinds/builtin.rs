//! The built-in kinds, as a table.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::{
    Behaviour, Columns, Convert, NameRule, Resource, Scale, Version, columns, definition, events,
    schemas, secret, stored_only,
};
use crate::resources::metadata;
use crate::schema::Schema;

/// One line of the table.
pub(super) struct Entry {
    pub(super) group: &'static str,
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
    pub(super) short_names: &'static [&'static str],
    pub(super) categories: &'static [&'static str],
    pub(super) namespaced: bool,
    pub(super) status: bool,
    /// Replicas can be read and set through `scale`.
    pub(super) scale: bool,
    pub(super) selectable: &'static [&'static str],
    pub(super) columns: Columns,
    pub(super) behaviour: Behaviour,
}

impl Entry {
    /// A namespaced kind without subresources.
    pub(super) fn new(
        group: &'static str,
        plural: &'static str,
        kind: &'static str,
        columns: Columns,
    ) -> Self {
        Self {
            group,
            plural,
            kind,
            short_names: &[],
            categories: &[],
            namespaced: true,
            status: false,
            scale: false,
            selectable: &[],
            columns,
            behaviour: Behaviour::PLAIN,
        }
    }
}

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// Every built-in kind.
pub(super) fn resources() -> &'static [Arc<Resource>] {
    static RESOURCES: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| {
        let entries = entries().into_iter().chain(stored_only::entries());
        entries.map(|entry| Arc::new(resource(entry))).collect()
    });
    &RESOURCES
}

fn entries() -> Vec<Entry> {
    let plain = Behaviour::PLAIN;
    vec![
        Entry {
            short_names: &["ns"],
            namespaced: false,
            status: true,
            selectable: &["status.phase"],
            behaviour: Behaviour {
                names: NameRule::Label,
                prepare: prepare_namespace,
                ..plain
            },
            ..Entry::new("", "namespaces", "Namespace", columns::NAMESPACE)
        },
        Entry {
            short_names: &["no"],
            namespaced: false,
            status: true,
            selectable: &["spec.unschedulable"],
            ..Entry::new("", "nodes", "Node", columns::NODE)
        },
        Entry {
            short_names: &["po"],
            categories: &["all"],
            status: true,
            selectable: &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "status.phase",
                "status.nominatedNodeName",
            ],
            behaviour: Behaviour {
                eviction: true,
                ..plain
            },
            ..Entry::new("", "pods", "Pod", columns::POD)
        },
        Entry {
            selectable: &["type"],
            behaviour: Behaviour {
                prepare: secret::prepare,
                validate: secret::validate,
                ..plain
            },
            ..Entry::new("", "secrets", "Secret", columns::SECRET)
        },
        Entry {
            short_names: &["cm"],
            behaviour: Behaviour {
                prepare: secret::prepare_config_map,
                validate: secret::validate_config_map,
                ..plain
            },
            ..Entry::new("", "configmaps", "ConfigMap", columns::CONFIG_MAP)
        },
        Entry {
            short_names: &["sa"],
            behaviour: Behaviour {
                tokens: true,
                ..plain
            },
            ..Entry::new(
                "",
                "serviceaccounts",
                "ServiceAccount",
                columns::SERVICE_ACCOUNT,
            )
        },
        Entry {
            short_names: &["ev"],
            selectable: EVENT_FIELDS,
            behaviour: Behaviour {
                prepare: events::prepare,
                ..plain
            },
            ..Entry::new("", "events", "Event", columns::EVENT)
        },
        Entry {
            short_names: &["ev"],
            selectable: EVENT_FIELDS,
            ..Entry::new("events.k8s.io", "events", "Event", columns::EVENT)
        },
        Entry {
            behaviour: Behaviour {
                unconditional_update: false,
                ..plain
            },
            ..Entry::new("coordination.k8s.io", "leases", "Lease", columns::LEASE)
        },
        Entry {
            short_names: &["crd", "crds"],
            categories: &["api-extensions"],
            namespaced: false,
            status: true,
            behaviour: Behaviour {
                generation: true,
                unconditional_update: false,
                prepare: definition::prepare,
                validate: definition::validate,
                ..plain
            },
            ..Entry::new(
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                "CustomResourceDefinition",
                columns::DEFINITION,
            )
        },
    ]
}

fn resource(entry: Entry) -> Resource {
    let Entry { group, plural, .. } = entry;
    let shared_events = group == "events.k8s.io";
    let api_version = match group {
        "" => "v1".to_owned(),
        group => format!("{group}/v1"),
    };
    let published = schemas::of(group, entry.kind);
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    Resource {
        group: group.into(),
        plural: plural.into(),
        singular: entry.kind.to_lowercase(),
        kind: entry.kind.into(),
        list_kind: format!("{}List", entry.kind),
        short_names: strings(entry.short_names),
        categories: strings(entry.categories),
        namespaced: entry.namespaced,
        versions: vec![Version {
            name: "v1".into(),
            api_version,
            storage: true,
            deprecation: None,
            schema: Arc::new(
                Schema::parse(&published, entry.kind)
                    .expect("built-in schemas are well formed")
                    .with_metadata(metadata::parsed_schema()),
            ),
            published: Arc::new(published),
            status: entry.status,
            scale: entry.scale.then(Scale::of_workloads),
            columns: entry.columns,
            selectable: entry
                .selectable
                .iter()
                .map(|path| path.split('.').map(String::from).collect())
                .collect(),
            convert: shared_events.then_some(Convert {
                to_storage: events::to_core,
                from_storage: events::from_core,
            }),
            since: 0,
        }],
        storage: if shared_events {
            "/events".into()
        } else {
            format!("{group}/{plural}").into()
        },
        behaviour: entry.behaviour,
        terminating: false,
    }
}

fn prepare_namespace(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].clone();
    namespace["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    namespace["spec"]["finalizers"] = json!(["kubernetes"]);
    if namespace["metadata"]["deletionTimestamp"].is_null() {
        namespace["status"]["phase"] = json!("Active");
    } else {
        namespace["status"]["phase"] = json!("Terminating");
    }
}
