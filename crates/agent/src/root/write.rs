//! Changes under a root. Whatever it is to be (file, directory, link), it is made beside its place, gets owner, mode,
//! attributes and label there, is synced, and takes the place with one rename: at no time is anything else at the path
//! than the old or the new.
//!
//! Making and renaming are two calls, so that everything of a config that needs room on the disk can be made before
//! anything takes its place.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use camino::Utf8Path;
use oci::Digest;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Access, Attributes, Found, Root, RootError};

/// As many links as the kernel follows.
const LINK_LIMIT: u32 = 40;
/// How names of things that are being made begin. The dot keeps them from the globs of running services.
const TEMPORARY: &str = ".caprock-";

/// Which extended attributes something new at a path gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Those that it replaces has; nothing, or this label, where nothing with a label was.
    #[default]
    Present,
    /// The same, with a label for what has none.
    Labelled(String),
    /// These and no others.
    Exactly(Attributes),
}

impl Root {
    /// Makes `wanted` beside its place, parents included (0755, root). Returns whether it is to be put there:
    /// not when it is there already.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn stage(
        &self,
        path: &Utf8Path,
        wanted: &Found,
        keep: &Keep,
    ) -> Result<bool, RootError> {
        let fault = |errno: Errno| self.fault("write", path, errno.into());
        if let Some(directory) = path.parent() {
            self.make_directories(directory, 0).map_err(fault)?;
        }
        let (parent, name) = self.parent(path).map_err(fault)?;
        let temporary = temporary_name(name);
        // Left by a run that was killed.
        remove_temporary(&parent, &temporary).map_err(fault)?;
        let wanted = self.attainable(wanted);
        let there = self.find(path)?;
        let attributes = match there {
            Found::Nothing => Attributes::default(),
            _ => Attributes::read(parent.as_fd(), name).map_err(fault)?,
        };
        if there == wanted && (!matches!(keep, Keep::Exactly(exact) if *exact != attributes)) {
            return Ok(false);
        }
        let attributes = match keep {
            Keep::Present => attributes.of_successor(),
            Keep::Labelled(label) => attributes.of_successor().or_label(label),
            Keep::Exactly(exact) => exact.clone(),
        };
        make(parent.as_fd(), &temporary, &wanted, &attributes).map_err(|source| {
            if let Err(errno) = remove_temporary(&parent, &temporary) {
                tracing::warn!(%path, temporary, %errno, "cannot remove what was begun");
            }
            self.fault("write", path, source)
        })?;
        Ok(true)
    }

    /// Lets what [`Root::stage`] made take its place. An empty directory gives way to a file or link, and they to a
    /// directory.
    ///
    /// # Errors
    /// When a directory with content is in the place.
    pub(crate) fn put(&self, path: &Utf8Path) -> Result<(), RootError> {
        let fault = |errno: Errno| self.fault("replace", path, errno.into());
        let (parent, name) = self.parent(path).map_err(fault)?;
        let temporary = temporary_name(name);
        #[cfg(test)]
        crate::tests::kill::write_point();
        let rename = || rustix::fs::renameat(&parent, &temporary, &parent, name);
        match rename() {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR).and_then(|()| rename())
            }
            Err(Errno::NOTDIR) => {
                rustix::fs::unlinkat(&parent, name, AtFlags::empty()).and_then(|()| rename())
            }
            other => other,
        }
        .and_then(|()| sync_directory(&parent))
        .map_err(fault)
    }

    /// Puts a file in place, atomically, parents included (0755, root). Returns whether anything changed.
    ///
    /// # Errors
    /// When it cannot be written, or a directory with content is in its place.
    pub(crate) fn write(
        &self,
        path: &Utf8Path,
        bytes: &[u8],
        access: Access,
    ) -> Result<bool, RootError> {
        let bytes = bytes.to_vec();
        let changed = self.stage(path, &Found::File { bytes, access }, &Keep::Present)?;
        if changed {
            self.put(path)?;
        }
        Ok(changed)
    }

    /// Makes a directory, or gives an existing one this owner and mode: what is in it stays. A link to a directory is one
    /// already. Returns whether anything changed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn directory(
        &self,
        path: &Utf8Path,
        access: Access,
        keep: &Keep,
    ) -> Result<bool, RootError> {
        let fault = |errno: Errno| self.fault("make directory", path, errno.into());
        let there = self.find(path)?;
        if matches!(there, Found::Link { .. }) && self.is_directory(path)? {
            return Ok(false);
        }
        let Found::Directory { .. } = there else {
            let changed = self.stage(path, &Found::Directory { access }, keep)?;
            if changed {
                self.put(path)?;
            }
            return Ok(changed);
        };
        let access = self.reachable(access);
        let (parent, name) = self.parent(path).map_err(fault)?;
        remove_temporary(&parent, &temporary_name(name)).map_err(fault)?;
        let present = Attributes::read(parent.as_fd(), name).map_err(fault)?;
        let attributes = match keep {
            Keep::Exactly(exact) => exact.clone(),
            Keep::Present | Keep::Labelled(_) => present.clone(),
        };
        if attributes == present && there == (Found::Directory { access }) {
            return Ok(false);
        }
        #[cfg(test)]
        crate::tests::kill::write_point();
        open_directory(&parent, name)
            .and_then(|dir| {
                dress(dir.as_fd(), access, &attributes).and_then(|()| rustix::fs::fsync(dir))
            })
            .map_err(fault)?;
        Ok(true)
    }

    /// Removes a file, link or empty directory; success when there is nothing. A directory with content stays:
    /// what is in it is not ours.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(&self, path: &Utf8Path) -> Result<bool, RootError> {
        let fault = |errno: Errno| self.fault("remove", path, errno.into());
        let (parent, name) = match self.parent(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(errno) => return Err(fault(errno)),
        };
        #[cfg(test)]
        crate::tests::kill::write_point();
        remove_temporary(&parent, &temporary_name(name)).map_err(fault)?;
        let removed = match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
                    other => other,
                }
            }
            other => other,
        };
        match removed {
            Ok(()) => sync_directory(&parent).map_err(fault).map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(fault(errno)),
        }
    }

    /// Removes what [`Root::stage`] made for a path and nobody put there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn discard(&self, path: &Utf8Path) -> Result<(), RootError> {
        let removed = match self.parent(path) {
            Ok((parent, name)) => remove_temporary(&parent, &temporary_name(name)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno),
        };
        removed.map_err(|errno| self.fault("remove", path, errno.into()))
    }

    /// Writes everything below the root to the disk.
    ///
    /// # Errors
    /// When the file system reports that it could not.
    pub(crate) fn sync(&self) -> Result<(), RootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.resolve(Utf8Path::new("/"), flags)
            .and_then(rustix::fs::syncfs)
            .map_err(|errno| self.fault("sync", Utf8Path::new("/"), errno.into()))
    }

    /// With the owner that something made here gets.
    pub(crate) fn attainable(&self, wanted: &Found) -> Found {
        match wanted {
            Found::File { bytes, access } => Found::File {
                bytes: bytes.clone(),
                access: self.reachable(*access),
            },
            Found::Directory { access } => Found::Directory {
                access: self.reachable(*access),
            },
            Found::Link { target, uid, gid } => {
                let Access { uid, gid, .. } = self.reachable(Access {
                    mode: 0o777,
                    uid: *uid,
                    gid: *gid,
                });
                let target = target.clone();
                Found::Link { target, uid, gid }
            }
            Found::Nothing | Found::Other => wanted.clone(),
        }
    }

    fn make_directories(&self, path: &Utf8Path, links: u32) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self.resolve(path, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let Some(name) = path.file_name() else {
            return Err(Errno::INVAL);
        };
        let parent = path.parent().unwrap_or(Utf8Path::new("/"));
        self.make_directories(parent, links)?;
        let dir = self.resolve(parent, flags)?;
        #[cfg(test)]
        crate::tests::kill::write_point();
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => sync_directory(&dir),
            Err(Errno::EXIST) => {
                // A link to a directory that is still missing, as `/opt -> var/opt` on a fresh `/var`.
                if links == LINK_LIMIT {
                    return Err(Errno::LOOP);
                }
                match rustix::fs::readlinkat(&dir, name, Vec::new()) {
                    Ok(target) => {
                        let target = target.into_string().map_err(|_| Errno::ILSEQ)?;
                        self.make_directories(&parent.join(target), links + 1)
                    }
                    // Somebody else made the directory meanwhile.
                    Err(Errno::INVAL) => self.resolve(path, flags).map(drop),
                    Err(errno) => Err(errno),
                }
            }
            Err(errno) => Err(errno),
        }
    }
}

/// Makes something under a name that nobody looks at, complete and synced.
fn make(
    parent: BorrowedFd<'_>,
    name: &str,
    wanted: &Found,
    attributes: &Attributes,
) -> std::io::Result<()> {
    #[cfg(test)]
    crate::tests::kill::write_point();
    match wanted {
        Found::File { bytes, access } => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
            let mut file = File::from(file);
            file.write_all(bytes)?;
            dress(file.as_fd(), *access, attributes)?;
            file.sync_all()
        }
        Found::Directory { access } => {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
            let dir = open_directory(parent, name)?;
            dress(dir.as_fd(), *access, attributes)?;
            Ok(rustix::fs::fsync(dir)?)
        }
        Found::Link { target, uid, gid } => {
            rustix::fs::symlinkat(target, parent, name)?;
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)?;
            Ok(attributes.write_to_link(parent, name)?)
        }
        Found::Nothing | Found::Other => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

/// Gives an open file or directory its owner, attributes and mode. By descriptor: who may write to the directory around
/// it could put a link in its place.
fn dress(fd: BorrowedFd<'_>, access: Access, attributes: &Attributes) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
    // A new owner ends capabilities, setuid and setgid; an access list changes the mode.
    rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    attributes.write(fd)?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(access.mode))
}

fn open_directory(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Where something new for `name` is made. One name for each, so that what a killed run left is found again; the
/// digest keeps it within the length of any name.
fn temporary_name(name: &str) -> String {
    format!("{TEMPORARY}{}", &Digest::of(name.as_bytes()).hex()[..16])
}

/// Whether a name is one that [`Root::stage`] uses.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

fn remove_temporary(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        other => other,
    }
}

fn sync_directory(dir: &OwnedFd) -> Result<(), Errno> {
    // An `O_PATH` descriptor cannot be synced itself.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}
