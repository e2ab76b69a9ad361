//! `caprock controller` and `caprock builder`: the long-running parts on a cluster.

use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::client::client;
use crate::exit::Failure;
use crate::host::{host_name, stop_signal};

/// `caprock controller`.
pub(crate) async fn controller(args: cli::Controller) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let identity = args.identity.map_or_else(host_name, Ok)?;
    run_until_stopped(controllers::Options {
        client,
        builder: None,
        controllers: Some(controllers::Controllers::Elected { identity }),
    })
    .await
}

/// `caprock builder`.
pub(crate) async fn builder(args: cli::Builder) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let identity = args.identity.map_or_else(host_name, Ok)?;
    run_until_stopped(controllers::Options {
        client,
        builder: Some(controllers::BuilderOptions {
            cache_dir: args.cache_dir,
            identity,
        }),
        controllers: None,
    })
    .await
}

async fn run_until_stopped(options: controllers::Options) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let running = controllers::run(options, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return Ok(ended?),
        signal = stop_signal() => tracing::info!("stopping on {}", signal?),
    }
    stop.cancel();
    Ok(running.await?)
}
