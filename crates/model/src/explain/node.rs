//! What a node is doing: from its Node, its MachineConfigNode, its pool and the pool's policy.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_core::ResourceExt;

use super::{Deadline, Explanation};
use crate::api::{MachineConfigNode, MachineConfigPool, RolloutPolicy};
use crate::condition::{self, NodeConditionType as Type, PoolConditionType};
use crate::deadline;
use crate::drain::{DRAIN_OVERDUE, DRAIN_SINCE, DRAIN_WAITS_FOR, LONG_DRAIN, Request};
use crate::file_secret::{SecretVersions, from_annotation};
use crate::health::DEFAULT_DEADLINE;
use crate::keys;
use crate::ledger;
use crate::node::{NodeView, Phase, annotation, is_kept_by_agent, is_kept_by_peer};
use crate::pool::Membership;
use crate::trial::GRACE;

/// What a node is explained from.
#[derive(Debug, Clone, Copy)]
pub struct NodeSeen<'a> {
    /// The Node.
    pub node: &'a Node,
    /// Its MachineConfigNode, once there is one.
    pub progress: Option<&'a MachineConfigNode>,
    /// Which pool it belongs to.
    pub membership: &'a Membership,
    /// That pool.
    pub pool: Option<&'a MachineConfigPool>,
    /// The pool's policy.
    pub policy: Option<&'a RolloutPolicy>,
    /// The Lease by which it shows that it lives.
    pub lease: Option<&'a Lease>,
    /// Whether its reboots are asked for.
    pub reboots: bool,
    /// Now.
    pub now: Timestamp,
}

/// Steps of an update in their order: the condition that is `Unknown` meanwhile, and what the step is called.
const STEPS: [(Type, &str); 7] = [
    (Type::ImagePulledFromRegistry, "pull the image"),
    (Type::Cordoned, "cordon"),
    (Type::Drained, "drain"),
    (
        Type::AppliedFilesAndOS,
        "write the configuration, into a new deployment when it reboots",
    ),
    (Type::RebootedNode, "reboot, when the update needs it"),
    (Type::UpdatePostActionComplete, "verify"),
    (Type::Uncordoned, "uncordon"),
];

/// Explains a node.
pub fn node(seen: NodeSeen<'_>) -> Explanation {
    let view = NodeView::of(seen.node);
    let mut told = explain(&seen, &view);
    if let Some(silence) = silence(&seen) {
        let reboots = step(seen.progress).is_some_and(|(kind, _)| kind == Type::RebootedNode);
        match reboots {
            // It cannot speak meanwhile.
            true => told.waits_for.push(silence),
            false => {
                told.waits_for.insert(0, silence);
                let service = match is_kept_by_peer(seen.node) {
                    true => "kubelet",
                    false => "caprock-agent",
                };
                told.remedies.insert(
                    0,
                    format!("see whether the machine runs and `systemctl status {service}` on it; it needs the API server"),
                );
            }
        }
    }
    if let Some(obstacle) = &view.obstacle
        && view.phase() == Phase::Done
    {
        told.waits_for.push(format!("the node {obstacle}"));
    }
    let versions = |versions: &SecretVersions| {
        let each = versions.iter();
        each.map(|(from, version)| format!("`{from}` of version {version}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let has = from_annotation(annotation(seen.node, keys::FILE_SECRETS));
    if !has.is_empty() {
        told.has
            .push(format!("files from Secrets: {}", versions(&has)));
    }
    if !view.held_back.is_empty() {
        told.waits_for.push(format!(
            "the node's next update, with {}: its disruption policy drains or reboots for another value",
            versions(&view.held_back)
        ));
    }
    if seen.reboots {
        let kept = annotation(seen.node, keys::REBOOTS).unwrap_or("[]");
        // An annotation that somebody wrote over is as good as none.
        told.reboots = Some(ledger::from_annotation(kept).unwrap_or_default());
    }
    told
}

fn explain(seen: &NodeSeen<'_>, view: &NodeView) -> Explanation {
    let name = &view.name;
    let new = |doing: String| Explanation::new("node", name, doing);
    match seen.membership {
        Membership::Unclaimed => {
            let mut told = new("belongs to no pool, so nobody updates it".to_owned());
            let reports = Some(&view.reason).filter(|reason| !reason.is_empty());
            told.because.extend(reports.cloned());
            told.remedies.push(format!(
                "give it a pool's label, such as `kubectl label node {name} {}worker=`",
                keys::NODE_ROLE_PREFIX
            ));
            return told;
        }
        Membership::Contested(pools) => {
            let pools: Vec<String> = pools.iter().map(|pool| format!("`{pool}`")).collect();
            let mut told = new(format!(
                "is selected by pools {}, so none updates it",
                pools.join(" and ")
            ));
            told.remedies
                .push("change its labels so that one is left".to_owned());
            return told;
        }
        Membership::Member(_) => {}
    }
    let desired = view
        .desired
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    match view.phase() {
        Phase::New => {
            let mut told = new("was not told what to run yet".to_owned());
            told.since = view.created;
            told.waits_for.extend(pool_says(seen));
            told.waits_for.extend(
                view.state
                    .is_none()
                    .then(|| "its agent to report".to_owned()),
            );
            told.next.push("its pool tells it what to run".to_owned());
            told
        }
        Phase::Pending => pending(seen, view, &desired),
        // Its drain was asked for when it was told, and is done; whoever takes longer than a moment says with what.
        Phase::Working if unanswered(view, seen.progress, seen.now).is_some() => {
            pending(seen, view, &desired)
        }
        Phase::Working => working(seen, new(format!("is on its way to {desired}"))),
        Phase::Failing => failing(seen, view, new(format!("failed to get to {desired}"))),
        Phase::Degraded => {
            let runs = view
                .current
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let mut told = new(format!("runs {runs} and reports a fault"));
            told.since = since(seen, Type::NodeDegraded);
            told.because.push(view.reason.clone());
            told.next.push("its agent looks again at least once a minute, and the fault is gone when it is mended".to_owned());
            told.remedies.push(match is_kept_by_peer(seen.node) {
                true => BY_PEER.mend.to_owned(),
                false => "mend it on the node, change the MachineConfig that says otherwise, or let a RolloutPolicy with `drift: Heal` put it back".to_owned(),
            });
            told
        }
        Phase::Done => settled(seen, view, &new),
    }
}

/// When a node was told what to run, if its agent should have begun by `now` and has said nothing of it. Its drain says
/// nothing of that: it may have been asked for in the same write that told the node.
pub fn unanswered(
    view: &NodeView,
    progress: Option<&MachineConfigNode>,
    now: Timestamp,
) -> Option<Timestamp> {
    let doing = step(progress).map(|(kind, _)| kind);
    let silent = match view.phase() {
        // What it fetches ahead it may have begun before.
        Phase::Pending => doing != Some(Type::ImagePulledFromRegistry),
        Phase::Working => doing.is_none() && !view.asks && view.current != view.desired,
        Phase::New | Phase::Done | Phase::Failing | Phase::Degraded => false,
    };
    let asked_long_ago = |told: &Timestamp| now.duration_since(*told) >= span(deadline::ANSWER);
    view.told_at.filter(asked_long_ago).filter(|_| silent)
}

/// What is different on a node that the Machine Config Operator looks after.
struct Peer {
    agent: &'static str,
    mend: &'static str,
    drain: &'static str,
    controller: &'static str,
}

const BY_PEER: Peer = Peer {
    agent: "see the pod of DaemonSet `machine-config-daemon` on the node and its log, in namespace `openshift-machine-config-operator`",
    mend: "mend it on the node, or let its daemon write everything anew: `touch /run/machine-config-daemon-force` there",
    drain: "its daemon reports that the drain failed, and goes on waiting",
    controller: "machine-config-controller to carry out the drain",
};
/// How long that daemon waits for a drain.
const PEER_DRAIN: SignedDuration = SignedDuration::from_hours(1);

/// Told, and nothing heard of it yet.
fn pending(seen: &NodeSeen<'_>, view: &NodeView, desired: &str) -> Explanation {
    let ahead = step(seen.progress).filter(|(kind, _)| *kind == Type::ImagePulledFromRegistry);
    let silent = unanswered(view, seen.progress, seen.now);
    let mut told = Explanation::new(
        "node",
        &view.name,
        match silent {
            Some(_) => format!("was told to run {desired}, and its agent does not answer"),
            None => format!("was told to run {desired} and has not started"),
        },
    );
    told.since = view.told_at;
    match (silent, ahead) {
        (Some(_), _) => told.because.push(
            "its agent hears of it at once and looks by itself every minute, and has said nothing since"
                .to_owned(),
        ),
        (None, Some((_, found))) => {
            told.waits_for
                .push(format!("its agent, which pulls an image: {}", found.message));
        }
        (None, None) => {
            told.until = Deadline::after(
                view.told_at,
                span(deadline::ANSWER),
                "its agent counts as one that does not answer",
            );
            told.waits_for.push("its agent to see that".to_owned());
        }
    }
    told.next
        .extend(STEPS.iter().map(|(_, step)| (*step).to_owned()));
    let name = &view.name;
    told.remedies.push(match (is_kept_by_peer(seen.node), is_kept_by_agent(seen.node)) {
        (true, _) => BY_PEER.agent.to_owned(),
        (false, true) => "see `systemctl status caprock-agent` on the node".to_owned(),
        (false, false) => format!(
            "see the agent's pod there, `kubectl -n caprock-system get pods --field-selector spec.nodeName={name}`, and that the node has the label `{}`; or `systemctl status caprock-agent` where it is a service",
            keys::MANAGED
        ),
    });
    told
}

fn settled(
    seen: &NodeSeen<'_>,
    view: &NodeView,
    new: &dyn Fn(String) -> Explanation,
) -> Explanation {
    let runs = view
        .current
        .as_ref()
        .map_or("nothing of ours".to_owned(), ToString::to_string);
    let wanted = seen.pool.map(|pool| pool.spec.configuration.name.as_str());
    let current = view.current.as_ref().map(|target| target.config.as_str());
    let behind = wanted.is_some_and(|wanted| !wanted.is_empty() && current != Some(wanted));
    let mut told = match behind {
        true => new(format!(
            "runs {runs} and waits for its turn to go to `{}`",
            wanted.unwrap_or_default()
        )),
        false => new(format!("runs {runs}, as it should")),
    };
    told.since = since(seen, Type::Updated);
    if behind {
        told.waits_for.extend(pool_says(seen));
        told.next.push("its pool gives it a slot".to_owned());
        told.next
            .extend(STEPS.iter().map(|(_, step)| (*step).to_owned()));
        if seen.pool.is_some_and(|pool| pool.spec.paused) {
            told.remedies.push(format!(
                "unpause the pool: `kubectl patch mcp/{} --type merge --patch '{{\"spec\":{{\"paused\":false}}}}'`",
                seen.pool.map(ResourceExt::name_any).unwrap_or_default()
            ));
        }
    }
    told
}

fn working(seen: &NodeSeen<'_>, mut told: Explanation) -> Explanation {
    let (kind, found) = match (step(seen.progress), Request::open(seen.node)) {
        (Some((kind, found)), _) => (kind, Some(found)),
        // Its agent tells only of what takes long.
        (None, Ok(Some(Request::Drain { .. }))) => (Type::Drained, None),
        (None, Ok(Some(Request::Uncordon { .. }))) => (Type::Uncordoned, None),
        (None, _) => {
            told.waits_for
                .push("its agent to say what it does".to_owned());
            return told;
        }
    };
    told.since = found.and_then(condition::Entry::since);
    let at = STEPS
        .iter()
        .position(|(step, _)| *step == kind)
        .unwrap_or_default();
    told.next
        .extend(STEPS[at + 1..].iter().map(|(_, step)| (*step).to_owned()));
    let says = found
        .map(|found| found.message.clone())
        .filter(|message| !message.is_empty());
    let patience = patience(seen.policy);
    match kind {
        Type::ImagePulledFromRegistry => {
            told.doing += ", and pulls the image";
            told.waits_for.extend(says);
            told.until = Deadline::after(
                told.since,
                span(deadline::PULL),
                "the agent is started again and goes on where it was",
            );
            told.remedies.push(
                "nothing is disturbed yet; see that the node reaches the registry when this lasts"
                    .to_owned(),
            );
        }
        Type::Drained | Type::Cordoned => draining(seen, &mut told),
        Type::RebootedNode => {
            told.doing += ", and reboots";
            told.waits_for.push("the machine to come back".to_owned());
            if is_kept_by_peer(seen.node) {
                told.remedies
                    .push("look at the machine's console".to_owned());
                return told;
            }
            told.until = Deadline::after(
                told.since,
                patience + GRACE_SPAN,
                "a new deployment that was not found well is left for the one before",
            );
            told.remedies.push("look at the machine's console; after three boots that end badly it goes back by itself".to_owned());
        }
        Type::UpdatePostActionComplete => {
            told.doing += ", and verifies";
            told.waits_for.extend(says);
            if is_kept_by_peer(seen.node) {
                told.remedies.push(BY_PEER.agent.to_owned());
                return told;
            }
            told.until = Deadline::after(
                told.since,
                patience,
                "what was never found well is taken back",
            );
            told.remedies.push("`systemctl --failed` on the node; the probes are those of the pool's RolloutPolicy".to_owned());
        }
        Type::Uncordoned => {
            told.doing += ", and is being uncordoned";
            told.waits_for.push("the node controller".to_owned());
            told.until = Deadline::after(
                told.since,
                span(deadline::UNCORDON),
                "no controller seems to act; the node stays cordoned until one does",
            );
            told.remedies
                .push("see that the controllers run".to_owned());
        }
        _ => {
            told.doing += ", and writes its configuration";
            told.waits_for.extend(says);
            told.until = Deadline::after(
                told.since,
                span(deadline::STEP),
                "the agent is started again, and finishes or undoes the step",
            );
        }
    }
    told
}

/// A node that leaves service, or waits for the hours in which it may.
fn draining(seen: &NodeSeen<'_>, told: &mut Explanation) {
    if let Some(window) = waits_for_window(seen) {
        told.doing += ", and drains when its maintenance window opens";
        told.waits_for.push(window.to_owned());
        told.remedies.push(
            "nothing is disturbed yet; take the window out of the pool's RolloutPolicy to go on now"
                .to_owned(),
        );
        return;
    }
    told.doing += ", and is being drained";
    told.since = annotation(seen.node, DRAIN_SINCE)
        .and_then(|at| at.parse().ok())
        .or(told.since);
    let peer = is_kept_by_peer(seen.node);
    let (long, then) = match peer {
        true => (PEER_DRAIN, BY_PEER.drain),
        false => (
            LONG_DRAIN,
            "an event tells that it takes long; disruption budgets are never broken",
        ),
    };
    told.until = Deadline::after(told.since, long, then);
    told.because
        .extend(annotation(seen.node, DRAIN_OVERDUE).map(str::to_owned));
    let pods = annotation(seen.node, DRAIN_WAITS_FOR)
        .map(|pods| pods.split("; ").map(str::to_owned).collect());
    let controller = match peer {
        true => BY_PEER.controller,
        false => "the node controller to carry out the drain",
    };
    told.waits_for = pods.unwrap_or_else(|| vec![controller.to_owned()]);
    told.remedies.push(
        "where a disruption budget stands in the way: scale the workload up, change its PodDisruptionBudget, or delete the pod"
            .to_owned(),
    );
    told.remedies
        .push("pausing the pool stops further nodes, and leaves this one where it is".to_owned());
}

fn failing(seen: &NodeSeen<'_>, view: &NodeView, mut told: Explanation) -> Explanation {
    told.since = since(seen, Type::NodeDegraded);
    told.because.push(view.reason.clone());
    let pool = seen.pool.map(ResourceExt::name_any).unwrap_or_default();
    if view.reason.contains("was taken back") {
        told.doing += " and runs what it ran before";
        told.next.push("the same is not tried again; the node keeps its slot, so that the pool does not go on as if nothing was".to_owned());
        told.remedies.push(format!(
            "change what is wrong with the MachineConfigs or the Containerfile of pool `{pool}`: the node is told the new version at once"
        ));
    } else {
        told.next
            .push("its agent tries again, at least once a minute".to_owned());
        told.remedies.push(format!(
            "mend what the reason names; another version of pool `{pool}` is told to the node at once"
        ));
    }
    told
}

const GRACE_SPAN: SignedDuration = SignedDuration::from_secs(GRACE.as_secs() as i64);

fn patience(policy: Option<&RolloutPolicy>) -> SignedDuration {
    let deadline = policy.and_then(|policy| policy.spec.health.deadline);
    let deadline = deadline.map_or(DEFAULT_DEADLINE, Into::into);
    SignedDuration::try_from(deadline).unwrap_or_default()
}

fn span(time: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or_default()
}

/// The window that the drain waits for, when it has not begun.
fn waits_for_window<'a>(seen: &NodeSeen<'a>) -> Option<&'a str> {
    let waits = annotation(seen.node, DRAIN_WAITS_FOR)?;
    let begun = annotation(seen.node, DRAIN_SINCE).is_some();
    (!begun && waits.starts_with("window ")).then_some(waits)
}

/// The step that is under way.
fn step(progress: Option<&MachineConfigNode>) -> Option<(Type, &Condition)> {
    let conditions = &progress?.status.as_ref()?.conditions;
    STEPS.iter().find_map(|(kind, _)| {
        let found = condition::get(conditions, *kind)?;
        (found.status == condition::Status::Unknown.as_str()).then_some((*kind, found))
    })
}

fn since(seen: &NodeSeen<'_>, kind: Type) -> Option<Timestamp> {
    let conditions = &seen.progress?.status.as_ref()?.conditions;
    condition::Entry::since(condition::get(conditions, kind)?)
}

/// Why the pool tells nobody anything just now.
fn pool_says(seen: &NodeSeen<'_>) -> Option<String> {
    let pool = seen.pool?;
    let conditions = &pool.status.as_ref()?.conditions;
    let found = condition::get(conditions, PoolConditionType::Updating)?;
    (!found.message.is_empty()).then(|| format!("pool `{}`: {}", pool.name_any(), found.message))
}

/// For how long nobody has heard of the node, when that is too long.
fn silence(seen: &NodeSeen<'_>) -> Option<String> {
    let ready =
        |condition: &&NodeCondition| condition.type_ == "Ready" && condition.status == "Unknown";
    let status = seen.node.status.as_ref()?;
    let unknown = status.conditions.iter().flatten().find(ready);
    let renewed = seen
        .lease
        .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
    let last = renewed.map(|time| time.0).or(unknown
        .and_then(|c| c.last_transition_time.as_ref())
        .map(|time| time.0))?;
    unknown?;
    let who = if is_kept_by_agent(seen.node) {
        "its agent"
    } else {
        "its kubelet"
    };
    Some(format!(
        "{who}, which was heard last at {} ({})",
        super::seconds(last),
        super::relative(last, seen.now)
    ))
}
