//! A read-only view of an image's files.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags};

use crate::cache::Cache;
use crate::evict::Hold;
use crate::root::{Root, absent, names};
use crate::snapshot::Snapshot;

/// The files of an image. Paths are absolute in the image; links in it are followed inside it.
#[derive(Debug)]
pub struct RootView {
    root: Root,
    // Unmounts when dropped, after the root was closed.
    _snapshot: Snapshot,
    _hold: Arc<Hold>,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, pipe or the like.
    Other,
}

impl RootView {
    pub(crate) fn mount(
        cache: &Cache,
        layers: &[PathBuf],
        hold: Arc<Hold>,
    ) -> io::Result<RootView> {
        let snapshot = Snapshot::readonly(cache, layers)?;
        let root = Root::open(&snapshot.root())?;
        Ok(RootView {
            root,
            _snapshot: snapshot,
            _hold: hold,
        })
    }

    /// Whether a path leads to something.
    pub fn exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        Ok(self.root.stat(path.as_ref())?.is_some())
    }

    /// What lies at a path, the last link followed; `None` if nothing.
    pub fn kind(&self, path: impl AsRef<Path>) -> io::Result<Option<Kind>> {
        Ok(self
            .root
            .stat(path.as_ref())?
            .map(|stat| kind(FileType::from_raw_mode(stat.st_mode))))
    }

    /// The first `limit` bytes of a regular file; `None` if there is none.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.root.head(path.as_ref(), limit)
    }

    /// The names in a directory with what they are, sorted, links not followed; empty if there is none.
    pub fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<(OsString, Kind)>> {
        let dir = match self
            .root
            .resolve(path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)
        {
            Ok(dir) => dir,
            Err(error) if absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for name in names(&dir)? {
            let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            entries.push((name, kind(FileType::from_raw_mode(stat.st_mode))));
        }
        Ok(entries)
    }

    /// Where a link points, as written; `None` if there is no link at the path.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<Option<PathBuf>> {
        use std::os::unix::ffi::OsStringExt as _;
        let fd = match self
            .root
            .resolve(path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW)
        {
            Ok(fd) => fd,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        let target = rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes();
        Ok(Some(PathBuf::from(OsString::from_vec(target))))
    }
}

fn kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}
