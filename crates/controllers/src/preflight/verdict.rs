//! Answers in the words of conditions.

use kube::ResourceExt;
use model::api::MachineOSConfig;
use model::condition::{self, BuildReason, NodeConditionType, NodeReason, Status};
use model::keys;

use super::question::{Check, Question};
use crate::cache::Cache;
use crate::registry::{Answer, Failure};

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) reason: BuildReason,
    pub(super) message: String,
}

impl Verdict {
    fn new(status: Status, reason: BuildReason, message: String) -> Self {
        Verdict {
            status,
            reason,
            message,
        }
    }
}

/// A registry that took too long.
pub(super) fn silence(question: &Question) -> Answer {
    Answer::Silence(Failure {
        reason: BuildReason::RegistryUnavailable,
        message: format!(
            "image `{}`: `{}` did not answer in {} seconds; it is asked again",
            question.image,
            question.image.host(),
            super::ASKED_FOR.as_secs()
        ),
        may_pass: true,
    })
}

/// The answer to a question that was asked with the credentials of `secret`.
pub(super) fn of(question: &Question, secret: Option<&str>, answer: Answer) -> Verdict {
    let Question { check, image, .. } = question;
    let with = match secret {
        Some(secret) => format!("with Secret `{secret}`"),
        None => "without credentials".to_owned(),
    };
    let repository = image.repository();
    match (check, answer) {
        (Check::Base, Answer::Yes) => yes(format!("`{image}` can be pulled {with}")),
        (Check::Push, Answer::Yes) => yes(format!("images can be pushed to `{repository}` {with}")),
        (Check::Nodes, Answer::Yes) => yes(format!("nodes can pull `{image}` {with}")),
        (Check::Base, Answer::Absent(failure)) => {
            Verdict::new(Status::False, failure.reason, failure.message)
        }
        (Check::Push, Answer::Absent(_)) => Verdict::new(
            Status::False,
            BuildReason::PushFailed,
            format!(
                "`{}` has no repository `{}` and makes none by itself; create it there, or name another in \
                 `spec.renderedImagePushSpec`",
                image.host(),
                image.path()
            ),
        ),
        (Check::Nodes, Answer::Absent(_)) if image.digest().is_some() => Verdict::new(
            Status::False,
            BuildReason::PullFailed,
            format!(
                "`{image}` is no longer in its registry, and nodes that do not have it cannot get it; build it again \
                 with annotation `{}` on the MachineOSConfig",
                keys::REBUILD
            ),
        ),
        (Check::Nodes, Answer::Absent(_)) => Verdict::new(
            Status::True,
            BuildReason::NotBuilt,
            format!("`{repository}` lets nodes in {with}, and has no image yet"),
        ),
        (_, Answer::No(failure)) => {
            let failure = match secret {
                // Without credentials no Secret was refused.
                None => failure,
                Some(_) => failure.with_secret(secret),
            };
            Verdict::new(Status::False, failure.reason, failure.message)
        }
        (_, Answer::Silence(failure)) => {
            Verdict::new(Status::Unknown, failure.reason, failure.message)
        }
    }
}

fn yes(message: String) -> Verdict {
    Verdict::new(Status::True, BuildReason::AsExpected, message)
}

/// What nodes say themselves about their last pull counts more than what the controller was answered.
pub(super) fn with_nodes(
    cache: &Cache,
    config: &MachineOSConfig,
    check: Check,
    answered: Verdict,
) -> Verdict {
    if check != Check::Nodes || answered.status == Status::False {
        return answered;
    }
    let pool = &config.spec.machine_config_pool.name;
    let mut failed: Vec<(String, String)> = cache
        .machine_config_nodes
        .state_filter(|node| node.spec.pool.name == *pool)
        .into_iter()
        .filter_map(|node| {
            let conditions = &node.status.as_ref()?.conditions;
            let found = condition::get(conditions, NodeConditionType::NodeDegraded)?;
            let cannot = found.status == Status::True.as_str()
                && found.reason == NodeReason::PullFailed.as_str();
            cannot.then(|| (node.name_any(), found.message.clone()))
        })
        .collect();
    failed.sort();
    let Some((node, why)) = failed.first() else {
        return answered;
    };
    let others = match failed.len() - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    Verdict::new(
        Status::False,
        BuildReason::PullFailed,
        format!("node `{node}`{others} cannot pull its image: {why}"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(check: Check, image: &str, secret: Option<&str>, answer: Answer) -> String {
        let question = Question {
            check,
            image: image.parse().unwrap(),
            inputs: String::new(),
        };
        let Verdict {
            status,
            reason,
            message,
        } = of(&question, secret, answer);
        format!("{status} {reason}: {message}")
    }

    fn failure(reason: BuildReason, message: &str) -> Failure {
        Failure {
            reason,
            message: message.to_owned(),
            may_pass: true,
        }
    }

    #[test]
    fn every_answer_is_told() {
        let image = "r.example/os/a:1";
        let built = format!("r.example/os/a@sha256:{}", "0".repeat(64));
        let absent = || Answer::Absent(failure(BuildReason::BaseImageUnavailable, "not there"));
        let no = || Answer::No(failure(BuildReason::Unauthorized, "refused"));
        for (told, expected) in [
            (
                told(Check::Base, image, Some("s"), Answer::Yes),
                "True AsExpected: `r.example/os/a:1` can be pulled with Secret `s`",
            ),
            (
                told(Check::Push, image, Some("s"), Answer::Yes),
                "True AsExpected: images can be pushed to `r.example/os/a` with Secret `s`",
            ),
            (
                told(Check::Nodes, image, None, Answer::Yes),
                "True AsExpected: nodes can pull `r.example/os/a:1` without credentials",
            ),
            (
                told(Check::Base, image, None, absent()),
                "False BaseImageUnavailable: not there",
            ),
            (
                told(Check::Push, image, None, absent()),
                "False PushFailed: `r.example` has no repository `os/a` and makes none by itself; create it there, or \
                 name another in `spec.renderedImagePushSpec`",
            ),
            (
                told(Check::Nodes, image, Some("s"), absent()),
                "True NotBuilt: `r.example/os/a` lets nodes in with Secret `s`, and has no image yet",
            ),
            (
                told(Check::Push, image, Some("s"), no()),
                "False Unauthorized: refused (Secret `s` in namespace `openshift-machine-config-operator`, key \
                 `.dockerconfigjson`)",
            ),
            (
                told(Check::Push, image, None, no()),
                "False Unauthorized: refused",
            ),
        ] {
            assert_eq!(told, expected);
        }
        let gone = told(Check::Nodes, &built, None, absent());
        assert!(gone.starts_with("False PullFailed: "), "{gone}");
        let away = Answer::Silence(failure(BuildReason::RegistryUnavailable, "away"));
        assert_eq!(
            told(Check::Base, image, None, away),
            "Unknown RegistryUnavailable: away"
        );
    }
}
