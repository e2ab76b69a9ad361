//! Events are kept for an hour after they were last seen.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::remove;
use crate::cluster::Cluster;
use crate::status::ApiError;
use crate::store::Scope;

/// How often old events are looked for.
pub(super) const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// As in Kubernetes.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// Events kept at most; the oldest go first. A client in a loop must not fill the disk.
const MAX_EVENTS: usize = 20_000;

pub(super) async fn expire(cluster: &Cluster) -> Result<(), ApiError> {
    let scope = Scope::Resource("/events".into());
    let mut events = cluster.store.list(&scope, None, None, usize::MAX)?.items;
    events.sort_by_key(|event| event.revision);
    let surplus = events.len().saturating_sub(MAX_EVENTS);
    let now = Timestamp::now();
    for (index, event) in events.iter().enumerate() {
        if index < surplus || is_old(&event.value(), now) {
            remove(cluster, event, None).await?;
        }
    }
    Ok(())
}

fn is_old(event: &Value, now: Timestamp) -> bool {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    let last = times
        .into_iter()
        .filter_map(|time| time.as_str()?.parse::<Timestamp>().ok())
        .max();
    last.is_none_or(|last| now.duration_since(last) > LIFETIME)
}
