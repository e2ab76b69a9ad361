//! All kinds that are served at a moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Resource, Version, builtin, custom};
use crate::config::Conversion;
use crate::store::{Object, Revision};

/// An immutable set of kinds; a new one is made whenever a CRD changes.
#[derive(Debug)]
pub(crate) struct Registry {
    /// By group and plural.
    resources: BTreeMap<(String, String), Arc<Resource>>,
    /// The definitions in the store that the custom kinds were made from, by name, with their revision.
    definitions: BTreeMap<String, (Revision, Arc<Resource>)>,
}

impl Registry {
    /// The built-in kinds and those of `definitions`. What `before` made of a definition that is still the same
    /// is used again, because compiling rules is slow.
    pub(crate) fn new(
        definitions: &[Arc<Object>],
        before: Option<&Self>,
        conversions: &[Conversion],
    ) -> Self {
        let mut resources: BTreeMap<_, _> = builtin::resources()
            .iter()
            .map(|r| ((r.group.clone(), r.plural.clone()), r.clone()))
            .collect();
        let mut known = BTreeMap::new();
        for definition in definitions {
            let name = definition.key.name();
            let same = before
                .and_then(|before| before.definitions.get(name))
                .filter(|(revision, _)| *revision == definition.revision);
            let resource = match same {
                Some((_, resource)) => resource.clone(),
                None => match custom::resource(&definition.value()) {
                    Ok(mut resource) => {
                        resource.installed(definition.revision, conversions);
                        Arc::new(resource)
                    }
                    Err(causes) => {
                        tracing::error!(
                            name,
                            ?causes,
                            "a stored CustomResourceDefinition is invalid"
                        );
                        continue;
                    }
                },
            };
            let key = (resource.group.clone(), resource.plural.clone());
            known.insert(name.to_owned(), (definition.revision, resource.clone()));
            if !resource.versions.is_empty() {
                resources.entry(key).or_insert(resource);
            }
        }
        Self {
            resources,
            definitions: known,
        }
    }

    /// The kind behind a path, if it is served in that version.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let resource = self.resources.get(&(group.to_owned(), plural.to_owned()))?;
        resource.version(version)?;
        Some(resource.clone())
    }

    /// The kind that a CRD of this name defines.
    pub(crate) fn defined_by(&self, definition: &str) -> Option<Arc<Resource>> {
        let (_, resource) = self.definitions.get(definition)?;
        Some(resource.clone())
    }

    /// The kind whose objects are stored there, in its own shape.
    pub(crate) fn stored_at(&self, storage: &str) -> Option<Arc<Resource>> {
        let (group, plural) = storage.split_once('/')?;
        let key = (group.to_owned(), plural.to_owned());
        self.resources.get(&key).cloned()
    }

    /// The kind of an owner reference or event, by group and version (`g/v1`) and kind.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let (group, _) = split_api_version(api_version);
        self.resources
            .values()
            .find(|r| r.group == group && r.kind == kind)
            .cloned()
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// What a group has in a version.
    pub(crate) fn of_version<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = (&'a Resource, &'a Version)> {
        self.resources()
            .filter(move |resource| resource.group == group)
            .filter_map(move |resource| Some((resource.as_ref(), resource.version(version)?)))
    }

    /// Groups (the core group first) with their versions, best first.
    pub(crate) fn groups(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for resource in self.resources.values() {
            let versions = groups.entry(&resource.group).or_default();
            for Version { name, .. } in &resource.versions {
                if !versions.contains(&name.as_str()) {
                    versions.push(name);
                }
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        }
        groups
    }
}

/// `("g", "v1")` of `g/v1`; the group of `v1` is empty.
pub(crate) fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The order of versions: stable before beta before alpha, then by number, anything else last.
pub(super) fn priority(version: &str) -> (u8, u32, u32) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        let (major, rest) = rest.split_at(digits.unwrap_or(rest.len()));
        let major = major.parse().ok()?;
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        let (stage, minor) = match rest.strip_prefix("beta") {
            Some(minor) => (2, minor),
            None => (1, rest.strip_prefix("alpha")?),
        };
        Some((stage, major, minor.parse().ok()?))
    };
    parse().unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::priority;

    #[test]
    fn versions_sort_as_kubernetes_sorts_them() {
        let mut versions = [
            "v1alpha1", "v2", "v1", "foo1", "v1beta2", "v1beta1", "v11", "v10",
        ];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(
            versions,
            [
                "v11", "v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo1"
            ]
        );
    }
}
