//! A directory tree that configuration is written into: the live root, or a deployment that is not booted yet.
//!
//! Every path is resolved by the kernel beneath the root (`openat2`, `RESOLVE_IN_ROOT`), so that a link in the
//! tree, absolute or with `..`, cannot lead a write out of it. Files are replaced atomically: written beside,
//! synced, renamed. Only the superuser can give files away; for anyone else everything is their own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use camino::{Utf8Path, Utf8PathBuf};
use oci::Digest;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use thiserror::Error;

/// Largest file that is read back for comparison: above what a MachineConfig can hold.
const READ_LIMIT: u64 = 64 << 20;
/// As many links as the kernel follows.
const LINK_LIMIT: u32 = 40;

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

/// Owner and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Permission bits including setuid, setgid and sticky.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// What is at a path; a link is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
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
pub struct Root {
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
    pub fn open(path: &Utf8Path) -> Result<Self, RootError> {
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
    pub fn reachable(&self, access: Access) -> Access {
        let (uid, gid) = self.owner.unwrap_or((access.uid, access.gid));
        Access { uid, gid, ..access }
    }

    /// Where the root is.
    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// What is at `path`, without following a link at its end.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than any configuration file.
    pub fn find(&self, path: &Utf8Path) -> Result<Found, RootError> {
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

    /// Puts a file in place, atomically, parents included (0755, root). Returns whether anything changed.
    ///
    /// # Errors
    /// When it cannot be written, or a directory is in its place.
    pub fn write(&self, path: &Utf8Path, bytes: &[u8], access: Access) -> Result<bool, RootError> {
        let access = self.reachable(access);
        if matches!(self.find(path)?, Found::File { bytes: b, access: a } if b == bytes && a == access)
        {
            return Ok(false);
        }
        self.replace(path, "write", |parent, temporary| {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(parent, temporary, flags, Mode::from_raw_mode(0o600))?;
            let mut file = File::from(file);
            file.write_all(bytes)?;
            rustix::fs::fchown(
                &file,
                Some(Uid::from_raw(access.uid)),
                Some(Gid::from_raw(access.gid)),
            )?;
            // After the owner: changing that clears the setuid and setgid bits.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(access.mode))?;
            file.sync_all()
        })?;
        Ok(true)
    }

    /// Puts a symbolic link in place, atomically. Returns whether anything changed.
    ///
    /// # Errors
    /// When it cannot be written, or a directory is in its place.
    pub fn symlink(
        &self,
        path: &Utf8Path,
        target: &str,
        uid: u32,
        gid: u32,
    ) -> Result<bool, RootError> {
        let Access { uid, gid, .. } = self.reachable(Access {
            mode: 0o777,
            uid,
            gid,
        });
        let wanted = Found::Link {
            target: target.to_owned(),
            uid,
            gid,
        };
        if self.find(path)? == wanted {
            return Ok(false);
        }
        self.replace(path, "link", |parent, temporary| {
            rustix::fs::symlinkat(target, parent, temporary)?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            Ok(rustix::fs::chownat(
                parent,
                temporary,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                flags,
            )?)
        })?;
        Ok(true)
    }

    /// Makes `path` another name of the file `target`, atomically. Returns whether anything changed.
    ///
    /// # Errors
    /// When `target` does not exist or is on another file system.
    pub fn hard_link(&self, path: &Utf8Path, target: &Utf8Path) -> Result<bool, RootError> {
        let fault = |errno: Errno| self.fault("link", path, errno.into());
        let (source_dir, source) = self.parent(target).map_err(fault)?;
        let wanted =
            rustix::fs::statat(&source_dir, source, AtFlags::SYMLINK_NOFOLLOW).map_err(fault)?;
        if let Ok((parent, name)) = self.parent(path)
            && let Ok(there) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino)
        {
            return Ok(false);
        }
        self.replace(path, "link", |parent, temporary| {
            Ok(rustix::fs::linkat(
                &source_dir,
                source,
                parent,
                temporary,
                AtFlags::empty(),
            )?)
        })?;
        Ok(true)
    }

    /// Makes a directory with its parents, or gives an existing one this owner and mode. Returns whether anything
    /// changed.
    ///
    /// # Errors
    /// When something that is no directory is in its place.
    pub fn directory(&self, path: &Utf8Path, access: Access) -> Result<bool, RootError> {
        let access = self.reachable(access);
        let fault = |errno: Errno| self.fault("make directory", path, errno.into());
        if self.find(path)? == (Found::Directory { access }) {
            return Ok(false);
        }
        self.make_directories(path, 0).map_err(fault)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = self.resolve(path, flags).map_err(fault)?;
        rustix::fs::fchown(
            &dir,
            Some(Uid::from_raw(access.uid)),
            Some(Gid::from_raw(access.gid)),
        )
        .map_err(fault)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(access.mode)).map_err(fault)?;
        rustix::fs::fsync(&dir).map_err(fault)?;
        Ok(true)
    }

    /// Removes a file, link or empty directory; success when there is nothing. A directory with content stays:
    /// what is in it is not ours.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, path: &Utf8Path) -> Result<bool, RootError> {
        let fault = |errno: Errno| self.fault("remove", path, errno.into());
        let (parent, name) = match self.parent(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(errno) => return Err(fault(errno)),
        };
        #[cfg(test)]
        crate::tests::kill::write_point();
        remove_if_there(&parent, &temporary_name(name)).map_err(fault)?;
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

    /// The real place of a path's parent directory, relative to the root: `/usr/local/bin/x` is in
    /// `/var/usrlocal/bin` on an ostree host. `None` when the parent does not exist.
    ///
    /// # Errors
    /// When the parent cannot be looked up.
    pub fn real_parent(&self, path: &Utf8Path) -> Result<Option<Utf8PathBuf>, RootError> {
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

    /// Writes everything below the root to the disk.
    ///
    /// # Errors
    /// When the file system reports that it could not.
    pub fn sync(&self) -> Result<(), RootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.resolve(Utf8Path::new("/"), flags)
            .and_then(rustix::fs::syncfs)
            .map_err(|errno| self.fault("sync", Utf8Path::new("/"), errno.into()))
    }

    fn replace(
        &self,
        path: &Utf8Path,
        action: &'static str,
        make: impl Fn(BorrowedFd<'_>, &str) -> std::io::Result<()>,
    ) -> Result<(), RootError> {
        let fault = |errno: Errno| self.fault(action, path, errno.into());
        if let Some(directory) = path.parent() {
            self.make_directories(directory, 0).map_err(fault)?;
        }
        let (parent, name) = self.parent(path).map_err(fault)?;
        let temporary = temporary_name(name);
        // Left by a run that was killed.
        remove_if_there(&parent, &temporary).map_err(fault)?;
        let placed = make(parent.as_fd(), &temporary).and_then(|()| {
            #[cfg(test)]
            crate::tests::kill::write_point();
            rustix::fs::renameat(&parent, &temporary, &parent, name)?;
            // `rename` between two names of one file does nothing and leaves both.
            remove_if_there(&parent, &temporary)?;
            Ok(sync_directory(&parent)?)
        });
        placed.map_err(|source| {
            if let Err(errno) = remove_if_there(&parent, &temporary) {
                tracing::warn!(%path, temporary, %errno, "cannot remove temporary file");
            }
            self.fault(action, path, source)
        })
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

/// Where the new content of `name` is written. One name for one file, so that what a killed run left is found again; the
/// leading dot keeps it from the globs of running services, and the digest within the length of any name.
fn temporary_name(name: &str) -> String {
    format!(".caprock-{}", &Digest::of(name.as_bytes()).hex()[..16])
}

fn remove_if_there(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn sync_directory(dir: &OwnedFd) -> Result<(), Errno> {
    // An `O_PATH` descriptor cannot be synced itself.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

#[cfg(test)]
mod tests;
