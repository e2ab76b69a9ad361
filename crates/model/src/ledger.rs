//! Why a node rebooted, each time: kept on the node, and shown on its Node for who asks later.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Reboots that a node keeps.
pub const KEPT: usize = 50;
/// Reboots that the Node's annotation shows.
const SHOWN: usize = 10;
/// Longest annotation, in bytes: a Node's have 256 KiB together.
const MAX_SHOWN_BYTES: usize = 16 * 1024;
/// Longest link of a chain, in bytes.
const MAX_LINK_BYTES: usize = 500;
/// Most links of a chain.
const MAX_LINKS: usize = 10;

/// What makes an update a reboot; where it is several things, the first of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// Another image.
    Image,
    /// Other kernel arguments.
    KernelArguments,
    /// A node disruption policy asks for it.
    Policy,
    /// Something else, or an agent that does not say.
    #[default]
    Other,
}

impl Why {
    fn is_other(&self) -> bool {
        *self == Why::Other
    }
}

/// What a reboot was for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "camelCase")]
pub enum Cause {
    /// An update needed it.
    Update {
        /// What the node went to.
        target: String,
        /// From what was asked for to what made it a reboot.
        chain: Vec<String>,
        /// What made it a reboot, in a word.
        #[serde(default, skip_serializing_if = "Why::is_other")]
        why: Why,
    },
    /// A deployment that was not well was left.
    WayBack {
        /// What was left.
        target: String,
        /// Why.
        reason: String,
    },
    /// Somebody else: a person, the machine's power, a kernel that crashed.
    NotAsked,
}

impl Cause {
    /// An update, with a chain of bounded length.
    pub fn update(
        target: impl fmt::Display,
        why: Why,
        chain: impl IntoIterator<Item = String>,
    ) -> Self {
        Cause::Update {
            why,
            target: target.to_string(),
            chain: chain.into_iter().take(MAX_LINKS).map(shortened).collect(),
        }
    }

    /// What [`Cause::word`] returns.
    pub const WORDS: [&str; 6] = [
        "image",
        "kernel_arguments",
        "policy",
        "other",
        "rollback",
        "unasked",
    ];

    /// What it was for, in a word.
    pub fn word(&self) -> &'static str {
        match self {
            Cause::Update { why, .. } => match why {
                Why::Image => "image",
                Why::KernelArguments => "kernel_arguments",
                Why::Policy => "policy",
                Why::Other => "other",
            },
            Cause::WayBack { .. } => "rollback",
            Cause::NotAsked => "unasked",
        }
    }

    /// A way back, with a reason of bounded length.
    pub fn way_back(target: impl fmt::Display, reason: &str) -> Self {
        Cause::WayBack {
            target: target.to_string(),
            reason: shortened(reason.to_owned()),
        }
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_LINK_BYTES));
    text
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Update { target, chain, .. } => {
                write!(f, "update to {target}")?;
                for link in chain {
                    write!(f, " ← {link}")?;
                }
                Ok(())
            }
            Cause::WayBack { target, reason } => write!(f, "back from {target}: {reason}"),
            Cause::NotAsked => f.write_str("not asked for by Caprock"),
        }
    }
}

/// One reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reboot {
    /// When the node was back.
    pub at: Timestamp,
    /// The deployment that it came back on.
    pub deployment: String,
    /// Whether the kernel ran on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub soft: bool,
    /// What it was for.
    #[serde(flatten)]
    pub cause: Cause,
}

/// The newest reboots as the Node's annotation holds them, the newest first.
pub fn to_annotation(reboots: &[Reboot]) -> String {
    let newest: Vec<&Reboot> = reboots.iter().rev().take(SHOWN).collect();
    let text =
        |count: usize| serde_json::to_string(&newest[..count]).expect("our own types become JSON");
    (0..=newest.len())
        .rev()
        .map(text)
        .find(|text| text.len() <= MAX_SHOWN_BYTES)
        .unwrap_or_default()
}

/// Reads what [`to_annotation`] wrote, the newest first.
///
/// # Errors
/// When it is anything else.
pub fn from_annotation(text: &str) -> Result<Vec<Reboot>, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reboot(second: i64, cause: Cause) -> Reboot {
        Reboot {
            at: Timestamp::constant(second, 0),
            deployment: "ab.0".to_owned(),
            soft: false,
            cause,
        }
    }

    #[test]
    fn causes_are_told_as_chains() {
        let check = |cause: Cause, expected: &str| assert_eq!(cause.to_string(), expected);
        check(
            Cause::update(
                "`rendered-2`",
                Why::KernelArguments,
                [
                    "kernelArguments +audit=0".into(),
                    "MachineConfig `50-audit`".into(),
                ],
            ),
            "update to `rendered-2` ← kernelArguments +audit=0 ← MachineConfig `50-audit`",
        );
        check(
            Cause::way_back("`rendered-2`", "unit `a.service` failed"),
            "back from `rendered-2`: unit `a.service` failed",
        );
        check(Cause::NotAsked, "not asked for by Caprock");
    }

    #[test]
    fn the_annotation_is_bounded_and_keeps_the_newest() {
        let long = || {
            Cause::update(
                "x".repeat(100),
                Why::Other,
                (0..100).map(|_| "ü".repeat(10_000)),
            )
        };
        let all: Vec<Reboot> = (0..60).map(|second| reboot(second, long())).collect();
        let text = to_annotation(&all);
        assert!(text.len() <= MAX_SHOWN_BYTES, "{}", text.len());
        let read = from_annotation(&text).unwrap();
        assert_eq!(read[0], all[59]);
        assert!(!read.is_empty() && read.len() <= SHOWN);
        assert_eq!(to_annotation(&[]), "[]");
        let few = [reboot(1, Cause::NotAsked)];
        assert_eq!(
            to_annotation(&few),
            r#"[{"at":"1970-01-01T00:00:01Z","deployment":"ab.0","cause":"notAsked"}]"#
        );
    }
}
