//! Tells the cluster what the node has and what the agent is doing: Node annotations, MachineConfigNode status, events.
//! Nothing is written that is already there.

use std::sync::Mutex;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use model::api::{
    MachineConfigNode, MachineConfigNodeStatus, NOT_YET_SET, NodeConfigImageStatus,
    NodeConfigVersionStatus,
};
use model::condition::{self, NodeConditionType, NodeReason, Status};
use model::file_secret::{SecretKey, SecretVersions, Value, Values, to_annotation, versions};
use model::keys;
use model::node::{AgentState, Target, annotation};
use model::skew;
use model::update::{Plan, Step};
use serde_json::{Map, Value as Json, json};

use crate::error::{AgentError, is_not_found};
use crate::progress::{self, Doing};

/// Events about nodes live here, by Kubernetes' own rule.
const EVENT_NAMESPACE: &str = "default";
/// Longest message of an event, in bytes, by Kubernetes' own rule.
const MAX_EVENT_BYTES: usize = 1024;

/// What a Node says of itself besides what its agent does.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// What the running deployment was configured with.
    pub(crate) has: Option<Target>,
    /// Its reboots, as the annotation has them.
    pub(crate) reboots: Option<&'a str>,
    /// Versions of the Secrets that files come from.
    pub(crate) secrets: &'a Secrets,
}

/// Versions of the Secrets that a node's files come from.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// Those whose values the files have.
    pub(crate) has: SecretVersions,
    /// Those whose values wait for the next update.
    pub(crate) held_back: SecretVersions,
}

impl Secrets {
    /// What there is to tell: of what runs, what the next configuration is to have, and what was given.
    pub(crate) fn of(current: &Values, next: &Values, given: &Values) -> Self {
        let versions = |values: &Values| versions(values).into_iter();
        // Another version of a Secret may hold the same value.
        let same = |from: &SecretKey| {
            let now = current.get(from).map(|value| &value.bytes);
            now.is_some() && now == given.get(from).map(|value| &value.bytes)
        };
        let waits = |(from, value): &(&SecretKey, &Value)| {
            next.get(*from)
                .is_some_and(|next| next.bytes != value.bytes)
        };
        let held: Values = given
            .iter()
            .filter(waits)
            .map(|(from, value)| (from.clone(), value.clone()))
            .collect();
        Self {
            has: versions(current)
                .chain(versions(given).filter(|(from, _)| same(from)))
                .collect(),
            held_back: versions(&held).collect(),
        }
    }
}

/// Writes what the agent says.
#[derive(Debug)]
pub(crate) struct Reporter {
    nodes: Api<Node>,
    progress: Api<MachineConfigNode>,
    events: Api<Event>,
    /// What was told last, so that it is told once.
    told: Mutex<String>,
}

impl Reporter {
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            nodes: Api::all(client.clone()),
            progress: Api::all(client.clone()),
            events: Api::namespaced(client.clone(), EVENT_NAMESPACE),
            told: Mutex::default(),
        }
    }

    /// Brings annotations and status in line with what is seen and done.
    ///
    /// # Errors
    /// When the API cannot be written to.
    pub(crate) async fn report(
        &self,
        node: &Node,
        seen: Option<&MachineConfigNode>,
        told: Told<'_>,
        plan: &Plan,
        doing: &Doing,
    ) -> Result<(), AgentError> {
        // The annotation last: whoever waits for it finds status and event behind it.
        if let Some(progress) = seen {
            self.set_status(progress, told.has.as_ref(), plan, doing)
                .await?;
        }
        self.ask(node, told, plan, doing).await
    }

    /// Only what the node controller answers, with what the Node says besides.
    ///
    /// # Errors
    /// When the API cannot be written to.
    pub(crate) async fn ask(
        &self,
        node: &Node,
        told: Told<'_>,
        plan: &Plan,
        doing: &Doing,
    ) -> Result<(), AgentError> {
        self.tell(node, plan, doing).await;
        let mut wanted = annotations(told.has.as_ref(), plan, doing);
        // A ledger that was lost takes nothing away of what was told before.
        let reboots = told.reboots.map(str::to_owned);
        wanted.extend(reboots.map(|reboots| (keys::REBOOTS, Some(reboots))));
        let Secrets { has, held_back } = told.secrets;
        wanted.push((keys::FILE_SECRETS, to_annotation(has)));
        wanted.push((keys::HELD_BACK, to_annotation(held_back)));
        self.annotate(node, &wanted).await
    }

    /// Says that the agent cannot even find out what to do. What the node has is left as it was reported last.
    ///
    /// # Errors
    /// When the API cannot be written to.
    pub(crate) async fn fail(
        &self,
        node: &Node,
        seen: Option<&MachineConfigNode>,
        reason: &str,
    ) -> Result<(), AgentError> {
        if let Some(seen) = seen {
            let before = seen.status.clone().unwrap_or_default();
            let mut conditions = before.conditions.clone();
            let (kind, why) = (NodeConditionType::NodeDegraded, NodeReason::ApplyFailed);
            condition::set(
                &mut conditions,
                kind,
                Status::True,
                why,
                reason,
                Timestamp::now(),
            );
            if conditions != before.conditions {
                self.patch_status(seen, json!({"status": {"conditions": conditions}}))
                    .await?;
            }
        }
        self.publish(node, "Warning", "Degraded", reason.to_owned())
            .await;
        let wanted = [
            (keys::STATE, Some(AgentState::Degraded.as_str().to_owned())),
            (
                keys::REASON,
                Some(shortened(reason, keys::MAX_REASON_BYTES)),
            ),
        ];
        self.annotate(node, &wanted).await
    }

    async fn annotate(
        &self,
        node: &Node,
        wanted: &[(&str, Option<String>)],
    ) -> Result<(), AgentError> {
        let differs =
            |(key, value): &&(&str, Option<String>)| annotation(node, key) != value.as_deref();
        let mut changes: Map<String, Json> = wanted
            .iter()
            .filter(differs)
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        let done = |(key, value): &(&str, Option<String>)| {
            *key == keys::STATE && value.as_deref() == Some(AgentState::Done.as_str())
        };
        let moves = [keys::STATE, keys::CURRENT_CONFIG, keys::CURRENT_IMAGE];
        if wanted.iter().any(done) && moves.iter().any(|key| changes.contains_key(*key)) {
            changes.insert(keys::DONE_SINCE.to_owned(), json!(Timestamp::now()));
        }
        let patch = json!({"metadata": {"annotations": changes}});
        let patched = self
            .nodes
            .patch(
                &node.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await;
        patched.map(drop).map_err(AgentError::api(format!(
            "annotate Node `{}`",
            node.name_any()
        )))
    }

    async fn set_status(
        &self,
        seen: &MachineConfigNode,
        has: Option<&Target>,
        plan: &Plan,
        doing: &Doing,
    ) -> Result<(), AgentError> {
        let before = seen.status.clone().unwrap_or_default();
        let status = status(
            &before,
            seen.metadata.generation,
            has,
            plan,
            doing,
            Timestamp::now(),
        );
        if status == before {
            return Ok(());
        }
        let mut patch = json!({"status": status});
        // A merge patch takes away only what it names.
        patch["status"]["configImage"] = match &status.config_image {
            Some(images) => {
                json!({"currentImage": images.current_image, "desiredImage": images.desired_image})
            }
            None => Json::Null,
        };
        self.patch_status(seen, patch).await
    }

    async fn patch_status(&self, seen: &MachineConfigNode, patch: Json) -> Result<(), AgentError> {
        let name = seen.name_any();
        match self
            .progress
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            // Its controller will make it anew.
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(drop).map_err(AgentError::api(format!(
                "report on MachineConfigNode `{name}`"
            ))),
        }
    }

    /// An event, for what people want to know of.
    pub(crate) async fn tell(&self, node: &Node, plan: &Plan, doing: &Doing) {
        if let Some((kind, reason, message)) = turn(plan, doing) {
            self.publish(node, kind, reason, message).await;
        }
    }

    /// Writes an event, once for each turn that people want to know of. One that cannot be written is logged: nothing
    /// depends on it.
    pub(crate) async fn publish(&self, node: &Node, kind: &str, reason: &str, message: String) {
        let text = format!("{reason} {message}");
        {
            let mut told = self
                .told
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if *told == text {
                return;
            }
            *told = text;
        }
        match kind {
            "Warning" => tracing::warn!(reason, "{message}"),
            _ => tracing::info!(reason, "{message}"),
        }
        let now = Timestamp::now();
        let name = node.name_any();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(EVENT_NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(name.clone()),
                uid: node.uid(),
                ..ObjectReference::default()
            },
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(shortened(&message, MAX_EVENT_BYTES)),
            source: Some(EventSource {
                component: Some("caprock-agent".to_owned()),
                host: Some(name),
            }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        if let Err(error) = self.events.create(&PostParams::default(), &event).await {
            tracing::warn!(%error, reason, "cannot write an event");
        }
    }
}

/// What the Node's annotations should say.
fn annotations(
    has: Option<&Target>,
    plan: &Plan,
    doing: &Doing,
) -> Vec<(&'static str, Option<String>)> {
    let (state, reason) = match doing {
        Doing::Settled | Doing::WaitingForTarget => (AgentState::Done, None),
        Doing::Step(_) | Doing::Fetching { .. } if plan.prefetches() => (AgentState::Done, None),
        Doing::Step(_) | Doing::Waiting { .. } | Doing::Fetching { .. } => {
            (AgentState::Working, None)
        }
        Doing::Failed { reason, .. } | Doing::Drifted { reason } => (
            AgentState::Degraded,
            Some(shortened(reason, keys::MAX_REASON_BYTES)),
        ),
    };
    let mut wanted = vec![
        (keys::REASON, reason),
        (keys::VERSION, Some(skew::VERSION.to_owned())),
    ];
    // Without any configuration there is nothing to be done with.
    if plan.target.is_some() || has.is_some() {
        wanted.push((keys::STATE, Some(state.as_str().to_owned())));
        wanted.push((keys::CURRENT_CONFIG, has.map(|has| has.config.clone())));
        wanted.push((keys::CURRENT_IMAGE, has.and_then(|has| has.image.clone())));
    }
    // Also of a node that is stuck: it waits in service.
    if let Some(Step::Drain { request, .. } | Step::Uncordon { request, .. }) = plan.steps.first() {
        wanted.push((keys::DESIRED_DRAIN, Some(request.clone())));
    }
    wanted
}

fn status(
    before: &MachineConfigNodeStatus,
    generation: Option<i64>,
    has: Option<&Target>,
    plan: &Plan,
    doing: &Doing,
    now: Timestamp,
) -> MachineConfigNodeStatus {
    let mut status = before.clone();
    status.observed_generation = generation.or(before.observed_generation);
    let config = |target: Option<&Target>| target.map(|target| target.config.clone());
    let image = |target: Option<&Target>| target.and_then(|target| target.image.clone());
    status.config_version = Some(NodeConfigVersionStatus {
        current: config(has).unwrap_or_default(),
        desired: config(plan.target.as_ref()).unwrap_or_else(|| NOT_YET_SET.to_owned()),
    });
    let images = NodeConfigImageStatus {
        current_image: image(has),
        desired_image: image(plan.target.as_ref()),
    };
    status.config_image = (images != NodeConfigImageStatus::default()).then_some(images);
    progress::set(&mut status.conditions, plan, doing, now);
    status
}

fn turn(plan: &Plan, doing: &Doing) -> Option<(&'static str, &'static str, String)> {
    let target = plan
        .target
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let normal = |reason, message| Some(("Normal", reason, message));
    match doing {
        Doing::WaitingForTarget | Doing::Waiting { .. } | Doing::Fetching { .. } => None,
        Doing::Settled => normal("Updated", format!("runs {target}")),
        Doing::Step(Step::Pull { image }) if plan.prefetches() => normal(
            "Prefetching",
            format!("pulls `{image}` ahead of the roll-out"),
        ),
        Doing::Step(Step::Pull { .. }) => normal("Pulling", plan.to_string()),
        Doing::Step(step @ Step::Drain { asked: false, .. }) => {
            normal("AskedForDrain", format!("{step}, for {target}"))
        }
        Doing::Step(step @ (Step::Deploy | Step::Apply { .. })) => {
            normal("Applying", format!("{step}: {plan}"))
        }
        Doing::Step(Step::Reboot | Step::SoftReboot) => {
            normal("Rebooting", format!("reboots into {target}: {plan}"))
        }
        Doing::Step(step @ Step::Discard) => normal("Discarding", format!("{step}, for {target}")),
        Doing::Step(Step::Verify) => normal("Verifying", format!("verifies {target}")),
        Doing::Step(Step::Drain { asked: true, .. } | Step::Uncordon { .. }) => None,
        Doing::Failed { reason, .. } => Some(("Warning", "Degraded", reason.clone())),
        Doing::Drifted { reason } => Some(("Warning", "ConfigDriftDetected", reason.clone())),
    }
}

fn shortened(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}
