//! Which writes a policy or a binding is about.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Review;
use crate::cluster::{Cluster, NAMESPACES};
use crate::kinds::{Resource, Version};
use crate::selector::Selector;
use crate::status::Cause;
use crate::store::Key;

/// `matchConstraints` of a policy, or `matchResources` of a binding.
#[derive(Debug, Default)]
pub(super) struct Constraints {
    namespaces: Selector,
    objects: Selector,
    /// Without any, everything that is not excluded: only bindings have none.
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Only the versions that the rules name; otherwise what is the same in another version is matched, too.
    exact: bool,
}

#[derive(Debug, Default)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: Option<String>,
}

/// The kind and version that a rule knows a write as.
#[derive(Debug, Clone)]
pub(super) struct As {
    pub(super) resource: Arc<Resource>,
    pub(super) version: String,
}

impl As {
    pub(super) fn version(&self) -> &Version {
        self.resource
            .version(&self.version)
            .expect("only served versions are matched")
    }

    /// An object of the request in this version.
    pub(super) fn convert<'v>(&self, object: &'v Value, review: &Review<'_>) -> Cow<'v, Value> {
        let asked = review.target.version();
        let whole = matches!(review.subresource, None | Some("status"));
        if !whole || asked.api_version == self.version().api_version {
            return Cow::Borrowed(object);
        }
        let mut object = object.clone();
        if let Some(convert) = asked.convert {
            object = (convert.to_storage)(object);
        }
        if let Some(convert) = self.version().convert {
            object = (convert.from_storage)(object);
        }
        object["apiVersion"] = json!(self.version().api_version);
        Cow::Owned(object)
    }
}

impl Constraints {
    pub(super) fn parse(value: &Value, path: &str) -> Result<Self, Vec<Cause>> {
        let mut causes = Vec::new();
        let mut selector = |field: &str| {
            Selector::of_labels(&value[field]).unwrap_or_else(|why| {
                let path = format!("{path}.{field}");
                causes.push(Cause::invalid(path, &value[field], &why));
                Selector::default()
            })
        };
        let (namespaces, objects) = (selector("namespaceSelector"), selector("objectSelector"));
        let mut rules = |field: &str| {
            let listed = value[field].as_array().map_or(&[][..], Vec::as_slice);
            let listed = listed.iter().enumerate();
            listed
                .map(|(index, rule)| {
                    Rule::parse(rule, &format!("{path}.{field}[{index}]"), &mut causes)
                })
                .collect::<Vec<_>>()
        };
        let (rules, excluded) = (rules("resourceRules"), rules("excludeResourceRules"));
        match causes.is_empty() {
            true => Ok(Self {
                namespaces,
                objects,
                rules,
                excluded,
                exact: value["matchPolicy"] == json!("Exact"),
            }),
            false => Err(causes),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// As what a write is matched; none when these are not about it.
    pub(super) fn find(&self, cluster: &Cluster, review: &Review<'_>) -> Option<As> {
        if !self.selects(cluster, review) {
            return None;
        }
        let asked = As {
            resource: review.target.resource.clone(),
            version: review.target.version().name.clone(),
        };
        if self
            .matched(&self.excluded, cluster, review, &asked)
            .is_some()
        {
            return None;
        }
        match self.rules.is_empty() {
            true => Some(asked),
            false => self.matched(&self.rules, cluster, review, &asked),
        }
    }

    fn matched(
        &self,
        rules: &[Rule],
        cluster: &Cluster,
        review: &Review<'_>,
        asked: &As,
    ) -> Option<As> {
        if rules.iter().any(|rule| rule.matches(review, asked)) {
            return Some(asked.clone());
        }
        if self.exact || rules.is_empty() {
            return None;
        }
        let registry = cluster.registry();
        let same = registry
            .resources()
            .filter(|resource| resource.storage == asked.resource.storage);
        same.flat_map(|resource| {
            let versions = resource.versions.iter();
            versions.map(|version| As {
                resource: resource.clone(),
                version: version.name.clone(),
            })
        })
        .find(|other| rules.iter().any(|rule| rule.matches(review, other)))
    }

    fn selects(&self, cluster: &Cluster, review: &Review<'_>) -> bool {
        let both = || [review.object, review.old].into_iter().flatten();
        let of =
            |selector: &Selector, object: &Value| selector.selects(&object["metadata"]["labels"]);
        if !self.objects.is_empty() && !both().any(|object| of(&self.objects, object)) {
            return false;
        }
        if self.namespaces.is_empty() {
            return true;
        }
        if *review.target.resource.storage == *NAMESPACES {
            return both()
                .next()
                .is_some_and(|object| of(&self.namespaces, object));
        }
        match namespace(cluster, review) {
            Some(object) => of(&self.namespaces, &object),
            // Objects without a namespace are not told apart by it.
            None => true,
        }
    }
}

/// The Namespace of a write.
pub(super) fn namespace(cluster: &Cluster, review: &Review<'_>) -> Option<Value> {
    let name = review.target.namespace.as_deref()?;
    let found = cluster.store.get(&Key::new(NAMESPACES, "", name))?;
    Some(found.value())
}

impl Rule {
    fn parse(rule: &Value, path: &str, causes: &mut Vec<Cause>) -> Self {
        let words = |field: &str| -> Vec<String> {
            let listed = rule[field].as_array().into_iter().flatten();
            listed
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            if words(field).is_empty() {
                causes.push(Cause::required(format!("{path}.{field}"), ""));
            }
        }
        Self {
            operations: words("operations"),
            groups: words("apiGroups"),
            versions: words("apiVersions"),
            resources: words("resources"),
            names: words("resourceNames"),
            scope: rule["scope"].as_str().map(str::to_owned),
        }
    }

    fn matches(&self, review: &Review<'_>, known: &As) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        let in_scope = match self.scope.as_deref() {
            Some("Cluster") => !known.resource.namespaced,
            Some("Namespaced") => known.resource.namespaced,
            _ => true,
        };
        let named = self.names.is_empty() || self.names.iter().any(|name| name == review.name);
        in_scope
            && named
            && has(&self.operations, review.operation.as_str())
            && has(&self.groups, &known.resource.group)
            && has(&self.versions, &known.version)
            && self
                .resources
                .iter()
                .any(|entry| covers(entry, &known.resource.plural, review.subresource))
    }
}

/// `pods`, `pods/status`, `pods/*`, `*/status`, `*` (no subresources) and `*/*`.
fn covers(entry: &str, plural: &str, subresource: Option<&str>) -> bool {
    match (entry.split_once('/'), subresource) {
        (None, None) => entry == "*" || entry == plural,
        (None, Some(_)) => false,
        (Some((resource, part)), subresource) => {
            (resource == "*" || resource == plural)
                && (part == "*" || subresource.is_some_and(|subresource| subresource == part))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn rules_name_resources_and_their_parts() {
        for (entry, resource, part, expected) in [
            ("pods", "pods", None, true),
            ("pods", "pods", Some("status"), false),
            ("pods", "nodes", None, false),
            ("*", "pods", None, true),
            ("*", "pods", Some("status"), false),
            ("*/*", "pods", None, true),
            ("*/*", "pods", Some("status"), true),
            ("pods/*", "pods", Some("eviction"), true),
            ("pods/*", "pods", None, true),
            ("pods/*", "nodes", Some("status"), false),
            ("*/status", "nodes", Some("status"), true),
            ("*/status", "nodes", None, false),
            ("pods/status", "pods", Some("status"), true),
            ("pods/status", "pods", Some("eviction"), false),
        ] {
            assert_eq!(
                covers(entry, resource, part),
                expected,
                "{entry} {resource} {part:?}"
            );
        }
    }
}
