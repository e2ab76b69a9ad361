//! `caprock plan`: what would happen to each node, and why, before anything happens.
//!
//! The decision is `model::update`, the very one that the agent carries out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use model::api::{MachineConfig, MachineConfigPool, MachineOSBuild, MachineOSConfig};
use model::node::{NodeView, Target};
use model::pool::{Membership, PoolSelector, membership};
use model::update::{Update, Version};
use serde::Serialize;

use crate::cli;
use crate::client::client;
use crate::exit::{Failure, refused};
use crate::output;

#[derive(Debug, Serialize)]
struct PoolPlan {
    pool: String,
    paused: bool,
    /// Rendered config that the pool's nodes go to.
    config: String,
    /// Layered image that they go to; absent without layering and before the first build.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// What must come first, such as a build under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    nodes: Vec<NodePlan>,
}

#[derive(Debug, Serialize)]
struct NodePlan {
    node: String,
    disruption: &'static str,
    changes: Vec<String>,
    actions: Vec<String>,
    /// What the node cannot do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    obstacles: Vec<String>,
    #[serde(skip)]
    text: String,
}

/// Everything the plan is made from.
struct Cluster {
    pools: Vec<MachineConfigPool>,
    configs: BTreeMap<String, MachineConfig>,
    images: BTreeMap<String, MachineOSConfig>,
    builds: Vec<MachineOSBuild>,
    nodes: Vec<Node>,
}

pub(crate) async fn run(args: cli::Plan) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let cluster = Cluster::read(&client).await?;
    let plans = cluster
        .pools
        .iter()
        .filter(|pool| {
            args.pool
                .as_ref()
                .is_none_or(|name| pool.name_any() == *name)
        })
        .map(|pool| cluster.plan(pool))
        .collect::<Result<Vec<_>, _>>()?;
    if let (Some(name), true) = (&args.pool, plans.is_empty()) {
        return Err(refused(anyhow::anyhow!(
            "there is no MachineConfigPool `{name}`"
        )));
    }
    Ok(output::value(args.output, &plans, |plans| text(plans))?)
}

impl Cluster {
    async fn read(client: &Client) -> Result<Self, Failure> {
        let all = ListParams::default();
        let pools: Api<MachineConfigPool> = Api::all(client.clone());
        let configs: Api<MachineConfig> = Api::all(client.clone());
        let images: Api<MachineOSConfig> = Api::all(client.clone());
        let builds: Api<MachineOSBuild> = Api::all(client.clone());
        let nodes: Api<Node> = Api::all(client.clone());
        let (pools, configs, images, builds, nodes) = tokio::try_join!(
            pools.list(&all),
            configs.list(&all),
            images.list(&all),
            builds.list(&all),
            nodes.list(&all),
        )?;
        Ok(Cluster {
            pools: pools.items,
            configs: configs
                .items
                .into_iter()
                .map(|c| (c.name_any(), c))
                .collect(),
            images: images
                .items
                .into_iter()
                .map(|image| (image.spec.machine_config_pool.name.clone(), image))
                .collect(),
            builds: builds.items,
            nodes: nodes.items,
        })
    }

    fn plan(&self, pool: &MachineConfigPool) -> Result<PoolPlan, Failure> {
        let name = pool.name_any();
        let config = pool.spec.configuration.name.clone();
        let layering = self.images.get(&name);
        let image = layering
            .and_then(|image| image.status.as_ref())
            .and_then(|status| status.current_image_pull_spec.clone());
        let target = Target {
            config: config.clone(),
            image: image.clone(),
        };
        let mut nodes = Vec::new();
        for node in self.members(&name)? {
            nodes.push(self.node_plan(&node, &target)?);
        }
        Ok(PoolPlan {
            waits_for: self.waits_for(pool, layering),
            paused: pool.spec.paused,
            pool: name,
            config,
            image,
            nodes,
        })
    }

    /// The nodes that belong to a pool, as the controllers see it.
    fn members(&self, pool: &str) -> Result<Vec<NodeView>, Failure> {
        let mut selectors = Vec::new();
        for pool in &self.pools {
            let selector = PoolSelector::parse(&pool.name_any(), pool.spec.node_selector.as_ref());
            selectors.extend(selector.map_err(refused)?);
        }
        Ok(self
            .nodes
            .iter()
            .map(NodeView::of)
            .filter(|node| {
                membership(&node.labels, &selectors) == Membership::Member(pool.to_owned())
            })
            .collect())
    }

    fn node_plan(&self, node: &NodeView, target: &Target) -> Result<NodePlan, Failure> {
        let from = match &node.current {
            Some(current) => self.version(current)?,
            None => Version::default(),
        };
        let update = Update::between(&from, &self.version(target)?, &[]);
        Ok(NodePlan {
            node: node.name.clone(),
            disruption: update.disruption.as_str(),
            changes: update.changes.iter().map(ToString::to_string).collect(),
            actions: update.actions.iter().map(ToString::to_string).collect(),
            obstacles: update.obstacles.iter().map(ToString::to_string).collect(),
            text: update.to_string(),
        })
    }

    fn version(&self, target: &Target) -> Result<Version, Failure> {
        let Some(config) = self.configs.get(&target.config) else {
            return Err(refused(anyhow::anyhow!(
                "there is no rendered MachineConfig `{}`",
                target.config
            )));
        };
        Version::new(&target.config, &config.spec, target.image.as_deref()).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            refused(anyhow::anyhow!(
                "rendered MachineConfig `{}` is not valid: {}",
                target.config,
                problems.join("; ")
            ))
        })
    }

    /// What must happen before nodes are told to go anywhere.
    fn waits_for(
        &self,
        pool: &MachineConfigPool,
        layering: Option<&MachineOSConfig>,
    ) -> Option<String> {
        let build = layering?.status.as_ref()?.machine_os_build.as_ref();
        let Some(build) = build else {
            return Some("a build, not started yet".to_owned());
        };
        let found = self
            .builds
            .iter()
            .find(|found| found.name_any() == build.name)?;
        let condition = found
            .status
            .as_ref()?
            .conditions
            .iter()
            .find(|condition| condition.status == "True")?;
        match condition.type_.as_str() {
            "Succeeded" if pool.spec.paused => Some("the pool to be unpaused".to_owned()),
            "Succeeded" => None,
            _ => Some(format!("build {}: {}", build.name, condition.message)),
        }
    }
}

fn text(plans: &[PoolPlan]) -> String {
    let mut text = String::new();
    for plan in plans {
        let paused = if plan.paused { " (paused)" } else { "" };
        text.push_str(&format!("pool {}{paused}\n", plan.pool));
        if let Some(reason) = &plan.waits_for {
            text.push_str(&format!("  waits for {reason}\n"));
        }
        if plan.nodes.is_empty() {
            text.push_str("  no nodes\n");
        }
        for node in &plan.nodes {
            text.push_str(&format!("  {}: {}\n", node.node, node.text));
            for obstacle in &node.obstacles {
                text.push_str(&format!("    cannot: {obstacle}\n"));
            }
        }
    }
    text
}
