//! `caprock controller` and `caprock builder`: the long-running parts on a cluster.

use std::num::{NonZeroU32, NonZeroUsize};

use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::client;
use crate::exit::Failure;
use crate::host::{host_name, run_until_stopped};
use crate::ownership::{Part, Standby};
use crate::telemetry::Telemetry;

/// `caprock controller`.
pub(crate) async fn controller(args: cli::Controller) -> Result<(), Failure> {
    let identity = args.identity.map_or_else(host_name, Ok)?;
    let controllers = Some(controllers::Controllers::Elected { identity });
    run(&args.cluster, &args.monitoring, None, controllers).await
}

/// `caprock builder`.
pub(crate) async fn builder(args: cli::Builder) -> Result<(), Failure> {
    let identity = args.identity.map_or_else(host_name, Ok)?;
    let builder = controllers::BuilderOptions {
        cache_dir: args.cache.cache_dir,
        identity,
        parallel_builds: args.parallel_builds.unwrap_or_else(builds_for_this_host),
    };
    run(&args.cluster, &args.monitoring, Some(builder), None).await
}

async fn run(
    cluster: &cli::Cluster,
    monitoring: &cli::Monitoring,
    builder: Option<controllers::BuilderOptions>,
    controllers: Option<controllers::Controllers>,
) -> Result<(), Failure> {
    let mut shown = Telemetry::new();
    let telemetry = controllers::Telemetry::default();
    let standby = Standby::default();
    shown.controllers(&telemetry, &standby);
    let client = client::counted(cluster, &shown.requests()).await?;
    let tells_as = match builder {
        Some(_) => "caprock-builder",
        None => "caprock-controller",
    };
    let part = Part::new(client.clone(), &standby, Some(tells_as));
    let shown = shown.listen(monitoring.metrics_listen).await?;
    let options = controllers::Options {
        client,
        builder,
        controllers,
        telemetry,
    };
    let acting = |stop: CancellationToken| async move {
        let Some(ours) = stop.run_until_cancelled(part.until_ours()).await else {
            return Ok(());
        };
        ours.during(stop.clone(), |term| controllers::run(options, term))
            .await
    };
    run_until_stopped(|stop| shown.during(acting(stop))).await
}

/// One for every four cores: while one build waits for the network, another has something to do.
fn builds_for_this_host() -> NonZeroU32 {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let builds = u32::try_from(cores / 4).unwrap_or(u32::MAX);
    NonZeroU32::new(builds).unwrap_or(NonZeroU32::MIN)
}
