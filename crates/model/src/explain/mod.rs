//! What an object is doing, since when and until when, what it waits for, what comes next and what a person can do:
//! from the objects of the API alone, so that it is the same from any place.

mod build;
mod image;
mod node;
mod pool;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::ledger::Reboot;

pub use build::build;
pub use image::troubles;
pub use node::{NodeSeen, node, unanswered};
pub use pool::{PoolSeen, pool};

/// What is to be said of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Which object, as `kind/name`.
    pub object: String,
    /// What it is doing.
    pub doing: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When something else happens at the latest, and what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Deadline>,
    /// What it has that no other object shows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub has: Vec<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
    /// What it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// What comes next, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// What a person can do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<String>,
    /// Its reboots, the newest first, when they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboots: Option<Vec<Reboot>>,
}

/// The end of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadline {
    /// When.
    pub at: Timestamp,
    /// What happens then.
    pub then: String,
}

impl Deadline {
    fn after(since: Option<Timestamp>, span: SignedDuration, then: &str) -> Option<Self> {
        Some(Self {
            at: since?.checked_add(span).ok()?,
            then: then.to_owned(),
        })
    }
}

impl Explanation {
    fn new(kind: &str, name: &str, doing: impl Into<String>) -> Self {
        Self {
            object: format!("{kind}/{name}"),
            doing: doing.into(),
            ..Self::default()
        }
    }

    /// As text for a person who looks at it now.
    pub fn text(&self, now: Timestamp) -> String {
        let mut lines = vec![format!("{}: {}", self.object, self.doing)];
        let mut say = |label: &str, items: &mut dyn Iterator<Item = String>| {
            let mut label = label;
            for item in items {
                lines.push(format!(
                    "  {label:<10} {}",
                    item.replace('\n', "\n             ")
                ));
                label = "";
            }
        };
        let when = |at: Timestamp| format!("{} ({})", seconds(at), relative(at, now));
        say("since", &mut self.since.into_iter().map(when));
        say(
            "until",
            &mut self
                .until
                .iter()
                .map(|deadline| format!("{}, then {}", when(deadline.at), deadline.then)),
        );
        say("has", &mut self.has.iter().cloned());
        say("because", &mut self.because.iter().cloned());
        say("waits for", &mut self.waits_for.iter().cloned());
        say("next", &mut self.next.iter().cloned());
        say("you can", &mut self.remedies.iter().cloned());
        if let Some(reboots) = &self.reboots {
            let told = |reboot: &Reboot| {
                let deployment = &reboot.deployment[..reboot.deployment.len().min(12)];
                let soft = if reboot.soft { " (soft reboot)" } else { "" };
                format!(
                    "{} on {deployment}{soft}: {}",
                    seconds(reboot.at),
                    reboot.cause
                )
            };
            match reboots.is_empty() {
                true => say("reboots", &mut std::iter::once("none on record".to_owned())),
                false => say("reboots", &mut reboots.iter().map(told)),
            }
        }
        lines.join("\n") + "\n"
    }
}

/// Without fractions, which say nothing to people.
fn seconds(at: Timestamp) -> impl fmt::Display {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// `3m ago`, `in 2h`.
fn relative(at: Timestamp, now: Timestamp) -> String {
    let passed = now.duration_since(at).as_secs();
    match passed >= 0 {
        true => format!("{} ago", span(passed)),
        false => format!("in {}", span(-passed)),
    }
}

fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
