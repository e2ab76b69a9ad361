//! A reference by name, the form in which the group's objects point at each other.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::rule;

/// The name of another object; the field that holds it says of which kind.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule::dns1123())]
    pub name: String,
}

impl Named {
    /// A reference to `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Named { name: name.into() }
    }
}
