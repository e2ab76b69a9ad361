//! Which MachineConfig asks for what, so that every complaint can name the object to change.

use std::collections::BTreeMap;

use super::{ConfigProblem, kernel};
use crate::api::MachineConfig;
use crate::ignition::{self, Config, Conflict, Subject};

/// Names of the MachineConfigs behind each path and unit of a rendered config, in the order in which they were merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    paths: BTreeMap<String, Vec<String>>,
    units: BTreeMap<String, Vec<String>>,
    enabling: BTreeMap<String, String>,
    /// By field and value.
    settings: BTreeMap<(&'static str, String), Vec<String>>,
}

/// Fields of a MachineConfig, by the paths that reasons and complaints name them with.
pub mod field {
    pub const OS_IMAGE_URL: &str = "spec.osImageURL";
    pub const EXTENSIONS_IMAGE: &str = "spec.baseOSExtensionsContainerImage";
    pub const KERNEL_ARGUMENTS: &str = "spec.kernelArguments";
    pub const EXTENSIONS: &str = "spec.extensions";
    pub const KERNEL_TYPE: &str = "spec.kernelType";
    pub const FIPS: &str = "spec.fips";
    pub const UNITS: &str = "spec.config.systemd.units";
    pub const USERS: &str = "spec.config.passwd.users";

    /// Where an entry stands that is a `file`, `directory` or `link`.
    pub fn of_path(kind: &str) -> &'static str {
        match kind {
            "directory" => "spec.config.storage.directories",
            "link" => "spec.config.storage.links",
            _ => "spec.config.storage.files",
        }
    }
}

impl Provenance {
    /// Finds it again from the MachineConfigs that a rendered config was made from, such as a pool's `spec.configuration.source`
    /// lists them. Those that cannot be read any more are left out.
    pub fn of<'c>(sources: impl IntoIterator<Item = &'c MachineConfig>) -> Self {
        let sources: Vec<&MachineConfig> = sources.into_iter().collect();
        let fragments: Vec<(String, Config)> = sources
            .iter()
            .filter_map(|source| {
                let config = ignition::parse(source.spec.config.as_ref()?).ok()?;
                Some((source.metadata.name.clone()?, config))
            })
            .collect();
        Self::of_fragments(&sources, &fragments)
    }

    pub(super) fn of_fragments(sources: &[&MachineConfig], fragments: &[(String, Config)]) -> Self {
        let mut found = Provenance::default();
        for source in sources {
            found.note_fields(source);
        }
        for (name, config) in fragments {
            for node in &config.nodes {
                found
                    .paths
                    .entry(node.path.clone())
                    .or_default()
                    .push(name.clone());
            }
            for unit in &config.units {
                found
                    .units
                    .entry(unit.name.clone())
                    .or_default()
                    .push(name.clone());
                if unit.enabled == Some(true) {
                    found.enabling.insert(unit.name.clone(), name.clone());
                }
            }
            for key in &config.core.ssh_keys {
                found.note(field::USERS, key, name);
            }
            if config.core.password_hash.is_some() {
                // That there is one; the hash itself is nobody's business.
                found.note(field::USERS, "", name);
            }
        }
        found
    }

    fn note_fields(&mut self, source: &MachineConfig) {
        let Some(name) = &source.metadata.name else {
            return;
        };
        let spec = &source.spec;
        for (field, value) in [
            (field::OS_IMAGE_URL, &spec.os_image_url),
            (
                field::EXTENSIONS_IMAGE,
                &spec.base_os_extensions_container_image,
            ),
            (field::KERNEL_TYPE, &spec.kernel_type),
        ] {
            if !value.is_empty() {
                self.note(field, value, name);
            }
        }
        for argument in kernel::arguments(spec.kernel_arguments.iter().map(String::as_str)) {
            self.note(field::KERNEL_ARGUMENTS, &argument, name);
        }
        for extension in &spec.extensions {
            self.note(field::EXTENSIONS, extension, name);
        }
        if spec.fips {
            self.note(field::FIPS, "true", name);
        }
    }

    fn note(&mut self, field: &'static str, value: &str, name: &str) {
        let names = self.settings.entry((field, value.to_owned())).or_default();
        names.push(name.to_owned());
    }

    /// The MachineConfigs that give a [`field`] this value, or a list this item.
    pub fn of_setting(&self, field: &'static str, value: &str) -> &[String] {
        let names = self.settings.get(&(field, value.to_owned()));
        names.map_or(&[], Vec::as_slice)
    }

    /// The MachineConfigs that say something about a path.
    pub fn of_path(&self, path: &str) -> &[String] {
        self.paths.get(path).map_or(&[], Vec::as_slice)
    }

    /// The MachineConfigs that say something about a unit.
    pub fn of_unit(&self, name: &str) -> &[String] {
        self.units.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last MachineConfig that enables a unit.
    pub fn enabling(&self, unit: &str) -> Option<&str> {
        self.enabling.get(unit).map(String::as_str)
    }

    pub(super) fn explain(&self, conflicts: Vec<Conflict>) -> Vec<ConfigProblem> {
        let names = |subject: &Subject| match subject {
            Subject::Path(path) => self.of_path(path).to_vec(),
            Subject::Unit(name) => self.of_unit(name).to_vec(),
        };
        conflicts
            .into_iter()
            .map(|conflict| {
                let mut machine_configs = names(&conflict.subject);
                for name in conflict.with.iter().flat_map(names) {
                    if !machine_configs.contains(&name) {
                        machine_configs.push(name);
                    }
                }
                ConfigProblem {
                    machine_configs,
                    field: conflict.subject.to_string(),
                    reason: conflict.reason,
                }
            })
            .collect()
    }
}
