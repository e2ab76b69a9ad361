//! `caprock controller` and `caprock builder`: the long-running parts on a cluster.

use crate::cli;
use crate::client::client;
use crate::exit::Failure;
use crate::host::{host_name, run_until_stopped};

/// `caprock controller`.
pub(crate) async fn controller(args: cli::Controller) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let identity = args.identity.map_or_else(host_name, Ok)?;
    let options = controllers::Options {
        client,
        builder: None,
        controllers: Some(controllers::Controllers::Elected { identity }),
    };
    run_until_stopped(|stop| controllers::run(options, stop)).await
}

/// `caprock builder`.
pub(crate) async fn builder(args: cli::Builder) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let identity = args.identity.map_or_else(host_name, Ok)?;
    let options = controllers::Options {
        client,
        builder: Some(controllers::BuilderOptions {
            cache_dir: args.cache_dir,
            identity,
        }),
        controllers: None,
    };
    run_until_stopped(|stop| controllers::run(options, stop)).await
}
