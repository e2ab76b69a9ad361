//! Every verb of every kind that discovery knows, for each account: the whole of what it may do, as a text that shows any
//! widening.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use futures::{StreamExt, future, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use super::cluster::{Cluster, SYSTEM};

/// Verbs beside those that discovery tells of.
const SPECIAL: &[(&str, &str)] = &[
    ("serviceaccounts", "impersonate"),
    ("roles", "bind"),
    ("roles", "escalate"),
    ("clusterroles", "bind"),
    ("clusterroles", "escalate"),
];
const NAMESPACES: &[&str] = &[
    "caprock-nodes",
    SYSTEM,
    "default",
    "kube-node-lease",
    "kube-system",
    "openshift-machine-config-operator",
];
/// Objects that roles name.
const NAMES: &[(&str, &str)] = &[
    ("leases", "caprock-controller"),
    ("configmaps", "caprock-takeover"),
    ("configmaps", "kube-root-ca.crt"),
    ("configmaps", "registry-certs"),
    ("configmaps", "user-ca-bundle"),
    ("clusteroperators", "machine-config"),
    ("daemonsets", "machine-config-daemon"),
    ("deployments", "machine-config-controller"),
    ("deployments", "machine-config-operator"),
    ("deployments", "machine-os-builder"),
    ("secrets", "caprock-registry-credentials"),
    ("secrets", "caprock-webhook-authority"),
    ("secrets", "global-pull-secret-copy"),
    ("secrets", "node-pull-secret"),
    ("secrets", "worker-1"),
    ("services", "caprock-registry"),
    (
        "customresourcedefinitions",
        "machineosbuilds.machineconfiguration.openshift.io",
    ),
    (
        "customresourcedefinitions",
        "machineosconfigs.machineconfiguration.openshift.io",
    ),
    (
        "customresourcedefinitions",
        "machineconfigs.machineconfiguration.openshift.io",
    ),
];
/// Questions that are asked at once.
const AT_ONCE: usize = 32;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Act {
    /// Empty: everywhere.
    namespace: String,
    group: String,
    /// With its subresource.
    resource: String,
    /// Empty: any.
    name: String,
    verb: String,
}

/// A kind as discovery tells of it.
struct Kind {
    group: String,
    resource: String,
    namespaced: bool,
    verbs: Vec<String>,
}

async fn kinds(client: &Client) -> Vec<Kind> {
    let mut versions = vec![(
        String::new(),
        client.list_core_api_resources("v1").await.unwrap(),
    )];
    for group in client.list_api_groups().await.unwrap().groups {
        let preferred = group.preferred_version.unwrap();
        let list = client
            .list_api_group_resources(&preferred.group_version)
            .await
            .unwrap();
        versions.push((group.name, list));
    }
    let mut kinds = Vec::new();
    for (group, list) in versions {
        for resource in list.resources {
            let special = SPECIAL.iter().filter(|(of, _)| *of == resource.name);
            let special = special.map(|(_, verb)| (*verb).to_owned());
            kinds.push(Kind {
                group: group.clone(),
                namespaced: resource.namespaced,
                verbs: resource.verbs.into_iter().chain(special).collect(),
                resource: resource.name,
            });
        }
    }
    // OpenShift has it; the server need not know a kind to say who may see it.
    if kinds.iter().all(|kind| kind.resource != "clusteroperators") {
        kinds.push(Kind {
            group: "config.openshift.io".to_owned(),
            namespaced: false,
            verbs: ["get", "list", "watch", "update", "delete"]
                .map(str::to_owned)
                .to_vec(),
            resource: "clusteroperators".to_owned(),
        });
    }
    kinds
}

async fn may(client: &Client, account: (&str, &str), act: &Act) -> bool {
    let (namespace, name) = account;
    let (resource, subresource) = match act.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (act.resource.as_str(), None),
    };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{name}")),
            groups: Some(vec![
                "system:authenticated".to_owned(),
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ]),
            resource_attributes: Some(ResourceAttributes {
                group: some(&act.group),
                name: some(&act.name),
                namespace: some(&act.namespace),
                resource: Some(resource.to_owned()),
                subresource,
                verb: Some(act.verb.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answered = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    answered.status.unwrap().allowed
}

/// Everything of `acts` that an account may do.
async fn allowed(client: &Client, account: (&str, &str), acts: Vec<Act>) -> BTreeSet<Act> {
    stream::iter(acts)
        .map(|act| async move { may(client, account, &act).await.then_some(act) })
        .buffer_unordered(AT_ONCE)
        .filter_map(future::ready)
        .collect()
        .await
}

/// From the widest to the narrowest, so that what is allowed everywhere is told once.
async fn everything(client: &Client, account: (&str, &str), kinds: &[Kind]) -> BTreeSet<Act> {
    let act = |kind: &Kind, namespace: &str, name: &str, verb: &String| Act {
        namespace: namespace.to_owned(),
        group: kind.group.clone(),
        resource: kind.resource.clone(),
        name: name.to_owned(),
        verb: verb.clone(),
    };
    let everywhere = kinds
        .iter()
        .flat_map(|kind| kind.verbs.iter().map(move |verb| act(kind, "", "", verb)));
    let mut found = allowed(client, account, everywhere.collect()).await;
    let within = kinds
        .iter()
        .filter(|kind| kind.namespaced)
        .flat_map(|kind| {
            let verbs = kind.verbs.iter();
            verbs.flat_map(move |verb| {
                NAMESPACES
                    .iter()
                    .map(move |namespace| act(kind, namespace, "", verb))
            })
        });
    let known = |found: &BTreeSet<Act>, asked: &Act| {
        let wider = [("", ""), (asked.namespace.as_str(), "")];
        wider.iter().any(|(namespace, name)| {
            found.contains(&Act {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
                ..asked.clone()
            })
        })
    };
    let within = within.filter(|asked| !known(&found, asked)).collect();
    let within = allowed(client, account, within).await;
    found.extend(within);
    let mut named = Vec::new();
    for kind in kinds {
        for (_, name) in NAMES.iter().filter(|(of, _)| *of == kind.resource) {
            let places: &[&str] = if kind.namespaced { NAMESPACES } else { &[""] };
            for place in places {
                named.extend(kind.verbs.iter().map(|verb| act(kind, place, name, verb)));
            }
        }
    }
    named.retain(|asked| !known(&found, asked));
    let named = allowed(client, account, named).await;
    found.extend(named);
    found
}

fn text(account: &str, acts: &BTreeSet<Act>) -> String {
    let mut lines: BTreeMap<(&str, &str, &str, &str), Vec<&str>> = BTreeMap::new();
    for act in acts {
        let line = (
            act.namespace.as_str(),
            act.group.as_str(),
            act.resource.as_str(),
            act.name.as_str(),
        );
        lines.entry(line).or_default().push(&act.verb);
    }
    let mut text = format!("{account}\n");
    for ((namespace, group, resource, name), verbs) in lines {
        let place = if namespace.is_empty() {
            "everywhere"
        } else {
            namespace
        };
        let group = if group.is_empty() {
            String::new()
        } else {
            format!(".{group}")
        };
        let name = if name.is_empty() {
            String::new()
        } else {
            format!(" `{name}`")
        };
        writeln!(
            text,
            "  {place}: {resource}{group}{name}: {}",
            verbs.join(" ")
        )
        .unwrap();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn each_account_has_exactly_these_verbs() {
    let cluster = Cluster::connect().await;
    let client = &cluster.client;
    let kinds = kinds(client).await;
    assert!(
        kinds
            .iter()
            .any(|kind| kind.resource == "machineosbuilds/status")
    );
    // Whatever everybody may do who is somebody.
    let anybody = everything(client, ("default", "anybody"), &kinds).await;
    let accounts = [
        (SYSTEM, "caprock-controller"),
        (SYSTEM, "caprock-builder"),
        (SYSTEM, "caprock-webhook"),
        (SYSTEM, "caprock-registry"),
        (SYSTEM, "caprock-agent"),
        ("caprock-nodes", "some-node"),
    ];
    let mut table = String::new();
    for account in accounts {
        let mut acts = everything(client, account, &kinds).await;
        acts.retain(|act| !anybody.contains(act));
        table.push_str(&text(account.1, &acts));
    }
    insta::assert_snapshot!(table);
}
