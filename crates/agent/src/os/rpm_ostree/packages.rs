//! Packages on top of the image, in as few transactions as rpm-ostree takes: each makes a whole tree.

use super::RpmOstree;
use super::status::Requested;
use crate::os::{OsError, PackageChanges};

impl PackageChanges {
    /// Whether packages of the image change: rpm-ostree has a command of its own for those.
    pub(super) fn swaps_kernels(&self) -> bool {
        !self.remove.is_empty() || !self.reset.is_empty()
    }

    /// Added and no longer added packages, as options of any command that makes a deployment.
    pub(super) fn options(&self) -> Vec<String> {
        let install = self.install.iter().map(|name| format!("--install={name}"));
        let uninstall = self
            .uninstall
            .iter()
            .map(|name| format!("--uninstall={name}"));
        install.chain(uninstall).collect()
    }
}

impl RpmOstree {
    /// What is left to change where this much is requested.
    pub(super) fn left(
        &self,
        there: &Requested,
        wanted: &PackageChanges,
    ) -> Result<PackageChanges, OsError> {
        let keep = |names: &[String], requested: &[String], present: bool| -> Vec<String> {
            let names = names.iter();
            names
                .filter(|name| requested.contains(name) == present)
                .cloned()
                .collect()
        };
        Ok(PackageChanges {
            install: keep(&wanted.install, &there.added, false),
            uninstall: keep(&wanted.uninstall, &there.added, true),
            remove: self.in_the_image(keep(&wanted.remove, &there.removed, false))?,
            reset: keep(&wanted.reset, &there.removed, true),
        })
    }

    /// Changes what the next deployment has, or makes one of the booted image that has it.
    pub(super) fn change_packages(&self, wanted: &PackageChanges) -> Result<(), OsError> {
        let left = self.left(&self.idle()?.next, wanted)?;
        if left.is_empty() {
            return Ok(());
        }
        let mut options = left.options();
        let done = if !left.reset.is_empty() {
            // To another kernel that is not the image's own either nothing is reset.
            let reset = self.tool("override").arg("reset").args(&left.reset);
            reset.args(options).run()
        } else if !left.remove.is_empty() {
            let remove = self.tool("override").arg("remove").args(&left.remove);
            remove.args(options).run()
        } else if left.install.is_empty() {
            self.tool("uninstall").args(&left.uninstall).run()
        } else {
            options.retain(|option| option.starts_with("--uninstall"));
            self.tool("install")
                // Names only: what is there under another name is no reason to fail.
                .arg("--allow-inactive")
                .args(&left.install)
                .args(options)
                .run()
        };
        // The connection to the daemon may have broken while it went on.
        let left = self.left(&self.idle()?.next, wanted)?;
        match done {
            Err(error) if !left.is_empty() => Err(error.into()),
            _ if !left.is_empty() => Err(OsError::Unexpected(format!(
                "packages that were not changed after rpm-ostree succeeded: `{}`",
                left.options().join("`, `")
            ))),
            _ => Ok(()),
        }
    }

    /// Those that the running image has: rpm-ostree refuses to take out what is not there.
    fn in_the_image(&self, names: Vec<String>) -> Result<Vec<String>, OsError> {
        if names.is_empty() {
            return Ok(names);
        }
        let query = self.store.tools.command("rpm");
        let (_, found, _) = query
            .args(["-q", "--qf=%{NAME}\\n"])
            .args(&names)
            .output()?;
        let found: Vec<&str> = found.lines().collect();
        Ok(names
            .into_iter()
            .filter(|name| found.contains(&name.as_str()))
            .collect())
    }
}
