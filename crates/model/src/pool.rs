//! Which pool a node belongs to, and how many nodes of a pool may be out of service at once.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use thiserror::Error;

use crate::selector;

/// Pools that exist in every cluster; any other pool is a custom one.
const BUILT_IN: [&str; 3] = ["master", "arbiter", "worker"];

/// A pool's name with its `nodeSelector`, which can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSelector {
    name: String,
    selector: LabelSelector,
}

/// A `nodeSelector` that cannot be evaluated.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("MachineConfigPool `{pool}`: `spec.nodeSelector.{field}`: {reason}")]
pub struct InvalidSelector {
    /// The pool.
    pub pool: String,
    /// The field inside the selector.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl PoolSelector {
    /// Parses a pool's `nodeSelector`. An absent or empty one selects no node.
    pub fn parse(
        name: &str,
        selector: Option<&LabelSelector>,
    ) -> Result<Option<Self>, InvalidSelector> {
        let Some(selector) = selector.filter(|selector| !selector::is_empty(selector)) else {
            return Ok(None);
        };
        // Whether a selector can be evaluated does not depend on the labels.
        match selector::matches(selector, &BTreeMap::new()) {
            Ok(_) => Ok(Some(PoolSelector {
                name: name.to_owned(),
                selector: selector.clone(),
            })),
            Err(problem) => Err(InvalidSelector {
                pool: name.to_owned(),
                field: problem.field,
                reason: problem.reason,
            }),
        }
    }

    /// Name of the pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        selector::matches(&self.selector, labels).unwrap_or(false)
    }
}

/// The answer to "whose node is this?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// The one pool that updates the node.
    Member(String),
    /// Several custom pools select it; none of them may touch it. Sorted by name.
    Contested(Vec<String>),
    /// No pool selects it.
    Unclaimed,
}

/// Decides which pool a node with these labels belongs to.
///
/// One custom pool beats `worker`; `master` beats a custom pool; two custom pools are a contradiction
/// that only the user can resolve. Windows nodes belong to no pool.
pub fn membership(labels: &BTreeMap<String, String>, pools: &[PoolSelector]) -> Membership {
    if labels.get("kubernetes.io/os").map(String::as_str) == Some("windows") {
        return Membership::Unclaimed;
    }
    let mut matching: Vec<&str> = pools
        .iter()
        .filter(|pool| pool.selects(labels))
        .map(|pool| pool.name.as_str())
        .collect();
    matching.sort_unstable();
    let custom: Vec<&str> = matching
        .iter()
        .copied()
        .filter(|name| !BUILT_IN.contains(name))
        .collect();
    let built_in = |name: &str| matching.contains(&name);
    let winner = match custom.as_slice() {
        [_, _, ..] => {
            return Membership::Contested(custom.into_iter().map(str::to_owned).collect());
        }
        [_] if built_in("master") => "master",
        [only] => only,
        [] => match BUILT_IN.into_iter().find(|name| built_in(name)) {
            Some(name) => name,
            None => return Membership::Unclaimed,
        },
    };
    Membership::Member(winner.to_owned())
}

/// A `maxUnavailable` that is neither a count nor a percentage.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("`spec.maxUnavailable`: expected a count or a percentage up to `100%`, found `{found}`")]
pub struct InvalidMaxUnavailable {
    /// The value as written.
    pub found: String,
}

/// How many of `nodes` nodes may be unavailable at once.
///
/// One when nothing is said. A percentage is rounded down. Zero would stop the pool for good, which is
/// what `paused` is for, so zero counts as one. Pool `arbiter` always takes one at a time.
pub fn max_unavailable(
    pool: &str,
    value: Option<&IntOrString>,
    nodes: usize,
) -> Result<usize, InvalidMaxUnavailable> {
    let wanted = match value {
        None => 1,
        Some(value) => share(value, nodes).map_err(|found| InvalidMaxUnavailable { found })?,
    };
    Ok(if pool == "arbiter" { 1 } else { wanted.max(1) })
}

/// A count, or a percentage of `nodes` rounded down.
///
/// # Errors
/// The value as written, when it is neither.
pub fn share(value: &IntOrString, nodes: usize) -> Result<usize, String> {
    match value {
        IntOrString::Int(count) => usize::try_from(*count).map_err(|_| count.to_string()),
        IntOrString::String(text) => match text.strip_suffix('%') {
            Some(percent) => match percent.parse::<usize>() {
                Ok(percent) if percent <= 100 && unsigned(text) => Ok(nodes * percent / 100),
                Ok(_) | Err(_) => Err(text.clone()),
            },
            None if unsigned(text) => text.parse::<usize>().map_err(|_| text.clone()),
            None => Err(text.clone()),
        },
    }
}

/// Rust's number parser takes a leading `+`, Kubernetes does not.
fn unsigned(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn pools(names: &[&str]) -> Vec<PoolSelector> {
        names
            .iter()
            .map(|name| {
                let selector = serde_json::from_value(json!({
                    "matchLabels": {format!("node-role.kubernetes.io/{name}"): ""},
                }))
                .unwrap();
                PoolSelector::parse(name, Some(&selector)).unwrap().unwrap()
            })
            .collect()
    }

    fn labels(roles: &[&str]) -> BTreeMap<String, String> {
        roles
            .iter()
            .map(|role| (format!("node-role.kubernetes.io/{role}"), String::new()))
            .collect()
    }

    #[test]
    fn a_custom_pool_beats_worker_and_master_beats_both() {
        let pools = pools(&["worker", "master", "arbiter", "infra", "automount"]);
        let check = |roles: &[&str], expected: Membership| {
            assert_eq!(membership(&labels(roles), &pools), expected, "{roles:?}");
        };
        let member = |name: &str| Membership::Member(name.to_owned());
        check(&[], Membership::Unclaimed);
        check(&["worker"], member("worker"));
        check(&["worker", "automount"], member("automount"));
        check(&["automount"], member("automount"));
        check(&["master", "worker"], member("master"));
        check(&["master", "automount"], member("master"));
        check(&["arbiter", "worker"], member("arbiter"));
        check(
            &["worker", "infra", "automount"],
            Membership::Contested(vec!["automount".to_owned(), "infra".to_owned()]),
        );
        check(
            &["master", "infra", "automount"],
            Membership::Contested(vec!["automount".to_owned(), "infra".to_owned()]),
        );
    }

    #[test]
    fn windows_nodes_are_nobodys() {
        let mut labels = labels(&["worker"]);
        labels.insert("kubernetes.io/os".to_owned(), "windows".to_owned());
        assert_eq!(
            membership(&labels, &pools(&["worker"])),
            Membership::Unclaimed
        );
    }

    #[test]
    fn an_empty_selector_selects_nothing_and_a_broken_one_is_named() {
        let empty = LabelSelector::default();
        assert!(PoolSelector::parse("p", Some(&empty)).unwrap().is_none());
        assert!(PoolSelector::parse("p", None).unwrap().is_none());
        let broken = serde_json::from_value(json!({
            "matchExpressions": [{"key": "a", "operator": "Near"}],
        }))
        .unwrap();
        let error = PoolSelector::parse("p", Some(&broken)).unwrap_err();
        assert!(
            error.to_string().contains("MachineConfigPool `p`"),
            "{error}"
        );
    }

    #[test]
    fn max_unavailable_is_a_count_or_a_share_and_never_less_than_one() {
        let check = |value: serde_json::Value, nodes, expected: Result<usize, &str>| {
            let parsed: Option<IntOrString> = serde_json::from_value(value.clone()).unwrap();
            let result = max_unavailable("worker", parsed.as_ref(), nodes);
            let expected = expected.map_err(|found| InvalidMaxUnavailable {
                found: found.to_owned(),
            });
            assert_eq!(result, expected, "{value} of {nodes}");
        };
        check(json!(null), 10, Ok(1));
        check(json!(3), 10, Ok(3));
        check(json!(0), 10, Ok(1));
        check(json!("2"), 10, Ok(2));
        check(json!("10%"), 10, Ok(1));
        check(json!("10%"), 19, Ok(1));
        check(json!("50%"), 5, Ok(2));
        check(json!("0%"), 10, Ok(1));
        check(json!("100%"), 10, Ok(10));
        check(json!("100%"), 0, Ok(1));
        check(json!("150%"), 10, Err("150%"));
        check(json!("-5%"), 10, Err("-5%"));
        check(json!("+5%"), 10, Err("+5%"));
        check(json!(-1), 10, Err("-1"));
        check(json!("half"), 10, Err("half"));
        check(json!(""), 10, Err(""));
        check(
            json!("99999999999999999999%"),
            10,
            Err("99999999999999999999%"),
        );
    }

    #[test]
    fn arbiters_go_one_at_a_time() {
        let three = IntOrString::Int(3);
        assert_eq!(max_unavailable("arbiter", Some(&three), 5), Ok(1));
    }
}
