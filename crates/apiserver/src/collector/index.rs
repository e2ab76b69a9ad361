//! Who depends on whom, by uid.

use std::collections::{BTreeSet, HashMap};

use crate::store::{Key, Object};

/// Owner to dependents, and uid to key, for everything stored.
#[derive(Debug, Default)]
pub(super) struct Index {
    dependents: HashMap<Box<str>, BTreeSet<Key>>,
    keys: HashMap<Box<str>, Key>,
}

impl Index {
    pub(super) fn add(&mut self, object: &Object) {
        let metadata = &object.head().metadata;
        self.keys.insert(metadata.uid.clone(), object.key.clone());
        for owner in metadata.owner_references.iter().flatten() {
            let dependents = self.dependents.entry(owner.uid.clone()).or_default();
            dependents.insert(object.key.clone());
        }
    }

    pub(super) fn remove(&mut self, object: &Object) {
        let metadata = &object.head().metadata;
        self.keys.remove(&metadata.uid);
        for owner in metadata.owner_references.iter().flatten() {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(&object.key);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Objects that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// The object that has this uid.
    pub(super) fn key_of(&self, uid: &str) -> Option<&Key> {
        self.keys.get(uid)
    }
}
