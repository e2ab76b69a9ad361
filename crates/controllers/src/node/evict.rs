//! One round of evictions from one node.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, EvictParams, ListParams};
use kube::{Client, ResourceExt};
use model::drain::{Fate, Waiting, fate};

use crate::context::Context;
use crate::error::{Doing, Result, has_code};

/// Asks every pod that must go to go, through the eviction API, so that disruption budgets hold. Returns those that
/// are still there.
pub(super) async fn round(ctx: &Context, node: &Node) -> Result<Waiting> {
    let mut waiting = Waiting::default();
    for pod in pods(&ctx.client, &node.name_any()).await? {
        let why = match fate(&pod) {
            Fate::Stays => continue,
            Fate::Leaving => "is shutting down".to_owned(),
            Fate::Evict => match evict(&ctx.client, &pod).await {
                Evicted::Gone => continue,
                Evicted::Asked => "is shutting down".to_owned(),
                Evicted::Refused(reason) => reason,
            },
        };
        let namespace = pod.namespace().unwrap_or_default();
        waiting
            .pods
            .push((format!("{namespace}/{}", pod.name_any()), why));
    }
    Ok(waiting)
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
    Gone,
    Asked,
    Refused(String),
}

async fn evict(client: &Client, pod: &Pod) -> Evicted {
    let namespace = pod.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    match api.evict(&pod.name_any(), &EvictParams::default()).await {
        Ok(_) => Evicted::Asked,
        Err(error) if has_code(&error, 404) => Evicted::Gone,
        Err(kube::Error::Api(status)) if status.code == 429 => {
            Evicted::Refused(format!("may not be evicted yet: {}", status.message))
        }
        Err(error) => Evicted::Refused(format!(
            "cannot be evicted: {}",
            crate::error::chain(&error)
        )),
    }
}
