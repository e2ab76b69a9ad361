//! The long-running parts on a cluster, and what they share with `serve`.

use anyhow::Context;
use camino::Utf8Path;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::exit::Failure;

/// `caprock controller`.
pub(crate) async fn controller(args: cli::Controller) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    run_until_stopped(controllers::Options {
        client,
        builder: None,
        controllers: true,
    })
    .await
}

/// `caprock builder`.
pub(crate) async fn builder(args: cli::Builder) -> Result<(), Failure> {
    let client = client(&args.cluster).await?;
    let identity = match args.identity {
        Some(identity) => identity,
        None => host_name()?,
    };
    run_until_stopped(controllers::Options {
        client,
        builder: Some(builder_options(&args.cache_dir, identity)?),
        controllers: false,
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

/// What a builder needs besides the API: its cache and the name it claims builds under.
pub(crate) fn builder_options(
    cache_dir: &Utf8Path,
    identity: String,
) -> anyhow::Result<controllers::BuilderOptions> {
    Ok(controllers::BuilderOptions {
        cache_dir: cache_dir.to_owned(),
        identity,
    })
}

/// A client for the API that the flags or the environment name.
pub(crate) async fn client(cluster: &cli::Cluster) -> Result<Client, Failure> {
    let config = match &cluster.kubeconfig {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("failed to read the kubeconfig `{path}`"))?;
            config_from_text(&text)
                .await
                .with_context(|| format!("`{path}` is not a usable kubeconfig"))?
        }
        None => kube::Config::infer().await.map_err(|error| {
            Failure::from(error).hint("set KUBECONFIG or give `--kubeconfig FILE`")
        })?,
    };
    Ok(Client::try_from(config)?)
}

/// A client for a kubeconfig's text.
pub(crate) async fn client_from_text(text: &str) -> anyhow::Result<Client> {
    Ok(Client::try_from(config_from_text(text).await?)?)
}

/// The client configuration in a kubeconfig's text.
pub(crate) async fn config_from_text(text: &str) -> anyhow::Result<kube::Config> {
    let kubeconfig = Kubeconfig::from_yaml(text)?;
    Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// Waits for SIGTERM or SIGINT and names it.
pub(crate) async fn stop_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// This machine's name.
pub(crate) fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("failed to read the host's name")?;
    Ok(name.trim().to_owned())
}
