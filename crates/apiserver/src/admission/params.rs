//! `params`: objects that a policy's binding names, for the numbers and names that differ from place to place.

use serde_json::Value;

use super::Review;
use crate::cluster::Cluster;
use crate::resources::Target;
use crate::selector::Selector;
use crate::status::Cause;
use crate::store::Scope;

/// Objects that one binding may evaluate a policy with.
const MOST: usize = 100;

/// The kind of a policy's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParamKind {
    api_version: String,
    kind: String,
}

impl ParamKind {
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        value.is_object().then(|| Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
        })
    }
}

/// Which objects of that kind.
#[derive(Debug)]
pub(super) struct ParamRef {
    name: Option<String>,
    namespace: Option<String>,
    selector: Option<Selector>,
    /// No such object is a reason to refuse.
    needed: bool,
}

impl ParamRef {
    pub(super) fn parse(value: &Value, causes: &mut Vec<Cause>) -> Option<Self> {
        if !value.is_object() {
            return None;
        }
        let path = |field: &str| format!("spec.paramRef.{field}");
        let text = |field: &str| {
            let text = value[field].as_str().filter(|text| !text.is_empty());
            text.map(str::to_owned)
        };
        let selector = match &value["selector"] {
            Value::Null => None,
            given => Selector::of_labels(given)
                .map_err(|why| causes.push(Cause::invalid(path("selector"), given, &why)))
                .ok(),
        };
        let name = text("name");
        match (&name, value["selector"].is_null()) {
            (None, true) => causes.push(Cause::required(
                "spec.paramRef",
                "one of name or selector must be specified",
            )),
            (Some(_), false) => causes.push(Cause::forbidden(
                path("name"),
                "name and selector are mutually exclusive",
            )),
            _ => {}
        }
        let needed = match value["parameterNotFoundAction"].as_str() {
            Some("Deny") => true,
            Some("Allow") => false,
            _ => {
                causes.push(Cause::required(path("parameterNotFoundAction"), ""));
                true
            }
        };
        Some(Self {
            name,
            namespace: text("namespace"),
            selector,
            needed,
        })
    }

    /// The objects. None of them: the policy is not about this request.
    pub(super) fn find(
        &self,
        cluster: &Cluster,
        kind: &ParamKind,
        review: &Review<'_>,
    ) -> Result<Vec<Value>, String> {
        let registry = cluster.registry();
        let known = registry.by_kind(&kind.api_version, &kind.kind);
        let version = kind.api_version.rsplit('/').next().unwrap_or_default();
        let resource = known
            .filter(|resource| resource.version(version).is_some())
            .ok_or_else(|| {
                format!(
                    "failed to find resource referenced by paramKind: '{}, Kind={}'",
                    kind.api_version, kind.kind
                )
            })?;
        let namespace = match resource.namespaced {
            false => None,
            true => {
                let of_request = review.target.namespace.clone();
                let namespace = self.namespace.clone().or(of_request);
                Some(namespace.ok_or(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources",
                )?)
            }
        };
        let target = Target::new(resource, version, namespace.clone(), self.name.clone());
        let objects = match &self.selector {
            None => cluster.store.get(&target.key()).into_iter().collect(),
            Some(selector) => {
                let scope = match namespace {
                    Some(namespace) => {
                        Scope::Namespace(target.resource.storage.clone(), namespace.into())
                    }
                    None => Scope::Resource(target.resource.storage.clone()),
                };
                let listed = cluster.store.list(&scope, None, None, usize::MAX);
                let mut items = listed.map_err(|error| error.to_string())?.items;
                items.retain(|object| selector.matches(object));
                items
            }
        };
        if objects.len() > MOST {
            return Err(format!("the binding selects more than {MOST} parameters"));
        }
        if objects.is_empty() && self.needed {
            return Err(
                "no params found for policy binding with `Deny` parameterNotFoundAction".into(),
            );
        }
        let version = target.version();
        Ok(objects.iter().map(|object| version.read(object)).collect())
    }
}
