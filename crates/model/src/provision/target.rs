//! Which version of its pool a new node boots into, and with which labels it joins.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use crate::api::{MachineConfigPool, MachineConfigPoolStatus};
use crate::keys;
use crate::node::Target;
use crate::rollout::Seen;
use crate::selector;

/// The annotation's value.
#[derive(Serialize, Deserialize)]
struct Stored {
    config: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
}

/// The version that a new node of the pool boots into: the pool's target once a node has proven it; until then the one
/// that was proven last. In a pool without nodes nothing is proven, and what counts is the target alone.
///
/// A new node is so neither the first to try a version while others run one that is known to be good, nor does it boot
/// into one that it has to leave at once.
pub fn proven(
    pool: &MachineConfigPool,
    seen: &Seen,
    status: &MachineConfigPoolStatus,
) -> Option<Target> {
    if status.machine_count == 0 {
        return seen.target();
    }
    seen.target()
        .filter(|_| status.updated_machine_count > 0)
        .or_else(|| target_of(pool))
}

/// The version that the pool says new nodes boot into.
pub fn target_of(pool: &MachineConfigPool) -> Option<Target> {
    let text = pool
        .metadata
        .annotations
        .as_ref()?
        .get(keys::FIRST_BOOT_TARGET)?;
    let stored: Stored = serde_json::from_str(text).ok()?;
    Some(Target {
        config: stored.config,
        image: stored.image,
    })
}

/// The value of annotation [`keys::FIRST_BOOT_TARGET`] for a version.
pub fn annotation(target: &Target) -> String {
    serde_json::json!(Stored {
        config: target.config.clone(),
        image: target.image.clone(),
    })
    .to_string()
}

/// The labels that make a Node a member of a pool. None when no labels that could be guessed do.
pub fn labels(selector: Option<&LabelSelector>) -> Option<BTreeMap<String, String>> {
    let selector = selector.filter(|selector| !selector::is_empty(selector))?;
    let mut labels = selector.match_labels.clone().unwrap_or_default();
    for requirement in selector.match_expressions.iter().flatten() {
        let value = match requirement.operator.as_str() {
            "In" => requirement.values.as_ref()?.first()?.clone(),
            "Exists" => String::new(),
            _ => continue,
        };
        labels.entry(requirement.key.clone()).or_insert(value);
    }
    matches!(selector::matches(selector, &labels), Ok(true)).then_some(labels)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rollout::{self, Gate};
    use serde_json::json;

    fn pool(before: Option<&Target>) -> MachineConfigPool {
        let mut pool = MachineConfigPool::new("worker", Default::default());
        pool.metadata.annotations = before.map(|target| {
            BTreeMap::from([(keys::FIRST_BOOT_TARGET.to_owned(), annotation(target))])
        });
        pool
    }

    fn seen(config: &str, gate: Gate) -> Seen {
        Seen {
            config: Some(config.to_owned()),
            gate,
            ..rollout::tests::seen(1, Vec::new())
        }
    }

    fn ready(image: &str) -> Gate {
        Gate::Ready {
            image: image.to_owned(),
            build: "b".to_owned(),
        }
    }

    fn target(config: &str, image: Option<&str>) -> Target {
        Target {
            config: config.to_owned(),
            image: image.map(str::to_owned),
        }
    }

    fn counted(machines: i32, updated: i32) -> MachineConfigPoolStatus {
        MachineConfigPoolStatus {
            machine_count: machines,
            updated_machine_count: updated,
            ..MachineConfigPoolStatus::default()
        }
    }

    #[test]
    fn a_new_node_gets_what_was_proven_on_another() {
        let old = target("rendered-a", Some("r/i@sha256:1"));
        let new = target("rendered-b", Some("r/i@sha256:2"));
        let check = |before: Option<&Target>, gate: Gate, machines, updated| {
            proven(
                &pool(before),
                &seen("rendered-b", gate),
                &counted(machines, updated),
            )
        };
        let building = || Gate::Building {
            build: "b".to_owned(),
            message: String::new(),
            retrying: false,
        };
        // Nobody has it yet; one has it; nobody could have it.
        assert_eq!(
            check(Some(&old), ready("r/i@sha256:2"), 3, 0),
            Some(old.clone())
        );
        assert_eq!(
            check(Some(&old), ready("r/i@sha256:2"), 3, 1),
            Some(new.clone())
        );
        assert_eq!(check(None, ready("r/i@sha256:2"), 0, 0), Some(new));
        // The image is not there: the former one, or none at all.
        assert_eq!(check(Some(&old), building(), 2, 0), Some(old.clone()));
        assert_eq!(check(None, building(), 2, 0), None);
        // Without nodes nothing was proven: what the pool wanted before its image was asked for is not wanted any more.
        assert_eq!(check(Some(&old), building(), 0, 0), None);
        // Back to the base image.
        let base = target("rendered-b", None);
        assert_eq!(check(Some(&old), Gate::NotLayered, 1, 1), Some(base));
        assert_eq!(check(Some(&old), Gate::NotLayered, 1, 0), Some(old));
    }

    #[test]
    fn a_damaged_annotation_is_no_target() {
        let mut pool = pool(None);
        pool.metadata.annotations = Some(BTreeMap::from([(
            keys::FIRST_BOOT_TARGET.to_owned(),
            "{".to_owned(),
        )]));
        assert_eq!(target_of(&pool), None);
    }

    #[test]
    fn labels_satisfy_the_selector_or_are_none() {
        let labels = |selector: serde_json::Value| {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            labels(Some(&selector)).map(|labels| serde_json::to_string(&labels).unwrap())
        };
        let role = "node-role.kubernetes.io/worker-automount";
        assert_eq!(
            labels(json!({"matchLabels": {role: ""}})).unwrap(),
            format!("{{\"{role}\":\"\"}}")
        );
        assert_eq!(
            labels(json!({"matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a", "b"]},
                {"key": "gpu", "operator": "Exists"},
                {"key": "old", "operator": "DoesNotExist"},
            ]}))
            .unwrap(),
            r#"{"gpu":"","zone":"a"}"#
        );
        assert_eq!(labels(json!({})), None);
        // A contradiction.
        assert_eq!(
            labels(json!({"matchLabels": {"a": "1"},
                "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]})),
            None
        );
    }
}
