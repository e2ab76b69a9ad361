//! Agents of machines that are not there: the loop, the decisions and the writes of real ones, for trying out and
//! measuring what a fleet asks of an API server and its controllers.

mod census;
mod machine;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use model::health::DEFAULT_DEADLINE;
use model::keys::SIMULATED;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::UNEVENTFUL;
use crate::agent::{Agent, Exchange, Settings};
use crate::error::{AgentError, chain};
use crate::notify::Notifier;
use crate::register::Registration;
use crate::telemetry::Telemetry;
use machine::{Configs, Nature, Simulated};

pub use census::Census;

/// Between two looks at how the fleet does.
const COUNT: Duration = Duration::from_millis(500);
/// Nodes of one page of a list.
const PAGE: u32 = 500;
/// Tries to remove the Nodes; one request may not be given the time for all of them.
const REMOVALS: u32 = 10;

/// One node to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of the Node.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is never well after an update.
    pub fails: bool,
}

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Which fleet it is: the value of the label that marks its Nodes.
    pub name: String,
    /// Its nodes.
    pub members: Vec<Member>,
    /// How long a machine is away when it reboots.
    pub reboot: Duration,
    /// How long an image takes to arrive on a machine.
    pub pull: Duration,
    /// How often a node shows that it lives.
    pub heartbeat: Duration,
    /// Whether the Nodes stay when the simulation ends.
    pub keep: bool,
}

/// Runs the agents of a fleet until `stop`, and removes its Nodes then. `tell` is given how the fleet does, now and then.
///
/// # Errors
/// When a Node of one of these names is there that no simulation made, or the API cannot be read at the start, or the
/// Nodes cannot be removed at the end. Everything else is tried again, as by real agents.
pub async fn run(
    client: Client,
    fleet: Fleet,
    tell: impl Fn(&Census),
    stop: CancellationToken,
) -> Result<Census, AgentError> {
    refuse_others(&client, &fleet).await?;
    let (configs, exchange) = (Arc::<Configs>::default(), Arc::<Exchange>::default());
    let mut lives = JoinSet::new();
    let mut machines = Vec::with_capacity(fleet.members.len());
    for member in &fleet.members {
        let nature = Nature {
            pull: fleet.pull,
            fails: member.fails,
        };
        let machine = Simulated::new(member.name.clone(), nature, configs.clone());
        machines.push(machine.clone());
        let settings = settings(&fleet, member, exchange.clone());
        let life = live(
            client.clone(),
            machine,
            settings,
            fleet.reboot,
            stop.clone(),
        );
        lives.spawn(life);
    }
    let mut told = Census::default();
    while stop
        .run_until_cancelled(tokio::time::sleep(COUNT))
        .await
        .is_some()
    {
        let census = Census::of(&machines);
        if census != told {
            tell(&census);
            told = census;
        }
    }
    lives.shutdown().await;
    if !fleet.keep {
        remove(&client, &fleet.name).await?;
    }
    Ok(Census::of(&machines))
}

fn settings(fleet: &Fleet, member: &Member, exchange: Arc<Exchange>) -> Settings {
    let mut labels = member.labels.clone();
    labels.insert(SIMULATED.to_owned(), fleet.name.clone());
    Settings {
        node_name: member.name.clone(),
        register: Some(Registration {
            mark: Some(SIMULATED),
            heartbeat: fleet.heartbeat,
            ..Registration::new(labels)
        }),
        exchange: Some(exchange),
        ours: None,
        registry_ca: None,
        credentials: None,
        bytes_per_second: None,
        verify_deadline: DEFAULT_DEADLINE,
        uneventful: UNEVENTFUL,
        notifier: Notifier::default(),
        telemetry: Telemetry::default(),
    }
}

/// Runs a machine's agent, and boots the machine when that is asked for.
async fn live(
    client: Client,
    machine: Simulated,
    settings: Settings,
    reboot: Duration,
    stop: CancellationToken,
) {
    loop {
        let agent = Agent::new(client.clone(), machine.clone(), settings.clone());
        tokio::select! {
            // Whatever the agent was doing ends with it.
            () = machine.goes_down() => {}
            () = agent.run(stop.clone()) => return,
        }
        tokio::time::sleep(reboot).await;
        machine.boot();
    }
}

/// Leaves alone what others have made.
async fn refuse_others(client: &Client, fleet: &Fleet) -> Result<(), AgentError> {
    let names: BTreeSet<&str> = fleet.members.iter().map(|m| m.name.as_str()).collect();
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = nodes.list(&page).await;
        let listed = listed.map_err(AgentError::api("list Nodes"))?;
        let other = listed.items.iter().find(|node| {
            names.contains(node.name_any().as_str()) && !node.labels().contains_key(SIMULATED)
        });
        if let Some(node) = other {
            return Err(AgentError::Object {
                object: format!("Node `{}`", node.name_any()),
                problem: format!(
                    "was not made by a simulation (it has no label `{SIMULATED}`); give the simulated nodes another name"
                ),
            });
        }
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}

/// Removes the fleet's Nodes, and with them what belongs to them.
async fn remove(client: &Client, fleet: &str) -> Result<(), AgentError> {
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let marked = ListParams::default().labels(&format!("{SIMULATED}={fleet}"));
    for _ in 0..REMOVALS {
        if let Err(error) = nodes
            .delete_collection(&DeleteParams::default(), &marked)
            .await
        {
            tracing::warn!("cannot remove the simulated Nodes: {}", chain(&error));
        }
        let left = nodes.list(&marked.clone().limit(1)).await;
        let left = left.map_err(AgentError::api("list simulated Nodes"))?;
        if left.items.is_empty() {
            return Ok(());
        }
    }
    Err(AgentError::Object {
        object: "the simulated Nodes".to_owned(),
        problem: format!("some are left; remove them with `kubectl delete nodes -l {SIMULATED}`"),
    })
}
