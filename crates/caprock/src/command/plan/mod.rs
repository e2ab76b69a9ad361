//! `caprock plan`: what would happen to each node, and why, before anything happens.
//!
//! The decisions are `model::update` and `model::rollout`, the very ones that agents and controllers carry out.

mod build;
mod cluster;
mod offline;
mod pool;
mod text;

use anyhow::anyhow;
use jiff::Timestamp;
use kube::ResourceExt;

use self::cluster::Cluster;
use self::pool::PoolPlan;
use crate::cli;
use crate::client::client;
use crate::exit::{Failure, refused};
use crate::manifests::Manifests;
use crate::output;
use crate::ownership::say_read_only;

pub(crate) async fn run(args: cli::Plan) -> Result<(), Failure> {
    if let (Some(from), Some(to)) = (&args.from, &args.to) {
        let policy = args.policy.as_deref();
        return offline::run(from, to, policy, args.pool.as_deref(), args.output);
    }
    // What cannot be read is said before a server is asked.
    let manifests = match args.filename.as_slice() {
        [] => None,
        paths => Some(Manifests::read(paths)?),
    };
    let client = client(&args.cluster).await?;
    let now = Cluster::read(&client).await?;
    say_read_only(&client).await?;
    let then = match manifests {
        Some(manifests) => now.clone().with(manifests),
        None => now.clone(),
    };
    let is_wanted = |name: String| args.pool.as_ref().is_none_or(|wanted| name == *wanted);
    let at = Timestamp::now();
    let plans = then
        .pools
        .iter()
        .filter(|pool| is_wanted(pool.name_any()))
        .map(|pool| PoolPlan::new(&now, &then, pool, !args.filename.is_empty(), at))
        .collect::<Result<Vec<_>, _>>()?;
    if let (Some(name), true) = (&args.pool, plans.is_empty()) {
        return Err(refused(anyhow!("there is no MachineConfigPool `{name}`")));
    }
    Ok(output::value(args.output, &plans, |plans| {
        text::pools(plans)
    })?)
}

#[cfg(test)]
mod tests;
