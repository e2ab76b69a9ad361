//! `caprock controller` and `caprock builder`: the long-running parts on a cluster.

use crate::cli;
use crate::client;
use crate::exit::Failure;
use crate::host::{host_name, run_until_stopped};
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
        cache_dir: args.cache_dir,
        identity,
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
    shown.controllers(&telemetry);
    let client = client::counted(cluster, &shown.requests()).await?;
    let shown = shown.listen(monitoring.metrics_listen).await?;
    let options = controllers::Options {
        client,
        builder,
        controllers,
        telemetry,
    };
    run_until_stopped(|stop| shown.during(controllers::run(options, stop))).await
}
