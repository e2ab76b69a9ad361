//! `caprock status`: pools, images, builds and nodes, and what each waits for.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use model::api::{MachineConfigNode, MachineConfigPool, MachineOSBuild, MachineOSConfig};
use model::explain;
use model::node::NodeView;
use model::ownership::Owner;
use model::{keys, skew};
use serde::Serialize;

use crate::cli;
use crate::client::client;
use crate::exit::Failure;
use crate::output;
use crate::ownership::look;

#[derive(Debug, Serialize)]
struct Overview {
    /// What concerns all of it: that Caprock only looks on here, that its parts are of versions too far apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<String>,
    pools: Vec<Line>,
    images: Vec<Line>,
    builds: Vec<Line>,
    nodes: Vec<Line>,
}

/// One object: what it is doing and what it says about that.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    state: String,
    message: String,
}

pub(crate) async fn run(args: cli::Status) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let all = ListParams::default();
    let pools: Api<MachineConfigPool> = Api::all(client.clone());
    let images: Api<MachineOSConfig> = Api::all(client.clone());
    let builds: Api<MachineOSBuild> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client.clone());
    let progress: Api<MachineConfigNode> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), keys::NAMESPACE);
    let (pools, images, builds, nodes, progress, leases, evidence) = tokio::try_join!(
        pools.list(&all),
        images.list(&all),
        builds.list(&all),
        nodes.list(&all),
        progress.list(&all),
        leases.list(&all),
        look(&client)
    )?;
    let read_only = match evidence.owner() {
        Owner::Peer(why) => Some(format!("read-only: {why}")),
        Owner::Caprock => None,
    };
    let now = Timestamp::now();
    let progress: HashMap<String, &MachineConfigNode> = progress
        .iter()
        .map(|progress| (progress.name_any(), progress))
        .collect();
    let overview = Overview {
        notices: read_only
            .into_iter()
            .chain(skewed(&leases.items, &nodes.items))
            .collect(),
        pools: pools.iter().map(pool).collect(),
        images: images.iter().map(image).collect(),
        builds: builds.iter().map(build).collect(),
        nodes: nodes
            .iter()
            .map(|object| node(object, progress.get(&object.name_any()).copied(), now))
            .collect(),
    };
    Ok(output::value(args.output, &overview, text)?)
}

/// Which parts are of versions too far apart. Controllers and builders tell theirs in the Leases that they hold.
fn skewed(leases: &[Lease], nodes: &[Node]) -> Option<String> {
    let version = |lease: &Lease| lease.annotations().get(keys::VERSION).cloned();
    let (of_controllers, of_builders): (Vec<&Lease>, Vec<&Lease>) = leases
        .iter()
        .partition(|lease| lease.name_any() == keys::CONTROLLER_LEASE);
    let controllers = of_controllers
        .first()
        .and_then(|lease| version(lease))
        .unwrap_or_else(|| skew::VERSION.to_owned());
    let builders: Vec<(String, String)> = of_builders
        .iter()
        .filter_map(|lease| {
            let holder = lease.spec.as_ref()?.holder_identity.clone()?;
            Some((format!("builder {holder}"), version(lease)?))
        })
        .collect();
    let agents: Vec<(String, String)> = nodes
        .iter()
        .filter_map(|node| Some((node.name_any(), NodeView::of(node).agent_version?)))
        .collect();
    let parts = builders.iter().chain(&agents);
    skew::broken(
        &controllers,
        parts.map(|(name, version)| (name.as_str(), version.as_str())),
    )
}

/// The worst that a pool says of itself comes first.
fn pool(pool: &MachineConfigPool) -> Line {
    let conditions = pool
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice());
    let told = [
        "RenderDegraded",
        "ImageBuildDegraded",
        "NodeDegraded",
        "Degraded",
        "Updating",
        "Updated",
    ]
    .into_iter()
    .find_map(|wanted| {
        let condition = conditions?
            .iter()
            .find(|condition| condition.type_ == wanted && condition.status == "True")?;
        Some((wanted.to_owned(), condition.message.clone()))
    });
    let waiting = || {
        let message = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "Updating")
            .map(|condition| condition.message.clone());
        ("Waiting".to_owned(), message.unwrap_or_default())
    };
    let (state, message) = told.unwrap_or_else(waiting);
    Line {
        name: pool.name_any(),
        state,
        message,
    }
}

/// The worst that a MachineOSConfig says of its registries and inputs.
fn image(config: &MachineOSConfig) -> Line {
    let (state, message) = match explain::troubles(config).first() {
        Some(trouble) => (
            format!("{}={}", trouble.type_, trouble.status),
            trouble.message.clone(),
        ),
        None => {
            let status = config.status.as_ref();
            match status.and_then(|status| status.current_image_pull_spec.clone()) {
                Some(image) => ("Ready".to_owned(), image),
                None => ("Waiting".to_owned(), "no image was built yet".to_owned()),
            }
        }
    };
    Line {
        name: config.name_any(),
        state,
        message,
    }
}

fn build(build: &MachineOSBuild) -> Line {
    let status = build.status.as_ref();
    let condition = status.and_then(|status| {
        status
            .conditions
            .iter()
            .find(|condition| condition.status == "True")
    });
    let (state, mut message) = match condition {
        Some(condition) => (condition.type_.clone(), condition.message.clone()),
        None => (
            "Waiting".to_owned(),
            "no builder has claimed it yet".to_owned(),
        ),
    };
    if let (true, Some(image)) = (
        state == "Succeeded",
        status.and_then(|s| s.digested_image_push_spec.as_ref()),
    ) {
        message.clone_from(image);
    }
    Line {
        name: build.name_any(),
        state,
        message,
    }
}

/// What a node waits for comes before what follows from that: one that drains is cordoned.
fn node(node: &Node, progress: Option<&MachineConfigNode>, now: Timestamp) -> Line {
    let view = NodeView::of(node);
    let state = format!("{:?}", view.phase());
    let silent = explain::unanswered(&view, progress, now);
    let message = match (silent, view.drain_waits_for, view.obstacle) {
        _ if !view.reason.is_empty() => view.reason,
        (Some(told), _, _) => format!(
            "was told at {told:.0} and has not started: `caprock explain node/{}`",
            view.name
        ),
        (None, Some(waits), _) => format!("drains, and waits: {waits}"),
        (None, None, Some(obstacle)) => obstacle,
        (None, None, None) => String::new(),
    };
    Line {
        name: view.name,
        state,
        message,
    }
}

/// A message in a table has one line; a person is told where the rest is.
fn cell(heading: &str, line: &Line) -> String {
    let first = line.message.lines().next().unwrap_or_default();
    let rest = match (heading, line.state.as_str()) {
        ("BUILD", "Failed") => format!("its log: `caprock logs {}`", line.name),
        _ if first.len() == line.message.trim_end().len() => return first.to_owned(),
        ("IMAGE", _) => format!("more: `kubectl describe machineosconfig {}`", line.name),
        _ => format!(
            "more: `caprock explain {}/{}`",
            heading.to_lowercase(),
            line.name
        ),
    };
    format!("{first} ({rest})")
}

fn text(overview: &Overview) -> String {
    let mut text: String = overview
        .notices
        .iter()
        .map(|notice| format!("{notice}\n"))
        .collect();
    for (heading, lines) in [
        ("POOL", &overview.pools),
        ("IMAGE", &overview.images),
        ("BUILD", &overview.builds),
        ("NODE", &overview.nodes),
    ] {
        if lines.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let rows: Vec<Vec<String>> = lines
            .iter()
            .map(|line| vec![line.name.clone(), line.state.clone(), cell(heading, line)])
            .collect();
        text.push_str(&output::table(&[heading, "STATE", "MESSAGE"], &rows));
    }
    if text.is_empty() {
        text.push_str("nothing is here yet: no pools, no builds, no nodes\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_many_lines_is_one_in_the_table() {
        let cell = |heading, state: &str, message: &str| {
            let line = Line {
                name: "x".to_owned(),
                state: state.to_owned(),
                message: message.to_owned(),
            };
            cell(heading, &line)
        };
        assert_eq!(cell("NODE", "Done", ""), "");
        assert_eq!(cell("POOL", "Updated", "all of it\n"), "all of it");
        assert_eq!(
            cell("POOL", "ImageBuildDegraded", "step 2 failed\nno package"),
            "step 2 failed (more: `caprock explain pool/x`)"
        );
        assert_eq!(
            cell("BUILD", "Failed", "step 2 failed\nno package"),
            "step 2 failed (its log: `caprock logs x`)"
        );
    }
}
