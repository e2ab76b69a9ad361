//! Label selectors, as Kubernetes reads them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::problem::Problem;

/// Whether a selector says nothing, which to Kubernetes means that it selects everything.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    let labels = selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty);
    let expressions = selector
        .match_expressions
        .as_ref()
        .is_none_or(Vec::is_empty);
    labels && expressions
}

/// Whether `labels` satisfy all of a selector.
///
/// # Errors
/// The selector's first requirement with an unknown operator or with values where none, or none where some, belong.
pub(crate) fn matches(
    selector: &LabelSelector,
    labels: &BTreeMap<String, String>,
) -> Result<bool, Problem> {
    let mut all = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    // Every requirement is looked at, so that a wrong one is told whatever the labels are.
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let values = requirement.values.as_deref().unwrap_or_default();
        let value = labels.get(&requirement.key);
        let (needs_values, satisfied) = match requirement.operator.as_str() {
            "In" => (true, value.is_some_and(|value| values.contains(value))),
            "NotIn" => (true, value.is_none_or(|value| !values.contains(value))),
            "Exists" => (false, value.is_some()),
            "DoesNotExist" => (false, value.is_none()),
            other => {
                return Err(Problem::new(
                    format!("matchExpressions[{index}].operator"),
                    format!("expected `In`, `NotIn`, `Exists` or `DoesNotExist`, found `{other}`"),
                ));
            }
        };
        if needs_values == values.is_empty() {
            let expected = if needs_values {
                "at least one value"
            } else {
                "no values"
            };
            return Err(Problem::new(
                format!("matchExpressions[{index}].values"),
                format!(
                    "expected {expected} with operator `{}`",
                    requirement.operator
                ),
            ));
        }
        all &= satisfied;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn check(selector: Value, labels: Value) -> Result<bool, String> {
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        let labels = serde_json::from_value(labels).unwrap();
        matches(&selector, &labels).map_err(|problem| problem.to_string())
    }

    fn expression(operator: &str, values: Value) -> Value {
        json!({"matchExpressions": [{"key": "role", "operator": operator, "values": values}]})
    }

    #[test]
    fn operators() {
        let worker = json!({"role": "worker"});
        let none = json!({});
        for (selector, labels, expected) in [
            (json!({}), &none, true),
            (json!({"matchLabels": {"role": "worker"}}), &worker, true),
            (
                json!({"matchLabels": {"role": "worker", "x": ""}}),
                &worker,
                false,
            ),
            (expression("In", json!(["worker", "infra"])), &worker, true),
            (expression("In", json!(["infra"])), &worker, false),
            (expression("In", json!(["infra"])), &none, false),
            (expression("NotIn", json!(["infra"])), &none, true),
            (expression("NotIn", json!(["worker"])), &worker, false),
            (expression("Exists", Value::Null), &worker, true),
            (expression("Exists", Value::Null), &none, false),
            (expression("DoesNotExist", json!([])), &none, true),
        ] {
            assert_eq!(
                check(selector.clone(), labels.clone()),
                Ok(expected),
                "{selector} on {labels}"
            );
        }
    }

    #[test]
    fn wrong_requirements() {
        let wrong: Vec<String> = [
            expression("in", json!(["x"])),
            expression("In", json!([])),
            expression("Exists", json!(["x"])),
        ]
        .into_iter()
        .map(|selector| check(selector, json!({})).unwrap_err())
        .collect();
        insta::assert_snapshot!(wrong.join("\n"), @r"
        `matchExpressions[0].operator`: expected `In`, `NotIn`, `Exists` or `DoesNotExist`, found `in`
        `matchExpressions[0].values`: expected at least one value with operator `In`
        `matchExpressions[0].values`: expected no values with operator `Exists`
        ");
    }

    #[test]
    fn empty() {
        let of = |value| is_empty(&serde_json::from_value(value).unwrap());
        assert!(of(json!({})));
        assert!(of(json!({"matchLabels": {}, "matchExpressions": []})));
        assert!(!of(json!({"matchLabels": {"a": "b"}})));
    }
}
