//! A directory tree that configuration is written into: the live root, or a deployment that is not booted yet.
//!
//! Every path is resolved by the kernel beneath the root (`openat2`, `RESOLVE_IN_ROOT`), so that a link in the
//! tree, absolute or with `..`, cannot lead a write out of it. Only the superuser can give files away; for anyone else
//! everything is their own.

mod attributes;
mod write;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) use attributes::Attributes;
pub(crate) use write::Keep;
pub(crate) use write::is_temporary;

/// Largest file that is read back for comparison: above what a MachineConfig can hold.
const READ_LIMIT: u64 = 64 << 20;

/// A path that could not be read or written.
#[derive(Debug, Error)]
#[error("cannot {action} `{path}` under `{root}`")]
pub struct RootError {
    action: &'static str,
    path: Utf8PathBuf,
    root: Utf8PathBuf,
    #[source]
    source: std::io::Error,
}

impl RootError {
    /// Whether the disk, or the user's share of it, is full: what goes away by itself when there is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        )
    }
}

/// Owner and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    /// Permission bits including setuid, setgid and sticky.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// What is at a path; a link is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// A regular file and its content.
    File {
        /// Whole content.
        bytes: Vec<u8>,
        /// Owner and mode.
        access: Access,
    },
    /// A directory.
    Directory {
        /// Owner and mode.
        access: Access,
    },
    /// A symbolic link.
    Link {
        /// Its text.
        target: String,
        /// Numeric owner.
        uid: u32,
        /// Numeric group.
        gid: u32,
    },
    /// Socket, fifo or device.
    Other,
}

/// An open root directory.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
    path: Utf8PathBuf,
    /// The owner of everything, where we are not the superuser.
    owner: Option<(u32, u32)>,
}

impl Root {
    /// Opens a directory as root.
    ///
    /// # Errors
    /// When it does not exist or is no directory.
    pub(crate) fn open(path: &Utf8Path) -> Result<Self, RootError> {
        let dir = rustix::fs::open(
            path.as_std_path(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| RootError {
            action: "open",
            path: "/".into(),
            root: path.to_owned(),
            source: errno.into(),
        })?;
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Ok(Self {
            dir,
            path: path.to_owned(),
            owner: (!uid.is_root()).then(|| (uid.as_raw(), gid.as_raw())),
        })
    }

    /// The owner and mode that something written here gets.
    #[must_use]
    pub(crate) fn reachable(&self, access: Access) -> Access {
        let (uid, gid) = self.owner.unwrap_or((access.uid, access.gid));
        Access { uid, gid, ..access }
    }

    /// Where the root is.
    #[must_use]
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// What is at `path`, without following a link at its end.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than any configuration file.
    pub(crate) fn find(&self, path: &Utf8Path) -> Result<Found, RootError> {
        let fault = |errno: Errno| self.fault("read", path, errno.into());
        let (parent, name) = match self.parent(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Found::Nothing),
            Err(errno) => return Err(fault(errno)),
        };
        let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(errno) => return Err(fault(errno)),
        };
        let access = Access {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let file =
                    rustix::fs::openat(&parent, name, flags, Mode::empty()).map_err(fault)?;
                let mut bytes = Vec::new();
                File::from(file)
                    .take(READ_LIMIT + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|source| self.fault("read", path, source))?;
                if bytes.len() as u64 > READ_LIMIT {
                    return Err(fault(Errno::FBIG));
                }
                Ok(Found::File { bytes, access })
            }
            FileType::Directory => Ok(Found::Directory { access }),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&parent, name, Vec::new()).map_err(fault)?;
                Ok(Found::Link {
                    target: target.to_string_lossy().into_owned(),
                    uid: access.uid,
                    gid: access.gid,
                })
            }
            _ => Ok(Found::Other),
        }
    }

    /// Extended attributes of what is at `path`; none of nothing.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn attributes(&self, path: &Utf8Path) -> Result<Attributes, RootError> {
        let read = match self.parent(path) {
            Ok((parent, name)) => Attributes::read(parent.as_fd(), name),
            Err(errno) => Err(errno),
        };
        match read {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Attributes::default()),
            other => other.map_err(|errno| self.fault("read attributes of", path, errno.into())),
        }
    }

    /// Whether a directory is at `path`, or a link to one.
    ///
    /// # Errors
    /// When it cannot be looked up.
    pub(crate) fn is_directory(&self, path: &Utf8Path) -> Result<bool, RootError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self.resolve(path, flags) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(errno) => Err(self.fault("resolve", path, errno.into())),
        }
    }

    /// Names in a directory, sorted; none where there is no directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn names(&self, path: &Utf8Path) -> Result<Vec<String>, RootError> {
        let fault = |errno: Errno| self.fault("list", path, errno.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match self.resolve(path, flags) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(fault(errno)),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(dir).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens a file beneath the root; made with `mode` where the flags say so.
    pub(crate) fn open_file(
        &self,
        path: &Utf8Path,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.dir, path.as_std_path(), flags, mode, resolve)
    }

    /// The real place of a path's parent directory, relative to the root: `/usr/local/bin/x` is in
    /// `/var/usrlocal/bin` on an ostree host. `None` when the parent does not exist.
    ///
    /// # Errors
    /// When the parent cannot be looked up.
    pub(crate) fn real_parent(&self, path: &Utf8Path) -> Result<Option<Utf8PathBuf>, RootError> {
        let fault = |errno: Errno| self.fault("resolve", path, errno.into());
        let parent = match self.parent(path) {
            Ok((parent, _)) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(fault(errno)),
        };
        let (real, root) = (
            real_path(parent.as_fd()).map_err(fault)?,
            real_path(self.dir.as_fd()).map_err(fault)?,
        );
        let inside = real.strip_prefix(&root).map_err(|_| fault(Errno::XDEV))?;
        Ok(Some(Utf8Path::new("/").join(inside)))
    }

    /// Directory of `path`, links resolved inside the root, and its last component.
    fn parent<'a>(&self, path: &'a Utf8Path) -> Result<(OwnedFd, &'a str), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or(Utf8Path::new("/"));
        Ok((
            self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?,
            name,
        ))
    }

    fn resolve(&self, path: &Utf8Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.dir, path.as_std_path(), flags, Mode::empty(), resolve)
            {
                // A rename elsewhere raced with `..`; the kernel asks to try again.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    fn fault(&self, action: &'static str, path: &Utf8Path, source: std::io::Error) -> RootError {
        RootError {
            action,
            path: path.to_owned(),
            root: self.path.clone(),
            source,
        }
    }
}

fn real_path(fd: BorrowedFd<'_>) -> Result<Utf8PathBuf, Errno> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new())?;
    Ok(path.into_string().map_err(|_| Errno::ILSEQ)?.into())
}

#[cfg(test)]
mod tests;
