//! MachineOSConfig and MachineOSBuild as `v1alpha1` wrote them, and the conversion between that shape and `v1`.
//!
//! `v1` is what is stored. Fields of `v1` that the older shape had no words for stand there under their `v1` names, and
//! what only the older shape can say is kept in an annotation of the `v1` object: both ways lose nothing.

mod convert;
mod machine_os_build;
mod machine_os_config;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
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

/// Adds this version to the CRD of a kind that has it.
pub(super) fn add_to(v1: CustomResourceDefinition) -> CustomResourceDefinition {
    let older = match v1.spec.names.kind.as_str() {
        "MachineOSConfig" => MachineOSConfig::crd(),
        "MachineOSBuild" => MachineOSBuild::crd(),
        _ => return v1,
    };
    kube_core::crd::merge_crds(vec![v1, older], super::VERSION)
        .expect("both versions have the same group, kind and scope")
}
