//! `caprock registry`: the registry of a cluster, as a workload of its own.
//!
//! Certificate and logins are its own doing: it keeps them in a Secret, tells the cluster of them, and replaces them in
//! time. Each turn compares everything with what it should be, so what somebody removes is there again soon.

mod logins;
mod reached;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use oci::{Access, RegistryError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{self, InNamespace};
use crate::client;
use crate::deliver;
use crate::exit::{Failure, refused};
use crate::host::run_until_stopped;
use crate::serve;
use crate::serve::pki::Authority;
use crate::serve::presented::Presented;
use crate::shared::Shared;
use crate::telemetry::{Telemetry, Upkeep};
use logins::State;
use reached::Reached;

/// Key of the Secret.
const KEY: &str = "registry.json";
/// How often everything is compared with what it should be.
const TICK: Duration = Duration::from_secs(15);
/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a request under way may take when the registry stops.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs until SIGTERM or Ctrl-C.
pub(crate) async fn run(args: cli::Registry) -> Result<(), Failure> {
    for host in &args.host {
        reached::check(host).map_err(|error| refused(error.context("`--host`")))?;
    }
    let (mut shown, upkeep) = (Telemetry::new(), Upkeep::default());
    shown.upkeep("registry", &upkeep);
    let client = client::counted(&args.cluster, &shown.requests()).await?;
    let listener = serve::listen(args.listen, "--listen").await?;
    let dir = args.data_dir.join("registry");
    let store = oci::Registry::open(&dir, Access::nobody()).map_err(|error| match error {
        error @ RegistryError::InUse(_) => refused(error),
        error => error.into(),
    })?;
    let registry = Registry {
        state: Shared::new(client.clone(), &args.secret, KEY),
        client,
        store,
        service: args.service,
        hosts: args.host,
        life: args.credential_life,
        upkeep,
    };
    let shown = shown.listen(args.monitoring.metrics_listen).await?;
    run_until_stopped(|stop| shown.during(registry.run(listener, stop))).await
}

struct Registry {
    client: Client,
    store: oci::Registry,
    state: Shared<State>,
    service: Option<InNamespace>,
    hosts: Vec<String>,
    life: SignedDuration,
    upkeep: Upkeep,
}

impl Registry {
    /// Serves until `stop`, from when the cluster could be told of it.
    async fn run(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let Some(mut presented) = self.begin(&stop).await else {
            return Ok(());
        };
        let served = apiserver::serve_tls(
            listener,
            presented.server_config(),
            self.store.router(),
            stop.clone().cancelled_owned(),
            DRAIN,
        );
        let collected = serve::collect_garbage(self.store.clone(), stop.clone());
        let kept = self.keep(&mut presented, &stop);
        let (served, collected, ()) = tokio::join!(served, collected, kept);
        served.context("the registry failed").and(collected)
    }

    /// Waits until there is a Service to be reached by, and an API that can be told. None when it is to stop before.
    async fn begin(&self, stop: &CancellationToken) -> Option<Presented> {
        loop {
            let now = Timestamp::now();
            let begun = async {
                let (authority, reached) = self.tell(now).await?;
                tracing::info!(hosts = reached.hosts.join(" "), "the registry is ready");
                Presented::new(authority, reached.subject, now)
            };
            match stop.run_until_cancelled(begun).await? {
                Ok(presented) => return Some(presented),
                Err(error) => tracing::warn!("the registry cannot begin yet: {error:#}"),
            }
            stop.run_until_cancelled(tokio::time::sleep(RETRY)).await?;
        }
    }

    /// Keeps certificate, logins and what the cluster is told as they should be.
    async fn keep(&self, presented: &mut Presented, stop: &CancellationToken) {
        let (mut pause, ends) = (TICK, presented.ends());
        loop {
            self.upkeep.turn(ends());
            let turn = async {
                tokio::time::sleep(pause).await;
                self.turn(presented, Timestamp::now()).await
            };
            pause = match stop.run_until_cancelled(turn).await {
                None => return,
                Some(Ok(())) => TICK,
                Some(Err(error)) => {
                    tracing::warn!("the registry's credentials stay as they are: {error:#}");
                    RETRY
                }
            };
        }
    }

    async fn turn(&self, presented: &mut Presented, now: Timestamp) -> anyhow::Result<()> {
        let (authority, reached) = self.tell(now).await?;
        if presented.follow(authority, reached.subject, now)? {
            tracing::info!(
                hosts = reached.hosts.join(" "),
                "the registry shows a new certificate"
            );
        }
        Ok(())
    }

    /// Lets in whom it should, then tells the cluster how the registry is used. What is told counts already.
    async fn tell(&self, now: Timestamp) -> anyhow::Result<(Authority, Reached)> {
        let make = || State::new(now);
        let next = |present: &State| present.next(self.life, now);
        let state = self.state.current(make, next).await?;
        let reached = Reached::find(&self.client, &self.hosts, self.service.as_ref()).await?;
        self.store.set_access(state.access(now));
        deliver::trust(&self.client, &reached.hosts, &state.authority.bundle()).await?;
        deliver::logins(&self.client, &reached.hosts, state.logins()).await?;
        Ok((state.authority, reached))
    }
}
