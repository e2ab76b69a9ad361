//! Which MachineConfig asks for what, so that every complaint can name the object to change.

use std::collections::BTreeMap;

use super::ConfigProblem;
use crate::api::MachineConfig;
use crate::ignition::{self, Config, Conflict, Subject};

/// Names of the MachineConfigs behind each path and unit of a rendered config, in the order in which they were merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    paths: BTreeMap<String, Vec<String>>,
    units: BTreeMap<String, Vec<String>>,
    enabling: BTreeMap<String, String>,
}

impl Provenance {
    /// Finds it again from the MachineConfigs that a rendered config was made from, such as a pool's `spec.configuration.source`
    /// lists them. Those that cannot be read any more are left out.
    pub fn of<'c>(sources: impl IntoIterator<Item = &'c MachineConfig>) -> Self {
        let fragments: Vec<(String, Config)> = sources
            .into_iter()
            .filter_map(|source| {
                let config = ignition::parse(source.spec.config.as_ref()?).ok()?;
                Some((source.metadata.name.clone()?, config))
            })
            .collect();
        Self::of_fragments(&fragments)
    }

    pub(super) fn of_fragments(fragments: &[(String, Config)]) -> Self {
        let mut found = Provenance::default();
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
        }
        found
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
