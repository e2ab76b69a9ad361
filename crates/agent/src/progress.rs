//! How a node's progress reads in the conditions of its MachineConfigNode. Done is `True`, in progress `Unknown`, not
//! reached `False`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use model::condition::{self, NodeConditionType as Type, NodeReason as Reason, Status};
use model::node::Target;
use model::update::{Plan, Step};

use crate::os::Progress;

/// What the agent is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing; the node is where it should be.
    Settled,
    /// Nothing; no controller has chosen a configuration yet.
    WaitingForTarget,
    /// A step of the plan.
    Step(Step),
    /// Nothing; the node is where it should be, but somebody else changed something there.
    Drifted { reason: String },
    /// A step that is not done yet, for a reason that may pass.
    Waiting { step: Step, why: String },
    /// A pull that goes on, and how far it is.
    Fetching { step: Step, progress: Progress },
    /// The step, when there was one, failed.
    Failed { step: Option<Step>, reason: String },
}

/// One line for whoever looks at the node itself.
pub(crate) fn words(plan: &Plan, doing: &Doing) -> String {
    match doing {
        Doing::Settled => match &plan.target {
            Some(target) => format!("runs {target}"),
            None => "runs what it was told".to_owned(),
        },
        Doing::WaitingForTarget => "waits for a controller to choose a configuration".to_owned(),
        Doing::Step(step) => format!("{step}: {plan}"),
        Doing::Waiting { step, why } => format!("{step}: {why}"),
        Doing::Fetching { step, progress } => format!("{step}: {progress}"),
        Doing::Drifted { reason } => reason.clone(),
        Doing::Failed { reason, .. } => format!("failed, trying again: {reason}"),
    }
}

/// Phases in their order, each with the condition that stands for it and the one that it is part of.
const PHASES: [(Type, Reason, Option<Type>); 7] = [
    (
        Type::ImagePulledFromRegistry,
        Reason::ImagePulledFromRegistry,
        Some(Type::UpdatePrepared),
    ),
    (Type::Cordoned, Reason::Cordoned, Some(Type::UpdateExecuted)),
    (Type::Drained, Reason::Drained, Some(Type::UpdateExecuted)),
    (
        Type::AppliedFilesAndOS,
        Reason::AppliedFilesAndOS,
        Some(Type::UpdateExecuted),
    ),
    (
        Type::RebootedNode,
        Reason::RebootedNode,
        Some(Type::UpdatePostActionComplete),
    ),
    (
        Type::UpdatePostActionComplete,
        Reason::UpdatePostActionComplete,
        None,
    ),
    (
        Type::Uncordoned,
        Reason::Uncordoned,
        Some(Type::UpdateComplete),
    ),
];
const PARENTS: [(Type, Reason); 4] = [
    (Type::UpdatePrepared, Reason::UpdatePrepared),
    (Type::UpdateExecuted, Reason::UpdateExecuted),
    (
        Type::UpdatePostActionComplete,
        Reason::UpdatePostActionComplete,
    ),
    (Type::UpdateComplete, Reason::UpdateComplete),
];

/// Sets all conditions for what the agent is doing on the way to `target`.
pub(crate) fn set(conditions: &mut Vec<Condition>, plan: &Plan, doing: &Doing, now: Timestamp) {
    let target = plan
        .target
        .as_ref()
        .map_or("its configuration".to_owned(), Target::to_string);
    let mut write = |kind: Type, status: Status, reason: Reason, message: String| {
        condition::set(conditions, kind, status, reason, message, now);
    };
    let (step, failure) = match doing {
        Doing::Step(step) | Doing::Waiting { step, .. } | Doing::Fetching { step, .. } => {
            (Some(step), None)
        }
        Doing::Failed { step, reason } => (step.as_ref(), Some(reason)),
        Doing::Drifted { reason } => (None, Some(reason)),
        Doing::Settled | Doing::WaitingForTarget => (None, None),
    };
    let said = match (doing, step) {
        (Doing::Fetching { step, progress }, _) => format!("{step}: {progress}"),
        (Doing::Waiting { step, why }, _) => format!("{step}: {why}"),
        (_, Some(step)) => step.to_string(),
        (_, None) => String::new(),
    };
    let prefetching = plan.prefetches();
    let at = step.filter(|_| !prefetching).map(phase);
    for (rank, (kind, reason, _)) in PHASES.iter().enumerate() {
        let (status, reason, message) = place(rank, at, *reason, &said, &target);
        if *kind != Type::UpdatePostActionComplete {
            write(*kind, status, reason, message);
        }
    }
    for (kind, reason) in PARENTS {
        let ranks: Vec<usize> = (0..PHASES.len())
            .filter(|rank| PHASES[*rank].0 == kind || PHASES[*rank].2 == Some(kind))
            .collect();
        let (first, last) = (ranks[0], ranks[ranks.len() - 1]);
        let rank = at.map_or(first, |at| at.clamp(first, last));
        let (status, reason, message) = place(rank, at, reason, &said, &target);
        write(kind, status, reason, message);
    }
    let (updated, message) = match doing {
        Doing::Settled | Doing::Drifted { .. } => (Status::True, format!("the node runs {target}")),
        Doing::WaitingForTarget => (
            Status::False,
            "waits for a controller to choose its configuration".to_owned(),
        ),
        Doing::Step(_) | Doing::Fetching { .. } if prefetching => {
            (Status::True, format!("the node runs {target}"))
        }
        Doing::Step(_) | Doing::Fetching { .. } => {
            (Status::False, format!("{said}, on the way to {target}"))
        }
        Doing::Waiting { step, why } => (
            Status::False,
            format!("{step}, on the way to {target}: {why}"),
        ),
        Doing::Failed { .. } => (Status::False, format!("not on {target}: see NodeDegraded")),
    };
    write(Type::Updated, updated, Reason::Updated, message);
    write(
        Type::Resumed,
        Status::False,
        Reason::NotYetOccurred,
        String::new(),
    );
    match failure {
        Some(why) => write(
            Type::NodeDegraded,
            Status::True,
            match doing {
                Doing::Drifted { .. } => Reason::ConfigDrift,
                _ => failed_reason(step, plan),
            },
            why.clone(),
        ),
        None => write(
            Type::NodeDegraded,
            Status::False,
            Reason::AsExpected,
            String::new(),
        ),
    }
}

fn place(
    rank: usize,
    at: Option<usize>,
    reason: Reason,
    said: &str,
    target: &str,
) -> (Status, Reason, String) {
    match at {
        Some(at) if rank < at => (Status::True, reason, format!("done on the way to {target}")),
        Some(at) if rank == at => (Status::Unknown, reason, said.to_owned()),
        _ => (Status::False, Reason::NotYetOccurred, String::new()),
    }
}

/// Rank of the phase that a step belongs to.
fn phase(step: &Step) -> usize {
    let kind = match step {
        Step::Pull { .. } => Type::ImagePulledFromRegistry,
        Step::Drain { asked: false, .. } => Type::Cordoned,
        Step::Drain { asked: true, .. } => Type::Drained,
        Step::Deploy | Step::Discard | Step::Apply { .. } => Type::AppliedFilesAndOS,
        Step::Reboot | Step::SoftReboot => Type::RebootedNode,
        Step::Verify => Type::UpdatePostActionComplete,
        Step::Uncordon { .. } => Type::Uncordoned,
    };
    PHASES
        .iter()
        .position(|(phase, ..)| *phase == kind)
        .expect("every step has a phase")
}

fn failed_reason(step: Option<&Step>, plan: &Plan) -> Reason {
    // It cannot be done here, or there is nothing to be done it from.
    let impossible = !plan.update.obstacles.is_empty() || plan.update.is_empty();
    match step {
        Some(Step::Pull { .. }) => Reason::PullFailed,
        Some(Step::Drain { .. }) => Reason::DrainFailed,
        Some(
            Step::Deploy
            | Step::Reboot
            | Step::SoftReboot
            | Step::Discard
            | Step::Apply { .. }
            | Step::Uncordon { .. },
        ) => Reason::ApplyFailed,
        Some(Step::Verify) => Reason::VerifyFailed,
        None if impossible => Reason::ApplyFailed,
        None => Reason::RolledBack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::update::{Seen, Version, plan};

    const IMAGE: &str =
        "r.example/os@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    /// Of a node on its way to a first image.
    fn conditions(doing: &Doing) -> Vec<Condition> {
        let to = Version {
            name: "rendered-1".into(),
            layered_image: Some(IMAGE.into()),
            ..Version::default()
        };
        let plan = plan(&Seen {
            node: "n",
            desired: Some(&to),
            ..Seen::default()
        });
        let mut conditions = Vec::new();
        set(&mut conditions, &plan, doing, Timestamp::UNIX_EPOCH);
        conditions
    }

    fn shown(doing: &Doing) -> String {
        let conditions = conditions(doing);
        let mut seen: Vec<String> = conditions
            .iter()
            .filter(|c| c.status != "False")
            .map(|c| format!("{}={}", c.type_, c.status))
            .collect();
        seen.sort();
        seen.join(" ")
    }

    #[test]
    fn conditions_follow_the_steps() {
        let check = |step: Step, expected: &str| assert_eq!(shown(&Doing::Step(step)), expected);
        check(
            Step::Pull {
                image: IMAGE.into(),
            },
            "ImagePulledFromRegistry=Unknown UpdatePrepared=Unknown",
        );
        check(
            Step::Drain {
                request: "drain-x".into(),
                asked: true,
            },
            "Cordoned=True Drained=Unknown ImagePulledFromRegistry=True UpdateExecuted=Unknown UpdatePrepared=True",
        );
        check(
            Step::Deploy,
            "AppliedFilesAndOS=Unknown Cordoned=True Drained=True ImagePulledFromRegistry=True UpdateExecuted=Unknown UpdatePrepared=True",
        );
        check(
            Step::Reboot,
            "AppliedFilesAndOS=True Cordoned=True Drained=True ImagePulledFromRegistry=True RebootedNode=Unknown UpdateExecuted=True UpdatePostActionComplete=Unknown UpdatePrepared=True",
        );
        check(
            Step::Verify,
            "AppliedFilesAndOS=True Cordoned=True Drained=True ImagePulledFromRegistry=True RebootedNode=True UpdateExecuted=True UpdatePostActionComplete=Unknown UpdatePrepared=True",
        );
        check(
            Step::Uncordon {
                request: "uncordon-x".into(),
                asked: false,
            },
            "AppliedFilesAndOS=True Cordoned=True Drained=True ImagePulledFromRegistry=True RebootedNode=True Uncordoned=Unknown UpdateComplete=Unknown UpdateExecuted=True UpdatePostActionComplete=True UpdatePrepared=True",
        );
    }

    #[test]
    fn a_pull_says_how_far_it_is() {
        let doing = Doing::Fetching {
            step: Step::Pull {
                image: "r/x".into(),
            },
            progress: Progress {
                bytes: 12_345_678,
                of: 400_000_000,
            },
        };
        let conditions = conditions(&doing);
        let pulled = conditions
            .iter()
            .find(|c| c.type_ == "ImagePulledFromRegistry");
        assert_eq!(
            pulled.map(|c| c.message.as_str()),
            Some("pull `r/x`: 12.3 of 400.0 MB")
        );
    }

    #[test]
    fn a_settled_node_is_updated_and_nothing_else() {
        assert_eq!(shown(&Doing::Settled), "Updated=True");
    }

    #[test]
    fn a_failure_is_degraded_with_its_step() {
        let failed = Doing::Failed {
            step: Some(Step::Verify),
            reason: "autofs.service failed".into(),
        };
        assert!(shown(&failed).contains("NodeDegraded=True"));
    }
}
