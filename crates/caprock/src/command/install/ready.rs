//! Waits until the workloads of an installation run, and says what keeps them.

use std::time::Duration;

use anyhow::anyhow;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::Value;
use tokio::time::Instant;

use super::SYSTEM;
use super::objects::name;
use super::pods::{self, Trouble};
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
            let troubles = troubles(client, object).await?;
            let waits = match troubles.first() {
                Some(trouble) => format!("{waits}; {trouble}"),
                None => waits,
            };
            if waits != told {
                output::words(&format!("{}: {waits}\n", name(object)));
                told = waits;
            }
            if Instant::now() >= deadline {
                return Err(overdue(object, &told, &troubles));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// What an installation ends with whose workload does not run in time.
fn overdue(object: &Value, waits: &str, troubles: &[Trouble]) -> Failure {
    let mut text = format!("{} is not ready: {waits}", name(object));
    for trouble in troubles {
        text.push_str(&format!("\n  {}", trouble.with_remedy()));
    }
    refused(anyhow!(text)).hint(format!(
        "`kubectl -n {SYSTEM} describe pods` says more; `caprock install` again goes on"
    ))
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

/// What keeps the pods of a workload, in the words of kubelets and scheduler; of a few of them, for the rest are alike.
async fn troubles(client: &Client, object: &Value) -> Result<Vec<Trouble>, Failure> {
    const TOLD: usize = 5;
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let labels = labels.into_iter().flatten();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM);
    let pods = pods
        .list(&ListParams::default().labels(&labels.join(",")))
        .await?;
    let events = Api::<Event>::namespaced(client.clone(), SYSTEM);
    let events = events.list(&ListParams::default()).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, key) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    let mut troubles = pods::troubles(&kind, &key, &pods.items, &events.items);
    troubles.truncate(TOLD);
    Ok(troubles)
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
