//! Packages that a node puts on top of its image, for the extensions and the kernel that its config names.

use std::collections::BTreeSet;

use crate::update::Version;

/// Packages of each extension, as OpenShift has them.
const EXTENSIONS: &[(&str, &[&str])] = &[
    ("ipsec", &["NetworkManager-libreswan", "libreswan"]),
    ("kerberos", &["krb5-workstation", "libkadm5"]),
    ("kernel-devel", &["kernel-devel", "kernel-headers"]),
    ("sandboxed-containers", &["kata-containers"]),
    ("sysstat", &["sysstat"]),
    ("two-node-ha", &["fence-agents-all", "pacemaker", "pcs"]),
    ("usbguard", &["usbguard"]),
];

/// The kernel that images come with. Not every image has each of them.
const KERNEL: &[&str] = &[
    "kernel",
    "kernel-core",
    "kernel-modules",
    "kernel-modules-core",
    "kernel-modules-extra",
];

/// Packages of each other kernel. Realtime has no `kernel-rt-kvm` any more: it is part of the modules.
const OTHER_KERNELS: &[(&str, &[&str])] = &[
    (
        "64k-pages",
        &[
            "kernel-64k-core",
            "kernel-64k-modules",
            "kernel-64k-modules-core",
            "kernel-64k-modules-extra",
        ],
    ),
    (
        "realtime",
        &[
            "kernel-rt-core",
            "kernel-rt-modules",
            "kernel-rt-modules-core",
            "kernel-rt-modules-extra",
        ],
    ),
];

/// The kernel when nobody chooses.
pub(crate) const DEFAULT_KERNEL: &str = "default";

/// Extensions that a config may name.
pub(crate) fn extensions() -> Vec<&'static str> {
    EXTENSIONS.iter().map(|(name, _)| *name).collect()
}

/// Kernels that a config may name.
pub(crate) fn kernel_types() -> Vec<&'static str> {
    let others = OTHER_KERNELS.iter().map(|(name, _)| *name);
    std::iter::once(DEFAULT_KERNEL).chain(others).collect()
}

/// What a version has on top of its image, and without what of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packages {
    /// Added.
    pub added: BTreeSet<&'static str>,
    /// Taken out of the image, where it has them.
    pub removed: BTreeSet<&'static str>,
}

impl Packages {
    /// Packages of a version. None of one with a layered image, which has what it needs.
    pub fn of(version: &Version) -> Self {
        let mut packages = Packages::default();
        if version.layered_image.is_some() {
            return packages;
        }
        for (extension, names) in EXTENSIONS {
            if version.extensions.contains(*extension) {
                packages.added.extend(*names);
            }
        }
        for (kernel, names) in OTHER_KERNELS {
            if version.kernel_type == *kernel {
                packages.added.extend(*names);
                packages.removed.extend(KERNEL);
            }
        }
        packages
    }

    /// Whether the image is taken as it is.
    pub fn is_empty(&self) -> bool {
        *self == Packages::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::api::MachineConfigSpec;

    fn packages(extensions: &[&str], kernel_type: &str, layered: Option<&str>) -> String {
        let spec = json!({"extensions": extensions, "kernelType": kernel_type});
        let spec: MachineConfigSpec = serde_json::from_value(spec).unwrap();
        let Packages { added, removed } = Packages::of(&Version::new("a", &spec, layered).unwrap());
        let signed = |sign: &str, names: BTreeSet<&str>| {
            let names = names.into_iter().map(|name| format!("{sign}{name}"));
            names.collect::<Vec<_>>().join(" ")
        };
        format!("{}{}", signed("+", added), signed("-", removed))
    }

    #[test]
    fn extensions_and_kernels_are_packages() {
        assert_eq!(packages(&[], "default", None), "");
        assert_eq!(
            packages(&["usbguard", "sysstat"], "", None),
            "+sysstat +usbguard"
        );
        assert_eq!(
            packages(&[], "realtime", None),
            "+kernel-rt-core +kernel-rt-modules +kernel-rt-modules-core +kernel-rt-modules-extra\
             -kernel -kernel-core -kernel-modules -kernel-modules-core -kernel-modules-extra"
        );
        assert_eq!(packages(&["usbguard"], "realtime", Some("r/x@y")), "");
    }
}
