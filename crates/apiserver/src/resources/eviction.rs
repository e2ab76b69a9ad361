//! Evicting pods as far as disruption budgets allow.
//!
//! No controller keeps the budgets' status here, so an eviction counts the pods itself.

use serde_json::Value;

use super::Target;
use crate::cluster::Cluster;
use crate::selector::Selector;
use crate::status::ApiError;
use crate::store::{Object, Scope};

const BUDGETS: &str = "policy/poddisruptionbudgets";

/// Refuses (429) an eviction that would leave a budget with too few healthy pods.
pub(crate) fn check(cluster: &Cluster, pod: &Object, target: &Target) -> Result<(), ApiError> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let all = |resource: &str| {
        let scope = Scope::Namespace(resource.into(), namespace.into());
        cluster.store.list(&scope, None, None, usize::MAX)
    };
    let value = pod.value();
    let finished = matches!(
        value["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    );
    if finished || pod.head().metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let mut selecting = Vec::new();
    for budget in all(BUDGETS)?.items {
        let value = budget.value();
        let selector = Selector::of_labels(&value["spec"]["selector"]).map_err(|message| {
            ApiError::internal(format!(
                "the selector of the PodDisruptionBudget {:?} is not valid: {message}",
                budget.key.name()
            ))
        })?;
        if selector.matches(pod) {
            selecting.push((budget.key.name().to_owned(), value, selector));
        }
    }
    let (name, budget, selector) = match selecting.as_slice() {
        [] => return Ok(()),
        [only] => only,
        _ => {
            return Err(ApiError::internal(
                "this pod has more than one PodDisruptionBudget, which the eviction subresource does not support",
            ));
        }
    };
    let healthy_itself = is_healthy(&value);
    if !healthy_itself && budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
        return Ok(());
    }
    let pods: Vec<Value> = all("/pods")?
        .items
        .iter()
        .filter(|other| selector.matches(other))
        .map(|other| other.value())
        .collect();
    let healthy = pods.iter().filter(|pod| is_healthy(pod)).count();
    let wanted = desired_healthy(&budget["spec"], pods.len());
    let left = healthy.saturating_sub(usize::from(healthy_itself));
    // A pod that is not healthy disrupts nothing as long as the others are enough.
    if left >= wanted {
        return Ok(());
    }
    Err(ApiError::disrupts(&format!(
        "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
    )))
}

/// How many of `pods` must be healthy.
fn desired_healthy(spec: &Value, pods: usize) -> usize {
    let part_of = |value: &Value| match value {
        Value::Number(number) => number.as_u64().and_then(|n| usize::try_from(n).ok()),
        Value::String(text) => {
            let percent: usize = text.strip_suffix('%')?.parse().ok()?;
            Some((pods * percent.min(100)).div_ceil(100))
        }
        _ => None,
    };
    match (
        part_of(&spec["minAvailable"]),
        part_of(&spec["maxUnavailable"]),
    ) {
        (Some(least), _) => least,
        (None, Some(away)) => pods.saturating_sub(away),
        (None, None) => pods.saturating_sub(1),
    }
}

fn is_healthy(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::desired_healthy;

    #[test]
    fn numbers_and_percentages() {
        for (spec, pods, expected) in [
            (json!({"minAvailable": 2}), 3, 2),
            (json!({"minAvailable": "50%"}), 3, 2),
            (json!({"maxUnavailable": 1}), 3, 2),
            (json!({"maxUnavailable": "30%"}), 3, 2),
            (json!({"maxUnavailable": "100%"}), 3, 0),
            (json!({"maxUnavailable": 5}), 3, 0),
            (json!({}), 3, 2),
        ] {
            assert_eq!(desired_healthy(&spec, pods), expected, "{spec}");
        }
    }
}
