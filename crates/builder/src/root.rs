//! A directory tree seen as the root of a system: paths and symbolic links in it never lead outside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec};
use rustix::io::Errno;

use crate::superuser::Superuser;

/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// An open directory that paths are resolved in.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

impl Root {
    pub(crate) fn open(dir: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root {
            fd: rustix::fs::openat(CWD, dir, flags, Mode::empty())?,
        })
    }

    /// Opens what a path leads to; `..` and absolute links stay inside the root.
    pub(crate) fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        loop {
            match rustix::fs::openat2(
                &self.fd,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                inside,
            ) {
                // A rename somewhere raced with `..`; the kernel asks to try again.
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
    }

    /// What a path leads to, links followed; `None` if there is nothing.
    pub(crate) fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match self.resolve(path, OFlags::PATH) {
            Ok(fd) => Ok(Some(rustix::fs::fstat(fd)?)),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a regular file of at most `limit` bytes; `None` if there is none.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let content = self.head(path, limit + 1)?;
        if content
            .as_ref()
            .is_some_and(|content| content.len() as u64 > limit)
        {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("longer than {limit} bytes"),
            ));
        }
        Ok(content)
    }

    /// The first `limit` bytes of a regular file; `None` if there is none.
    pub(crate) fn head(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let fd = match self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let mut content = Vec::new();
        File::from(fd).take(limit).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Opens a directory; what is missing of its path is created with this owner and mode 0755, where links point
    /// too.
    pub(crate) fn make_dirs(&self, path: &Path, owner: Owner) -> io::Result<Made> {
        let mut created = Vec::new();
        let mut todo = components(path);
        let mut stack: Vec<(OsString, OwnedFd)> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                stack.pop();
                continue;
            }
            let parent = top(&stack, &self.fd);
            let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    let before = modified(&rustix::fs::fstat(parent)?);
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(parent, &name, mode)?;
                    // The mask of this process is nothing that an image may depend on.
                    rustix::fs::chmodat(parent, &name, mode, AtFlags::empty())?;
                    owner.give(parent, &name)?;
                    let after = modified(&rustix::fs::fstat(parent)?);
                    let fd = rustix::fs::openat(parent, &name, open, Mode::empty())?;
                    stack.push((name, fd));
                    created.push(Created {
                        path: place(&stack),
                        before,
                        after,
                    });
                }
                Err(error) => return Err(error.into()),
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = rustix::fs::readlinkat(parent, &name, Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        stack.clear();
                    }
                    for part in components(Path::new(OsStr::from_bytes(&target)))
                        .into_iter()
                        .rev()
                    {
                        todo.push_front(part);
                    }
                }
                Ok(_) => {
                    let fd = rustix::fs::openat(parent, &name, open, Mode::empty())?;
                    stack.push((name, fd));
                }
            }
        }
        let path = place(&stack);
        let fd = match stack.pop() {
            Some((_, fd)) => fd,
            None => self.fd.try_clone()?,
        };
        Ok(Made { fd, path, created })
    }
}

/// A directory that was opened or made.
#[derive(Debug)]
pub(crate) struct Made {
    /// Open for use with `*at` calls.
    pub(crate) fd: OwnedFd,
    /// Where it is, relative to the root, without links.
    pub(crate) path: PathBuf,
    pub(crate) created: Vec<Created>,
}

/// A directory that did not exist before.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) path: PathBuf,
    /// The time of the directory around it, before and after.
    pub(crate) before: Timespec,
    pub(crate) after: Timespec,
}

/// The time of the last modification.
pub(crate) fn modified(stat: &Stat) -> Timespec {
    Timespec {
        tv_sec: stat.st_mtime as _,
        tv_nsec: stat.st_mtime_nsec as _,
    }
}

fn place(stack: &[(OsString, OwnedFd)]) -> PathBuf {
    stack.iter().map(|(name, _)| name).collect()
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn top<'a>(stack: &'a [(OsString, OwnedFd)], root: &'a OwnedFd) -> &'a OwnedFd {
    stack.last().map_or(root, |(_, fd)| fd)
}

fn components(path: &Path) -> VecDeque<OsString> {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    parts
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}

/// Whether an error says that there is nothing at a path.
pub(crate) fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A numeric user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Makes the file `name` in `dir` this owner's; a link itself, not what it leads to.
    pub(crate) fn give(self, dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<()> {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(self.uid),
            rustix::fs::Gid::from_raw(self.gid),
        );
        let given = rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        given.map_err(|errno| self.refused(errno))
    }

    /// Makes an open file this owner's.
    pub(crate) fn give_file(self, file: impl AsFd) -> io::Result<()> {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(self.uid),
            rustix::fs::Gid::from_raw(self.gid),
        );
        rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(|errno| self.refused(errno))
    }

    /// Tells what the kernel means when it calls an owner invalid.
    fn refused(self, errno: Errno) -> io::Error {
        match Superuser::here().and_then(|superuser| superuser.unmapped(self)) {
            Ok(Some(reason)) if errno == Errno::INVAL => {
                io::Error::new(io::ErrorKind::InvalidInput, reason)
            }
            _ => errno.into(),
        }
    }
}

/// The names in an open directory, sorted, without `.` and `..`.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(readable)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn mine(dir: &Path) -> Owner {
        let metadata = std::fs::metadata(dir).unwrap();
        Owner {
            uid: metadata.uid(),
            gid: metadata.gid(),
        }
    }

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
        symlink("../../../../etc/passwd", dir.path().join("etc/up")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for path in [
            "absolute",
            "/etc/up",
            "../etc/passwd",
            "etc/../../etc/passwd",
        ] {
            assert_eq!(
                root.read(Path::new(path), 100).unwrap().unwrap(),
                b"inside",
                "{path}"
            );
        }
        assert!(root.read(Path::new("none/x"), 10).unwrap().is_none());
        assert!(root.read(Path::new("loop"), 10).is_err());
        assert!(root.read(Path::new("etc"), 10).is_err());
        assert!(root.read(Path::new("absolute"), 3).is_err());
        assert_eq!(
            root.head(Path::new("absolute"), 3).unwrap().unwrap().len(),
            3
        );
    }

    #[test]
    fn directories_are_made_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let owner = mine(dir.path());
        symlink("var/opt", dir.path().join("opt")).unwrap();
        symlink("/../var/./home", dir.path().join("home")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let made = root.make_dirs(Path::new("/opt/a/../b"), owner).unwrap();
        assert_eq!(made.path, Path::new("var/opt/b"));
        let created: Vec<_> = made.created.into_iter().map(|dir| dir.path).collect();
        assert_eq!(
            created,
            ["var", "var/opt", "var/opt/a", "var/opt/b"].map(PathBuf::from)
        );
        root.make_dirs(Path::new("home/../../../x"), owner).unwrap();
        assert!(dir.path().join("var/home").is_dir());
        assert!(
            dir.path().join("x").is_dir(),
            "`..` above the root is the root"
        );
        assert!(root.make_dirs(Path::new("loop/x"), owner).is_err());
        assert!(root.make_dirs(Path::new("file/x"), owner).is_err());
    }
}
