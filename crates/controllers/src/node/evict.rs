//! One round of evictions from one node.

use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Preconditions};
use kube::core::Status;
use kube::{Client, ResourceExt};
use model::drain::{Fate, Waiting, fate};

use crate::context::Context;
use crate::error::{Doing, Result, chain, has_code};

/// Evictions that are under way at once: a node may have hundreds of pods.
const AT_ONCE: usize = 16;
/// Until another try where a disruption budget stood in the way, as `kubectl drain` has it.
const REFUSED: Duration = Duration::from_secs(5);
/// Until another look when all pods that are left are shutting down.
const LEAVING: Duration = Duration::from_secs(1);

/// What a round left to wait for.
pub(super) struct Left {
    pub(super) waiting: Waiting,
    /// When to look again.
    pub(super) again: Duration,
}

/// Whether no pod of the node has to go.
pub(super) async fn is_done(ctx: &Context, node: &Node) -> Result<bool> {
    let pods = pods(&ctx.client, &node.name_any()).await?;
    Ok(pods.iter().all(|pod| fate(pod) == Fate::Stays))
}

/// Asks every pod that must go to go, through the eviction API, so that disruption budgets hold. Returns those that
/// are still there; none when all have gone.
pub(super) async fn round(ctx: &Context, node: &Node) -> Result<Option<Left>> {
    let pods = pods(&ctx.client, &node.name_any()).await?;
    let asked = stream::iter(pods)
        .map(|pod| async move {
            let evicted = match fate(&pod) {
                Fate::Stays => Evicted::Gone,
                Fate::Leaving => Evicted::Asked,
                Fate::Evict => evict(&ctx.client, &pod).await,
            };
            (pod, evicted)
        })
        // In order, so that what people are told does not change from round to round.
        .buffered(AT_ONCE);
    tokio::pin!(asked);
    let mut left = Left {
        waiting: Waiting::default(),
        again: LEAVING,
    };
    while let Some((pod, evicted)) = asked.next().await {
        let why = match evicted {
            Evicted::Gone => continue,
            Evicted::Asked => "is shutting down".to_owned(),
            Evicted::Refused(reason) => {
                left.again = REFUSED;
                reason
            }
        };
        let namespace = pod.namespace().unwrap_or_default();
        let pod = format!("{namespace}/{}", pod.name_any());
        left.waiting.pods.push((pod, why));
    }
    Ok((!left.waiting.pods.is_empty()).then_some(left))
}

async fn pods(client: &Client, node: &str) -> Result<Vec<Pod>> {
    let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    match Api::<Pod>::all(client.clone()).list(&of_node).await {
        Ok(list) => Ok(list.items),
        // An API without pods has none to evict.
        Err(error) if has_code(&error, 404) => Ok(Vec::new()),
        Err(error) => Err(error).doing(|| format!("list the pods of node `{node}`")),
    }
}

enum Evicted {
    /// Nothing to wait for.
    Gone,
    Asked,
    Refused(String),
}

async fn evict(client: &Client, pod: &Pod) -> Evicted {
    let namespace = pod.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    match api.evict(&pod.name_any(), &EvictParams::default()).await {
        Ok(_) => Evicted::Asked,
        // Either the pod has gone, or the API has no evictions and so no disruption budgets either.
        Err(error) if has_code(&error, 404) || has_code(&error, 405) => delete(&api, pod).await,
        Err(kube::Error::Api(status)) if status.code == 429 => {
            Evicted::Refused(format!("may not be evicted yet: {}", refusal(&status)))
        }
        Err(error) => Evicted::Refused(format!("cannot be evicted: {}", chain(&error))),
    }
}

/// Why an eviction was refused. Which disruption budget stands in the way is in the causes.
fn refusal(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut words = vec![status.message.trim_end_matches('.').to_owned()];
    words.extend(causes.map(|cause| cause.message.trim_end_matches('.').to_owned()));
    words.retain(|word| !word.is_empty());
    words.dedup();
    words.join(", ")
}

async fn delete(api: &Api<Pod>, pod: &Pod) -> Evicted {
    let this_one = DeleteParams::default().preconditions(Preconditions {
        uid: pod.uid(),
        resource_version: None,
    });
    match api.delete(&pod.name_any(), &this_one).await {
        Ok(_) => Evicted::Asked,
        Err(error) if has_code(&error, 404) || has_code(&error, 409) => Evicted::Gone,
        Err(error) => Evicted::Refused(format!("cannot be deleted: {}", chain(&error))),
    }
}
