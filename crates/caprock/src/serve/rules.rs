//! What the embedded API server is told: kinds, namespaces, who may come in and what a node may do.

use apiserver::{Config, Conversion, Names, Rule, Token};
use camino::Utf8Path;
use jiff::Timestamp;
use model::keys;

use super::credentials::{self, NODES};

const MACHINE_CONFIGURATION: &str = "machineconfiguration.openshift.io";

/// The API server's configuration for a data directory.
pub(crate) fn config(data_dir: &Utf8Path, now: Timestamp) -> anyhow::Result<Config> {
    let mut config = Config::new(data_dir.join("api"));
    config.tokens = tokens(data_dir, now)?;
    config.rules = node_rules();
    config.crds = model::api::v1alpha1::serve(model::api::crds(), None)
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()?;
    config.conversions = conversions();
    config
        .namespaces
        .extend([keys::NAMESPACE, keys::NODE_SECRET_NAMESPACE].map(str::to_owned));
    Ok(config)
}

/// The owners in `tokens.json` whose tokens have not ended.
pub(crate) fn tokens(data_dir: &Utf8Path, now: Timestamp) -> anyhow::Result<Vec<Token>> {
    credentials::owners(data_dir, now)?
        .into_iter()
        .map(|owner| {
            Ok(Token {
                sha256: credentials::unhex(&owner.sha256)?,
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
