//! What a build is doing: from its MachineOSBuild alone.

use kube_core::ResourceExt;

use super::{Explanation, troubles};
use crate::api::{MachineOSBuild, MachineOSConfig, Transferred};
use crate::build_state::BuildState;
use crate::condition::{self, BuildConditionType, Entry, Status};

/// Explains a build; with the MachineOSConfig that asks for it, also what is known of its registries.
pub fn build(build: &MachineOSBuild, config: Option<&MachineOSConfig>) -> Explanation {
    let name = build.name_any();
    let new = |doing: String| Explanation::new("build", &name, doing);
    let status = build.status.as_ref();
    let progress = status.and_then(|status| status.progress.as_ref());
    let builder = status
        .and_then(|status| status.builder.as_ref())
        .map(|builder| builder.identity.as_str())
        .filter(|identity| !identity.is_empty());
    // A build of the Machine Config Operator is a Job.
    let job = status
        .and_then(|status| status.builder.as_ref()?.job.as_ref())
        .map(|job| format!("`kubectl -n {} logs job/{}`", job.namespace, job.name));
    let log = |flags: &str| match &job {
        Some(job) => job.clone(),
        None => format!("`caprock logs {flags}{name}`"),
    };
    let logs = || format!("follow it: {}", log("-f "));
    let mut told = match BuildState::of(build) {
        BuildState::New | BuildState::Prepared => {
            let mut told = new("waits for a builder".to_owned());
            told.waits_for.push("a builder that is free".to_owned());
            told.next.push("a builder claims it and builds".to_owned());
            told.remedies.push("see that a builder runs (`caprock serve`, or `caprock builder`) and what else it builds: `kubectl get machineosbuild`".to_owned());
            told
        }
        BuildState::Building { message, retrying } => {
            let mut told = new(match (retrying, progress) {
                (true, _) => "failed for a reason that may pass, and is tried again".to_owned(),
                (false, Some(progress)) => format!(
                    "is being built: step {} of {}{}{}",
                    progress.step,
                    progress.steps,
                    moved("fetched", progress.fetched),
                    moved("pushed", progress.pushed),
                ),
                (false, None) => "is being built".to_owned(),
            });
            told.waits_for
                .extend(builder.map(|builder| format!("builder `{builder}`")));
            let said = progress
                .map(|progress| progress.message.clone())
                .filter(|said| !said.is_empty());
            told.waits_for
                .push(said.filter(|_| !retrying).unwrap_or(message));
            told.next
                .push("the image is checked against the rendered config and pushed".to_owned());
            if job.is_none() {
                told.next
                    .push("nodes fetch it ahead of their turn".to_owned());
            }
            told.remedies.push(logs());
            told
        }
        BuildState::Succeeded { image } => {
            let mut told = new(format!("is done: `{image}`"));
            told.next
                .push("its pool rolls it out: `caprock explain pool/NAME`".to_owned());
            told
        }
        BuildState::Failed { message } => {
            let mut told = new("failed for good".to_owned());
            told.because.push(message);
            told.next
                .push("nothing by itself; nodes stay on what they run".to_owned());
            told.remedies
                .push(format!("read what it printed: {}", log("")));
            told.remedies.push(format!(
                "correct what the message names, which makes another build; or build the same again: `kubectl delete machineosbuild {name}`"
            ));
            told
        }
        BuildState::Interrupted { message } => {
            let mut told = new("was interrupted".to_owned());
            told.because.push(message);
            told.next
                .push("nothing by itself; the build that took its place goes on".to_owned());
            told
        }
    };
    told.waits_for.retain(|text| !text.is_empty());
    let now_wanted = config.filter(|config| {
        let wanted = config
            .status
            .as_ref()
            .and_then(|status| status.machine_os_build.as_ref());
        wanted.is_some_and(|wanted| wanted.name == name)
    });
    let known = now_wanted.into_iter().flat_map(troubles);
    told.because.extend(
        known.map(|trouble| format!("{}={}: {}", trouble.type_, trouble.status, trouble.message)),
    );
    told.since = status.and_then(|status| {
        let current = BuildConditionType::ALL.iter().find(|kind| {
            condition::get(&status.conditions, **kind)
                .is_some_and(|c| c.status == Status::True.as_str())
        });
        condition::get(&status.conditions, *current?)?.since()
    });
    told.since = told.since.or(build
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0));
    told
}

fn moved(verb: &str, bytes: Option<Transferred>) -> String {
    bytes.map_or_else(String::new, |Transferred { done, total }| {
        format!(", {verb} {done} of {total} bytes")
    })
}
