//! The host's tools, by name, from the `PATH` or from one directory.

use camino::Utf8PathBuf;

use super::{OsError, SoftReboot};
use crate::command::Command;

const PREPARE: &str = "prepare-soft-reboot";

/// Where the host's tools are.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    dir: Option<Utf8PathBuf>,
}

impl Tools {
    /// Tools of one directory alone: those of a root that is mounted elsewhere, or ones that play a host.
    #[must_use]
    pub fn within(dir: Utf8PathBuf) -> Self {
        Self { dir: Some(dir) }
    }

    pub(super) fn command(&self, name: &str) -> Command {
        Command::new(&self.program(name))
    }

    fn program(&self, name: &str) -> String {
        match &self.dir {
            Some(dir) => dir.join(name).into_string(),
            None => name.to_owned(),
        }
    }

    /// How `ostree` starts the deployment that is next without a new kernel: since 2025.3, when it was built for it.
    pub(super) fn soft_reboot(&self) -> Result<Option<SoftReboot>, OsError> {
        let verbs = self.command("ostree").args(["admin", "--help"]).run()?;
        if !verbs.contains(PREPARE) {
            return Ok(None);
        }
        let verb = |argument: &str| {
            let program = self.program("ostree");
            vec![program, "admin".into(), PREPARE.into(), argument.into()]
        };
        Ok(Some(SoftReboot {
            prepare: verb("0"),
            reset: verb("--reset"),
        }))
    }

    /// Whether a tool answers to `--version`.
    pub(super) fn has(&self, name: &str) -> bool {
        let answer = self.command(name).arg("--version").output();
        answer.is_ok_and(|(status, ..)| status.success())
    }
}
