//! Boot loader entries: one per deployment, the highest `version` first. They are where ostree keeps the order of
//! deployments and their kernel arguments.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::{fmt, fs};

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

    /// Where the kernel's argument says that the deployment is.
    fn place(&self) -> Result<Place<'_>, OsError> {
        self.value("options")
            .into_iter()
            .flat_map(str::split_whitespace)
            .find_map(Place::parse)
            .ok_or_else(|| {
                OsError::Unexpected(format!("no `{PLACE}N/OS/KERNEL/SERIAL` in `{}`", self.path))
            })
    }

    fn with(&self, version: u64, from: &Place<'_>, to: &Place<'_>) -> String {
        let (from, to) = (from.to_string(), to.to_string());
        let lines = self.text.lines().map(|line| {
            if line.starts_with("version ") {
                format!("version {version}")
            } else if let Some(options) = line.strip_prefix("options ") {
                let arguments = options.split(' ');
                let arguments: Vec<&str> = arguments
                    .map(|argument| if argument == from { &to } else { argument })
                    .collect();
                format!("options {}", arguments.join(" "))
            } else {
                line.to_owned()
            }
        });
        lines.map(|line| line + "\n").collect()
    }
}

/// How the kernel's argument begins that names a deployment.
const PLACE: &str = "ostree=/ostree/boot.";

/// A link to a deployment, `/ostree/boot.NUMBER/OS/KERNEL/SERIAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place<'a> {
    number: char,
    os: &'a str,
    /// Checksum of kernel and initramfs.
    kernel: &'a str,
    /// Counts deployments with that kernel, in boot order.
    serial: usize,
}

impl<'a> Place<'a> {
    fn parse(argument: &'a str) -> Option<Self> {
        let mut parts = argument.strip_prefix(PLACE)?.split('/');
        let place = Self {
            number: parts.next()?.parse().ok()?,
            os: parts.next()?,
            kernel: parts.next()?,
            serial: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && matches!(place.number, '0' | '1')).then_some(place)
    }

    /// Relative to the directory of all links with a number.
    fn dir(&self) -> String {
        format!("{}/{}", self.os, self.kernel)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.dir();
        write!(f, "{PLACE}{}/{dir}/{}", self.number, self.serial)
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
/// is the one moment at which the order changes, as it is when ostree itself does it. And as ostree does it, entries in
/// `loader.N` lead to links in `/ostree/boot.N`, which are counted in boot order: at its next deployment it takes both
/// for granted, changes only the links when kernel and arguments stay, and removes links with another number.
pub(super) fn make_first(sysroot: &Utf8Path, at: usize) -> Result<(), OsError> {
    let loader = sysroot.join("boot/loader");
    let entries = read(&loader.join("entries"))?;
    let mut order: Vec<&BootEntry> = entries.iter().collect();
    if at >= order.len() {
        return Err(OsError::NoRollback);
    }
    let first = order.remove(at);
    order.insert(0, first);

    let current = loader.read_link_utf8().map_err(io_error("read", &loader))?;
    let number = match current.as_str() {
        "loader.0" => '1',
        "loader.1" => '0',
        other => {
            return Err(OsError::Unexpected(format!(
                "`{loader}` leads to `{other}`"
            )));
        }
    };
    let moves = moves(&order, number)?;
    make_links(&sysroot.join("ostree"), number, &moves)?;

    let name = format!("loader.{number}");
    let dir = loader.with_file_name(&name);
    remove_dir(&dir)?;
    let into = dir.join("entries");
    fs::create_dir_all(&into).map_err(io_error("make", &into))?;
    // Some boot loaders go by names, some by versions: both stay with the place in the order.
    for ((entry, (from, to)), slot) in order.into_iter().zip(&moves).zip(&entries) {
        let file = slot.path.file_name().expect("a directory entry has a name");
        let path = into.join(file);
        fs::write(&path, entry.with(slot.version, from, to)).map_err(io_error("write", &path))?;
        sync(&path)?;
    }
    sync(&into)?;
    sync(&dir)?;
    switch(&loader, &name)
}

/// Where the link of each entry is, and where it will be.
fn moves<'a>(
    order: &[&'a BootEntry],
    number: char,
) -> Result<Vec<(Place<'a>, Place<'a>)>, OsError> {
    let mut with_kernel: BTreeMap<&str, usize> = BTreeMap::new();
    let moved = order.iter().map(|entry| {
        let from = entry.place()?;
        let count = with_kernel.entry(from.kernel).or_default();
        let serial = *count;
        *count += 1;
        let to = Place {
            number,
            serial,
            ..from
        };
        Ok((from, to))
    });
    moved.collect()
}

fn make_links(
    ostree: &Utf8Path,
    number: char,
    moves: &[(Place<'_>, Place<'_>)],
) -> Result<(), OsError> {
    let link = ostree.join(format!("boot.{number}"));
    // ostree has two directories for each number, and switches the link between them.
    let name = match link.read_link_utf8() {
        Ok(used) if used == format!("boot.{number}.1") => format!("boot.{number}.0"),
        _ => format!("boot.{number}.1"),
    };
    let new = ostree.join(&name);
    remove_dir(&new)?;
    for (from, to) in moves {
        let old = ostree.join(format!(
            "boot.{}/{}/{}",
            from.number,
            from.dir(),
            from.serial
        ));
        let leads_to = old.read_link_utf8().map_err(io_error("read", &old))?;
        let dir = new.join(to.dir());
        fs::create_dir_all(&dir).map_err(io_error("make", &dir))?;
        let copy = dir.join(to.serial.to_string());
        symlink(&leads_to, &copy).map_err(io_error("link", &copy))?;
        sync(&dir)?;
        sync(&new.join(to.os))?;
    }
    sync(&new)?;
    switch(&link, &name)
}

/// Lets `link` lead to `target`, from one moment to the next.
fn switch(link: &Utf8Path, target: &str) -> Result<(), OsError> {
    let dir = link.parent().expect("the link is in a directory");
    let temporary = dir.join("caprock.link");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io_error("remove", &temporary)(error));
        }
        _ => {}
    }
    symlink(target, &temporary).map_err(io_error("link", &temporary))?;
    fs::rename(&temporary, link).map_err(io_error("rename", &temporary))?;
    sync(dir)
}

fn remove_dir(dir: &Utf8Path) -> Result<(), OsError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("remove", dir)(error))
        }
        _ => Ok(()),
    }
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

    fn sysroot() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let sysroot = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let links = sysroot.join("ostree/boot.1.0/demo/abc");
        fs::create_dir_all(&links).unwrap();
        symlink("boot.1.0", sysroot.join("ostree/boot.1")).unwrap();
        let boot = sysroot.join("boot");
        fs::create_dir_all(boot.join("loader.1/entries")).unwrap();
        symlink("loader.1", boot.join("loader")).unwrap();
        for (version, serial) in [(1, 2), (2, 1), (3, 0)] {
            let text = format!(
                "title Debian ({serial})\nversion {version}\noptions rw quiet ostree=/ostree/boot.1/demo/abc/{serial}\nlinux /x\n"
            );
            fs::write(
                boot.join(format!("loader.1/entries/ostree-{version}-demo.conf")),
                text,
            )
            .unwrap();
            let deployment = format!("ostree/deploy/demo/deploy/abc.{serial}");
            fs::create_dir_all(sysroot.join(deployment)).unwrap();
            let leads_to = format!("../../../deploy/demo/deploy/abc.{serial}");
            symlink(leads_to, links.join(serial.to_string())).unwrap();
        }
        (dir, sysroot)
    }

    /// The deployment that each entry boots, in boot order.
    fn boots(sysroot: &Utf8Path) -> Vec<String> {
        let number = sysroot.join("boot/loader").read_link_utf8().unwrap();
        let number = number.as_str().chars().last().unwrap();
        let entries = read(&sysroot.join("boot/loader/entries")).unwrap();
        entries
            .iter()
            .enumerate()
            .map(|(at, entry)| {
                assert!(entry.path.as_str().contains(&format!("ostree-{}-", 3 - at)));
                let options = entry.value("options").unwrap();
                let path = options.split_once("ostree=/").unwrap().1;
                assert!(
                    path.starts_with(&format!("ostree/boot.{number}/")),
                    "{path}"
                );
                let deployment = sysroot.join(path).canonicalize_utf8().unwrap();
                deployment.file_name().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn entries_come_in_boot_order_with_the_machines_own_arguments() {
        let (_guard, sysroot) = sysroot();
        assert_eq!(boots(&sysroot), ["abc.0", "abc.1", "abc.2"]);
        assert_eq!(
            read(&sysroot.join("boot/loader/entries")).unwrap()[0].kernel_arguments(),
            ["rw", "quiet"]
        );
    }

    #[test]
    fn rolling_back_and_forth_changes_nothing_but_the_order() {
        let (_guard, sysroot) = sysroot();
        for round in 0..3 {
            make_first(&sysroot, 1).unwrap();
            assert_eq!(boots(&sysroot), ["abc.1", "abc.0", "abc.2"]);
            // What ostree removes at its next deployment.
            if round == 1 {
                fs::remove_file(sysroot.join("ostree/boot.1")).unwrap();
            }
            make_first(&sysroot, 1).unwrap();
            assert_eq!(boots(&sysroot), ["abc.0", "abc.1", "abc.2"]);
            let loader = sysroot.join("boot/loader").read_link_utf8().unwrap();
            assert_eq!(loader, "loader.1");
        }
    }

    #[test]
    fn entries_whose_links_have_the_other_number_are_mended() {
        let (_guard, sysroot) = sysroot();
        let boot = sysroot.join("boot");
        fs::rename(boot.join("loader.1"), boot.join("loader.0")).unwrap();
        fs::remove_file(boot.join("loader")).unwrap();
        symlink("loader.0", boot.join("loader")).unwrap();
        make_first(&sysroot, 2).unwrap();
        assert_eq!(boots(&sysroot), ["abc.2", "abc.0", "abc.1"]);
    }

    #[test]
    fn there_may_be_nothing_to_go_back_to() {
        let (_guard, sysroot) = sysroot();
        assert!(matches!(make_first(&sysroot, 3), Err(OsError::NoRollback)));
    }
}
