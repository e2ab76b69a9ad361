//! MachineConfig: what a node's files, units, users, kernel and image should be.

use kube::{CustomResource, KubeSchema};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Desired configuration of a machine, written by a person or rendered for a pool.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1",
    kind = "MachineConfig",
    plural = "machineconfigs",
    shortname = "mc",
    doc = "Configuration of the machines of a pool; those that a pool selects are merged into its rendered MachineConfig.",
    derive = "PartialEq",
    derive = "Default",
    label("openshift.io/operator-managed", ""),
    printcolumn(
        name = "GeneratedByController",
        type_ = "string",
        json_path = r".metadata.annotations.machineconfiguration\.openshift\.io/generated-by-controller-version",
        description = "Version of the controller that generated the MachineConfig; empty when it is managed by a person"
    ),
    printcolumn(
        name = "IgnitionVersion",
        type_ = "string",
        json_path = ".spec.config.ignition.version",
        description = "Version of the Ignition config"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigSpec {
    /// Pull spec of the operating system image; empty means the cluster's default.
    #[serde(
        rename = "osImageURL",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_image_url: String,

    /// Pull spec of the image that holds the packages of `extensions`.
    #[serde(
        rename = "baseOSExtensionsContainerImage",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub base_os_extensions_container_image: String,

    /// An Ignition config, as it is written; the render checks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub config: Option<Value>,

    /// Kernel arguments to add, in order.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "nullable_strings")]
    pub kernel_arguments: Vec<String>,

    /// Names of the extensions to install.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "nullable_strings")]
    pub extensions: Vec<String>,

    /// Whether the kernel runs in FIPS mode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fips: bool,

    /// Kernel to run: `default`, `realtime` or `64k-pages`; empty leaves the choice to other MachineConfigs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernel_type: String,
}

fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "An Ignition config of version 3.0 to 3.5.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

fn nullable_strings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {"type": "string"},
        "nullable": true,
        "x-kubernetes-list-type": "atomic",
    })
}
