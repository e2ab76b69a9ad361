//! Which pods must go before a node is disturbed: the rules of `kubectl drain`, and the choices it leaves to its flags.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube_core::ResourceExt;

use crate::api::{DrainPolicy, RolloutPolicy};

/// A drain that takes longer than this is overdue when its policy says nothing, as the Machine Config Operator has it.
const TIMEOUT: SignedDuration = SignedDuration::from_hours(1);

/// How the nodes of a pool are drained. The defaults are those of the Machine Config Operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The RolloutPolicy that says so, for messages.
    pub policy: Option<String>,
    /// Pods go that nobody starts again.
    pub force: bool,
    /// Pods go whose `emptyDir` volumes are lost with them.
    pub delete_empty_dir_data: bool,
    /// Seconds that a pod has to end, in place of its own.
    pub grace_period_seconds: Option<u32>,
    /// When the drain is overdue.
    pub timeout: SignedDuration,
    /// A pod that should have been gone for so long is not waited for.
    pub skip_wait_for_delete: Option<SignedDuration>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules::of(None)
    }
}

impl Rules {
    /// The rules of a pool's policy.
    pub fn of(policy: Option<&RolloutPolicy>) -> Self {
        let drain: DrainPolicy = policy
            .and_then(|policy| policy.spec.drain.clone())
            .unwrap_or_default();
        let span = |time: kube_core::duration::Duration| {
            SignedDuration::try_from(std::time::Duration::from(time)).unwrap_or(SignedDuration::MAX)
        };
        Rules {
            policy: policy.map(ResourceExt::name_any),
            force: drain.force,
            delete_empty_dir_data: drain.delete_empty_dir_data,
            grace_period_seconds: drain.grace_period_seconds,
            timeout: drain.timeout.map_or(TIMEOUT, span),
            skip_wait_for_delete: drain.skip_wait_for_delete_timeout.map(span),
        }
    }

    fn forbids(&self, field: &str) -> String {
        format!(
            "`spec.drain.{field}` of RolloutPolicy `{}` is false; delete the pod, or change the policy",
            self.policy.as_deref().unwrap_or_default()
        )
    }
}

/// What happens to one pod when its node is drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays: a DaemonSet's or a static pod's, or one that is not waited for any longer.
    Stays,
    /// It is asked to go through the eviction API.
    Evict,
    /// It is on its way out already; with what is known of that.
    Leaving(String),
    /// The policy forbids to evict it, and so to drain the node, for this reason.
    Kept(String),
}

/// Decides what happens to a pod of a node that is drained.
pub fn fate(pod: &Pod, rules: &Rules, now: Timestamp) -> Fate {
    let controller = pod
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true));
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    // Nothing of it runs, so nothing is lost.
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    let of_daemon_set = controller.is_some_and(|owner: &OwnerReference| owner.kind == "DaemonSet");
    // The node agent makes it from a file, and would make it again.
    let is_mirror = pod
        .annotations()
        .contains_key("kubernetes.io/config.mirror");
    if is_mirror || (of_daemon_set && !ended) {
        return Fate::Stays;
    }
    if let Some(gone_by) = &pod.metadata.deletion_timestamp {
        let late = now.duration_since(gone_by.0);
        return match rules.skip_wait_for_delete {
            Some(longest) if late > longest => Fate::Stays,
            Some(_) | None => Fate::Leaving(leaving(pod, gone_by.0)),
        };
    }
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let mut empty_dirs = volumes.filter(|volume| volume.empty_dir.is_some());
    if !ended
        && !rules.delete_empty_dir_data
        && let Some(volume) = empty_dirs.next()
    {
        let why = rules.forbids("deleteEmptyDirData");
        return Fate::Kept(format!(
            "has data in the `emptyDir` volume `{}`, and {why}",
            volume.name
        ));
    }
    if !ended && !rules.force && controller.is_none() {
        let why = rules.forbids("force");
        return Fate::Kept(format!("has no controller to start it again, and {why}"));
    }
    Fate::Evict
}

/// The deletion's time is when the pod's grace period is over.
fn leaving(pod: &Pod, gone_by: Timestamp) -> String {
    let gone_by = Timestamp::from_second(gone_by.as_second()).unwrap_or(gone_by);
    let finalizers: Vec<String> = pod
        .finalizers()
        .iter()
        .map(|finalizer| format!("`{finalizer}`"))
        .collect();
    match finalizers.is_empty() {
        true => format!("is shutting down, until {gone_by} at the latest"),
        false => format!(
            "is shutting down, until {gone_by} and until its finalizers {} are taken away",
            finalizers.join(", ")
        ),
    }
}

/// Pods that a drain still waits for, with the reason, for people to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// `namespace/name` of the pod and why it is still there.
    pub pods: Vec<(String, String)>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 5;
        let named = self.pods.iter().take(NAMED);
        let mut parts: Vec<String> = named
            .map(|(pod, why)| format!("pod `{pod}` {why}"))
            .collect();
        if self.pods.len() > NAMED {
            parts.push(format!("and {} more", self.pods.len() - NAMED));
        }
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0); // 2026-01-01T00:00:00Z

    fn rules(drain: Value) -> Rules {
        let spec = json!({"pools": [{"name": "worker"}], "drain": drain});
        let policy = RolloutPolicy::new("calm", serde_json::from_value(spec).unwrap());
        Rules::of(Some(&policy))
    }

    fn owned(kind: &str) -> Value {
        json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}])
    }

    /// A running pod that a ReplicaSet would start again, with changes.
    fn pod(change: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "web", "namespace": "default", "ownerReferences": owned("ReplicaSet")},
            "spec": {"containers": []},
            "status": {"phase": "Running"},
        });
        merge(&mut pod, &change);
        serde_json::from_value(pod).unwrap()
    }

    fn merge(into: &mut Value, change: &Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (key, value) in change {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change.clone(),
        }
    }

    /// Row by row what `kubectl drain` does with the flags of the same names.
    #[test]
    fn pods_go_or_stay_as_kubectl_drain_has_it() {
        let forced = Rules::default();
        let careful = rules(json!({"force": false, "deleteEmptyDirData": false}));
        let daemon = json!({"metadata": {"ownerReferences": owned("DaemonSet")}});
        let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": null}});
        let alone = json!({"metadata": {"ownerReferences": null}});
        let adopted = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"},
        ]}});
        let scratch = json!({"spec": {"volumes": [{"name": "scratch", "emptyDir": {}}]}});
        let ended = |pod: &Value| {
            let mut pod = pod.clone();
            merge(&mut pod, &json!({"status": {"phase": "Failed"}}));
            pod
        };
        let kept = |what: &str, field: &str| {
            Fate::Kept(format!(
                "{what}, and `spec.drain.{field}` of RolloutPolicy `calm` is false; delete the pod, or change the policy"
            ))
        };
        let no_controller = || kept("has no controller to start it again", "force");
        let rows = [
            ("a ReplicaSet's", json!({}), Fate::Evict, Fate::Evict),
            ("a DaemonSet's", daemon.clone(), Fate::Stays, Fate::Stays),
            (
                "a DaemonSet's that ended",
                ended(&daemon),
                Fate::Evict,
                Fate::Evict,
            ),
            (
                "a static pod's mirror",
                mirror.clone(),
                Fate::Stays,
                Fate::Stays,
            ),
            (
                "a mirror that ended",
                ended(&mirror),
                Fate::Stays,
                Fate::Stays,
            ),
            ("unmanaged", alone.clone(), Fate::Evict, no_controller()),
            (
                "owned, but not controlled",
                adopted,
                Fate::Evict,
                no_controller(),
            ),
            (
                "unmanaged and ended",
                ended(&alone),
                Fate::Evict,
                Fate::Evict,
            ),
            (
                "with an emptyDir",
                scratch.clone(),
                Fate::Evict,
                kept(
                    "has data in the `emptyDir` volume `scratch`",
                    "deleteEmptyDirData",
                ),
            ),
            (
                "with an emptyDir, ended",
                ended(&scratch),
                Fate::Evict,
                Fate::Evict,
            ),
        ];
        for (what, change, by_default, carefully) in rows {
            let pod = pod(change);
            assert_eq!(fate(&pod, &forced, NOW), by_default, "{what}, by default");
            assert_eq!(fate(&pod, &careful, NOW), carefully, "{what}, carefully");
        }
    }

    #[test]
    fn a_pod_that_leaves_is_waited_for_as_long_as_the_policy_says() {
        let leaving = pod(json!({"metadata": {"deletionTimestamp": "2025-12-31T23:50:00Z"}}));
        let said =
            Fate::Leaving("is shutting down, until 2025-12-31T23:50:00Z at the latest".to_owned());
        assert_eq!(fate(&leaving, &Rules::default(), NOW), said);
        let patience = |time: &str| rules(json!({"skipWaitForDeleteTimeout": time}));
        assert_eq!(fate(&leaving, &patience("10m"), NOW), said);
        assert_eq!(fate(&leaving, &patience("9m"), NOW), Fate::Stays);

        let held = pod(json!({"metadata": {
            "deletionTimestamp": "2025-12-31T23:50:00Z",
            "finalizers": ["example.com/slow"],
            "ownerReferences": null,
        }}));
        // Whoever deletes a pod without a controller has decided about it.
        let said = "is shutting down, until 2025-12-31T23:50:00Z and until its finalizers `example.com/slow` are taken away";
        assert_eq!(
            fate(&held, &rules(json!({"force": false})), NOW),
            Fate::Leaving(said.to_owned())
        );
    }

    #[test]
    fn without_a_word_the_rules_are_the_peers() {
        let rules = rules(json!({}));
        assert_eq!(
            Rules {
                policy: None,
                ..rules
            },
            Rules::default()
        );
        let Rules {
            force,
            delete_empty_dir_data,
            timeout,
            ..
        } = Rules::default();
        assert!(force && delete_empty_dir_data);
        assert_eq!(timeout, SignedDuration::from_hours(1));
    }

    #[test]
    fn many_pods_are_counted() {
        let pods = (0..7).map(|n| (format!("default/p{n}"), "is shutting down".to_owned()));
        let waiting = Waiting {
            pods: pods.collect(),
        };
        assert!(
            waiting
                .to_string()
                .ends_with("pod `default/p4` is shutting down; and 2 more")
        );
    }
}
