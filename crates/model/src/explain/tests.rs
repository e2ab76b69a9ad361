#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;
use crate::api::{
    MachineConfigNode, MachineConfigPool, MachineOSBuild, MachineOSConfig, RolloutPolicy,
};
use crate::node::NodeView;
use crate::pool::Membership;

const NOW: &str = "2026-03-01T12:00:00Z";
const MCO: &str = "machineconfiguration.openshift.io/";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A node of pool `worker`, with annotations by their short names.
fn node_object(annotations: Value, ready: &str) -> Value {
    let mut all = serde_json::Map::new();
    for (key, value) in annotations.as_object().unwrap() {
        let key = match key.starts_with("caprock.dev/") {
            true => key.clone(),
            false => format!("{MCO}{key}"),
        };
        all.insert(key, value.clone());
    }
    json!({
        "metadata": {"name": "worker-1", "annotations": all},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-03-01T11:57:00Z"}],
            "nodeInfo": {"bootID": "", "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "caprock/0.1.0", "machineID": "", "operatingSystem": "",
                "osImage": "", "systemUUID": ""},
        },
    })
}

fn progress(conditions: &[(&str, &str, &str)]) -> MachineConfigNode {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(kind, status, message)| {
            json!({"type": kind, "status": status, "message": message, "reason": "R",
                "lastTransitionTime": "2026-03-01T11:56:00Z"})
        })
        .collect();
    let spec = json!({"node": {"name": "worker-1"}, "pool": {"name": "worker"}, "configVersion": {"desired": "rendered-2"}});
    let object = json!({"metadata": {"name": "worker-1"}, "spec": spec, "status": {"conditions": conditions}});
    serde_json::from_value(object).unwrap()
}

fn pool_object(paused: bool, config: &str, conditions: &[(&str, &str, &str)]) -> MachineConfigPool {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(kind, status, message)| {
            json!({"type": kind, "status": status, "message": message, "reason": "R",
                "lastTransitionTime": "2026-03-01T10:00:00Z"})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "worker"},
        "spec": {"paused": paused, "configuration": {"name": config}},
        "status": {"conditions": conditions, "machineCount": 3, "updatedMachineCount": 1, "readyMachineCount": 1,
            "unavailableMachineCount": 0, "degradedMachineCount": 0, "configuration": {"name": ""}},
    }))
    .unwrap()
}

#[track_caller]
fn check_node(
    name: &str,
    node: Value,
    progress: Option<MachineConfigNode>,
    pool: Option<MachineConfigPool>,
) {
    let membership = match &pool {
        Some(_) => Membership::Member("worker".to_owned()),
        None => Membership::Unclaimed,
    };
    let policy: RolloutPolicy = serde_json::from_value(json!({
        "metadata": {"name": "careful"},
        "spec": {"pools": [{"name": "worker"}], "health": {"deadline": "5m"}},
    }))
    .unwrap();
    let node = serde_json::from_value(node).unwrap();
    let told = super::node(NodeSeen {
        node: &node,
        progress: progress.as_ref(),
        membership: &membership,
        pool: pool.as_ref(),
        policy: Some(&policy),
        lease: None,
        reboots: name.contains("reboots"),
        now: now(),
    });
    insta::assert_snapshot!(name, told.text(now()));
}

fn updating() -> Option<MachineConfigPool> {
    Some(pool_object(
        false,
        "rendered-2",
        &[(
            "Updating",
            "True",
            "updating to `rendered-2`: 1 of 3 nodes are ready",
        )],
    ))
}

fn on_its_way(extra: Value) -> Value {
    let mut annotations =
        json!({"currentConfig": "rendered-1", "desiredConfig": "rendered-2", "state": "Working"});
    annotations
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    annotations
}

#[test]
fn nodes() {
    let settled =
        json!({"currentConfig": "rendered-2", "desiredConfig": "rendered-2", "state": "Done"});
    check_node(
        "node-in-no-pool",
        node_object(json!({}), "True"),
        None,
        None,
    );
    check_node("node-new", node_object(json!({}), "True"), None, updating());
    check_node(
        "node-settled-with-reboots",
        node_object(
            json!({"currentConfig": "rendered-2", "desiredConfig": "rendered-2", "state": "Done",
                "caprock.dev/reboots": r#"[{"at":"2026-03-01T09:00:00.5Z","deployment":"abcdefabcdefabcdef.0","cause":"notAsked"},
                {"at":"2026-02-28T09:00:00Z","deployment":"abcdefabcdefabcdef.0","cause":"update","target":"`rendered-2`",
                "chain":["kernelArguments +audit=0","MachineConfig `50-audit`"]}]"#}),
            "True",
        ),
        Some(progress(&[("Updated", "True", "")])),
        updating(),
    );
    check_node(
        "node-that-held-a-value-back",
        node_object(
            json!({"currentConfig": "rendered-2", "desiredConfig": "rendered-2", "state": "Done",
                "caprock.dev/file-secrets": r#"{"db/password":"4711","sssd-bind/bind.conf":"4712"}"#,
                "caprock.dev/held-back-secrets": r#"{"db/password":"4802"}"#}),
            "True",
        ),
        Some(progress(&[("Updated", "True", "")])),
        updating(),
    );
    check_node(
        "node-waits-for-its-turn",
        node_object(
            json!({"currentConfig": "rendered-1", "desiredConfig": "rendered-1", "state": "Done"}),
            "True",
        ),
        Some(progress(&[("Updated", "True", "")])),
        Some(pool_object(
            false,
            "rendered-2",
            &[(
                "Updating",
                "True",
                "updating to `rendered-2`: 1 of 3 nodes are ready; others wait: 1 of 1 allowed unavailable: node `worker-2` is updating",
            )],
        )),
    );
    check_node(
        "node-of-a-paused-pool",
        node_object(
            json!({"currentConfig": "rendered-1", "desiredConfig": "rendered-1", "state": "Done"}),
            "True",
        ),
        Some(progress(&[("Updated", "True", "")])),
        Some(pool_object(
            true,
            "rendered-2",
            &[(
                "Updating",
                "False",
                "will not update to `rendered-2`: the pool is paused (`spec.paused`)",
            )],
        )),
    );
    check_node(
        "node-told-and-not-started",
        node_object(
            json!({"currentConfig": "rendered-1", "desiredConfig": "rendered-2", "state": "Done"}),
            "True",
        ),
        Some(progress(&[])),
        updating(),
    );
    let told_at = |at: &str| {
        node_object(
            json!({"currentConfig": "rendered-1", "desiredConfig": "rendered-2", "state": "Done", "caprock.dev/told-at": at}),
            "True",
        )
    };
    check_node(
        "node-told-a-moment-ago",
        told_at("2026-03-01T11:58:00Z"),
        Some(progress(&[])),
        updating(),
    );
    check_node(
        "node-whose-agent-does-not-answer",
        told_at("2026-03-01T11:50:00Z"),
        Some(progress(&[])),
        updating(),
    );
    check_node(
        "node-told-while-it-pulls-ahead",
        told_at("2026-03-01T11:50:00Z"),
        Some(progress(&[(
            "ImagePulledFromRegistry",
            "Unknown",
            "120 of 480 MiB",
        )])),
        updating(),
    );
    let mut drained = on_its_way(json!({"caprock.dev/told-at": "2026-03-01T11:50:00Z"}));
    for key in ["desiredDrain", "lastAppliedDrain"] {
        drained[key] = json!("drain-rendered-2");
    }
    check_node(
        "node-drained-whose-agent-does-not-answer",
        node_object(drained, "True"),
        Some(progress(&[])),
        updating(),
    );
    check_node(
        "node-pulling",
        node_object(on_its_way(json!({})), "True"),
        Some(progress(&[(
            "ImagePulledFromRegistry",
            "Unknown",
            "pull `r.example/os@sha256:aa`: 120 of 480 MiB",
        )])),
        updating(),
    );
    check_node(
        "node-draining",
        node_object(
            on_its_way(json!({
                "caprock.dev/drain-since": "2026-03-01T11:40:00Z",
                "caprock.dev/drain-waits-for": "pod `shop/web-1` may not be evicted yet: Cannot evict pod as it would violate the pod's disruption budget, The disruption budget web needs 2 healthy pods and has 2 currently; pod `shop/db-0` is shutting down",
            })),
            "True",
        ),
        Some(progress(&[
            ("Cordoned", "True", ""),
            (
                "Drained",
                "Unknown",
                "wait for the node controller to carry out `drain-rendered-2`",
            ),
        ])),
        updating(),
    );
    check_node(
        "node-rebooting",
        node_object(on_its_way(json!({})), "Unknown"),
        Some(progress(&[("RebootedNode", "Unknown", "reboot")])),
        updating(),
    );
    check_node(
        "node-verifying",
        node_object(on_its_way(json!({})), "True"),
        Some(progress(&[(
            "UpdatePostActionComplete",
            "Unknown",
            "verify: probe `home`: not true yet that something is mounted at `/var/mnt/home`",
        )])),
        updating(),
    );
    check_node(
        "node-taken-back",
        node_object(
            json!({"currentConfig": "rendered-1", "desiredConfig": "rendered-2", "state": "Degraded",
                "reason": "`rendered-2` was taken back: rendered config `rendered-2`: unit `autofs.service` failed"}),
            "True",
        ),
        Some(progress(&[("NodeDegraded", "True", "")])),
        updating(),
    );
    check_node(
        "node-drifted",
        node_object(
            json!({"currentConfig": "rendered-2", "desiredConfig": "rendered-2", "state": "Degraded",
                "reason": "`/etc/motd` differs"}),
            "True",
        ),
        Some(progress(&[("NodeDegraded", "True", "")])),
        updating(),
    );
    check_node(
        "node-silent",
        node_object(settled, "Unknown"),
        Some(progress(&[("Updated", "True", "")])),
        updating(),
    );
}

#[test]
fn pools() {
    let check = |name: &str, pool: MachineConfigPool, nodes: &[Value]| {
        let nodes: Vec<NodeView> = nodes
            .iter()
            .map(|node| NodeView::of(&serde_json::from_value(node.clone()).unwrap()))
            .collect();
        let told = super::pool(PoolSeen {
            pool: &pool,
            nodes: &nodes,
        });
        insta::assert_snapshot!(name, told.text(now()));
    };
    let updated = ("Updated", "True", "all nodes are updated to `rendered-2`");
    check(
        "pool-updated",
        pool_object(false, "rendered-2", &[updated]),
        &[],
    );
    check(
        "pool-updating",
        updating().unwrap(),
        &[node_object(on_its_way(json!({})), "True")],
    );
    check(
        "pool-paused",
        pool_object(
            true,
            "rendered-2",
            &[(
                "Updating",
                "False",
                "will not update to `rendered-2`: the pool is paused (`spec.paused`)",
            )],
        ),
        &[],
    );
    check(
        "pool-degraded",
        pool_object(
            false,
            "rendered-2",
            &[
                ("Updating", "False", ""),
                (
                    "RenderDegraded",
                    "True",
                    "MachineConfig `50-x` is not valid Ignition",
                ),
                (
                    "ImageBuildDegraded",
                    "True",
                    "MachineOSBuild `worker-1`: step 3 failed",
                ),
            ],
        ),
        &[],
    );
}

#[test]
fn builds() {
    let check = |name: &str, status: Value| {
        let spec = json!({"machineOSConfig": {"name": "worker"}, "machineConfig": {"name": "rendered-2"},
            "renderedImagePushSpec": "r.example/os:latest"});
        let metadata = json!({"name": "worker-abc", "creationTimestamp": "2026-03-01T11:50:00Z"});
        let object = json!({"metadata": metadata, "spec": spec, "status": status});
        let build: MachineOSBuild = serde_json::from_value(object).unwrap();
        insta::assert_snapshot!(name, super::build(&build, None).text(now()));
    };
    let at = |kind: &str, reason: &str, message: &str| json!([{"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": "2026-03-01T11:58:00Z"}]);
    check("build-new", Value::Null);
    check(
        "build-under-way",
        json!({"conditions": at("Building", "Building", "building"), "builder": {"imageBuilderType": "Job", "identity": "builder-1"},
            "progress": {"step": 3, "steps": 7, "message": "RUN dnf install autofs",
                "pushed": {"done": 1024, "total": 4096}}}),
    );
    check(
        "build-retrying",
        json!({"conditions": at("Building", "Retrying", "registry answers 503")}),
    );
    check(
        "build-failed",
        json!({"conditions": at("Failed", "StepFailed", "step 3 (`RUN dnf install autos`) ended with 1")}),
    );
    check(
        "build-succeeded",
        json!({"conditions": at("Succeeded", "Ready", ""), "digestedImagePushSpec": "r.example/os@sha256:aa"}),
    );
}

#[test]
fn a_build_that_waits_says_what_is_known_of_its_registries() {
    let condition = |kind: &str, status: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": "Unauthorized", "message": message,
            "lastTransitionTime": "2026-03-01T11:58:00Z"})
    };
    let config = json!({
        "metadata": {"name": "worker"},
        "spec": {"machineConfigPool": {"name": "worker"}, "imageBuilder": {"imageBuilderType": "Job"},
            "renderedImagePushSpec": "r.example/os:latest"},
        "status": {"machineOSBuild": {"name": "worker-abc"}, "conditions": [
            condition("NodesCanPull", "Unknown", "no answer"),
            condition("CredentialsExpiring", "False", ""),
            condition("BaseImagePullable", "True", "fine"),
            condition("ImagePushable", "False", "refused"),
        ]},
    });
    let config: MachineOSConfig = serde_json::from_value(config).unwrap();
    let build = |name: &str| -> MachineOSBuild {
        let spec = json!({"machineOSConfig": {"name": "worker"}, "machineConfig": {"name": "rendered-2"},
            "renderedImagePushSpec": "r.example/os:latest"});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    };
    let because = |name: &str| super::build(&build(name), Some(&config)).because;
    assert_eq!(
        because("worker-abc"),
        [
            "ImagePushable=False: refused",
            "NodesCanPull=Unknown: no answer"
        ]
    );
    assert!(because("worker-former").is_empty());
}
