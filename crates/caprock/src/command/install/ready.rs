//! Waits until the workloads of an installation run, and says what keeps them.

use std::time::Duration;

use anyhow::anyhow;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::time::Instant;

use super::SYSTEM;
use super::objects::name;
use crate::exit::{Failure, refused};
use crate::output;

const LOOK: Duration = Duration::from_secs(1);

/// Waits until every workload among `objects` runs as it should, or until `deadline`.
pub(super) async fn wait(
    client: &Client,
    objects: &[Value],
    deadline: Instant,
) -> Result<(), Failure> {
    for object in objects {
        let mut told = String::new();
        while let Some(waits) = waits_for(client, object).await? {
            if waits != told {
                output::words(&format!("{}: {waits}\n", name(object)));
                told = waits;
            }
            if Instant::now() >= deadline {
                let pods = troubles(client).await?;
                let problem = anyhow!("{} is not ready: {told}{pods}", name(object));
                return Err(refused(problem).hint(format!(
                    "`kubectl -n {SYSTEM} describe pods` says more; `caprock install` again goes on"
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// What a workload waits for; nothing when it runs as it should, or is no workload.
async fn waits_for(client: &Client, object: &Value) -> Result<Option<String>, Failure> {
    let key = object["metadata"]["name"].as_str().unwrap_or_default();
    let status = match object["kind"].as_str() {
        Some("Deployment") => {
            let found = Api::<Deployment>::namespaced(client.clone(), SYSTEM)
                .get(key)
                .await?;
            let status = found.status.unwrap_or_default();
            Progress {
                seen: status.observed_generation >= found.metadata.generation,
                wanted: found.spec.and_then(|spec| spec.replicas).unwrap_or(1),
                new: status.updated_replicas.unwrap_or(0),
                former: status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
            }
        }
        Some("StatefulSet") => {
            let found = Api::<StatefulSet>::namespaced(client.clone(), SYSTEM)
                .get(key)
                .await?;
            let status = found.status.unwrap_or_default();
            let wanted = found.spec.and_then(|spec| spec.replicas).unwrap_or(1);
            Progress {
                seen: status.observed_generation >= found.metadata.generation,
                wanted,
                // Once all pods are new, the count of new ones is no longer kept.
                new: match status.current_revision == status.update_revision {
                    true => wanted,
                    false => status.updated_replicas.unwrap_or(0),
                },
                former: 0,
                available: status.available_replicas.unwrap_or(0),
            }
        }
        Some("DaemonSet") => {
            let found = Api::<DaemonSet>::namespaced(client.clone(), SYSTEM)
                .get(key)
                .await?;
            let status = found.status.unwrap_or_default();
            Progress {
                seen: status.observed_generation >= found.metadata.generation,
                wanted: status.desired_number_scheduled,
                new: status.updated_number_scheduled.unwrap_or(0),
                former: 0,
                available: status.number_available.unwrap_or(0),
            }
        }
        _ => return Ok(None),
    };
    Ok(status.waits_for())
}

/// What the three kinds of workloads say alike.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// The cluster has looked at the newest version.
    seen: bool,
    wanted: i32,
    new: i32,
    /// Pods of an earlier version beside the new ones. A Deployment counts them as available, so that new pods which
    /// have not started yet would pass for ready.
    former: i32,
    available: i32,
}

impl Progress {
    fn waits_for(self) -> Option<String> {
        if !self.seen {
            return Some("the cluster has not looked at it yet".to_owned());
        }
        let Progress {
            wanted,
            new,
            former,
            available,
            ..
        } = self;
        (new < wanted || former > 0 || available < wanted)
            .then(|| format!("{available} of {wanted} pods available, {new} of this version"))
    }
}

/// Why pods do not start, in the kubelets' words.
async fn troubles(client: &Client) -> Result<String, Failure> {
    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM);
    let pods = pods.list(&ListParams::default()).await?;
    let mut text = String::new();
    for pod in &pods {
        let states = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        for waiting in states.filter_map(|status| status.state.as_ref()?.waiting.as_ref()) {
            let reason = waiting.reason.as_deref().unwrap_or("waits");
            let message = waiting.message.as_deref().unwrap_or_default();
            text.push_str(&format!("\n  pod `{}`: {reason} {message}", pod.name_any()));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_ready_when_all_of_it_is_new_and_available() {
        let done = Progress {
            seen: true,
            wanted: 2,
            new: 2,
            former: 0,
            available: 2,
        };
        assert_eq!(done.waits_for(), None);
        for waits in [
            Progress {
                seen: false,
                ..done
            },
            Progress { new: 1, ..done },
            Progress { former: 1, ..done },
            Progress {
                available: 1,
                ..done
            },
        ] {
            assert!(waits.waits_for().is_some(), "{waits:?}");
        }
        // No node has the label yet, so no agent is wanted.
        let nobody = Progress {
            seen: true,
            wanted: 0,
            new: 0,
            former: 0,
            available: 0,
        };
        assert_eq!(nobody.waits_for(), None);
    }
}
