//! What can be done with objects: read, create, update, patch, apply, delete.

pub(crate) mod apply;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod eviction;
pub(crate) mod metadata;
pub(crate) mod names;
pub(crate) mod read;
pub(crate) mod scale;
pub(crate) mod update;
mod write;

use std::sync::Arc;

pub(crate) use write::{FieldValidation, Outcome, WriteOptions};

use crate::kinds::{Resource, Version};
use crate::status::{ApiError, Subject};
use crate::store::{Key, Scope};

/// The kind, version and place a request is about.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    version: String,
    /// `None` for cluster-scoped kinds, and for lists over all namespaces.
    pub(crate) namespace: Option<String>,
    /// Empty for collections.
    pub(crate) name: String,
}

/// The part of an object that a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status, if the status is a subresource.
    Main,
    Status,
}

impl Target {
    /// `version` must be one that the kind serves.
    pub(crate) fn new(
        resource: Arc<Resource>,
        version: &str,
        namespace: Option<String>,
        name: Option<String>,
    ) -> Self {
        Self {
            resource,
            version: version.into(),
            namespace,
            name: name.unwrap_or_default(),
        }
    }

    /// One object of the collection this target is.
    pub(crate) fn member(&self, key: &Key) -> Self {
        let namespace = Some(key.namespace()).filter(|namespace| !namespace.is_empty());
        Self {
            namespace: namespace.map(String::from),
            name: key.name().into(),
            ..self.clone()
        }
    }

    /// An object in the kind's storage version.
    pub(crate) fn stored(resource: &Arc<Resource>, key: &Key) -> Self {
        let namespace = Some(key.namespace()).filter(|namespace| !namespace.is_empty());
        Self::new(
            resource.clone(),
            &resource.storage_version().name,
            namespace.map(String::from),
            Some(key.name().into()),
        )
    }

    pub(crate) fn version(&self) -> &Version {
        self.resource
            .version(&self.version)
            .expect("a target is made only for a served version")
    }

    pub(crate) fn key(&self) -> Key {
        self.key_of(&self.name)
    }

    pub(crate) fn key_of(&self, name: &str) -> Key {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        Key::new(self.resource.storage.clone(), namespace, name)
    }

    pub(crate) fn scope(&self) -> Scope {
        let storage = self.resource.storage.clone();
        match &self.namespace {
            Some(namespace) => Scope::Namespace(storage, namespace.as_str().into()),
            None => Scope::Resource(storage),
        }
    }

    pub(crate) fn subject(&self) -> Subject {
        self.resource.subject(&self.name)
    }

    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.subject())
    }
}
