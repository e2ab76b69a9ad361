//! Nobody gives away what they do not have: roles and bindings may hold only rules that their writer has, unless the
//! writer may `escalate` or `bind`.

use serde::Deserialize;
use serde_json::Value;

use super::policy::{GROUP, PolicyRule};
use super::{Action, Decision, User};
use crate::cluster::Cluster;
use crate::resources::Target;
use crate::status::ApiError;

/// Refuses a role or binding that gives more than `user` has. Other kinds pass, and so does what stays as it was.
pub(crate) fn check(
    cluster: &Cluster,
    user: &User,
    target: &Target,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if target.resource.group != GROUP || user.is_master() {
        return Ok(());
    }
    let same = |field: &str| old.is_some_and(|old| old[field] == object[field]);
    let namespace = target.namespace.as_deref();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let (rules, verb, resource, role) = match target.resource.kind.as_str() {
        "Role" | "ClusterRole" if !(same("rules") && same("aggregationRule")) => {
            let mut rules = parse(&object["rules"])?;
            if !object["aggregationRule"].is_null() {
                // It takes in rules that are not written yet: only who has everything may say that.
                rules.push(everything());
            }
            (rules, "escalate", target.resource.plural.as_str(), name)
        }
        "RoleBinding" | "ClusterRoleBinding" if !(same("subjects") && same("roleRef")) => {
            let reference = &object["roleRef"];
            let role = reference["name"].as_str().unwrap_or_default();
            let (resource, place) = match reference["kind"].as_str() {
                Some("Role") => ("roles", namespace.unwrap_or_default()),
                _ => ("clusterroles", ""),
            };
            let policy = cluster.auth.policy();
            let rules = policy.role(place, role).map(<[PolicyRule]>::to_vec);
            // What a missing role will hold one day is not known.
            let rules = rules.unwrap_or_else(|| vec![everything()]);
            (rules, "bind", resource, role)
        }
        _ => return Ok(()),
    };
    let waiver = Action {
        verb,
        group: GROUP,
        resource,
        subresource: None,
        namespace,
        name: Some(role),
    };
    if is_allowed(cluster, user, waiver) {
        return Ok(());
    }
    match rules
        .iter()
        .find(|rule| !has_all(cluster, user, rule, namespace))
    {
        None => Ok(()),
        Some(rule) => {
            let detail = format!(
                "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held: {}",
                user.name,
                user.groups,
                serde_json::to_string(rule).unwrap_or_default()
            );
            Err(ApiError::forbidden(&target.resource.subject(name), &detail))
        }
    }
}

fn parse(rules: &Value) -> Result<Vec<PolicyRule>, ApiError> {
    if rules.is_null() {
        return Ok(Vec::new());
    }
    Vec::deserialize(rules)
        .map_err(|error| ApiError::bad_request(format!("rules: not readable: {error}")))
}

fn everything() -> PolicyRule {
    let all = || vec!["*".to_owned()];
    PolicyRule {
        verbs: all(),
        api_groups: all(),
        resources: all(),
        non_resource_urls: all(),
        ..PolicyRule::default()
    }
}

fn is_allowed(cluster: &Cluster, user: &User, action: Action<'_>) -> bool {
    matches!(
        cluster.auth.authorize(user, action),
        Decision::Allowed { .. }
    )
}

/// Whether `user` may do every single thing that `rule` says. A star is asked for as a star.
fn has_all(cluster: &Cluster, user: &User, rule: &PolicyRule, namespace: Option<&str>) -> bool {
    let names: Vec<Option<&str>> = match rule.resource_names.as_slice() {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let paths = rule.verbs.iter().all(|verb| {
        rule.non_resource_urls
            .iter()
            .all(|path| cluster.auth.authorize_path(user, verb, path))
    });
    paths
        && rule.verbs.iter().all(|verb| {
            rule.api_groups.iter().all(|group| {
                rule.resources.iter().all(|resource| {
                    let (resource, subresource) = match resource.split_once('/') {
                        Some((resource, subresource)) => (resource, Some(subresource)),
                        None => (resource.as_str(), None),
                    };
                    names.iter().all(|name| {
                        let action = Action {
                            verb,
                            group,
                            resource,
                            subresource,
                            namespace,
                            name: *name,
                        };
                        is_allowed(cluster, user, action)
                    })
                })
            })
        })
}
