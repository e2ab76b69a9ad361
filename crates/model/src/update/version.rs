//! A rendered config with its image, read into what it means for a node.

use std::collections::BTreeSet;

use crate::api::MachineConfigSpec;
use crate::file_secret::{self, SecretFile, SecretVersions, Values};
use crate::ignition::{self, Config};
use crate::node::Target;
use crate::problem::Problem;
use crate::render::{Provenance, kernel_arguments};

/// A rendered config with the image that goes with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Version {
    /// Name of the rendered MachineConfig; empty for what a node had before its first.
    pub name: String,
    /// The layered image; absent where the pool has none.
    pub layered_image: Option<String>,
    /// Image of pools that have no layered one.
    pub os_image_url: String,
    /// Files, units and keys.
    pub ignition: Config,
    /// Kernel arguments, one an entry, each once.
    pub kernel_arguments: Vec<String>,
    /// Extensions, sorted, each once.
    pub extensions: BTreeSet<String>,
    /// Kernel; `default` when none is chosen.
    pub kernel_type: String,
    /// FIPS mode.
    pub fips: bool,
    /// Pull spec of the image that extensions come from; empty when there is none.
    pub extensions_image: String,
    /// Which MachineConfigs ask for what, as far as it is known.
    pub provenance: Provenance,
}

impl Version {
    /// Reads a rendered config.
    ///
    /// # Errors
    /// Every problem of its Ignition config, with the field's path.
    pub fn new(
        name: &str,
        spec: &MachineConfigSpec,
        layered_image: Option<&str>,
    ) -> Result<Self, Vec<Problem>> {
        let ignition = spec
            .config
            .as_ref()
            .map(ignition::parse)
            .transpose()?
            .unwrap_or_default();
        let kernel_type = match spec.kernel_type.as_str() {
            "" => "default",
            other => other,
        };
        Ok(Version {
            name: name.to_owned(),
            layered_image: layered_image.map(str::to_owned),
            os_image_url: spec.os_image_url.clone(),
            ignition: ignition.canonical(),
            kernel_arguments: kernel_arguments(spec.kernel_arguments.iter().map(String::as_str)),
            extensions: spec.extensions.iter().cloned().collect(),
            kernel_type: kernel_type.to_owned(),
            fips: spec.fips,
            extensions_image: spec.base_os_extensions_container_image.clone(),
            provenance: Provenance::default(),
        })
    }

    /// The same version, knowing which MachineConfigs it was rendered from.
    pub fn explained(self, provenance: Provenance) -> Self {
        Version { provenance, ..self }
    }

    /// The same version with the values that are known for files from Secrets.
    pub fn filled(mut self, values: &Values) -> Self {
        self.ignition.fill(values);
        self
    }

    /// Files from Secrets whose value is not known.
    pub fn unfilled(&self) -> Vec<SecretFile> {
        let unknown = self.ignition.nodes.iter().filter_map(|node| {
            let from = node.secret().filter(|_| node.contents().is_none())?;
            Some(SecretFile {
                path: node.path.clone(),
                from: from.clone(),
            })
        });
        unknown.collect()
    }

    /// The versions of the Secrets that its values are of.
    pub fn secret_versions(&self) -> SecretVersions {
        file_secret::versions(&self.ignition.values())
    }

    /// The image that a node of this version runs; none when neither pool nor config names one.
    pub fn image(&self) -> Option<&str> {
        self.layered_image
            .as_deref()
            .or(Some(self.os_image_url.as_str()))
            .filter(|image| !image.is_empty())
    }

    /// The version's name as the Node annotations have it.
    pub fn target(&self) -> Target {
        Target {
            config: self.name.clone(),
            image: self.layered_image.clone(),
        }
    }
}

/// Whether two pull specs are the same image: by digest where both have one, whatever registry it comes from.
pub fn same_image(a: &str, b: &str) -> bool {
    match (a.rsplit_once('@'), b.rsplit_once('@')) {
        (Some((_, a)), Some((_, b))) => a == b,
        _ => a == b,
    }
}
