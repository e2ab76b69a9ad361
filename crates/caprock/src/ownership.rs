//! Keeps the long-running parts from acting where another operator does, and finds out where that is. The decision is
//! `model::ownership`'s.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::Acts;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use model::keys;
use model::ownership::{
    CLUSTER_OPERATOR, DAEMON_SET, DEPLOYMENTS, Evidence, Found, OPENSHIFT_GROUP, Owner,
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::output;

/// How often it is asked who acts, where that may change.
const EVERY: Duration = Duration::from_secs(30);

/// Whether a part stands by because another operator acts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standby(Arc<AtomicBool>);

impl Standby {
    pub(crate) fn holds(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A part that acts only where no other operator does.
#[derive(Clone)]
pub(crate) struct Part {
    client: Client,
    standby: Standby,
    /// The component that an event names as its source; none for a part that writes none.
    tells_as: Option<&'static str>,
    every: Duration,
}

/// What was found when a part began to act.
pub(crate) struct Ours {
    part: Part,
    /// Whether the cluster has the other operator's API, so that it may begin to act again.
    may_change: bool,
    /// The take-over since which Caprock acts, where it did not always.
    takeover: Option<String>,
}

impl Part {
    pub(crate) fn new(client: Client, standby: &Standby, tells_as: Option<&'static str>) -> Self {
        Self {
            client,
            standby: standby.clone(),
            tells_as,
            every: EVERY,
        }
    }

    /// Waits until no other operator acts. Says once why it waits.
    pub(crate) async fn until_ours(self) -> Ours {
        let mut said = String::new();
        loop {
            match look(&self.client).await {
                Ok(evidence) => match evidence.owner() {
                    Owner::Caprock => {
                        self.standby.0.store(false, Ordering::Relaxed);
                        let may_change = evidence.operator != Found::Absent;
                        return Ours {
                            part: self,
                            may_change,
                            takeover: evidence.taken_over.filter(|_| may_change),
                        };
                    }
                    Owner::Peer(why) if why == said => {}
                    Owner::Peer(why) => {
                        tracing::warn!("read-only: {why}");
                        self.standby.0.store(true, Ordering::Relaxed);
                        self.tell(&why).await;
                        said = why;
                    }
                },
                Err(error) => tracing::warn!(%error, "who acts on this cluster is not known yet"),
            }
            tokio::time::sleep(self.every).await;
        }
    }

    /// Tells whether Caprock acts, from when it is known, for as long as it runs: for a part that has something to do either way.
    pub(crate) async fn follow(self, tell: &watch::Sender<Acts>) -> Infallible {
        loop {
            let ours = self.clone().until_ours().await;
            tell.send_replace(Acts::Caprock {
                takeover: ours.takeover.clone(),
            });
            let why = ours.until_theirs().await;
            tracing::warn!("standing by: {why}");
            tell.send_replace(Acts::Other);
        }
    }

    /// An event about the other operator's ClusterOperator; one for each part, however often it starts.
    async fn tell(&self, why: &str) {
        let Some(component) = self.tells_as else {
            return;
        };
        let now = Time(jiff::Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{component}-is-read-only")),
                namespace: Some("default".to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(format!("{OPENSHIFT_GROUP}/v1")),
                kind: Some("ClusterOperator".to_owned()),
                name: Some(CLUSTER_OPERATOR.to_owned()),
                ..ObjectReference::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some("ReadOnly".to_owned()),
            message: Some(format!("{component} is read-only: {why}")),
            source: Some(EventSource {
                component: Some(component.to_owned()),
                host: None,
            }),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        match events.create(&PostParams::default(), &event).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => tracing::debug!(%error, "cannot write an event"),
            Ok(_) => {}
        }
    }
}

impl Ours {
    /// Acts until `stop`, or until the other operator acts again; the part is started again then, and stands by.
    pub(crate) async fn during<E, Acting>(
        self,
        stop: CancellationToken,
        act: impl FnOnce(CancellationToken) -> Acting,
    ) -> Result<(), E>
    where
        Acting: Future<Output = Result<(), E>>,
    {
        let term = stop.child_token();
        let acting = act(term.clone());
        tokio::pin!(acting);
        let why = tokio::select! {
            ended = &mut acting => return ended,
            why = self.until_theirs() => why,
        };
        tracing::warn!("stopping, to stand by: {why}");
        term.cancel();
        acting.await
    }

    async fn until_theirs(&self) -> String {
        if !self.may_change {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(self.part.every).await;
            match look(&self.part.client).await {
                Ok(evidence) => match evidence.owner() {
                    Owner::Peer(why) => return why,
                    Owner::Caprock if evidence.taken_over != self.takeover => {
                        return "the cluster was taken over anew".to_owned();
                    }
                    Owner::Caprock => {}
                },
                Err(error) => tracing::debug!(%error, "who acts on this cluster is not known now"),
            }
        }
    }
}

/// Says to whoever looks that another operator acts here, where that is so.
pub(crate) async fn say_read_only(client: &Client) -> kube::Result<()> {
    match look(client).await?.owner() {
        Owner::Peer(why) => output::words(&format!("read-only: {why}\n")),
        Owner::Caprock => {}
    }
    Ok(())
}

/// What the API tells about who acts. On a cluster that is not OpenShift this is one request, and needs no permission.
pub(crate) async fn look(client: &Client) -> kube::Result<Evidence> {
    let groups = client.list_api_groups().await?;
    if !groups
        .groups
        .iter()
        .any(|group| group.name == OPENSHIFT_GROUP)
    {
        return Ok(Evidence::default());
    }
    let operators = openshift(client, "ClusterOperator", "clusteroperators");
    let operator = match operators.get_opt(CLUSTER_OPERATOR).await {
        Ok(Some(_)) => Found::Present,
        Ok(None) => Found::Absent,
        Err(error) if is_forbidden(&error) => Found::Unknown,
        Err(error) => return Err(error),
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), keys::NAMESPACE);
    Ok(Evidence {
        operator,
        taken_over: allowed(maps.get_opt(keys::TAKEOVER).await)?
            .map(|marker| marker.uid().unwrap_or_default()),
        running: running(client).await?,
    })
}

/// Workloads of the other operator that run, as far as this account may know.
pub(crate) async fn running(client: &Client) -> kube::Result<Vec<String>> {
    let mut found = Vec::new();
    for name in DEPLOYMENTS {
        if let Some(deployment) = workload::<Deployment>(client, name).await? {
            let wanted = deployment.spec.and_then(|spec| spec.replicas);
            let has = deployment.status.and_then(|status| status.replicas);
            if wanted.unwrap_or(1) > 0 || has.unwrap_or(0) > 0 {
                found.push(format!("Deployment `{name}`"));
            }
        }
    }
    if let Some(daemon_set) = workload::<DaemonSet>(client, DAEMON_SET).await? {
        // No status yet: its pods are about to come.
        let status = daemon_set.status;
        let pods = status.map_or(1, |status| {
            status
                .desired_number_scheduled
                .max(status.current_number_scheduled)
        });
        if pods > 0 {
            found.push(format!("DaemonSet `{DAEMON_SET}`"));
        }
    }
    Ok(found)
}

async fn workload<K>(client: &Client, name: &str) -> kube::Result<Option<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), keys::NAMESPACE);
    allowed(api.get_opt(name).await)
}

/// A kind of OpenShift's configuration.
pub(crate) fn openshift(client: &Client, kind: &str, plural: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(OPENSHIFT_GROUP, "v1", kind);
    Api::all_with(
        client.clone(),
        &ApiResource::from_gvk_with_plural(&kind, plural),
    )
}

/// What this account may not read is not there for it.
fn allowed<T>(read: kube::Result<Option<T>>) -> kube::Result<Option<T>> {
    match read {
        Err(error) if is_forbidden(&error) => Ok(None),
        other => other,
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

#[cfg(test)]
mod tests;
