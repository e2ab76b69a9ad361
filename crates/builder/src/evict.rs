//! Keeping the build cache within bounds: what was not used for longest is removed first. Nothing is removed while any
//! build of any process uses the cache.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::cache::Cache;

/// What a cache may hold unless told otherwise.
pub(crate) const DEFAULT_LIMIT: u64 = 20 << 30;
/// How often the size of a cache is looked at: that reads every directory in it.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// Finer than this, last uses are not told apart: noting one costs a write.
const PRECISION: Duration = Duration::from_secs(1800);

/// A build that uses the cache; while there is one, nothing is removed.
#[derive(Debug)]
pub(crate) struct Hold {
    _lock: File,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trimmed {
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
}

/// Something that can be removed.
#[derive(Debug)]
struct Item {
    path: PathBuf,
    used: SystemTime,
    bytes: u64,
}

impl Cache {
    /// Keeps everything there until the value is dropped. Waits while the cache is being trimmed.
    pub(crate) fn hold(&self) -> io::Result<Hold> {
        let lock = self.gate()?;
        rustix::fs::flock(&lock, FlockOperation::LockShared)?;
        Ok(Hold { _lock: lock })
    }

    fn gate(&self) -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.dir().join("in-use"))
    }

    /// Notes that something in the cache is used now.
    pub(crate) fn used(&self, path: &Path) {
        let stamp = self.stamp(path);
        let recent = |metadata: fs::Metadata| {
            let modified = metadata.modified().ok()?;
            Some(modified.elapsed().is_ok_and(|age| age < PRECISION))
        };
        if fs::metadata(&stamp).ok().and_then(recent) == Some(true) {
            return;
        }
        let noted = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&stamp)
            .and_then(|file| file.set_modified(SystemTime::now()));
        // Without it the entry may be removed too early, and is then made again.
        if let Err(error) = noted {
            tracing::debug!(path = %stamp.display(), %error, "cannot note a use");
        }
    }

    /// The file whose time says when something was used last.
    fn stamp(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix(self.dir()).unwrap_or(path);
        let name = below.to_string_lossy().replace('/', "-");
        self.dir().join("used").join(name)
    }

    /// Trims the cache when that is due.
    pub(crate) fn trim_sometimes(&self, limit: u64) -> io::Result<()> {
        let last = self.dir().join("trimmed");
        let fresh = fs::metadata(&last)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < INTERVAL));
        if fresh {
            return Ok(());
        }
        let Some(trimmed) = self.trim(limit)? else {
            return Ok(());
        };
        File::create(&last)?.set_modified(SystemTime::now())?;
        if trimmed.entries > 0 {
            tracing::info!(
                entries = trimmed.entries,
                bytes = trimmed.bytes,
                "removed what was not used for longest from the build cache"
            );
        }
        Ok(())
    }

    /// Removes what was not used for longest until the rest takes at most nine tenths of `limit` bytes, if it takes
    /// more than that limit. `None` when a build uses the cache.
    pub(crate) fn trim(&self, limit: u64) -> io::Result<Option<Trimmed>> {
        let lock = self.gate()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mut items = self.items()?;
        let mut left: u64 = items.iter().map(|item| item.bytes).sum();
        let mut trimmed = Trimmed::default();
        if left <= limit {
            return Ok(Some(trimmed));
        }
        items.sort_by_key(|item| item.used);
        // What is half removed must not be found any more.
        let scratch = self.scratch()?;
        for (number, item) in items.into_iter().enumerate() {
            if left <= limit / 10 * 9 {
                break;
            }
            let doomed = scratch.path.join(number.to_string());
            fs::rename(&item.path, &doomed)?;
            match doomed.is_dir() {
                true => fs::remove_dir_all(&doomed)?,
                false => fs::remove_file(&doomed)?,
            }
            forget(&self.stamp(&item.path))?;
            left -= item.bytes;
            trimmed.entries += 1;
            trimmed.bytes += item.bytes;
        }
        Ok(Some(trimmed))
    }

    fn items(&self) -> io::Result<Vec<Item>> {
        let mut stamps = BTreeMap::new();
        for entry in fs::read_dir(self.dir().join("used"))? {
            let entry = entry?;
            stamps.insert(entry.path(), entry.metadata()?.modified()?);
        }
        let mut items = Vec::new();
        let mut kinds = vec![self.dir().join("mounts"), self.dir().join("git")];
        for form in fs::read_dir(self.dir().join("layers"))? {
            kinds.push(form?.path());
        }
        for kind in kinds {
            for entry in fs::read_dir(kind)? {
                let path = entry?.path();
                // Beside cache mounts lie their locks.
                if path.is_dir() {
                    let used = stamps.get(&self.stamp(&path));
                    let bytes = size_of(&path)?;
                    items.push(Item {
                        used: used.copied().unwrap_or(SystemTime::UNIX_EPOCH),
                        bytes,
                        path,
                    });
                }
            }
        }
        for kind in ["blobs/sha256", "index"] {
            for entry in fs::read_dir(self.dir().join(kind))? {
                let entry = entry?;
                let (path, metadata) = (entry.path(), entry.metadata()?);
                let made = metadata.modified()?;
                let used = stamps.get(&self.stamp(&path));
                items.push(Item {
                    used: used.map_or(made, |used| made.max(*used)),
                    bytes: metadata.blocks() * 512,
                    path,
                });
            }
        }
        Ok(items)
    }
}

fn forget(stamp: &Path) -> io::Result<()> {
    match fs::remove_file(stamp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Bytes that a tree takes on disk.
fn size_of(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use oci::Digest;

    use super::*;

    const FILE: usize = 1 << 20;

    /// A layer of one large file, last used so many days ago.
    fn layer(cache: &Cache, name: &str, days: u64) -> PathBuf {
        let path = cache.layer(&Digest::of(name.as_bytes()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), vec![1; FILE]).unwrap();
        cache.used(&path);
        let then = SystemTime::now() - Duration::from_secs(days * 86400);
        let stamp = File::options()
            .write(true)
            .open(cache.stamp(&path))
            .unwrap();
        stamp.set_modified(then).unwrap();
        path
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let layers =
            [("old", 9), ("older", 10), ("new", 1)].map(|(name, days)| layer(&cache, name, days));
        let (mount, _) = cache.mount("id");
        fs::create_dir(&mount).unwrap();
        fs::write(mount.join("file"), vec![1; FILE]).unwrap();
        cache.used(&mount);
        assert_eq!(cache.trim(u64::MAX).unwrap(), Some(Trimmed::default()));
        cache.used(&layers[0]);
        let limit = 3 * FILE as u64 + (1 << 19);
        let trimmed = cache.trim(limit).unwrap().unwrap();
        assert_eq!(trimmed.entries, 1);
        assert!(layers[0].exists() && !layers[1].exists() && layers[2].exists());
        cache.trim(0).unwrap();
        assert!(layers.iter().chain([&mount]).all(|path| !path.exists()));
        assert_eq!(fs::read_dir(dir.path().join("used")).unwrap().count(), 0);
    }

    #[test]
    fn nothing_goes_while_somebody_builds() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let layer = layer(&cache, "layer", 3);
        let other = Cache::open(dir.path()).unwrap();
        let hold = other.hold().unwrap();
        assert_eq!(cache.trim(0).unwrap(), None);
        assert!(layer.exists());
        drop(hold);
        assert_eq!(cache.trim(0).unwrap().unwrap().entries, 1);
    }
}
