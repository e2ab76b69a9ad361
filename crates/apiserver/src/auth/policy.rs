//! RBAC: what the roles and bindings in the store allow. Pure, once it is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Action, User};
use crate::selector::Selector;
use crate::store::Object;

/// The API group of the kinds that make a policy.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// Verbs on resources or paths. Rules only add up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PolicyRule {
    pub(crate) verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

/// Users and groups that have rules, in one namespace or everywhere.
#[derive(Debug)]
struct Grant {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    namespace: Option<String>,
    rules: Arc<[PolicyRule]>,
    /// For the reason of a decision.
    binding: String,
}

/// All bindings with the rules of their roles.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    grants: Vec<Grant>,
    roles: HashMap<RoleKey, Arc<[PolicyRule]>>,
}

/// Namespace (empty for cluster roles) and name.
type RoleKey = (String, String);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Role {
    rules: Vec<PolicyRule>,
    aggregation_rule: Option<Aggregation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Aggregation {
    cluster_role_selectors: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Binding {
    subjects: Vec<SubjectReference>,
    role_ref: RoleReference,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SubjectReference {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RoleReference {
    kind: String,
    name: String,
}

impl Policy {
    /// The policy of stored roles and bindings, cluster-wide ones and those of namespaces.
    pub(crate) fn new(roles: &[Arc<Object>], bindings: &[Arc<Object>]) -> Self {
        let mut own: BTreeMap<RoleKey, Role> = BTreeMap::new();
        for object in roles {
            // Reading an object that its schema admitted fails only when the schema is laxer than this.
            match serde_json::from_slice(&object.bytes) {
                Ok(role) => {
                    own.insert(key_of(object), role);
                }
                Err(error) => tracing::warn!(key = %object.key, %error, "a role is not readable"),
            }
        }
        let mut resolved = HashMap::new();
        for (key, role) in &own {
            let rules = match &role.aggregation_rule {
                None => role.rules.clone(),
                Some(aggregation) => aggregate(aggregation, key, roles, &own),
            };
            resolved.insert(key.clone(), Arc::from(rules));
        }
        let grants = bindings
            .iter()
            .filter_map(|object| grant(object, &resolved))
            .collect();
        Self {
            grants,
            roles: resolved,
        }
    }

    /// The rules of a role; the namespace of cluster roles is empty.
    pub(crate) fn role(&self, namespace: &str, name: &str) -> Option<&[PolicyRule]> {
        let rules = self.roles.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(rules)
    }

    /// Why `user` may do `action`, if it may.
    pub(crate) fn allows(&self, user: &User, action: Action<'_>) -> Option<String> {
        self.grants_of(user, action.namespace)
            .find(|grant| grant.rules.iter().any(|rule| rule.covers(action)))
            .map(|grant| format!("RBAC: allowed by {}", grant.binding))
    }

    /// Whether `user` may do `verb` on a path that is no resource.
    pub(crate) fn allows_path(&self, user: &User, verb: &str, path: &str) -> bool {
        self.grants_of(user, None)
            .flat_map(|grant| grant.rules.iter())
            .any(|rule| rule.covers_path(verb, path))
    }

    /// Every rule that helps `user` in a namespace.
    pub(crate) fn rules_of<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a PolicyRule> {
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        self.grants_of(user, namespace)
            .flat_map(|grant| grant.rules.iter())
    }

    fn grants_of<'a>(
        &'a self,
        user: &'a User,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Grant> {
        self.grants.iter().filter(move |grant| {
            let here = grant.namespace.is_none() || grant.namespace.as_deref() == namespace;
            here && (grant.users.contains(&user.name)
                || user.groups.iter().any(|group| grant.groups.contains(group)))
        })
    }
}

impl PolicyRule {
    pub(crate) fn covers(&self, action: Action<'_>) -> bool {
        let named = self.resource_names.is_empty()
            || action
                .name
                .is_some_and(|name| self.resource_names.iter().any(|n| n == name));
        named
            && has(&self.verbs, action.verb)
            && has(&self.api_groups, action.group)
            && self.resources.iter().any(|entry| match action.subresource {
                _ if entry == "*" => true,
                None => entry == action.resource,
                Some(subresource) => entry
                    .split_once('/')
                    .is_some_and(|(r, s)| (r == "*" || r == action.resource) && s == subresource),
            })
    }

    fn covers_path(&self, verb: &str, path: &str) -> bool {
        has(&self.verbs, verb)
            && self
                .non_resource_urls
                .iter()
                .any(|entry| match entry.strip_suffix('*') {
                    Some(prefix) => path.starts_with(prefix),
                    None => entry == path,
                })
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|x| x == "*" || x == wanted)
}

fn key_of(object: &Object) -> RoleKey {
    (object.key.namespace().into(), object.key.name().into())
}

/// The rules of all cluster roles that one of the selectors picks.
fn aggregate(
    aggregation: &Aggregation,
    own_key: &RoleKey,
    roles: &[Arc<Object>],
    own: &BTreeMap<RoleKey, Role>,
) -> Vec<PolicyRule> {
    let selectors: Vec<Selector> = aggregation
        .cluster_role_selectors
        .iter()
        .filter_map(|selector| Selector::of_labels(selector).ok())
        .collect();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for object in roles {
        let key = key_of(object);
        let picked = key.0.is_empty() && key != *own_key;
        if !picked || !selectors.iter().any(|selector| selector.matches(object)) {
            continue;
        }
        let more = own.get(&key).map(|role| role.rules.as_slice());
        for rule in more.unwrap_or_default() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

fn grant(object: &Object, roles: &HashMap<RoleKey, Arc<[PolicyRule]>>) -> Option<Grant> {
    let binding: Binding = match serde_json::from_slice(&object.bytes) {
        Ok(binding) => binding,
        Err(error) => {
            tracing::warn!(key = %object.key, %error, "a binding is not readable");
            return None;
        }
    };
    let namespace = Some(object.key.namespace()).filter(|n| !n.is_empty());
    let role_namespace = match binding.role_ref.kind.as_str() {
        "ClusterRole" => "",
        _ => namespace?,
    };
    // A binding to a role that is missing grants nothing until the role is there.
    let key = (role_namespace.to_owned(), binding.role_ref.name.clone());
    let rules = roles.get(&key)?.clone();
    let (mut users, mut groups) = (BTreeSet::new(), BTreeSet::new());
    for subject in binding.subjects {
        match subject.kind.as_str() {
            "User" => users.insert(subject.name),
            "Group" => groups.insert(subject.name),
            "ServiceAccount" => users.insert(format!(
                "system:serviceaccount:{}:{}",
                subject.namespace, subject.name
            )),
            _ => false,
        };
    }
    let kind = match namespace {
        Some(namespace) => format!("RoleBinding \"{}/{namespace}\"", object.key.name()),
        None => format!("ClusterRoleBinding {:?}", object.key.name()),
    };
    Some(Grant {
        users,
        groups,
        namespace: namespace.map(String::from),
        rules,
        binding: format!("{kind} of {} {:?}", binding.role_ref.kind, key.1),
    })
}
