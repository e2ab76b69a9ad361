//! `caprock webhook`: a cluster's API server asks it for the `v1alpha1` shapes.

mod announce;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    ServiceReference, WebhookClientConfig,
};
use kube::Client;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{self, InNamespace};
use crate::client;
use crate::exit::{Failure, refused};
use crate::host::run_until_stopped;
use crate::serve::pki::{Authority, Subject};
use crate::serve::presented::Presented;
use crate::shared::Shared;
use crate::telemetry::{Telemetry, Upkeep};
use announce::announce;

/// Bytes of one review at most: an API server sends a page of a list at a time.
const MAX_REVIEW: usize = 64 << 20;
/// How long a review under way may take when the webhook stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether anything is due.
const TICK: Duration = Duration::from_secs(60);
/// Key of the authority in its Secret.
const AUTHORITY: &str = "authority.json";
/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or Ctrl-C.
pub(crate) async fn run(args: cli::Webhook) -> Result<(), Failure> {
    let reached = Reached::by(&args).map_err(refused)?;
    let (mut shown, upkeep) = (Telemetry::new(), Upkeep::default());
    shown.upkeep("webhook", &upkeep);
    let client = client::counted(&args.cluster, &shown.requests()).await?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        refused(anyhow!(error).context(format!("cannot listen on {}", args.listen)))
    })?;
    let webhook = Webhook {
        authority: Shared::new(client.clone(), &args.secret, AUTHORITY),
        client,
        reached,
        upkeep,
    };
    let shown = shown.listen(args.monitoring.metrics_listen).await?;
    run_until_stopped(|stop| shown.during(webhook.run(listener, stop))).await
}

/// How the API server reaches the webhook.
#[derive(Debug, Clone)]
struct Reached {
    config: WebhookClientConfig,
    subject: Subject,
}

impl Reached {
    fn by(args: &cli::Webhook) -> anyhow::Result<Self> {
        match (&args.service, &args.url) {
            (Some(service), _) => Ok(Self::by_service(service, args.service_port)),
            (None, Some(url)) => Self::by_url(url),
            (None, None) => anyhow::bail!("expected `--service` or `--url`"),
        }
    }

    fn by_service(service: &InNamespace, port: u16) -> Self {
        let config = WebhookClientConfig {
            service: Some(ServiceReference {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                path: Some("/convert".to_owned()),
                port: Some(port.into()),
            }),
            ..WebhookClientConfig::default()
        };
        let subject = Subject {
            names: service.service_names(),
            addresses: Vec::new(),
        };
        Self { config, subject }
    }

    fn by_url(url: &str) -> anyhow::Result<Self> {
        let parsed: axum::http::Uri = url
            .parse()
            .with_context(|| format!("`{url}` is not a URL"))?;
        let host = parsed.host().unwrap_or_default().to_owned();
        anyhow::ensure!(
            parsed.scheme_str() == Some("https")
                && !host.is_empty()
                && parsed.path() == "/"
                && parsed.query().is_none(),
            "expected `https://HOST[:PORT]`, found `{url}`"
        );
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let config = WebhookClientConfig {
            url: Some(format!("{}/convert", url.trim_end_matches('/'))),
            ..WebhookClientConfig::default()
        };
        let subject = Subject {
            names: address.is_none().then_some(host).into_iter().collect(),
            addresses: address.into_iter().collect(),
        };
        Ok(Self { config, subject })
    }
}

struct Webhook {
    client: Client,
    authority: Shared<Authority>,
    reached: Reached,
    upkeep: Upkeep,
}

impl Webhook {
    /// Serves until `stop`. The first authority must be there before anything can be served; later failures are logged
    /// and tried again.
    async fn run(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let address = listener.local_addr()?;
        let mut presented = self.presented(Timestamp::now()).await?;
        let served = apiserver::serve_tls(
            listener,
            presented.server_config(),
            router(),
            stop.clone().cancelled_owned(),
            DRAIN,
        );
        tracing::info!(%address, "the conversion webhook is ready");
        let kept = self.keep(&mut presented, &stop);
        let (served, ()) = tokio::join!(served, kept);
        served.context("the conversion webhook failed")
    }

    /// The authority that all replicas share.
    async fn authority(&self, now: Timestamp) -> anyhow::Result<Authority> {
        let make = || Authority::new(now);
        let next = |present: &Authority| present.advanced(true, now);
        self.authority.current(make, next).await
    }

    async fn presented(&self, now: Timestamp) -> anyhow::Result<Presented> {
        let authority = self.authority(now).await?;
        Presented::new(authority, self.reached.subject.clone(), now)
    }

    /// Keeps certificate, authority and CRDs as they should be.
    async fn keep(&self, presented: &mut Presented, stop: &CancellationToken) {
        let ends = presented.ends();
        loop {
            self.upkeep.turn(ends());
            let turn = self.turn(presented, Timestamp::now());
            let pause = match stop.run_until_cancelled(turn).await {
                None => return,
                Some(Ok(())) => TICK,
                Some(Err(error)) => {
                    tracing::warn!("the conversion stays as it is: {error:#}");
                    RETRY
                }
            };
            let slept = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            if slept.is_none() {
                return;
            }
        }
    }

    async fn turn(&self, presented: &mut Presented, now: Timestamp) -> anyhow::Result<()> {
        let authority = self.authority(now).await?;
        // Whom the API is to trust comes first, then what is shown to it.
        announce(&self.client, &self.reached.config, &authority.bundle()).await?;
        if presented.follow(authority, self.reached.subject.clone(), now)? {
            tracing::info!("the conversion webhook shows a new certificate");
        }
        Ok(())
    }
}

fn router() -> Router {
    Router::new()
        .route("/convert", post(convert))
        .route("/healthz", get(async || "ok"))
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
}

async fn convert(Json(review): Json<Value>) -> Result<Json<Value>, (StatusCode, &'static str)> {
    if !review["request"]["uid"].is_string() || !review["request"]["objects"].is_array() {
        return Err((
            StatusCode::BAD_REQUEST,
            "expected a ConversionReview with a request\n",
        ));
    }
    Ok(Json(model::api::v1alpha1::review(review)))
}

#[cfg(test)]
mod tests;
