//! Whether a pool with a layered image builds a new one.

use super::change::Change;
use super::compare;
use super::reason::Reason;
use super::version::{Version, same_image};
use crate::layering::Reads;

/// What of a rendered config's change is an input of the pool's image; nothing when the image stays. Kernel arguments,
/// units and files that the build of `containerfile` does not read are no inputs: a change of them never builds.
pub fn rebuild(from: &Version, to: &Version, containerfile: &str) -> Vec<Reason> {
    let base = |version: &Version| Version {
        layered_image: None,
        ..version.clone()
    };
    let (from, to) = (base(from), base(to));
    let mut changes = compare::between(&from, &to);
    changes.retain(|change| match change {
        Change::Image { .. } => !same_image(&from.os_image_url, &to.os_image_url),
        Change::Extensions { .. } | Change::ExtensionsImage { .. } | Change::KernelType { .. } => {
            true
        }
        Change::Path { path, .. } => [&from, &to]
            .iter()
            .any(|version| Reads::new(containerfile, &version.ignition).is_build_input(path)),
        Change::KernelArguments { .. }
        | Change::Fips(_)
        | Change::Unit { .. }
        | Change::SshKeys
        | Change::Password => false,
    });
    changes
        .iter()
        .map(|change| change.reason(&from, &to))
        .collect()
}
