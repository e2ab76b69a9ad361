//! Whether a pool's layered image is built anew, and why.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use model::api::{MachineOSBuild, MachineOSConfig};
use model::build_state::BuildState;
use model::keys;
use model::update::Reason;
use serde::Serialize;

/// The build that a layered pool needs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Build {
    /// Whether an image has to be built first. One of equal inputs that was built before is used again.
    pub(super) needed: bool,
    /// The MachineOSBuild, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// How far it is, or what keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<String>,
    /// The image inputs that change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) reasons: Vec<Reason>,
}

/// What of a MachineOSConfig's change is an input of its image.
pub(super) fn differences(
    from: Option<&MachineOSConfig>,
    to: Option<&MachineOSConfig>,
) -> Vec<Reason> {
    let Some(to) = to else {
        return Vec::new();
    };
    let because = |field, change: &str| Reason {
        object: to.name_any(),
        field,
        path: None,
        unit: None,
        change: change.to_owned(),
        policy: None,
        details: Vec::new(),
    };
    let Some(from) = from else {
        return vec![because("spec", "the pool gets a layered image")];
    };
    let mut found = Vec::new();
    if from.spec.container_file != to.spec.container_file {
        found.push(because("spec.containerFile", "another Containerfile"));
    }
    let repository = |config: &MachineOSConfig| {
        let push = &config.spec.rendered_image_push_spec;
        push.rsplit_once(':')
            .map_or(push.clone(), |(repository, _)| repository.to_owned())
    };
    if repository(from) != repository(to) {
        found.push(because("spec.renderedImagePushSpec", "another repository"));
    }
    found
}

/// The Containerfile; of several for as many architectures, all of them.
pub(super) fn containerfile(config: &MachineOSConfig) -> String {
    let files = config.spec.container_file.iter();
    let texts: Vec<&str> = files.map(|file| file.content.as_str()).collect();
    texts.join("\n")
}

/// What the controllers make of a MachineOSConfig now.
pub(super) fn under_way(config: &MachineOSConfig, builds: &[MachineOSBuild]) -> Build {
    let status = config.status.clone().unwrap_or_default();
    // The Machine Config Operator's status names the last build that succeeded, and the annotation the one of now.
    let wanted = config.annotations().get(keys::CURRENT_BUILD).cloned();
    let name = wanted.or(status.machine_os_build.map(|build| build.name));
    let found = builds.iter().find(|build| Some(build.name_any()) == name);
    let kept_back = status
        .conditions
        .iter()
        .find(|condition: &&Condition| condition.type_ == "Degraded" && condition.status == "True");
    let (needed, state) = match (found.map(BuildState::of), kept_back) {
        (Some(BuildState::Succeeded { .. }), _) => (false, None),
        (_, Some(condition)) => (true, Some(condition.message.clone())),
        (None | Some(BuildState::New), None) => (true, Some("has not begun".to_owned())),
        (Some(BuildState::Prepared), None) => (true, Some("waits for a builder".to_owned())),
        (Some(BuildState::Building { message, .. }), None) => (true, Some(message)),
        (Some(BuildState::Failed { message }), None) => (true, Some(format!("failed: {message}"))),
        (Some(BuildState::Interrupted { message }), None) => {
            (true, Some(format!("was stopped: {message}")))
        }
    };
    Build {
        needed,
        name,
        state,
        reasons: Vec::new(),
    }
}
