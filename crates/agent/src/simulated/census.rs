//! How a simulated fleet does, in numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::machine::Simulated;

/// How a fleet does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Census {
    /// Its nodes.
    pub nodes: usize,
    /// Nodes by the rendered config that they run.
    pub running: BTreeMap<String, usize>,
    /// Nodes that have taken an update back.
    pub failed: usize,
    /// Reboots of all of them so far.
    pub reboots: u64,
}

impl Census {
    pub(super) fn of(machines: &[Simulated]) -> Self {
        let mut census = Census {
            nodes: machines.len(),
            ..Census::default()
        };
        for machine in machines {
            if let Some(config) = machine.config() {
                *census.running.entry(config).or_default() += 1;
            }
            census.failed += usize::from(machine.has_failed());
            census.reboots += u64::from(machine.reboots());
        }
        census
    }
}

/// `180 run rendered-a, 20 run rendered-b; 20 reboots`
impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.nodes - self.running.values().sum::<usize>();
        let mut parts: Vec<String> = self
            .running
            .iter()
            .map(|(config, count)| format!("{count} run {config}"))
            .collect();
        if waiting > 0 {
            parts.push(format!("{waiting} wait for a configuration"));
        }
        write!(f, "{}; {} reboots", parts.join(", "), self.reboots)?;
        match self.failed {
            0 => Ok(()),
            failed => write!(f, "; {failed} took an update back"),
        }
    }
}
