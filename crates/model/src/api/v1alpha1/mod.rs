//! MachineOSConfig and MachineOSBuild as `v1alpha1` wrote them, and the conversion between that shape and `v1`.
//!
//! `v1` is what is stored. Fields of `v1` that the older shape had no words for stand there under their `v1` names, and
//! what only the older shape can say is kept in an annotation of the `v1` object: both ways lose nothing.

mod convert;
mod machine_os_build;
mod machine_os_config;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition,
};
use kube_core::CustomResourceExt;

pub use convert::{
    ANNOTATION, ConvertError, build_from_v1, build_to_v1, config_from_v1, config_to_v1, convert,
    review,
};
pub use machine_os_build::{
    BuilderReference, MachineOSBuild, MachineOSBuildSpec, MachineOSBuildStatus,
};
pub use machine_os_config::{
    BuildInputs, BuildOutputs, ContainerfileArch, ImageBuilder, ImageBuilderType, MachineOSConfig,
    MachineOSConfigSpec, MachineOSConfigStatus, MachineOSContainerfile,
};

/// This version's name.
pub const VERSION: &str = "v1alpha1";

/// Names of the CRDs that have this version beside `v1`.
pub const CRDS: [&str; 2] = [
    "machineosconfigs.machineconfiguration.openshift.io",
    "machineosbuilds.machineconfiguration.openshift.io",
];

/// Adds this version to the CRD of a kind that has it. It is not served before somebody converts: see [`serve`].
pub(super) fn add_to(v1: CustomResourceDefinition) -> CustomResourceDefinition {
    let older = match v1.spec.names.kind.as_str() {
        "MachineOSConfig" => MachineOSConfig::crd(),
        "MachineOSBuild" => MachineOSBuild::crd(),
        _ => return v1,
    };
    let mut both = kube_core::crd::merge_crds(vec![v1, older], super::VERSION)
        .expect("both versions have the same group, kind and scope");
    for version in &mut both.spec.versions {
        version.served = version.name != VERSION;
    }
    both
}

/// The CRDs for a server that converts: by itself, or as `conversion` says.
pub fn serve(
    mut crds: Vec<CustomResourceDefinition>,
    conversion: Option<&CustomResourceConversion>,
) -> Vec<CustomResourceDefinition> {
    for crd in &mut crds {
        // RolloutPolicy has this version too, and no other.
        if crd.spec.group != super::GROUP || crd.spec.versions.len() < 2 {
            continue;
        }
        for version in &mut crd.spec.versions {
            version.served = true;
        }
        crd.spec.conversion = conversion.cloned();
    }
    crds
}
