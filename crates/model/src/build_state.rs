//! The life of a MachineOSBuild: Prepared → Building → Succeeded, Failed or Interrupted.
//!
//! The five conditions are always written together and at most one is `True`. An end is final: no
//! step leads out of it, so whoever comes late (a builder that lost its claim, a stale cache) changes
//! nothing.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{
    BuildProgress, ImageBuilderType, MachineOSBuild, MachineOSBuildStatus, MachineOSBuilder,
};
use crate::condition::{self, BuildConditionType, BuildReason, Status};

/// Where a build is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildState {
    /// Made a moment ago; nobody has looked at it.
    New,
    /// Waits for a builder.
    Prepared,
    /// A builder works on it.
    Building {
        /// What it does, or what the last attempt failed of.
        message: String,
        /// Whether the last attempt failed for a reason that may pass.
        retrying: bool,
    },
    /// The image is in its registry.
    Succeeded {
        /// Pull spec with digest.
        image: String,
    },
    /// The build failed for good.
    Failed {
        /// Which step, and why.
        message: String,
    },
    /// The build was stopped.
    Interrupted {
        /// By whom, and why.
        message: String,
    },
}

impl BuildState {
    /// Reads a build's status.
    pub fn of(build: &MachineOSBuild) -> Self {
        build.status.as_ref().map_or(BuildState::New, Self::read)
    }

    fn read(status: &MachineOSBuildStatus) -> Self {
        let current = BuildConditionType::ALL
            .iter()
            .find(|kind| condition::is_true(&status.conditions, **kind));
        let Some(kind) = current else {
            return BuildState::New;
        };
        let seen = condition::get(&status.conditions, *kind);
        let message = seen.map(|c| c.message.clone()).unwrap_or_default();
        match kind {
            BuildConditionType::Prepared => BuildState::Prepared,
            BuildConditionType::Building => BuildState::Building {
                message,
                retrying: seen.is_some_and(|c| c.reason == BuildReason::Retrying.as_str()),
            },
            BuildConditionType::Succeeded => match &status.digested_image_push_spec {
                Some(image) => BuildState::Succeeded {
                    image: image.clone(),
                },
                None => BuildState::Failed {
                    message: "the build ended without recording the image's digest; \
                              delete the MachineOSBuild to build again"
                        .to_owned(),
                },
            },
            BuildConditionType::Failed => BuildState::Failed { message },
            BuildConditionType::Interrupted => BuildState::Interrupted { message },
        }
    }

    /// The image, once there is one.
    pub fn image(self) -> Option<String> {
        match self {
            BuildState::Succeeded { image } => Some(image),
            BuildState::New
            | BuildState::Prepared
            | BuildState::Building { .. }
            | BuildState::Failed { .. }
            | BuildState::Interrupted { .. } => None,
        }
    }

    /// Whether the last attempt failed for a reason that may pass.
    fn is_retrying(&self) -> bool {
        matches!(self, BuildState::Building { retrying: true, .. })
    }

    /// Whether nothing follows any more.
    pub fn is_final(&self) -> bool {
        match self {
            BuildState::New | BuildState::Prepared | BuildState::Building { .. } => false,
            BuildState::Succeeded { .. }
            | BuildState::Failed { .. }
            | BuildState::Interrupted { .. } => true,
        }
    }
}

/// Something that happened to a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It was made and waits for a builder.
    Prepare,
    /// A builder claimed it.
    Start {
        /// The builder.
        identity: String,
    },
    /// The builder got further.
    Advance(BuildProgress),
    /// An attempt failed for a reason that may pass; another follows. The failure stays in the condition until the
    /// build ends, so that it does not come and go with each attempt.
    Retry {
        /// What failed, in the same words as long as it is the same.
        message: String,
        /// When it is tried again.
        next: Timestamp,
        /// Attempts so far.
        attempts: u32,
    },
    /// The image is in its registry.
    Succeed {
        /// Pull spec with digest.
        image: String,
    },
    /// It failed for good.
    Fail {
        /// Kind of failure.
        reason: BuildReason,
        /// Which step, and why.
        message: String,
    },
    /// It was stopped.
    Interrupt {
        /// Kind of interruption.
        reason: BuildReason,
        /// By whom, and why.
        message: String,
    },
}

/// The status after `step`, or none when the build has ended already or the step changes nothing.
pub fn after(
    status: Option<&MachineOSBuildStatus>,
    step: &Step,
    now: Timestamp,
) -> Option<MachineOSBuildStatus> {
    let before = status.cloned().unwrap_or_default();
    let state = BuildState::read(&before);
    if state.is_final() {
        return None;
    }
    let mut next = before.clone();
    let building = |next: &mut MachineOSBuildStatus, reason, message: &str| {
        enter(next, BuildConditionType::Building, reason, message, now);
    };
    match step {
        Step::Prepare => {
            if state != BuildState::New {
                return None;
            }
            enter(
                &mut next,
                BuildConditionType::Prepared,
                BuildReason::Prepared,
                "waits for a builder",
                now,
            );
        }
        Step::Start { identity } => {
            next.builder = Some(MachineOSBuilder {
                image_builder_type: ImageBuilderType::Job,
                job: None,
                identity: identity.clone(),
            });
            next.build_start.get_or_insert(Time(now));
            if !state.is_retrying() {
                let message = format!("claimed by builder `{identity}`");
                building(&mut next, BuildReason::Building, &message);
            }
        }
        Step::Advance(progress) => {
            next.progress = Some(progress.clone());
            next.build_start.get_or_insert(Time(now));
            if !state.is_retrying() {
                let message = format!(
                    "step {} of {}: {}",
                    progress.step, progress.steps, progress.message
                );
                building(&mut next, BuildReason::Building, &message);
            }
        }
        Step::Retry {
            message,
            next: when,
            attempts,
        } => {
            next.build_start.get_or_insert(Time(now));
            next.progress.get_or_insert_default().message = format!(
                "attempt {attempts} failed; next attempt at {}",
                when.strftime("%H:%M:%S UTC")
            );
            building(&mut next, BuildReason::Retrying, message);
        }
        Step::Succeed { image } => {
            next.digested_image_push_spec = Some(image.clone());
            end(
                &mut next,
                BuildConditionType::Succeeded,
                BuildReason::Ready,
                "the image is built and pushed",
                now,
            );
        }
        Step::Fail { reason, message } => {
            end(&mut next, BuildConditionType::Failed, *reason, message, now);
        }
        Step::Interrupt { reason, message } => end(
            &mut next,
            BuildConditionType::Interrupted,
            *reason,
            message,
            now,
        ),
    }
    (next != before).then_some(next)
}

fn end(
    status: &mut MachineOSBuildStatus,
    kind: BuildConditionType,
    reason: BuildReason,
    message: &str,
    now: Timestamp,
) {
    // A build that ends before it began still has both times, which its schema demands.
    status.build_start.get_or_insert(Time(now));
    status.build_end = Some(Time(now));
    enter(status, kind, reason, message, now);
}

fn enter(
    status: &mut MachineOSBuildStatus,
    kind: BuildConditionType,
    reason: BuildReason,
    message: &str,
    now: Timestamp,
) {
    for &other in BuildConditionType::ALL {
        if other == kind {
            condition::set(
                &mut status.conditions,
                other,
                Status::True,
                reason,
                message,
                now,
            );
        } else {
            let (reason, message) = absent(other);
            condition::set(
                &mut status.conditions,
                other,
                Status::False,
                reason,
                message,
                now,
            );
        }
    }
}

/// Reason and message of a condition that does not hold.
fn absent(kind: BuildConditionType) -> (BuildReason, &'static str) {
    match kind {
        BuildConditionType::Prepared => (BuildReason::Prepared, "not waiting for a builder"),
        BuildConditionType::Building => (BuildReason::Building, "not being built"),
        BuildConditionType::Succeeded => (BuildReason::Ready, "no image yet"),
        BuildConditionType::Interrupted => (BuildReason::Interrupted, "not interrupted"),
        BuildConditionType::Failed => (BuildReason::Failed, "not failed"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::constant(1_700_000_000 + second, 0)
    }

    fn start() -> Step {
        Step::Start {
            identity: "builder-1".to_owned(),
        }
    }

    fn advance(step: u32) -> Step {
        Step::Advance(BuildProgress {
            step,
            steps: 3,
            message: "RUN dnf install autofs".to_owned(),
            ..BuildProgress::default()
        })
    }

    fn succeed() -> Step {
        Step::Succeed {
            image: "r/i@sha256:1".to_owned(),
        }
    }

    fn fail() -> Step {
        Step::Fail {
            reason: BuildReason::StepFailed,
            message: "step 2 of 3: exit status 1".to_owned(),
        }
    }

    fn interrupt() -> Step {
        Step::Interrupt {
            reason: BuildReason::Superseded,
            message: "superseded by `b`".to_owned(),
        }
    }

    fn play(steps: &[Step]) -> MachineOSBuildStatus {
        let mut status = None;
        for (second, step) in (0..).zip(steps) {
            status = after(status.as_ref(), step, at(second)).or(status);
        }
        status.unwrap()
    }

    fn shown(status: &MachineOSBuildStatus) -> String {
        let held: Vec<String> = status
            .conditions
            .iter()
            .filter(|c| c.status == "True")
            .map(|c| format!("{} ({}): {}", c.type_, c.reason, c.message))
            .collect();
        held.join(", ")
    }

    #[test]
    fn a_build_goes_through_its_life() {
        let check = |steps: &[Step], expected: &str| assert_eq!(shown(&play(steps)), expected);
        let retry = Step::Retry {
            message: "registry `r` is down".to_owned(),
            next: at(60),
            attempts: 1,
        };
        check(&[Step::Prepare], "Prepared (Prepared): waits for a builder");
        check(
            &[Step::Prepare, start()],
            "Building (Building): claimed by builder `builder-1`",
        );
        check(
            &[Step::Prepare, start(), advance(2)],
            "Building (Building): step 2 of 3: RUN dnf install autofs",
        );
        let retrying = "Building (Retrying): registry `r` is down";
        check(&[Step::Prepare, start(), retry.clone()], retrying);
        check(
            &[Step::Prepare, start(), retry.clone(), start(), advance(1)],
            retrying,
        );
        check(
            &[Step::Prepare, start(), retry, advance(1), succeed()],
            "Succeeded (Ready): the image is built and pushed",
        );
        check(
            &[Step::Prepare, start(), fail()],
            "Failed (StepFailed): step 2 of 3: exit status 1",
        );
        check(
            &[Step::Prepare, interrupt()],
            "Interrupted (Superseded): superseded by `b`",
        );
    }

    #[test]
    fn an_end_is_final() {
        let all = || {
            [
                Step::Prepare,
                start(),
                advance(1),
                succeed(),
                fail(),
                interrupt(),
            ]
        };
        for end in [succeed(), fail(), interrupt()] {
            let status = play(&[Step::Prepare, start(), end]);
            for late in all() {
                assert_eq!(after(Some(&status), &late, at(99)), None, "{late:?}");
            }
        }
    }

    #[test]
    fn five_conditions_are_always_there_and_one_holds() {
        for steps in [
            vec![Step::Prepare],
            vec![Step::Prepare, start(), advance(1), fail()],
            vec![interrupt()],
        ] {
            let status = play(&steps);
            assert_eq!(status.conditions.len(), BuildConditionType::ALL.len());
            let held = status.conditions.iter().filter(|c| c.status == "True");
            assert_eq!(held.count(), 1);
        }
    }

    #[test]
    fn start_stays_and_every_end_has_a_start() {
        let status = play(&[Step::Prepare, start(), start(), succeed()]);
        assert_eq!(status.build_start, Some(Time(at(1))));
        assert_eq!(status.build_end, Some(Time(at(3))));
        let status = play(&[interrupt()]);
        assert_eq!(status.build_start, status.build_end);
    }

    #[test]
    fn a_step_that_changes_nothing_is_no_write() {
        let status = play(&[Step::Prepare, start(), advance(2)]);
        assert_eq!(after(Some(&status), &advance(2), at(50)), None);
        assert_eq!(after(Some(&status), &Step::Prepare, at(50)), None);
    }

    #[test]
    fn the_next_attempt_is_in_the_progress() {
        let retry = Step::Retry {
            message: "registry `r` is down".to_owned(),
            next: at(60),
            attempts: 3,
        };
        let progress = play(&[start(), advance(2), retry]).progress.unwrap();
        assert_eq!((progress.step, progress.steps), (2, 3));
        assert_eq!(
            progress.message,
            "attempt 3 failed; next attempt at 22:14:20 UTC"
        );
    }

    #[test]
    fn a_state_is_read_back() {
        let state = |steps: &[Step]| BuildState::read(&play(steps));
        assert_eq!(state(&[Step::Prepare]), BuildState::Prepared);
        assert_eq!(
            state(&[Step::Prepare, start(), succeed()]),
            BuildState::Succeeded {
                image: "r/i@sha256:1".to_owned()
            }
        );
        assert_eq!(
            BuildState::read(&MachineOSBuildStatus::default()),
            BuildState::New
        );
    }
}
