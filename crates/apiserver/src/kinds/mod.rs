//! The kinds a server serves: built-in ones from a table, and those that CustomResourceDefinitions describe.

mod builtin;
mod columns;
mod custom;
mod definition;
mod events;
mod rbac;
mod registry;
mod schemas;
mod secret;
mod stored_only;

use std::sync::Arc;

use serde_json::Value;

pub(crate) use definition::CRD_CLEANUP;
pub(crate) use registry::Registry;

use crate::config::Conversion;
use crate::jsonpath::JsonPath;
use crate::schema::Schema;
use crate::status::{Cause, Subject};
use crate::store::{Object, Revision};

/// A kind with all its versions.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// In the order of preference; only those that are served, and at least one in a kind that is served.
    pub(crate) versions: Vec<Version>,
    /// The `group/plural` under which objects are stored; two kinds may share it.
    pub(crate) storage: Arc<str>,
    pub(crate) behaviour: Behaviour,
    /// Its definition is being deleted: no new objects.
    pub(crate) terminating: bool,
}

/// What code does for a kind beyond what its schema says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behaviour {
    /// From a CRD rather than built in.
    pub(crate) custom: bool,
    /// `metadata.generation` counts changes of the spec.
    pub(crate) generation: bool,
    /// Replacing needs no resourceVersion.
    pub(crate) unconditional_update: bool,
    /// Objects can be evicted through a subresource.
    pub(crate) eviction: bool,
    /// Objects are accounts that tokens can be had for.
    pub(crate) tokens: bool,
    /// What names look like.
    pub(crate) names: NameRule,
    /// Fills in what clients may leave out, before validation.
    pub(crate) prepare: fn(&mut Value),
    /// Checks the schema cannot express; the second argument is the object before, for updates.
    pub(crate) validate: fn(&Value, Option<&Value>) -> Vec<Cause>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    Subdomain,
    Label,
    /// Anything that fits one part of a path, such as `system:nodes`.
    PathSegment,
}

impl Behaviour {
    /// What kinds do unless they say otherwise.
    pub(crate) const PLAIN: Self = Self {
        custom: false,
        generation: false,
        unconditional_update: true,
        eviction: false,
        tokens: false,
        names: NameRule::Subdomain,
        prepare: |_| {},
        validate: |_, _| Vec::new(),
    };
}

/// A kind in one version.
#[derive(Debug)]
pub(crate) struct Version {
    /// `v1`.
    pub(crate) name: String,
    /// `group/v1`, or `v1`.
    pub(crate) api_version: String,
    pub(crate) storage: bool,
    pub(crate) deprecation: Option<String>,
    pub(crate) schema: Arc<Schema>,
    /// The schema as it was written, for OpenAPI.
    pub(crate) published: Arc<Value>,
    pub(crate) status: bool,
    pub(crate) scale: Option<Scale>,
    pub(crate) columns: Columns,
    /// Paths that field selectors may use, besides `metadata.name` and `metadata.namespace`.
    pub(crate) selectable: Vec<Vec<String>>,
    pub(crate) convert: Option<Convert>,
    /// Revision of the definition. Objects that are older may lack defaults that came later.
    pub(crate) since: Revision,
}

/// Between a version's own shape and the stored one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Convert {
    pub(crate) to_storage: fn(Value) -> Value,
    pub(crate) from_storage: fn(Value) -> Value,
}

/// Where the scale subresource finds what it shows.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    pub(crate) spec_replicas: Vec<String>,
    pub(crate) status_replicas: Vec<String>,
    /// A selector as text, or a `LabelSelector`.
    pub(crate) selector: Option<Vec<String>>,
}

impl Scale {
    /// Where the kinds of `apps/v1` have it.
    fn of_workloads() -> Self {
        let path = |text: &str| text.split('.').map(String::from).collect();
        Self {
            spec_replicas: path("spec.replicas"),
            status_replicas: path("status.replicas"),
            selector: Some(path("spec.selector")),
        }
    }
}

/// How objects are printed in tables.
#[derive(Debug)]
pub(crate) enum Columns {
    /// From a CRD's `additionalPrinterColumns`; NAME comes first by itself.
    Paths(Vec<Column>),
    /// Code, for the built-in kinds.
    Code {
        header: &'static [Header],
        row: fn(&Value, jiff::Timestamp) -> Vec<Value>,
    },
}

/// One printer column.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) path: JsonPath,
}

/// The heading of a built-in kind's column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    /// Shown only with `-o wide` if above zero.
    pub(crate) priority: i64,
}

impl Resource {
    /// Notes which revision of the definition this is, and what code converts.
    fn installed(&mut self, revision: Revision, conversions: &[Conversion]) {
        let name = format!("{}.{}", self.plural, self.group);
        for version in &mut self.versions {
            version.since = revision;
            let conversion = conversions
                .iter()
                .find(|conversion| conversion.crd == name && conversion.version == version.name);
            version.convert = conversion.map(|conversion| Convert {
                to_storage: conversion.to_storage,
                from_storage: conversion.from_storage,
            });
        }
    }

    /// For messages about one object.
    pub(crate) fn subject(&self, name: &str) -> Subject {
        Subject {
            group: self.group.clone(),
            kind: self.plural.clone(),
            name: name.into(),
        }
    }

    /// For messages about an invalid object, which name the kind.
    pub(crate) fn kind_subject(&self, name: &str) -> Subject {
        Subject {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: name.into(),
        }
    }

    pub(crate) fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// `group/version` of what is in the store.
    pub(crate) fn storage_version(&self) -> &Version {
        self.versions
            .iter()
            .find(|version| version.storage)
            .unwrap_or(&self.versions[0])
    }
}

impl Version {
    /// An object in this version's shape, with the defaults of its schema.
    pub(crate) fn read(&self, stored: &Object) -> Value {
        let mut value = stored.value();
        if let Some(convert) = self.convert {
            value = (convert.from_storage)(value);
        }
        value["apiVersion"] = self.api_version.clone().into();
        if self.may_lack_defaults(stored) {
            self.schema.apply_defaults(&mut value);
        }
        value
    }

    /// Whether the stored bytes are what a client of this version reads.
    pub(crate) fn is_stored(&self, stored: &Object) -> bool {
        *stored.head().api_version == *self.api_version && !self.may_lack_defaults(stored)
    }

    fn may_lack_defaults(&self, stored: &Object) -> bool {
        self.schema.has_defaults && (stored.revision < self.since || self.convert.is_some())
    }
}
