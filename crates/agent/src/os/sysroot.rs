//! What every ostree host has, whichever tool drives it: where deployments are, the boot loader's entries, and mounts
//! that are read-only for everybody else.

use std::fs::File;
use std::io::{ErrorKind, Read as _};

use camino::{Utf8Path, Utf8PathBuf};

use super::{Deployment, Deployments, OsError, Role, boot_entry, deployment_root, io_error};
use crate::command::Command;

/// How the line of a deployment's origin begins that says from what image it was made.
const REFERENCE: &str = "container-image-reference=";
/// Longest origin that is read, in bytes.
const MAX_ORIGIN: u64 = 1 << 16;

/// A sysroot: `/` is the running host's.
#[derive(Debug, Clone)]
pub(crate) struct Sysroot(pub(crate) Utf8PathBuf);

impl Sysroot {
    /// Where a deployment's root directory is.
    pub(super) fn root_of(&self, deployment: &Deployment) -> Utf8PathBuf {
        deployment_root(&self.0, &deployment.os, &deployment.id)
    }

    /// The image that bootc or rpm-ostree made a deployment from, in their words.
    pub(super) fn reference_of(&self, deployment: &Deployment) -> Result<Option<String>, OsError> {
        let origin = Utf8PathBuf::from(format!("{}.origin", self.root_of(deployment)));
        let text = match File::open(&origin) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.and_then(|file| {
                let mut text = String::new();
                file.take(MAX_ORIGIN).read_to_string(&mut text)?;
                Ok(text)
            }),
        };
        let text = text.map_err(io_error("read", &origin))?;
        let said = text.lines().find_map(|line| line.strip_prefix(REFERENCE));
        Ok(said.map(|said| said.trim().to_owned()))
    }

    pub(super) fn repo(&self) -> Utf8PathBuf {
        self.0.join("ostree/repo")
    }

    pub(super) fn boot(&self) -> Utf8PathBuf {
        self.0.join("boot")
    }

    /// Arguments that the booted deployment's kernel is started with; those of the next boot where none is booted.
    pub(super) fn kernel_arguments(
        &self,
        deployments: &Deployments,
    ) -> Result<Vec<String>, OsError> {
        // What is staged has no entry yet.
        let mut with_entry = deployments.0.iter().filter(|d| d.role != Role::Staged);
        let at = match deployments.booted() {
            Some(booted) => with_entry.position(|d| d == booted),
            None => with_entry.next().map(|_| 0),
        };
        let entries = boot_entry::read(&self.boot().join("loader/entries"))?;
        Ok(at
            .and_then(|at| entries.get(at))
            .map(boot_entry::BootEntry::kernel_arguments)
            .unwrap_or_default())
    }

    /// Makes what hosts mount read-only, the sysroot and `/boot`, writable for this process alone. The hosts' tools do
    /// the same for themselves, but we write beside them.
    pub(crate) fn make_writable(&self) -> Result<(), OsError> {
        let inner = self.0.join("sysroot");
        let sysroot = if inner.is_dir() {
            inner
        } else {
            self.0.clone()
        };
        for dir in [sysroot, self.boot()] {
            if dir.is_dir() {
                make_writable(&dir)?;
            }
        }
        Ok(())
    }
}

fn make_writable(dir: &Utf8Path) -> Result<(), OsError> {
    let failed = |source: rustix::io::Errno| io_error("look at", dir)(source.into());
    let flags = rustix::fs::statvfs(dir.as_std_path())
        .map_err(failed)?
        .f_flag;
    if !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let namespace = |process: &str| {
        let link = Utf8Path::new("/proc").join(process).join("ns/mnt");
        link.read_link_utf8().map_err(io_error("read", &link))
    };
    if namespace("self")? == namespace("1")? {
        return Err(OsError::Io {
            action: "make writable, outside a mount namespace of its own (`PrivateMounts=yes`),",
            path: dir.to_owned(),
            source: rustix::io::Errno::ROFS.into(),
        });
    }
    Ok(Command::new("mount")
        .args(["-o", "remount,bind,rw", dir.as_str()])
        .run()
        .map(drop)?)
}
