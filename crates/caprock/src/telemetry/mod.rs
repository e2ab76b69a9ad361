//! What a long-running part shows to those who watch over it, on an address of its own without TLS or login: `/metrics`
//! for Prometheus, `/healthz` (it works, or has to be started again) and `/readyz` (it can do what it is there for).
//!
//! Nothing that is shown is secret, and no label takes values that a user makes up without a bound.

mod certificates;
mod exposition;
mod process;
mod requests;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::exit::{Failure, refused};
use crate::ownership::Standby;
use certificates::Certificates;
use exposition::Format;
pub(crate) use requests::Requests;
pub(crate) use upkeep::Upkeep;

/// Says what is wrong, when something is.
type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;
/// More metrics, as OpenMetrics text with or without its end.
type More = Box<dyn Fn() -> String + Send + Sync>;

/// The metrics and checks of this process.
pub(crate) struct Telemetry {
    registry: Registry,
    certificates: Certificates,
    more: Vec<More>,
    alive: Vec<(&'static str, Check)>,
    ready: Vec<(&'static str, Check)>,
    requests: Requests,
}

impl Telemetry {
    /// What every process has: its version, its use of the machine, its requests to the API.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        registry.register(
            "caprock_build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(process::Process));
        let requests = Requests::default();
        requests.register(&mut registry);
        Self {
            registry,
            certificates: Certificates::default(),
            more: Vec::new(),
            alive: Vec::new(),
            ready: Vec::new(),
            requests,
        }
    }

    /// Shows when a certificate ends, by what it is for.
    pub(crate) fn certificate(
        &mut self,
        name: &'static str,
        ends: impl Fn() -> Option<Timestamp> + Send + Sync + 'static,
    ) {
        self.certificates.add(name, Box::new(ends));
    }

    /// What clients of the API count their requests with.
    pub(crate) fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Adds a check of `/healthz`: when it fails, only a restart helps.
    pub(crate) fn alive(
        &mut self,
        name: &'static str,
        check: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        self.alive.push((name, Box::new(check)));
    }

    /// Adds a check of `/readyz`.
    pub(crate) fn ready(
        &mut self,
        name: &'static str,
        check: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        self.ready.push((name, Box::new(check)));
    }

    /// Shows how a server looks after its own certificate.
    pub(crate) fn upkeep(&mut self, name: &'static str, upkeep: &Upkeep) {
        let (alive, ready, ends) = (upkeep.clone(), upkeep.clone(), upkeep.clone());
        self.alive("certificate", move || alive.stuck(Instant::now()));
        self.ready("certificate", move || ready.unready());
        self.certificate(name, move || ends.ends());
    }

    /// Adds metrics that are OpenMetrics text already.
    pub(crate) fn text(&mut self, more: impl Fn() -> String + Send + Sync + 'static) {
        self.more.push(Box::new(more));
    }

    /// Adds metrics and checks of the controllers or the builder.
    /// Who stands by is alive and ready: to act as soon as it may.
    pub(crate) fn controllers(&mut self, part: &controllers::Telemetry, standby: &Standby) {
        part.register(&mut self.registry);
        let (alive, ready, standby) = (part.clone(), part.clone(), standby.clone());
        self.alive("loops", move || alive.stuck());
        self.ready("loops", move || {
            (!standby.holds()).then(|| ready.unready()).flatten()
        });
    }

    /// Adds metrics and checks of the agent.
    pub(crate) fn agent(&mut self, part: &agent::Telemetry, standby: &Standby) {
        part.register(&mut self.registry);
        let (alive, ready, standby) = (part.clone(), part.clone(), standby.clone());
        self.alive("agent", move || alive.stuck());
        self.ready("agent", move || {
            (!standby.holds()).then(|| ready.unready()).flatten()
        });
    }

    /// Takes the address, if there is one.
    pub(crate) async fn listen(self, address: Option<SocketAddr>) -> Result<Shown, Failure> {
        let Some(address) = address else {
            return Ok(Shown { served: None });
        };
        let listener = TcpListener::bind(address).await.map_err(|error| {
            refused(anyhow!(error).context(format!("cannot listen on {address}")))
                .hint("choose another address with `--metrics-listen`")
        })?;
        tracing::info!(address = %listener.local_addr()?, "metrics and checks are shown");
        Ok(Shown {
            served: Some((listener, router(Arc::new(self.complete())))),
        })
    }

    /// With everything that was added.
    fn complete(mut self) -> Self {
        let certificates = std::mem::take(&mut self.certificates);
        self.registry.register_collector(Box::new(certificates));
        self
    }

    /// The exposition.
    pub(crate) fn metrics(&self, format: Format) -> String {
        let mut text = exposition::encode(&self.registry);
        for more in &self.more {
            text.push_str(more().trim_end_matches("# EOF\n"));
        }
        format.of_open_metrics(text)
    }
}

/// Metrics and checks behind an address, or behind none.
pub(crate) struct Shown {
    served: Option<(TcpListener, Router)>,
}

impl Shown {
    /// Shows them as long as something runs.
    pub(crate) async fn during<E>(
        self,
        work: impl Future<Output = Result<(), E>>,
    ) -> anyhow::Result<()>
    where
        anyhow::Error: From<E>,
    {
        let Some((listener, router)) = self.served else {
            return Ok(work.await?);
        };
        let served = async { axum::serve(listener, router).await };
        tokio::select! {
            ended = work => Ok(ended?),
            failed = served => Err(anyhow!("metrics are shown no more: {failed:?}")),
        }
    }
}

fn router(telemetry: Arc<Telemetry>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/livez", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(telemetry)
}

async fn metrics(State(telemetry): State<Arc<Telemetry>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter();
    let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
    let format = Format::negotiate(&accept.join(","));
    let text = telemetry.metrics(format);
    ([(header::CONTENT_TYPE, format.media_type())], text).into_response()
}

/// Whether each check is asked for by name.
#[derive(Debug, serde::Deserialize)]
struct Asked {
    verbose: Option<String>,
}

async fn healthz(State(telemetry): State<Arc<Telemetry>>, Query(asked): Query<Asked>) -> Response {
    answer("healthz", &telemetry.alive, asked.verbose.is_some())
}

async fn readyz(State(telemetry): State<Arc<Telemetry>>, Query(asked): Query<Asked>) -> Response {
    answer("readyz", &telemetry.ready, asked.verbose.is_some())
}

/// `ok`, or what is wrong; check by check with `?verbose`, in the form that Kubernetes' own servers have.
fn answer(endpoint: &str, checks: &[(&'static str, Check)], verbose: bool) -> Response {
    let found: Vec<(&str, Option<String>)> = checks
        .iter()
        .map(|(name, check)| (*name, check()))
        .collect();
    let failed = found.iter().any(|(_, problem)| problem.is_some());
    let (status, outcome) = match failed {
        true => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
        false => (StatusCode::OK, "passed"),
    };
    if !failed && !verbose {
        return (status, "ok").into_response();
    }
    let mut text = String::new();
    for (name, problem) in found {
        text.push_str(&match problem {
            None => format!("[+]{name} ok\n"),
            Some(problem) => format!("[-]{name} failed: {problem}\n"),
        });
    }
    (status, text + &format!("{endpoint} check {outcome}\n")).into_response()
}

#[cfg(test)]
mod documents;
#[cfg(test)]
mod tests;
