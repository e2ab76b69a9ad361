//! Clients for the Kubernetes API that the flags, the environment or a kubeconfig's text name.

use anyhow::Context;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::cli;
use crate::exit::Failure;

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
