//! `caprock explain`: what one object is doing, what it waits for, what comes next and what can be done.

use anyhow::anyhow;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use model::api::{MachineConfigNode, MachineConfigPool, MachineOSBuild, MachineOSConfig};
use model::explain::{self, Explanation, NodeSeen, PoolSeen};
use model::health::policy_of;
use model::keys;
use model::node::NodeView;
use model::pool::{Membership, PoolSelector, membership};

use crate::cli;
use crate::client::{client, policies};
use crate::exit::{Failure, refused};
use crate::output;
use crate::ownership::say_read_only;

pub(crate) async fn run(args: cli::Explain) -> Result<(), Failure> {
    let expected = || {
        refused(anyhow!(
            "expected `node/NAME`, `pool/NAME`, `build/NAME` or `lint/ID`, found `{}`",
            args.object
        ))
    };
    let (kind, name) = args.object.split_once('/').ok_or_else(expected)?;
    if kind == "lint" {
        return super::lint::explain(name, args.output);
    }
    let known = [
        "node",
        "nodes",
        "no",
        "pool",
        "mcp",
        "machineconfigpool",
        "machineconfigpools",
        "build",
        "mosb",
        "machineosbuild",
        "machineosbuilds",
    ];
    if !known.contains(&kind) {
        return Err(expected());
    }
    let client = client(&args.cluster).await?;
    let now = Timestamp::now();
    let explanation = match kind {
        "node" | "nodes" | "no" => node(&client, name, args.reboots, now).await?,
        "pool" | "mcp" | "machineconfigpool" | "machineconfigpools" => pool(&client, name).await?,
        _ => build(&client, name).await?,
    };
    say_read_only(&client).await?;
    Ok(output::value(args.output, &explanation, |told| {
        told.text(now)
    })?)
}

fn absent(kind: &str, name: &str) -> Failure {
    refused(anyhow!("there is no {kind} `{name}`"))
}

async fn build(client: &Client, name: &str) -> Result<Explanation, Failure> {
    let builds: Api<MachineOSBuild> = Api::all(client.clone());
    let build = builds.get_opt(name).await?;
    let build = build.ok_or_else(|| absent("MachineOSBuild", name))?;
    let configs: Api<MachineOSConfig> = Api::all(client.clone());
    let config = configs.get_opt(&build.spec.machine_os_config.name).await?;
    Ok(explain::build(&build, config.as_ref()))
}

async fn node(
    client: &Client,
    name: &str,
    reboots: bool,
    now: Timestamp,
) -> Result<Explanation, Failure> {
    let nodes: Api<Node> = Api::all(client.clone());
    let progress: Api<MachineConfigNode> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), keys::NODE_LEASE_NAMESPACE);
    let (node, progress, pools, policies, lease) = tokio::try_join!(
        nodes.get_opt(name),
        progress.get_opt(name),
        pools(client),
        policies(client),
        leases.get_opt(name),
    )?;
    let node = node.ok_or_else(|| absent("Node", name))?;
    let membership = membership(node.labels(), &selectors(&pools)?);
    let pool = match &membership {
        Membership::Member(owner) => pools.iter().find(|pool| pool.name_any() == *owner),
        Membership::Contested(_) | Membership::Unclaimed => None,
    };
    let policy = pool.and_then(|pool| policy_of(&pool.name_any(), &policies));
    Ok(explain::node(NodeSeen {
        node: &node,
        progress: progress.as_ref(),
        membership: &membership,
        pool,
        policy: policy.map(|applied| applied.policy),
        lease: lease.as_ref(),
        reboots,
        now,
    }))
}

async fn pool(client: &Client, name: &str) -> Result<Explanation, Failure> {
    let nodes: Api<Node> = Api::all(client.clone());
    let all = ListParams::default();
    let (pools, nodes) = tokio::try_join!(pools(client), nodes.list(&all))?;
    let pool = pools.iter().find(|pool| pool.name_any() == name);
    let pool = pool.ok_or_else(|| absent("MachineConfigPool", name))?;
    let selectors = selectors(&pools)?;
    let is_member =
        |node: &&Node| membership(node.labels(), &selectors) == Membership::Member(name.to_owned());
    let members: Vec<NodeView> = nodes.iter().filter(is_member).map(NodeView::of).collect();
    Ok(explain::pool(PoolSeen {
        pool,
        nodes: &members,
    }))
}

async fn pools(client: &Client) -> kube::Result<Vec<MachineConfigPool>> {
    let pools: Api<MachineConfigPool> = Api::all(client.clone());
    Ok(pools.list(&ListParams::default()).await?.items)
}

fn selectors(pools: &[MachineConfigPool]) -> Result<Vec<PoolSelector>, Failure> {
    let mut selectors = Vec::new();
    for pool in pools {
        let selector = PoolSelector::parse(&pool.name_any(), pool.spec.node_selector.as_ref());
        selectors.extend(selector.map_err(refused)?);
    }
    Ok(selectors)
}
