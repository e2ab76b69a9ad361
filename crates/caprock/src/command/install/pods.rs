//! Why a pod does not run: what its kubelet or the scheduler says of it, and what a person can do.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, PodStatus};
use kube::ResourceExt;

use super::SYSTEM;

/// Longest message that is repeated; a runtime's error may be a page.
const MAX_CHARS: usize = 400;

/// What keeps one pod, or a workload from having one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// `pod `NAME`` or what should have made it.
    subject: String,
    reason: String,
    message: String,
    remedy: String,
}

impl Trouble {
    fn new(subject: String, reason: &str, message: &str, remedy: String) -> Self {
        Trouble {
            subject,
            reason: one_line(reason),
            message: one_line(message),
            remedy,
        }
    }

    /// Also what to do about it.
    pub(super) fn with_remedy(&self) -> String {
        format!("{self}; {}", self.remedy)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)?;
        match self.message.as_str() {
            "" => Ok(()),
            message => write!(f, ": {message}"),
        }
    }
}

/// What keeps the pods of a workload, one for each pod and then for pods that could not even be made.
///
/// `pods` are those of the workload and `events` those of its namespace, in any order.
pub(super) fn troubles(kind: &str, workload: &str, pods: &[Pod], events: &[Event]) -> Vec<Trouble> {
    let of_pods = pods.iter().filter_map(|pod| of_pod(pod, events));
    let refused = latest(events.iter().filter(|event| {
        let maker = &event.involved_object;
        let name = maker.name.as_deref().unwrap_or_default();
        let is_maker = match maker.kind.as_deref() {
            // A Deployment's pods are made by a ReplicaSet, whose name ends in a digest of the template.
            Some("ReplicaSet") if kind == "Deployment" => {
                let digest = name.strip_prefix(workload).and_then(|rest| rest.strip_prefix('-'));
                digest.is_some_and(|digest| !digest.contains('-'))
            }
            Some(other) => other == kind && name == workload,
            None => false,
        };
        is_maker && matches!(event.reason.as_deref(), Some("FailedCreate" | "SuccessfulCreate"))
    }))
    .filter(|event| is_warning(event))
    .map(|event| {
        let message = event.message.as_deref().unwrap_or_default();
        let remedy = format!(
            "what refuses it is a quota, a Pod Security level or a webhook of namespace `{SYSTEM}`, and has to let it in"
        );
        Trouble::new(format!("{kind} `{workload}`"), "FailedCreate", message, remedy)
    });
    of_pods.chain(refused).collect()
}

fn of_pod(pod: &Pod, events: &[Event]) -> Option<Trouble> {
    let untold = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&untold);
    let condition = |name: &str| status.conditions.iter().flatten().find(|c| c.type_ == name);
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        return None;
    }
    let containers = || {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    };
    let waiting = containers().find_map(|container| Some((container, stuck(container)?)));
    let event = last_warning(pod, events);
    let unscheduled = condition("PodScheduled").filter(|scheduled| scheduled.status == "False");
    let told = |event: &Event| event.message.clone().unwrap_or_default();
    let (reason, message) = if let Some((container, (reason, message))) = waiting {
        // How a container ended says more than that it is started again later.
        let ended = container
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        let message = match (reason.as_str(), ended, event) {
            ("CrashLoopBackOff", Some(ended), _) => format!(
                "container `{}` ended with status {}, {} restarts",
                container.name, ended.exit_code, container.restart_count
            ),
            // What the kubelet waits for it says in a line; why, in the event before.
            ("ImagePullBackOff", _, Some(event)) => told(event),
            (_, _, Some(event)) if message.is_empty() => told(event),
            _ => message,
        };
        (reason, message)
    } else if let Some(scheduled) = unscheduled {
        let message = scheduled.message.clone().unwrap_or_default();
        ("FailedScheduling".to_owned(), message)
    } else {
        let event = event?;
        (event.reason.clone().unwrap_or_default(), told(event))
    };
    let name = pod.name_any();
    let remedy = remedy(&reason, pod);
    Some(Trouble::new(
        format!("pod `{name}`"),
        &reason,
        &message,
        remedy,
    ))
}

/// The reason and message of a container that cannot start; nothing while it is only on its way.
fn stuck(container: &ContainerStatus) -> Option<(String, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    let message = waiting.message.clone().unwrap_or_default();
    (!matches!(reason.as_str(), "ContainerCreating" | "PodInitializing"))
        .then_some((reason, message))
}

/// The newest warning of a pod that nothing has overcome since.
fn last_warning<'a>(pod: &Pod, events: &'a [Event]) -> Option<&'a Event> {
    // A StatefulSet's pods keep their names, so the name alone may be an earlier pod's.
    let own = || {
        events.iter().filter(|event| {
            let of = &event.involved_object;
            of.kind.as_deref() == Some("Pod")
                && of.uid == pod.metadata.uid
                && of.name == pod.metadata.name
        })
    };
    let newest = latest(own().filter(|event| {
        // "Error: ImagePullBackOff" repeats what the container's state says.
        let message = event.message.as_deref().unwrap_or_default();
        let repeats = message
            .strip_prefix("Error: ")
            .is_some_and(|rest| !rest.contains(' '));
        is_warning(event) && !repeats
    }))?;
    let went_on = latest(own().filter(|event| {
        let steps = ["Scheduled", "Pulling", "Pulled", "Created", "Started"];
        event
            .reason
            .as_deref()
            .is_some_and(|reason| steps.contains(&reason))
    }));
    // A pull that fails is begun again every few minutes, which overcomes nothing; the container's state tells of that.
    let overcome = went_on
        .is_some_and(|step| time(step) > time(newest) && step.reason.as_deref() != Some("Pulling"));
    (!overcome).then_some(newest)
}

fn is_warning(event: &Event) -> bool {
    event.type_.as_deref() == Some("Warning")
}

fn latest<'a>(events: impl Iterator<Item = &'a Event>) -> Option<&'a Event> {
    events.max_by_key(|event| time(event))
}

/// When an event happened last. Which field says so depends on who wrote it.
fn time(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let made = event
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0);
    series
        .map(|time| time.0)
        .or(last)
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(made)
}

fn remedy(reason: &str, pod: &Pod) -> String {
    let name = pod.name_any();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            "give an image that nodes can pull with `--image` or `--builder-image`, and the Secret of a registry that asks \
             for a password with `--image-pull-secret`"
                .to_owned()
        }
        "FailedScheduling" => {
            "give the cluster a node that fits, or take away what keeps the pod from it (a taint, requests, a volume claim \
             that no volume fits)"
                .to_owned()
        }
        "FailedMount" | "FailedAttachVolume" | "CreateContainerConfigError" => format!(
            "make the Secret, ConfigMap or volume that it names in namespace `{SYSTEM}`; the pod goes on by itself"
        ),
        "CrashLoopBackOff" => {
            format!("`kubectl -n {SYSTEM} logs {name} --previous` has its last words")
        }
        "CreateContainerError" | "RunContainerError" | "FailedCreatePodSandBox" => format!(
            "the container runtime of node `{}` has to be mended, or the pod deleted to start elsewhere",
            node.unwrap_or("?")
        ),
        _ => format!("`kubectl -n {SYSTEM} describe pod {name}` says more"),
    }
}

/// A message on one line, of bounded length and without what would steer a terminal.
fn one_line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    let line = words.join(" ").replace(char::is_control, "");
    match line.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "caprock-builder-0", "uid": "new"},
            "spec": {"nodeName": "worker-1", "containers": []},
            "status": status,
        }))
        .unwrap()
    }

    fn event(second: u32, kind: &str, reason: &str, message: &str) -> Event {
        about(
            json!({"kind": "Pod", "name": "caprock-builder-0", "uid": "new"}),
            second,
            kind,
            reason,
            message,
        )
    }

    fn about(object: Value, second: u32, kind: &str, reason: &str, message: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": format!("e{second}")},
            "involvedObject": object,
            "type": kind,
            "reason": reason,
            "message": message,
            "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        }))
        .unwrap()
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{
            "name": "caprock", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}},
        }]})
    }

    fn told(status: Value, events: &[Event]) -> Vec<String> {
        troubles("StatefulSet", "caprock-builder", &[pod(status)], events)
            .iter()
            .map(Trouble::with_remedy)
            .collect()
    }

    #[test]
    fn what_keeps_a_pod_is_told_with_its_reason_and_what_to_do() {
        let creating = || waiting("ContainerCreating", "");
        let mount = |second| {
            event(
                second,
                "Warning",
                "FailedMount",
                "MountVolume.SetUp failed: secret \"x\" not found",
            )
        };
        let pull = event(
            4,
            "Warning",
            "Failed",
            "Failed to pull image \"r/i:1\":\n 401 Unauthorized",
        );
        let again = event(5, "Warning", "Failed", "Error: ImagePullBackOff");
        let crashed = json!({"containerStatuses": [{
            "name": "caprock", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"exitCode": 2}},
        }]});
        let unscheduled = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available",
        }]});
        let cases = [
            told(creating(), &[mount(3), event(1, "Normal", "Scheduled", "")]),
            told(
                waiting("ImagePullBackOff", "Back-off pulling image \"r/i:1\""),
                &[again, pull],
            ),
            told(waiting("CreateContainerError", "no such file"), &[]),
            told(
                waiting("CreateContainerConfigError", "secret \"x\" not found"),
                &[],
            ),
            told(crashed, &[]),
            told(unscheduled, &[]),
            told(
                json!({"phase": "Running"}),
                &[event(
                    9,
                    "Warning",
                    "Unhealthy",
                    "Readiness probe failed: \u{1b}[31m500",
                )],
            ),
        ];
        insta::assert_snapshot!(cases.concat().join("\n"));
    }

    #[test]
    fn what_is_over_is_not_told() {
        let mount = |second| event(second, "Warning", "FailedMount", "not found");
        let creating = || waiting("ContainerCreating", "");
        assert!(told(creating(), &[]).is_empty(), "it is on its way");
        assert!(told(creating(), &[mount(3), event(4, "Normal", "Pulled", "")]).is_empty());
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        assert!(told(ready, &[mount(3)]).is_empty());
        let mut former = mount(3);
        former.involved_object.uid = Some("old".to_owned());
        assert!(
            told(creating(), &[former]).is_empty(),
            "a pod of the same name before it"
        );
    }

    #[test]
    fn pods_that_may_not_be_made_are_told_of_their_maker() {
        let refused = |second, name: &str, reason, kind| {
            let set = json!({"kind": "ReplicaSet", "name": name});
            about(
                set,
                second,
                kind,
                reason,
                "violates PodSecurity \"baseline\"",
            )
        };
        let of = |events: &[Event]| {
            let found = troubles("Deployment", "caprock-controller", &[], events);
            found.iter().map(Trouble::to_string).collect::<Vec<_>>()
        };
        let name = "caprock-controller-6d5f";
        let failed = || refused(1, name, "FailedCreate", "Warning");
        assert_eq!(
            of(&[failed()]),
            ["Deployment `caprock-controller`: FailedCreate: violates PodSecurity \"baseline\""]
        );
        assert!(of(&[failed(), refused(2, name, "SuccessfulCreate", "Normal")]).is_empty());
        assert!(
            of(&[refused(
                1,
                "caprock-controller-old-6d5f",
                "FailedCreate",
                "Warning"
            )])
            .is_empty()
        );
    }

    #[test]
    fn a_page_of_a_message_is_cut() {
        assert_eq!(one_line(&"ä ".repeat(1000)).chars().count(), MAX_CHARS + 1);
    }
}
