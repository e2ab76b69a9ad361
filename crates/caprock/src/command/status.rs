//! `caprock status`: pools, images, builds and nodes, and what each waits for.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use model::api::{MachineConfigPool, MachineOSBuild, MachineOSConfig};
use model::explain;
use model::node::NodeView;
use serde::Serialize;

use crate::cli;
use crate::client::client;
use crate::exit::Failure;
use crate::output;

#[derive(Debug, Serialize)]
struct Overview {
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
    let nodes: Api<Node> = Api::all(client);
    let (pools, images, builds, nodes) = tokio::try_join!(
        pools.list(&all),
        images.list(&all),
        builds.list(&all),
        nodes.list(&all)
    )?;
    let overview = Overview {
        pools: pools.iter().map(pool).collect(),
        images: images.iter().map(image).collect(),
        builds: builds.iter().map(build).collect(),
        nodes: nodes.iter().map(node).collect(),
    };
    Ok(output::value(args.output, &overview, text)?)
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

fn node(node: &Node) -> Line {
    let view = NodeView::of(node);
    let state = format!("{:?}", view.phase());
    let message = match view.obstacle {
        Some(obstacle) if view.reason.is_empty() => obstacle,
        _ => view.reason,
    };
    Line {
        name: view.name,
        state,
        message,
    }
}

fn text(overview: &Overview) -> String {
    let mut text = String::new();
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
            .map(|line| vec![line.name.clone(), line.state.clone(), line.message.clone()])
            .collect();
        text.push_str(&output::table(&[heading, "STATE", "MESSAGE"], &rows));
    }
    if text.is_empty() {
        text.push_str("nothing is here yet: no pools, no builds, no nodes\n");
    }
    text
}
