//! Fleets of nodes that are not there.

use clap::{Args, Subcommand};
use jiff::SignedDuration;

use super::Cluster;
use super::serve::duration;

/// Simulate parts of a fleet, to try out and measure the others.
#[derive(Debug, Subcommand)]
pub(crate) enum Simulate {
    Nodes(SimulateNodes),
}

/// Run stand-in agents for machines that are not there, against any Kubernetes API.
///
/// Each registers a Node with the label `caprock.dev/simulated`, keeps it Ready, and follows its pool as a real agent
/// does, with the same decisions and the same writes; only the machine is a value in memory. Nodes without the label are
/// never touched. Ctrl-C removes the Nodes again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock simulate nodes --count 200 --pool worker\n  \
    caprock simulate nodes --count 5000 --reboot 60s --pull 20s --heartbeat 60s\n  \
    caprock simulate nodes --count 100 --pool canary,worker --fail 5%     # 50 in each, five of which fail every update")]
pub(crate) struct SimulateNodes {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// How many nodes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// Pools that the nodes are spread over evenly; each must select nodes by `matchLabels`.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "worker"
    )]
    pub(crate) pool: Vec<String>,
    /// Nodes are named PREFIX-0, PREFIX-1, ….
    #[arg(long, value_name = "PREFIX", default_value = "simulated")]
    pub(crate) name_prefix: String,
    /// How long a machine is away when it reboots.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) reboot: SignedDuration,
    /// How long an image takes to arrive on a machine.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub(crate) pull: SignedDuration,
    /// How often each node renews its Lease; kubelets do every 10 s. A cluster counts nodes as lost after 40 s.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub(crate) heartbeat: SignedDuration,
    /// Share of the nodes that are never well after an update, and take it back.
    #[arg(long, value_name = "PERCENT%", value_parser = percent, conflicts_with = "fail_nodes")]
    pub(crate) fail: Option<f64>,
    /// The nodes that are never well after an update.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) fail_nodes: Vec<String>,
    /// Leave the Nodes when the simulation ends; `kubectl delete nodes -l caprock.dev/simulated` removes them.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// A share as `5%`, between nothing and all.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok());
    number
        .filter(|number| (0.0..=100.0).contains(number))
        .map(|number| number / 100.0)
        .ok_or_else(|| "expected a share such as `5%`".to_owned())
}
