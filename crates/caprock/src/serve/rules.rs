//! What the embedded API server is told: kinds, namespaces, who may come in and what a node may do.

use std::collections::BTreeSet;

use apiserver::{Config, Conversion, Extra, Names, Restriction, Rule, Token};
use camino::Utf8Path;
use jiff::Timestamp;
use model::keys;
use serde_json::Value;

use super::credentials::{self, Labels, NODES};

const MACHINE_CONFIGURATION: &str = "machineconfiguration.openshift.io";

/// The API server's configuration for a data directory.
pub(crate) fn config(data_dir: &Utf8Path, now: Timestamp) -> anyhow::Result<Config> {
    let mut config = Config::new(data_dir.join("api"));
    config.tokens = tokens(data_dir, now)?;
    config.rules = node_rules();
    config.restrictions = vec![Restriction {
        group: NODES.to_owned(),
        api_group: String::new(),
        resource: "nodes".to_owned(),
        check: node_restriction,
    }];
    config.crds = model::api::v1alpha1::serve(model::api::crds(), None)
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()?;
    config.conversions = conversions();
    config.namespaces.push(keys::NAMESPACE.to_owned());
    Ok(config)
}

/// The owners in `tokens.json` whose tokens have not ended.
pub(crate) fn tokens(data_dir: &Utf8Path, now: Timestamp) -> anyhow::Result<Vec<Token>> {
    credentials::owners(data_dir, now)?
        .into_iter()
        .map(|owner| {
            Ok(Token {
                sha256: credentials::unhex(&owner.sha256)?,
                extra: owner.labels.map(brought).unwrap_or_default(),
                name: owner.name,
                groups: owner.groups,
            })
        })
        .collect()
}

/// What turns older shapes of our kinds into what is stored, and back.
fn conversions() -> Vec<Conversion> {
    use model::api::v1alpha1;
    let conversion = |plural: &str, to_storage, from_storage| Conversion {
        crd: format!("{plural}.{MACHINE_CONFIGURATION}"),
        version: v1alpha1::VERSION.to_owned(),
        to_storage,
        from_storage,
    };
    vec![
        conversion(
            "machineosconfigs",
            v1alpha1::config_to_v1,
            v1alpha1::config_from_v1,
        ),
        conversion(
            "machineosbuilds",
            v1alpha1::build_to_v1,
            v1alpha1::build_from_v1,
        ),
    ]
}

/// A node's agent writes its own Node, MachineConfigNode and Lease, and reads what a plan is made from.
fn node_rules() -> Vec<Rule> {
    let own = |verbs: &[&str], group: &str, resources: &[&str], namespace: Option<&str>| {
        rule(verbs, group, resources, Names::OwnName, namespace)
    };
    let any = |verbs: &[&str], group: &str, resources: &[&str], namespace: Option<&str>| {
        rule(verbs, group, resources, Names::Any, namespace)
    };
    const READ: &[&str] = &["get", "list", "watch"];
    const WRITE: &[&str] = &["create", "update", "patch"];
    let lease_namespace = Some(keys::NODE_LEASE_NAMESPACE);
    vec![
        own(READ, "", &["nodes"], None),
        own(WRITE, "", &["nodes", "nodes/status"], None),
        own(READ, MACHINE_CONFIGURATION, &["machineconfignodes"], None),
        own(
            WRITE,
            MACHINE_CONFIGURATION,
            &["machineconfignodes/status"],
            None,
        ),
        own(READ, "coordination.k8s.io", &["leases"], lease_namespace),
        own(WRITE, "coordination.k8s.io", &["leases"], lease_namespace),
        any(
            READ,
            MACHINE_CONFIGURATION,
            &["machineconfigs", "machineconfigpools", "machineosconfigs"],
            None,
        ),
        any(READ, "caprock.dev", &["rolloutpolicies"], None),
        any(
            READ,
            model::api::OPERATOR_GROUP,
            &["machineconfigurations"],
            None,
        ),
        any(&["create", "patch"], "", &["events"], None),
        any(&["create", "patch"], "events.k8s.io", &["events"], None),
        // Trust, which is no secret. Of credentials a node sees its own alone.
        any(READ, "", &["configmaps"], Some(keys::NAMESPACE)),
        own(READ, "", &["secrets"], Some(keys::NODE_SECRET_NAMESPACE)),
    ]
}

/// Labels that say what the machine is, which nobody else knows.
const OWN_LABELS: [&str; 3] = [
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
];
/// Annotations by which a node is told what to run.
const TOLD: [&str; 2] = [keys::DESIRED_CONFIG, keys::DESIRED_IMAGE];

/// What is known of a node that came with a join token: the labels that it may bring, as `KEY=VALUE`.
const BROUGHT: &str = "caprock.dev/label";

fn brought(labels: Labels) -> Extra {
    let labels = labels
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"));
    Extra::from([(BROUGHT.to_owned(), labels.collect())])
}

/// A node that was broken into moves neither itself to another pool, whose secrets it would be given, nor to a version
/// that nobody chose for it. The labels of a join token's pool are those that it brings when it registers; of one that an
/// administrator prepared by hand all are taken. Afterwards people change them.
fn node_restriction(known: &Extra, old: Option<&Value>, node: &Value) -> Result<(), String> {
    let Some(old) = old else {
        return known
            .get(BROUGHT)
            .map_or(Ok(()), |labels| registration(labels, node));
    };
    let refused = |what: String| {
        Err(format!(
            "a node may not change {what} of its own Node; an administrator can"
        ))
    };
    let value = |node: &Value, field: &str, key: &str| {
        let map = node["metadata"][field].as_object();
        map.and_then(|map| map.get(key).cloned())
    };
    let keys_of = |node: &Value| -> BTreeSet<String> {
        let labels = node["metadata"]["labels"].as_object();
        labels
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect()
    };
    let labels: BTreeSet<String> = keys_of(old).union(&keys_of(node)).cloned().collect();
    for key in labels {
        let same = value(old, "labels", &key) == value(node, "labels", &key);
        if !same && !OWN_LABELS.contains(&key.as_str()) {
            return refused(format!("the label `{key}`"));
        }
    }
    for key in TOLD {
        if value(old, "annotations", key) != value(node, "annotations", key) {
            return refused(format!("the annotation `{key}`"));
        }
    }
    if old["spec"]["taints"] != node["spec"]["taints"] {
        return refused("the taints".to_owned());
    }
    Ok(())
}

fn registration(allowed: &[String], node: &Value) -> Result<(), String> {
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        let label = format!("{key}={}", value.as_str().unwrap_or_default());
        if !OWN_LABELS.contains(&key.as_str()) && !allowed.contains(&label) {
            return Err(format!(
                "a node that came with a join token brings the labels of that token's pool, which `{label}` is not; \
                 an administrator can add it later"
            ));
        }
    }
    Ok(())
}

fn rule(
    verbs: &[&str],
    group: &str,
    resources: &[&str],
    names: Names,
    namespace: Option<&str>,
) -> Rule {
    let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
    Rule {
        group: NODES.to_owned(),
        verbs: owned(verbs),
        api_groups: vec![group.to_owned()],
        resources: owned(resources),
        names,
        namespace: namespace.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use apiserver::ApiServer;
    use k8s_openapi::api::core::v1::Node;
    use kube::api::{Api, Patch, PatchParams, PostParams};
    use kube::{Client, ResourceExt};
    use serde_json::json;

    const ROLE: &str = "node-role.kubernetes.io/worker";

    struct World {
        _dir: tempfile::TempDir,
        server: ApiServer,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = Utf8Path::from_path(dir.path()).unwrap();
            let mut config = config(path, Timestamp::now()).unwrap();
            config.tokens = vec![
                Token::new("admin", &["system:masters"], "admin"),
                Token::new("system:node:worker-1", &[NODES], "node"),
                Token {
                    extra: brought(Labels::from([(ROLE.to_owned(), String::new())])),
                    ..Token::new("system:node:joined-1", &[NODES], "joined")
                },
            ];
            let server = ApiServer::open(config).unwrap();
            World { _dir: dir, server }
        }

        fn nodes(&self, token: &str) -> Api<Node> {
            Api::all(Client::new(self.server.router_as(token), "default"))
        }
    }

    async fn patch(api: &Api<Node>, patch: Value) -> Result<Node, String> {
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = api.patch("worker-1", &params, &patch).await;
        patched.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_node_that_joins_brings_the_labels_of_its_tokens_pool() {
        let world = World::new();
        let own = world.nodes("joined");
        let register = async |labels: Value| {
            let node = json!({"metadata": {"name": "joined-1", "labels": labels}});
            let node: Node = serde_json::from_value(node).unwrap();
            let made = own.create(&PostParams::default(), &node).await;
            made.map(drop).map_err(|error| error.to_string())
        };
        for labels in [
            json!({"node-role.kubernetes.io/infra": ""}),
            json!({ROLE: "", "site": "b"}),
            json!({ROLE: "other"}),
        ] {
            let told = register(labels.clone()).await.unwrap_err();
            assert!(told.contains("of that token's pool"), "{labels}: {told}");
        }
        register(json!({ROLE: "", "kubernetes.io/hostname": "j", "kubernetes.io/os": "linux"}))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_node_does_not_move_itself() {
        let world = World::new();
        let (admin, own) = (world.nodes("admin"), world.nodes("node"));
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "worker-1", "labels": {"node-role.kubernetes.io/worker": ""}},
        }))
        .unwrap();
        own.create(&PostParams::default(), &node).await.unwrap();
        let label = |key: &str, value: Value| json!({"metadata": {"labels": {key: value}}});
        let annotation =
            |key: &str, value: &str| json!({"metadata": {"annotations": {key: value}}});
        for forbidden in [
            label("node-role.kubernetes.io/infra", json!("")),
            label("node-role.kubernetes.io/worker", Value::Null),
            label("canary", json!("true")),
            annotation(keys::DESIRED_CONFIG, "rendered-infra-1"),
            annotation(keys::DESIRED_IMAGE, "r.example/os@sha256:0"),
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        ] {
            let told = patch(&own, forbidden.clone()).await.unwrap_err();
            assert!(
                told.contains("a node may not change"),
                "{forbidden}: {told}"
            );
            let (params, merge) = (PatchParams::default(), Patch::Merge(forbidden.clone()));
            // Metadata that a status write may not change is left as it is, or refused.
            if let Ok(node) = own.patch_status("worker-1", &params, &merge).await {
                assert_eq!(node.labels().len(), 1, "{forbidden}");
                assert!(node.annotations().is_empty(), "{forbidden}");
            }
            patch(&admin, forbidden).await.unwrap();
            let back = json!({
                "metadata": {
                    "labels": {"node-role.kubernetes.io/infra": null, "node-role.kubernetes.io/worker": "", "canary": null},
                    "annotations": null,
                },
                "spec": {"taints": null},
            });
            patch(&admin, back).await.unwrap();
        }
        patch(&own, annotation(keys::STATE, "Working"))
            .await
            .unwrap();
        patch(&own, label("kubernetes.io/hostname", json!("w1")))
            .await
            .unwrap();
    }
}
