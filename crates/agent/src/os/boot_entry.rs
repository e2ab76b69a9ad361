//! Boot loader entries: one per deployment, the highest `version` first. They are where ostree keeps the order of
//! deployments and their kernel arguments.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use model::render::split_kernel_arguments;

use super::{OsError, io_error};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootEntry {
    path: Utf8PathBuf,
    text: String,
    version: u64,
}

impl BootEntry {
    /// What follows `key` on its line.
    fn value(&self, key: &str) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(' ')?.trim()))
    }

    /// Arguments of the kernel, without the one by which ostree finds the deployment.
    pub(super) fn kernel_arguments(&self) -> Vec<String> {
        let options = self.value("options").unwrap_or_default();
        let mut arguments = split_kernel_arguments(options);
        arguments.retain(|argument| !argument.starts_with("ostree="));
        arguments
    }

    fn with_version(&self, version: u64) -> String {
        let lines = self
            .text
            .lines()
            .map(|line| match line.starts_with("version ") {
                true => format!("version {version}"),
                false => line.to_owned(),
            });
        lines.map(|line| line + "\n").collect()
    }
}

/// All entries in boot order; none where there is no boot loader configuration yet.
pub(super) fn read(dir: &Utf8Path) -> Result<Vec<BootEntry>, OsError> {
    let listing = match dir.read_dir_utf8() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("read", dir))?,
    };
    let mut entries = Vec::new();
    for entry in listing {
        let path = entry.map_err(io_error("read", dir))?.into_path();
        let is_ours = path
            .file_name()
            .is_some_and(|name| name.starts_with("ostree-") && name.ends_with(".conf"));
        if is_ours {
            let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
            entries.push(parse(path, text)?);
        }
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.version));
    Ok(entries)
}

fn parse(path: Utf8PathBuf, text: String) -> Result<BootEntry, OsError> {
    let mut entry = BootEntry {
        path,
        text,
        version: 0,
    };
    let version = entry
        .value("version")
        .and_then(|version| version.parse().ok());
    entry.version =
        version.ok_or_else(|| OsError::Unexpected(format!("no `version` in `{}`", entry.path)))?;
    Ok(entry)
}

/// Makes the deployment at place `at` of the boot order the first one; the others keep their order.
///
/// The new entries are written to the loader directory that is not in use, and the link to it is switched: that rename
/// is the one moment at which the order changes, as it is when ostree itself does it.
pub(super) fn make_first(boot: &Utf8Path, at: usize) -> Result<(), OsError> {
    let entries = read(&boot.join("loader/entries"))?;
    let versions: Vec<u64> = entries.iter().map(|entry| entry.version).collect();
    let mut order: Vec<&BootEntry> = entries.iter().collect();
    if at >= order.len() {
        return Err(OsError::NoRollback);
    }
    let first = order.remove(at);
    order.insert(0, first);

    let link = boot.join("loader");
    let current = link.read_link_utf8().map_err(io_error("read", &link))?;
    let next = match current.as_str() {
        "loader.0" => "loader.1",
        "loader.1" => "loader.0",
        other => return Err(OsError::Unexpected(format!("`{link}` leads to `{other}`"))),
    };
    let dir = boot.join(next);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io_error("remove", &dir)(error));
        }
        _ => {}
    }
    let into = dir.join("entries");
    fs::create_dir_all(&into).map_err(io_error("make", &into))?;
    for (entry, version) in order.into_iter().zip(versions) {
        let path = into.join(
            entry
                .path
                .file_name()
                .expect("a directory entry has a name"),
        );
        fs::write(&path, entry.with_version(version)).map_err(io_error("write", &path))?;
        sync(&path)?;
    }
    sync(&into)?;
    sync(&dir)?;
    let temporary = boot.join("loader.caprock");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io_error("remove", &temporary)(error));
        }
        _ => {}
    }
    std::os::unix::fs::symlink(next, &temporary).map_err(io_error("link", &temporary))?;
    fs::rename(&temporary, &link).map_err(io_error("rename", &temporary))?;
    sync(boot)
}

fn sync(path: &Utf8Path) -> Result<(), OsError> {
    fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(io_error("sync", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn boot() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let boot = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        fs::create_dir_all(boot.join("loader.1/entries")).unwrap();
        std::os::unix::fs::symlink("loader.1", boot.join("loader")).unwrap();
        for (version, serial) in [(1, 2), (2, 1), (3, 0)] {
            let text = format!(
                "title Debian ({serial})\nversion {version}\noptions rw quiet ostree=/ostree/boot.1/demo/abc/{serial}\nlinux /x\n"
            );
            fs::write(
                boot.join(format!("loader.1/entries/ostree-{version}-demo.conf")),
                text,
            )
            .unwrap();
        }
        (dir, boot)
    }

    fn order(boot: &Utf8Path) -> Vec<String> {
        let entries = read(&boot.join("loader/entries")).unwrap();
        entries
            .iter()
            .map(|entry| entry.value("title").unwrap().to_owned())
            .collect()
    }

    #[test]
    fn entries_come_in_boot_order_with_the_machines_own_arguments() {
        let (_guard, boot) = boot();
        assert_eq!(order(&boot), ["Debian (0)", "Debian (1)", "Debian (2)"]);
        assert_eq!(
            read(&boot.join("loader/entries")).unwrap()[0].kernel_arguments(),
            ["rw", "quiet"]
        );
    }

    #[test]
    fn rolling_back_and_forth_changes_nothing_but_the_order() {
        let (_guard, boot) = boot();
        make_first(&boot, 1).unwrap();
        assert_eq!(order(&boot), ["Debian (1)", "Debian (0)", "Debian (2)"]);
        make_first(&boot, 1).unwrap();
        assert_eq!(order(&boot), ["Debian (0)", "Debian (1)", "Debian (2)"]);
        assert_eq!(boot.join("loader").read_link_utf8().unwrap(), "loader.1");
    }

    #[test]
    fn there_may_be_nothing_to_go_back_to() {
        let (_guard, boot) = boot();
        assert!(matches!(make_first(&boot, 3), Err(OsError::NoRollback)));
    }
}
