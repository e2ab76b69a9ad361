//! Why the node rebooted, each time. What a reboot is for is written down before it is asked for; one that nobody wrote
//! down was somebody else's.

use camino::Utf8Path;
use jiff::Timestamp;
use model::ledger::{Cause, KEPT, Reboot};
use serde::{Deserialize, Serialize};

use crate::host::is_soft;
use crate::os::DeploymentId;
use crate::state::{State, StateError};

const LEDGER: &str = "/reboots.json";
const NEXT: &str = "/next-reboot.json";

/// The boot that runs, and the reboots before it, the oldest first.
#[derive(Default, Serialize, Deserialize)]
struct Ledger {
    boot: String,
    reboots: Vec<Reboot>,
}

/// What the next reboot is for.
#[derive(Serialize, Deserialize)]
struct Next {
    /// Boot in which it was asked for.
    boot: String,
    cause: Cause,
}

impl State {
    /// The node's reboots, the oldest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn reboots(&self) -> Result<Vec<Reboot>, StateError> {
        let ledger: Option<Ledger> = self.read(Utf8Path::new(LEDGER))?;
        Ok(ledger.unwrap_or_default().reboots)
    }

    /// Writes down what the next reboot is for; `boot` is the marker of the boot that runs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_next_reboot(&self, boot: &str, cause: Cause) -> Result<(), StateError> {
        let boot = boot.to_owned();
        self.write(Utf8Path::new(NEXT), &Next { boot, cause })
    }

    /// No reboot is to come any more.
    ///
    /// # Errors
    /// When what was written down cannot be removed.
    pub(crate) fn forget_next_reboot(&self) -> Result<(), StateError> {
        self.files().remove(Utf8Path::new(NEXT))?;
        Ok(())
    }

    /// Notes a boot, once; `otherwise` is what it was for when nobody wrote that down before it. The first boot that is
    /// seen is no reboot.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub(crate) fn note_boot(
        &self,
        boot: &str,
        now: Timestamp,
        deployment: &DeploymentId,
        otherwise: Cause,
    ) -> Result<(), StateError> {
        let before: Option<Ledger> = self.read(Utf8Path::new(LEDGER))?;
        let next: Option<Next> = self.read(Utf8Path::new(NEXT))?;
        let next = next.filter(|next| next.boot != boot);
        let is_first = before.is_none();
        let mut ledger = before.unwrap_or_default();
        if is_first || ledger.boot != boot {
            let asked = next.is_some();
            let cause = next.map_or(otherwise, |next| next.cause);
            if !is_first {
                ledger.reboots.push(Reboot {
                    at: now,
                    deployment: deployment.to_string(),
                    soft: is_soft(boot),
                    cause,
                });
            }
            let old = ledger.reboots.len().saturating_sub(KEPT);
            ledger.reboots.drain(..old);
            ledger.boot = boot.to_owned();
            self.write(Utf8Path::new(LEDGER), &ledger)?;
            if asked {
                self.files().remove(Utf8Path::new(NEXT))?;
            }
        } else if next.is_some() {
            // Left by a run that was killed after it had noted this boot.
            self.files().remove(Utf8Path::new(NEXT))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use model::ledger::Why;

    #[test]
    fn reboots_are_noted_once_with_what_they_were_for() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(Utf8Path::from_path(dir.path()).unwrap()).unwrap();
        let id = DeploymentId {
            checksum: "ab".repeat(32),
            serial: 0,
        };
        let boot = |marker: &str| {
            state
                .note_boot(marker, Timestamp::UNIX_EPOCH, &id, Cause::NotAsked)
                .unwrap();
            let causes = state.reboots().unwrap().into_iter();
            causes
                .map(|reboot| reboot.cause.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            boot("1"),
            [""; 0],
            "the first boot that is seen is no reboot"
        );
        assert_eq!(boot("1"), [""; 0]);
        let asked = Cause::update("`rendered-2`", Why::Image, ["image".to_owned()]);
        state.set_next_reboot("1", asked).unwrap();
        assert_eq!(boot("1"), [""; 0], "it has not happened yet");
        let update = "update to `rendered-2` ← image";
        assert_eq!(boot("2"), [update]);
        assert_eq!(boot("2"), [update]);
        assert_eq!(boot("3"), [update, "not asked for by Caprock"]);
        for marker in 4..100 {
            boot(&marker.to_string());
        }
        assert_eq!(boot("100").len(), KEPT);
    }
}
