//! An update for programs: its disruption in one word, and what is done, each with its reason.

use serde::Serialize;

use super::reason::Reason;
use super::{Disruption, Update};

/// One thing that is done to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// `Reboot`, `SoftReboot`, `Drain`, `DaemonReload`, `Reload`, `Restart`, `Start` or `Stop`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The unit that it is done to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Why.
    pub reason: Because,
}

/// The first reason, with the others in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Because {
    #[serde(flatten)]
    first: Reason,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more: Vec<Reason>,
}

impl Update {
    /// Everything that is done to the node, in order.
    pub fn listed(&self) -> Vec<Listed> {
        let reboot = match self.disruption {
            Disruption::SoftReboot => "SoftReboot",
            _ => "Reboot",
        };
        let node = [("Drain", &self.drain), (reboot, &self.reboot)];
        let node = node
            .into_iter()
            .filter_map(|(kind, reasons)| listed(kind, None, reasons));
        let services = self
            .actions
            .iter()
            .filter_map(|action| listed(action.type_name(), action.unit(), action.reasons()));
        node.chain(services).collect()
    }
}

fn listed(kind: &'static str, service: Option<&str>, reasons: &[Reason]) -> Option<Listed> {
    let (first, more) = reasons.split_first()?;
    Some(Listed {
        kind,
        service: service.map(str::to_owned),
        reason: Because {
            first: first.clone(),
            more: more.to_vec(),
        },
    })
}
