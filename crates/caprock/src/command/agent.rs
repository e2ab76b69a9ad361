//! `caprock agent`: one node's agent, its boot step, and the import of a machine's first image.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::credentials::{CredentialError, Credentials, Obtained, Pod};
use agent::os::ostree::Source;
use agent::{Acts, AgentConfig, Paths};
use anyhow::anyhow;
use jiff::Timestamp;
use tokio::sync::watch;

use super::registry::{self, Place};
use crate::cli;
use crate::client;
use crate::exit::{Failure, refused};
use crate::host::{host_name, run_until_stopped};
use crate::host_root;
use crate::ownership::{Part, Standby};
use crate::telemetry::Telemetry;

/// Until the node's credential is asked for again: the controllers make its account within a moment.
const UNTIL_ASKED_AGAIN: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: cli::Agent) -> Result<(), Failure> {
    if args.complete_boot {
        return Ok(agent::complete_boot(Paths::default()).await?);
    }
    if let Some(reason) = args.take_back {
        return match agent::take_back(Paths::default(), reason).await? {
            true => Ok(()),
            false => Err(refused(anyhow!(
                "the running deployment is not on trial, or there is none before it"
            ))),
        };
    }
    if args.finalize {
        return Ok(agent::finalize(Paths::default()).await?);
    }
    let paths = Paths::default();
    let node_name = match args.node_name {
        Some(name) => name,
        None => host_name()?,
    };
    let pod = match (&args.bootstrap_kubeconfig, &args.cluster.kubeconfig) {
        (None, None) => Pod::found()?,
        _ => None,
    };
    let own = Credentials::new(&paths.state_dir, &node_name);
    let (mut cluster, mut credentials) = (args.cluster.clone(), None);
    if let Some(given) = args.bootstrap_kubeconfig {
        if args.first_boot {
            return Ok(agent::first_boot(paths, own, given).await?);
        }
        cluster.kubeconfig = Some(match own.obtain(&given, Timestamp::now()).await? {
            Obtained::AsGiven => given,
            Obtained::Had | Obtained::Joined { .. } | Obtained::Exchanged => {
                credentials = Some(own.clone());
                own.kubeconfig()
            }
        });
    }
    let mut shown = Telemetry::new();
    let telemetry = agent::Telemetry::default();
    let standby = Standby::default();
    shown.agent(&telemetry, &standby);
    let mut config = AgentConfig {
        node_name,
        register: args
            .register_node
            .then(|| labels(&args.node_labels))
            .transpose()?,
        registry_ca: client::authority(&cluster)?,
        credentials,
        backend: args.host_backend,
        bytes_per_second: args.pull_bytes_per_second,
        paths,
        telemetry,
        ours: None,
    };
    let mut client = match &pod {
        Some(_) => None,
        None => Some(client::counted(&cluster, &shown.requests()).await?),
    };
    let requests = shown.requests();
    let shown = shown.listen(args.monitoring.metrics_listen).await?;
    // What the flags name is the container's; from here on everything is the host's.
    if let Some(root) = &args.host_root {
        host_root::enter(root)?;
    }
    run_until_stopped(|stop| {
        shown.during(async move {
            if let Some(pod) = pod {
                let (state_dir, node) = (&config.paths.state_dir, &config.node_name);
                let own = Credentials::in_pod(state_dir, node, pod.clone());
                match stop.run_until_cancelled(exchange(&own, &pod)).await {
                    None => return Ok(()),
                    Some(exchanged) => exchanged?,
                }
                let text = std::fs::read_to_string(own.kubeconfig())?;
                client = Some(client::client_trusting(&text, &own.authorities(), &requests).await?);
                config.credentials = Some(own);
            }
            let client = client.expect("it is made before when there is no pod");
            // Thousands of agents do not each write an event.
            let part = Part::new(client.clone(), &standby, None);
            let (tell, ours) = watch::channel(Acts::Other);
            config.ours = Some(ours);
            tokio::select! {
                ended = agent::run(client, config, stop) => Ok::<(), anyhow::Error>(ended?),
                never = part.follow(&tell) => match never {},
            }
        })
    })
    .await
}

/// Exchanges the pod's token for one of the node's account. A node that no pool has yet has no account.
async fn exchange(own: &Credentials, pod: &Pod) -> Result<(), CredentialError> {
    loop {
        match own.exchange(pod, Timestamp::now()).await {
            Err(error @ (CredentialError::Refused { .. } | CredentialError::Unreachable(_))) => {
                tracing::warn!(
                    "waiting for a credential of the node: {:#}",
                    anyhow::Error::from(error)
                );
                tokio::time::sleep(UNTIL_ASKED_AGAIN).await;
            }
            other => return other,
        }
    }
}

/// `caprock node import`.
pub(crate) async fn import(args: &cli::NodeImport) -> Result<(), Failure> {
    let source = match Place::parse(&args.image)? {
        Place::Layout { dir, tag } => Source::Layout { dir, tag },
        Place::Registry(reference) => Source::Registry {
            client: registry::client(&args.registry, &[&reference])?,
            reference,
        },
    };
    agent::install(
        args.sysroot.clone(),
        args.stateroot.clone(),
        source,
        args.karg.clone(),
    )
    .await?;
    Ok(())
}

fn labels(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    given
        .iter()
        .map(|label| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(refused(anyhow!(
                "`--node-labels {label}`: expected `KEY=VALUE`, where VALUE may be empty"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_label_may_have_an_empty_value() {
        let labels = labels(&["node-role.kubernetes.io/worker=".to_owned()]).unwrap();
        assert_eq!(labels["node-role.kubernetes.io/worker"], "");
        assert!(super::labels(&["worker".to_owned()]).is_err());
    }
}
