//! The host's tools, by name, from the `PATH` or from one directory.

use camino::Utf8PathBuf;

use crate::command::Command;

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
        match &self.dir {
            Some(dir) => Command::new(dir.join(name).as_str()),
            None => Command::new(name),
        }
    }

    /// Whether a tool answers to `--version`.
    pub(super) fn has(&self, name: &str) -> bool {
        let answer = self.command(name).arg("--version").output();
        answer.is_ok_and(|(status, ..)| status.success())
    }
}
