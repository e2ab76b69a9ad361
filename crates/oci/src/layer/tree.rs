//! A directory tree that a layer may change, and nothing outside of it. Paths are resolved by the kernel with the
//! tree's root as `/` (`RESOLVE_IN_ROOT`): links lead where they would lead on the running system, never out, whatever
//! a layer puts in the way.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Deepest directory that is removed. Deeper ones would cost a file descriptor and stack for each level.
const MAX_DEPTH: usize = 512;
const OPEN_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory opened last; most entries of a layer are beside the one before.
    recent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories made in the place of something else, since they were last taken.
    replacements: Vec<Vec<u8>>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Tree> {
        let root = rustix::fs::open(root, OPEN_DIR, Mode::empty())?;
        Ok(Tree {
            root,
            recent: None,
            replacements: Vec::new(),
        })
    }

    /// The directory at `path`, which is relative to the root.
    pub(super) fn dir(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self
            .recent
            .as_ref()
            .is_none_or(|(recent, _)| recent != path)
        {
            self.recent = Some((path.to_vec(), self.resolve(path)?));
        }
        let (_, dir) = self.recent.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(dir.as_fd())
    }

    /// The directory at `path`, whose last part must not be a link.
    pub(super) fn exact_dir(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        match split(path) {
            (_, b"") => Ok(rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?),
            (parent, name) => open_dir_at(self.dir(parent)?, name),
        }
    }

    /// The directory at `path`, made with its parents where missing. What is in the way is replaced, as a directory in
    /// an upper layer hides a file beneath it.
    pub(super) fn make_dirs(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        match self.dir(path) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                let (parent, name) = split(path);
                let dir = self.make_dirs(parent)?;
                match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
                    Err(Errno::EXIST)
                        if kind_at(dir, name)?.is_some_and(|kind| kind != FileType::Symlink) =>
                    {
                        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
                        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
                        self.replacements.push(path.to_vec());
                    }
                    made => made?,
                }
            }
            Err(error) => return Err(error),
        }
        self.dir(path)
    }

    /// The directories that [`make_dirs`](Tree::make_dirs) made in the place of something else, since the last call.
    pub(super) fn take_replacements(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.replacements)
    }

    fn resolve(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // The kernel gives up when something is renamed meanwhile, which others may do beside us.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.root, path, OPEN_DIR, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Removes what is called `name` in the directory at `path`, if anything is. Links are not followed.
    pub(super) fn remove(&mut self, path: &[u8], name: &[u8]) -> io::Result<()> {
        let dir = self.dir(path)?;
        let kind = match kind_at(dir, name)? {
            None => return Ok(()),
            Some(FileType::Directory) => {
                remove_tree(dir, name, 0)?;
                FileType::Directory
            }
            Some(kind) => {
                rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
                kind
            }
        };
        // What the remembered path led through may be gone.
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            self.recent = None;
        }
        Ok(())
    }
}

/// Parent and last part of a relative path; the parent of a path of one part is empty.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Whether an error says that there is no such thing, or none of the kind asked for.
pub(super) fn is_missing(error: &io::Error) -> bool {
    let link = Errno::from_io_error(error) == Some(Errno::LOOP);
    link || matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What `name` is, without following it.
pub(super) fn kind_at(dir: impl AsFd, name: &[u8]) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the directory `name`, which must not be a link.
pub(super) fn open_dir_at(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        name,
        OPEN_DIR | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

/// The names in a directory.
pub(super) fn names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.to_vec()),
        }
    }
    Ok(names)
}

fn remove_tree(parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!(
            "more than {MAX_DEPTH} directories lie within each other"
        )));
    }
    let dir = open_dir_at(parent, name)?;
    for child in names(&dir)? {
        match kind_at(&dir, &child)? {
            Some(FileType::Directory) => remove_tree(dir.as_fd(), &child, depth + 1)?,
            Some(_) => rustix::fs::unlinkat(&dir, &child[..], AtFlags::empty())?,
            None => {}
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
