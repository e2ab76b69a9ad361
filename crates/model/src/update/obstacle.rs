//! Differences that no step takes a node over.

use super::Version;
use super::change::Change;
use crate::packages::Packages;
use crate::problem::Problem;
use crate::render::field;

/// Where packages come from: only some hosts can do it by themselves.
const PACKAGES: &str = "takes a host that rpm-ostree updates (`--host-backend rpm-ostree`); elsewhere create a MachineOSConfig for the pool and install the packages in its Containerfile";

/// What the node cannot do.
pub(super) fn obstacles(from: &Version, to: &Version, changes: &[Change]) -> Vec<Problem> {
    let layered = to.layered_image.is_some();
    let mut problems = Vec::new();
    for change in changes {
        match change {
            Change::Extensions { .. } if !layered => {
                problems.push(Problem::new(field::EXTENSIONS, PACKAGES));
            }
            Change::KernelType { .. } if !layered => {
                problems.push(Problem::new(field::KERNEL_TYPE, PACKAGES));
            }
            Change::Fips(_) => problems.push(Problem::new(
                "spec.fips",
                "FIPS mode is chosen when a node is installed and cannot be changed on it; install the node anew",
            )),
            _ => {}
        }
    }
    let changed = |change: &Change| {
        matches!(
            change,
            Change::Extensions { .. } | Change::ExtensionsImage { .. } | Change::KernelType { .. }
        )
    };
    if changes.iter().any(changed)
        && !Packages::of(to).is_empty()
        && !to.extensions_image.is_empty()
    {
        problems.push(Problem::new(
            field::EXTENSIONS_IMAGE,
            "hosts install packages from the repositories that they have, not from an image of extensions; leave it out, or create a MachineOSConfig for the pool and install the packages in its Containerfile",
        ));
    }
    if to.image().is_none() && from.layered_image.is_some() {
        problems.push(Problem::new(
            "spec.osImageURL",
            "the pool has no layered image any more, and its rendered config names no image to return to",
        ));
    }
    problems
}
