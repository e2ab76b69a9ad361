//! Which build a MachineOSConfig wants now.

use std::sync::Arc;

use kube::ResourceExt;
use model::api::{ContainerfileArch, MachineConfig, MachineOSBuild, MachineOSConfig};
use model::build_state::BuildState;
use model::condition::BuildReason;
use model::keys;
use model::layering::{ImageInputs, LayeringError};
use model::pull_spec::PullSpec;

use super::{rebuild, sources};
use crate::cache::Cache;
use crate::registry::Failure;

/// MachineOSBuild annotation: the base image as it was asked for, by tag perhaps.
pub(crate) const BASE_SOURCE: &str = "caprock.dev/base-image-source";
/// MachineOSBuild annotation: the base image with the digest that the build uses.
pub(crate) const BASE_DIGEST: &str = "caprock.dev/base-image";

/// What a MachineOSConfig wants.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// The build of these inputs.
    Build(Box<ImageInputs>),
    /// A registry has to be asked first what this base image's tag stands for.
    Unpinned(PullSpec),
    /// Nothing, before somebody corrects what the message names.
    Blocked(Failure),
}

/// Decides which build is wanted, given the rendered config and the builds that were made before.
///
/// A tag is resolved once: as long as it stays the same, its digest is taken from the latest build that used it, so that
/// a tag that moves does not start a build by itself. A wish for a rebuild asks again.
pub(crate) fn wanted(
    cache: &Cache,
    config: &MachineOSConfig,
    rendered: &MachineConfig,
    builds: &[Arc<MachineOSBuild>],
) -> Wanted {
    let source = &rendered.spec.os_image_url;
    let base = match base(config, source) {
        Ok(base) => base,
        Err(failure) => return Wanted::Blocked(failure),
    };
    let pinned = if base.digest().is_some() {
        base
    } else {
        let of_wish = builds
            .iter()
            .filter(|build| rebuild::is_for_wish_of(build, config));
        match pinned_before(source, of_wish) {
            Some(pinned) => pinned,
            None => return Wanted::Unpinned(base),
        }
    };
    match inputs(cache, config, rendered, &pinned) {
        Ok(inputs) => Wanted::Build(Box::new(inputs)),
        Err(failure) => Wanted::Blocked(failure),
    }
}

/// The base image as a rendered config names it.
pub(crate) fn base(config: &MachineOSConfig, source: &str) -> Result<PullSpec, Failure> {
    let blocked = |message| Failure {
        reason: BuildReason::BaseImageUnavailable,
        message,
        may_pass: false,
    };
    if source.is_empty() {
        return Err(blocked(format!(
            "pool `{}` has no base image: set `spec.osImageURL` in one of its MachineConfigs, or key `{}` of ConfigMap \
             `{}` in namespace `{}`",
            config.spec.machine_config_pool.name,
            keys::BASE_OS_IMAGE_KEY,
            keys::OS_IMAGE_URL_CONFIG_MAP,
            keys::NAMESPACE
        )));
    }
    source.parse().map_err(|error| {
        blocked(format!(
            "base image of pool `{}`: {error}",
            config.spec.machine_config_pool.name
        ))
    })
}

fn pinned_before<'b>(
    source: &str,
    builds: impl Iterator<Item = &'b Arc<MachineOSBuild>>,
) -> Option<PullSpec> {
    builds
        .filter(|build| build.annotations().get(BASE_SOURCE).map(String::as_str) == Some(source))
        .max_by_key(|build| {
            (
                build.creation_timestamp().map(|time| time.0),
                build.name_any(),
            )
        })
        .and_then(|build| build.annotations().get(BASE_DIGEST)?.parse().ok())
}

/// The inputs of a build upon this base image.
pub(crate) fn inputs(
    cache: &Cache,
    config: &MachineOSConfig,
    rendered: &MachineConfig,
    base: &PullSpec,
) -> Result<ImageInputs, Failure> {
    let inputs = ImageInputs::new(rendered, config, base, host_arch()).map_err(blocked)?;
    let inputs = inputs.with_sources(sources::resolve(cache, config)?);
    Ok(match rebuild::wish(config) {
        Some(wish) => inputs.rebuilt(wish),
        None => inputs,
    })
}

/// Tells why no build can be made in the words of a condition.
pub(super) fn blocked(error: LayeringError) -> Failure {
    Failure {
        reason: match error {
            LayeringError::BaseWithoutDigest { .. } => BuildReason::BaseImageUnavailable,
            LayeringError::Containerfile { .. } => BuildReason::InvalidContainerfile,
            LayeringError::PushSpec { .. }
            | LayeringError::Source { .. }
            | LayeringError::Unsupported { .. }
            | LayeringError::Rendered { .. } => BuildReason::InvalidConfig,
        },
        message: error.to_string(),
        may_pass: false,
    }
}

/// Whether a build that ended without an image says nothing about what is wanted now: it was stopped, or it failed for
/// another rendered config, with units that the image may not have had.
pub(crate) fn is_spent(build: &MachineOSBuild, state: &BuildState, rendered: &str) -> bool {
    match state {
        BuildState::Interrupted { .. } => true,
        BuildState::Failed { .. } => build.spec.machine_config.name != rendered,
        BuildState::New
        | BuildState::Prepared
        | BuildState::Building { .. }
        | BuildState::Succeeded { .. } => false,
    }
}

/// Every build that was made for a MachineOSConfig.
pub(crate) fn builds_of(cache: &Cache, config: &MachineOSConfig) -> Vec<Arc<MachineOSBuild>> {
    let name = config.name_any();
    cache
        .builds
        .state_filter(|build| build.spec.machine_os_config.name == name)
}

/// The architecture that is built for: the builder's own. One that the API has no name for takes what is for all.
fn host_arch() -> ContainerfileArch {
    match std::env::consts::ARCH {
        "x86_64" => ContainerfileArch::Amd64,
        "aarch64" => ContainerfileArch::Arm64,
        "powerpc64" => ContainerfileArch::Ppc64le,
        "s390x" => ContainerfileArch::S390x,
        _ => ContainerfileArch::NoArch,
    }
}
