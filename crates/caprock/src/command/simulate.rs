//! `caprock simulate`: nodes that are not there.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use agent::simulated::{self, Census, Fleet, Member};
use anyhow::{Context, anyhow};
use kube::{Api, Client};
use model::api::MachineConfigPool;
use model::ownership::Owner;

use crate::cli;
use crate::client::client;
use crate::exit::{Failure, refused};
use crate::host::run_until_stopped;
use crate::output;
use crate::ownership::look;

/// Between two lines of progress, where they are not drawn over each other.
const TELL: Duration = Duration::from_secs(2);

pub(super) async fn run(args: cli::Simulate) -> Result<(), Failure> {
    match args {
        cli::Simulate::Nodes(args) => nodes(args).await,
    }
}

async fn nodes(args: cli::SimulateNodes) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    if let Owner::Peer(why) = look(&client).await?.owner() {
        return Err(refused(anyhow!("read-only: {why}")));
    }
    let mut pools = Vec::new();
    for pool in &args.pool {
        pools.push(labels_of(&client, pool).await?);
    }
    let fleet = Fleet {
        name: args.name_prefix.clone(),
        members: members(&args, &pools)?,
        reboot: args.reboot.unsigned_abs(),
        pull: args.pull.unsigned_abs(),
        heartbeat: args.heartbeat.unsigned_abs(),
        keep: args.keep,
    };
    let told = Cell::new(None::<Instant>);
    let drawn = std::io::stderr().is_terminal();
    let tell = |census: &Census| {
        if drawn {
            output::words(&format!("\r\u{1b}[K{census}"));
        } else if told.get().is_none_or(|told| told.elapsed() >= TELL) {
            told.set(Some(Instant::now()));
            output::words(&format!("{census}\n"));
        }
    };
    run_until_stopped(|stop| async move {
        let census = simulated::run(client, fleet, tell, stop).await?;
        output::words(&format!("{}{census}\n", if drawn { "\n" } else { "" }));
        Ok::<_, anyhow::Error>(())
    })
    .await
}

/// The labels that make a Node a member of a pool.
async fn labels_of(client: &Client, pool: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pools: Api<MachineConfigPool> = Api::all(client.clone());
    let found = pools
        .get_opt(pool)
        .await
        .with_context(|| format!("failed to read MachineConfigPool `{pool}`"))?;
    let found = found.ok_or_else(|| {
        refused(anyhow!("there is no MachineConfigPool `{pool}`"))
            .hint("create the pool first, or name another one with `--pool`")
    })?;
    let selector = found.spec.node_selector.unwrap_or_default();
    let expressions = selector.match_expressions.unwrap_or_default();
    match selector.match_labels.filter(|labels| !labels.is_empty()) {
        Some(labels) if expressions.is_empty() => Ok(labels),
        _ => Err(refused(anyhow!(
            "MachineConfigPool `{pool}`: `spec.nodeSelector`: expected `matchLabels` alone, from which the labels of a \
             simulated node can be told"
        ))),
    }
}

/// The nodes, spread over the pools; those that fail spread over the nodes.
fn members(
    args: &cli::SimulateNodes,
    pools: &[BTreeMap<String, String>],
) -> Result<Vec<Member>, Failure> {
    let failing: BTreeSet<&str> = args.fail_nodes.iter().map(String::as_str).collect();
    let share = args.fail.unwrap_or_default();
    let fails_until = |number: u32| (f64::from(number) * share).floor();
    let members: Vec<Member> = (0..args.count)
        .zip(pools.iter().cycle())
        .map(|(number, labels)| {
            let name = format!("{}-{number}", args.name_prefix);
            Member {
                fails: failing.contains(name.as_str())
                    || fails_until(number + 1) > fails_until(number),
                labels: labels.clone(),
                name,
            }
        })
        .collect();
    let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    match failing.iter().find(|name| !names.contains(*name)) {
        Some(name) => Err(refused(anyhow!(
            "`--fail-nodes {name}`: expected one of `{0}-0` to `{0}-{1}`",
            args.name_prefix,
            args.count - 1
        ))),
        None => Ok(members),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser as _;

    fn nodes(flags: &str) -> Result<Vec<Member>, Failure> {
        let words = ["caprock", "simulate", "nodes", "--name-prefix", "n"];
        let cli = cli::Cli::parse_from(words.into_iter().chain(flags.split_whitespace()));
        let cli::Command::Simulate(cli::Simulate::Nodes(args)) = cli.command else {
            panic!("another command");
        };
        let pools = ["a", "b"].map(|pool| BTreeMap::from([(pool.to_owned(), String::new())]));
        members(&args, &pools)
    }

    fn failing(members: &[Member]) -> String {
        let failing = members.iter().filter(|member| member.fails);
        let names: Vec<&str> = failing.map(|member| member.name.as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn nodes_and_failures_are_spread() {
        let all = nodes("--count 10 --fail 20%").unwrap();
        let in_a = all.iter().filter(|member| member.labels.contains_key("a"));
        assert_eq!((all.len(), in_a.count()), (10, 5));
        assert_eq!(failing(&all), "n-4 n-9");
        assert_eq!(
            failing(&nodes("--count 3 --fail-nodes n-1").unwrap()),
            "n-1"
        );
        let error = nodes("--count 3 --fail-nodes n-3").unwrap_err();
        assert_eq!(
            error.words(),
            "`--fail-nodes n-3`: expected one of `n-0` to `n-2`"
        );
    }
}
