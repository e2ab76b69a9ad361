//! Objects that belong to a build, and go with it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use model::api::MachineOSBuild;
use model::keys;

/// The metadata of an object of our namespace that is there as long as the build is.
pub(crate) fn by(build: &MachineOSBuild, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(keys::NAMESPACE.to_owned()),
        owner_references: build.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}
