//! What a pool's layered image has trouble with, as its MachineOSConfig says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::MachineOSConfig;
use crate::condition::{self, OsConfigConditionType as Type, Status};

/// The conditions of a MachineOSConfig that tell of trouble, the worst first: what is certain before what could not be
/// told.
pub fn troubles(config: &MachineOSConfig) -> Vec<&Condition> {
    let conditions = config
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice());
    let in_status = |wanted: fn(Type) -> Status| {
        Type::ALL.iter().filter_map(move |kind| {
            let found = condition::get(conditions?, *kind)?;
            (found.status == wanted(*kind).as_str()).then_some(found)
        })
    };
    in_status(bad)
        .chain(in_status(|_| Status::Unknown))
        .collect()
}

/// The status by which a condition tells of trouble.
fn bad(kind: Type) -> Status {
    match kind {
        Type::Degraded | Type::CredentialsExpiring => Status::True,
        Type::BaseImagePullable | Type::ImagePushable | Type::NodesCanPull => Status::False,
    }
}
