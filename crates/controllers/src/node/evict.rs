//! One round of evictions from one node.
//!
//! Evictions carry no resource version, so a round fences them otherwise: it lists the pods, then reads the Node afresh and
//! goes on only while the same request is open, and evicts each pod by its uid. A pod that was listed before that reading
//! was there during the drain; one that came after the drain has another uid. So a controller that lost its lead without
//! knowing, however long it slept between two of its steps, evicts no pod that the drain was not for.

use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Preconditions};
use kube::core::Status;
use kube::{Client, ResourceExt};
use model::drain::{self, Cordon, Fate, Request, Rules, Waiting, fate};

use crate::context::Context;
use crate::error::{Doing, Result, chain, has_code};
use crate::telemetry::nodes::Eviction;

/// Evictions that are under way at once: a node may have hundreds of pods.
const AT_ONCE: usize = 16;
/// First and longest wait until another try where something stood in the way. `kubectl drain` has the first for ever, but
/// drains one node.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Until another look when all pods that are left are shutting down.
const LEAVING: Duration = Duration::from_secs(1);

/// How a round ended.
pub(super) enum Round {
    /// No pod is left that has to go.
    Done,
    /// The request is not open any more, or its cordon was taken away: nobody was evicted.
    Outdated,
    Left(Left),
}

/// What a round left to wait for.
pub(super) struct Left {
    pub(super) waiting: Waiting,
    /// When to look again.
    pub(super) again: Duration,
}

/// Whether no pod of the node has to go.
pub(super) async fn is_done(ctx: &Context, node: &Node, rules: &Rules) -> Result<bool> {
    let pods = pods(&ctx.client, &node.name_any()).await?;
    let now = Timestamp::now();
    Ok(pods.iter().all(|pod| fate(pod, rules, now) == Fate::Stays))
}

/// Asks every pod that must go to go, through the eviction API, so that disruption budgets hold. Where the rules forbid one
/// eviction nobody is evicted, as with `kubectl drain`.
pub(super) async fn round(
    ctx: &Context,
    node: &Node,
    request: &Request,
    rules: &Rules,
    since: Option<Timestamp>,
) -> Result<Round> {
    let name = node.name_any();
    let now = Timestamp::now();
    let pods = pods(&ctx.client, &name).await?;
    let pods: Vec<(Pod, Fate)> = pods
        .into_iter()
        .map(|pod| {
            let fate = fate(&pod, rules, now);
            (pod, fate)
        })
        .filter(|(_, fate)| *fate != Fate::Stays)
        .collect();
    if pods.is_empty() {
        return Ok(Round::Done);
    }
    if !is_open(&ctx.client, &name, request).await? {
        return Ok(Round::Outdated);
    }
    let forbidden = pods.iter().any(|(_, fate)| matches!(fate, Fate::Kept(_)));
    let asked = stream::iter(pods)
        .map(|(pod, fate)| async move {
            let evicted = match fate {
                Fate::Stays => Evicted::Gone,
                Fate::Leaving(why) => Evicted::Leaves(why),
                Fate::Kept(why) => Evicted::Refused(why),
                Fate::Evict if forbidden => {
                    Evicted::Refused("is not evicted before the others may be".to_owned())
                }
                Fate::Evict => {
                    let evicted = evict(&ctx.client, &pod, rules).await;
                    ctx.telemetry.nodes().eviction(evicted.counts_as());
                    evicted
                }
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
        let (why, wait) = match evicted {
            Evicted::Gone => continue,
            Evicted::Leaves(why) => (why, LEAVING),
            Evicted::Refused(why) => (why, back_off(since, now)),
            Evicted::Later(wait) => ("waits for an API server that is busy".to_owned(), wait),
        };
        left.again = left.again.max(wait);
        let namespace = pod.namespace().unwrap_or_default();
        let pod = format!("{namespace}/{}", pod.name_any());
        left.waiting.pods.push((pod, why));
    }
    Ok(match left.waiting.pods.is_empty() {
        true => Round::Done,
        false => Round::Left(left),
    })
}

/// The longer a drain has taken, the longer until its next try.
fn back_off(since: Option<Timestamp>, now: Timestamp) -> Duration {
    let taken = since.map_or(Duration::ZERO, |since| {
        Duration::try_from(now.duration_since(since)).unwrap_or_default()
    });
    (taken / 6).clamp(REFUSED.0, REFUSED.1)
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

/// Whether the API says now that the request is to be carried out, and that no pod comes meanwhile.
async fn is_open(client: &Client, node: &str, request: &Request) -> Result<bool> {
    let fresh = Api::<Node>::all(client.clone())
        .get(node)
        .await
        .doing(|| format!("read Node `{node}`"))?;
    let open = Request::open(&fresh);
    let same = matches!(&open, Ok(Some(open)) if open == request);
    Ok(same && drain::cordon(&fresh, request) == Cordon::Keep)
}

#[derive(Debug, PartialEq, Eq)]
enum Evicted {
    /// Nothing to wait for.
    Gone,
    /// It goes; with what is known of that.
    Leaves(String),
    /// It may not go yet, for this reason.
    Refused(String),
    /// The API server has too much to do.
    Later(Duration),
}

impl Evicted {
    fn counts_as(&self) -> Eviction {
        match self {
            Evicted::Gone | Evicted::Leaves(_) => Eviction::Granted,
            Evicted::Refused(_) => Eviction::Refused,
            Evicted::Later(_) => Eviction::Throttled,
        }
    }
}

async fn evict(client: &Client, pod: &Pod, rules: &Rules) -> Evicted {
    let namespace = pod.namespace().unwrap_or_default();
    let options = DeleteParams {
        grace_period_seconds: rules.grace_period_seconds,
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let params = EvictParams {
        delete_options: Some(options),
        ..EvictParams::default()
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let refused = match api.evict(&pod.name_any(), &params).await {
        Ok(_) => return Evicted::Leaves("is shutting down".to_owned()),
        Err(kube::Error::Api(status)) => status,
        Err(error) => return Evicted::Refused(format!("cannot be evicted: {}", chain(&error))),
    };
    answer(&refused, &namespace)
}

/// What a refusal means.
fn answer(status: &Status, namespace: &str) -> Evicted {
    let details = status.details.as_ref();
    let causes = || details.into_iter().flat_map(|details| &details.causes);
    let caused_by = |reason: &str| causes().any(|cause| cause.reason == reason);
    match status.code {
        404 => Evicted::Gone,
        // Another pod has its name by now; the next look tells whether it is on this node.
        409 => Evicted::Leaves("was replaced".to_owned()),
        429 if caused_by("DisruptionBudget") => {
            let budgets: Vec<&str> = causes()
                .filter(|cause| cause.reason == "DisruptionBudget")
                .map(|cause| cause.message.trim_end_matches('.'))
                .collect();
            Evicted::Refused(format!("may not be evicted yet: {}", budgets.join(", ")))
        }
        429 => {
            let asked = details.map_or(0, |details| details.retry_after_seconds);
            let asked = Duration::from_secs(asked.into());
            Evicted::Later(asked.clamp(REFUSED.0, REFUSED.1))
        }
        403 if caused_by("NamespaceTerminating") => Evicted::Leaves(format!(
            "is in namespace `{namespace}`, which is being deleted, and goes with it"
        )),
        _ => Evicted::Refused(format!(
            "cannot be evicted: {}",
            status.message.trim_end_matches('.')
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;

    /// Answers of a Kubernetes API server to evictions.
    #[test]
    fn what_the_api_says_of_an_eviction() {
        let check = |status: Value, expected| {
            let status: Status = serde_json::from_value(status).unwrap();
            assert_eq!(answer(&status, "shop"), expected);
        };
        let cause = |reason: &str, message: &str| json!({"causes": [{"reason": reason, "message": message}]});
        check(
            json!({"code": 404, "message": "pods \"web\" not found"}),
            Evicted::Gone,
        );
        let uid = "Operation cannot be fulfilled on pods \"web\": Precondition failed: UID in precondition: a, UID in object meta: b";
        check(
            json!({"code": 409, "message": uid}),
            Evicted::Leaves("was replaced".to_owned()),
        );
        let needs = "The disruption budget web needs 2 healthy pods and has 2 currently";
        check(
            json!({
                "code": 429,
                "message": "Cannot evict pod as it would violate the pod's disruption budget.",
                "details": cause("DisruptionBudget", needs),
            }),
            Evicted::Refused(format!("may not be evicted yet: {needs}")),
        );
        // Priority and fairness, which says nothing of budgets.
        check(
            json!({"code": 429, "message": "Too many requests", "details": {"retryAfterSeconds": 12}}),
            Evicted::Later(Duration::from_secs(12)),
        );
        let terminating = "pods \"web\" is forbidden: unable to create new content in namespace shop because it is being terminated";
        check(
            json!({"code": 403, "message": terminating, "details": cause("NamespaceTerminating", "namespace shop is being terminated")}),
            Evicted::Leaves(
                "is in namespace `shop`, which is being deleted, and goes with it".to_owned(),
            ),
        );
        let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        check(
            json!({"code": 500, "message": two}),
            Evicted::Refused(format!("cannot be evicted: {}", two.trim_end_matches('.'))),
        );
    }

    #[test]
    fn a_drain_that_takes_long_asks_less_often() {
        let now = Timestamp::now();
        let wait =
            |seconds| back_off(Some(now - SignedDuration::from_secs(seconds)), now).as_secs();
        assert_eq!([0, 30, 60, 120, 7200].map(wait), [5, 5, 10, 20, 30]);
        assert_eq!(back_off(None, now), REFUSED.0);
    }
}
