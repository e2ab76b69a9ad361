//! Clients for the Kubernetes API that the flags, the environment or a kubeconfig's text name. All keep a pace that the
//! server sets.

mod connection;
mod pace;

use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8Path;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use model::api::RolloutPolicy;
use tower::buffer::BufferLayer;
use tower::timeout::TimeoutLayer;

use crate::cli;
use crate::exit::Failure;
use crate::telemetry::Requests;
use pace::Pace;

/// Requests that may wait for a connection: more than are ever under way at once.
const WAITING: usize = 1024;
/// How long until an answer begins, at most: an API server ends a request after 60 seconds itself, so what takes longer is
/// a connection whose other side is gone. A watch begins at once, and lasts.
const ANSWER: Duration = Duration::from_secs(70);

/// A client for the API that the flags or the environment name.
pub(crate) async fn client(cluster: &cli::Cluster) -> Result<Client, Failure> {
    Ok(paced(config(cluster).await?, &Requests::default())?)
}

/// The same, for a part whose requests are counted.
pub(crate) async fn counted(
    cluster: &cli::Cluster,
    requests: &Requests,
) -> Result<Client, Failure> {
    Ok(paced(config(cluster).await?, requests)?)
}

async fn config(cluster: &cli::Cluster) -> Result<kube::Config, Failure> {
    Ok(match &cluster.kubeconfig {
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
    })
}

/// A client for a kubeconfig's text that trusts the authorities in a file, also those that come into it later.
pub(crate) async fn client_trusting(
    text: &str,
    authorities: &Utf8Path,
    requests: &Requests,
) -> anyhow::Result<Client> {
    let mut config = config_from_text(text).await?;
    config.root_cert_file = Some(authorities.as_std_path().to_owned());
    Ok(paced(config, requests)?)
}

/// Each try of a request is counted.
fn paced(config: kube::Config, counter: &Requests) -> kube::Result<Client> {
    paced_within(config, counter, ANSWER)
}

fn paced_within(
    config: kube::Config,
    counter: &Requests,
    answer: Duration,
) -> kube::Result<Client> {
    let counted = connection::builder(config)?.with_layer(counter);
    let shared = counted.with_layer(&BufferLayer::new(WAITING));
    // Whoever gives up closes the connection: the next request takes another one.
    let bounded = shared.with_layer(&TimeoutLayer::new(answer));
    // The pace makes a request again that was refused, and slows down the others too.
    Ok(bounded.with_layer(&Pace::default()).build())
}

/// The certificate authority, as PEM, that the flags' kubeconfig trusts; none without `--kubeconfig`.
pub(crate) fn authority(cluster: &cli::Cluster) -> Result<Option<Vec<u8>>, Failure> {
    let Some(path) = &cluster.kubeconfig else {
        return Ok(None);
    };
    let config = Kubeconfig::read_from(path)
        .with_context(|| format!("`{path}` is not a usable kubeconfig"))?;
    let cluster = config.clusters.into_iter().find_map(|named| named.cluster);
    let Some(cluster) = cluster else {
        return Ok(None);
    };
    if let Some(data) = cluster.certificate_authority_data {
        let decoded = STANDARD.decode(data);
        return Ok(Some(decoded.with_context(|| {
            format!("`certificate-authority-data` in `{path}` is not base64")
        })?));
    }
    Ok(cluster
        .certificate_authority
        .map(|file| std::fs::read(&file).with_context(|| format!("failed to read `{file}`")))
        .transpose()?)
}

/// The client configuration in a kubeconfig's text.
pub(crate) async fn config_from_text(text: &str) -> anyhow::Result<kube::Config> {
    let kubeconfig = Kubeconfig::from_yaml(text)?;
    let cluster = kubeconfig
        .clusters
        .iter()
        .find_map(|named| named.cluster.as_ref());
    let authorities = cluster.and_then(|cluster| cluster.certificate_authority.clone());
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // A file may be replaced while the client runs.
    config.root_cert_file = authorities.map(Into::into);
    Ok(config)
}

/// The RolloutPolicies. A server that knows no such kind has none.
pub(crate) async fn policies(client: &Client) -> kube::Result<Vec<RolloutPolicy>> {
    let policies: Api<RolloutPolicy> = Api::all(client.clone());
    match policies.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        listed => Ok(listed?.items),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::api::core::v1::Node;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_that_went_silent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let silent = tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                held.push(listener.accept().await.unwrap());
            }
        });
        let config = kube::Config::new(uri.parse().unwrap());
        let soon = Duration::from_millis(200);
        let client = paced_within(config, &Requests::default(), soon).unwrap();
        let nodes: Api<Node> = Api::all(client);
        let asked = tokio::time::timeout(Duration::from_secs(60), nodes.get("worker-1"));
        let error = asked.await.expect("it is given up").unwrap_err();
        assert!(matches!(error, kube::Error::Service(_)), "{error:?}");
        silent.abort();
    }
}
