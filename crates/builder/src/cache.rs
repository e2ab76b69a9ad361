//! What builds keep on disk: blobs, unpacked layers, the index from cache keys to layers, cache mounts, and a
//! working directory for each living engine.
//!
//! ```text
//! blobs/sha256/<hex>      compressed layers
//! layers/<chain>/         one layer in overlayfs form, named by the chain it is the top of
//! index/<key>             what a step with this key gave
//! mounts/<id>             `RUN --mount=type=cache`
//! work/<engine>/          scratch of one engine, which holds a lock on work/<engine>/lock while it lives
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use oci::{BlobStore, Digest};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::BuildError;

/// The directory of an engine.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    blobs: BlobStore,
    session: Session,
}

/// What a step gave: a layer, or nothing when it changed no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) layer: Option<StoredLayer>,
}

/// A layer whose blob is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredLayer {
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// Digest of the blob.
    pub(crate) digest: Digest,
    /// Length of the blob.
    pub(crate) size: u64,
}

impl Cache {
    /// Opens the directory and removes what dead engines left in it.
    pub(crate) fn open(dir: &Path) -> Result<Cache, BuildError> {
        let failed = || {
            BuildError::host::<io::Error>(format!(
                "build cache `{}` cannot be opened",
                dir.display()
            ))
        };
        for name in ["layers", "index", "mounts", "work"] {
            fs::create_dir_all(dir.join(name)).map_err(failed())?;
        }
        // Mounts are told apart by their paths, which must therefore be the kernel's.
        let dir = dir.canonicalize().map_err(failed())?;
        let blobs = BlobStore::open(&dir)?;
        let session = Session::start(&dir.join("work")).map_err(BuildError::host(format!(
            "build cache `{}` cannot be cleaned",
            dir.display()
        )))?;
        Ok(Cache {
            dir,
            blobs,
            session,
        })
    }

    pub(crate) fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// A fresh directory that disappears with its value.
    pub(crate) fn scratch(&self) -> io::Result<Scratch> {
        let number = self.session.next.fetch_add(1, Ordering::Relaxed);
        let path = self.session.dir.join(number.to_string());
        fs::create_dir(&path)?;
        Ok(Scratch { path })
    }

    /// A directory with nothing in it.
    pub(crate) fn empty(&self) -> io::Result<PathBuf> {
        let path = self.session.dir.join("empty");
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(path),
        }
    }

    /// Where the top layer of a chain is, or would be.
    pub(crate) fn layer(&self, chain: &Digest) -> PathBuf {
        self.dir.join("layers").join(chain.hex())
    }

    /// Makes a finished tree the top layer of a chain. When another build was faster, its tree stays.
    pub(crate) fn publish(&self, tree: &Path, chain: &Digest) -> io::Result<()> {
        let place = self.layer(chain);
        match fs::rename(tree, &place) {
            Err(_) if place.is_dir() => Ok(()),
            other => other,
        }
    }

    /// What a step with this key gave before, if all of it is still there.
    pub(crate) fn lookup(&self, key: &Digest) -> Option<Entry> {
        let text = fs::read(self.dir.join("index").join(key.hex())).ok()?;
        // A torn file after a power cut is as good as none.
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        match &entry.layer {
            Some(layer) if !self.blobs.has(&layer.digest) => None,
            _ => Some(entry),
        }
    }

    /// Remembers what a step gave.
    pub(crate) fn record(&self, key: &Digest, entry: &Entry) -> io::Result<()> {
        let text = serde_json::to_vec(entry)?;
        let scratch = self.scratch()?;
        let path = scratch.path.join("entry");
        fs::write(&path, text)?;
        fs::rename(path, self.dir.join("index").join(key.hex()))
    }

    /// The directory of a cache mount, and the file whose lock says who uses it.
    pub(crate) fn mount(&self, id: &str) -> (PathBuf, PathBuf) {
        let name = Digest::of(id.as_bytes()).hex();
        let dir = self.dir.join("mounts");
        (dir.join(&name), dir.join(format!("{name}.lock")))
    }
}

/// A directory that is removed with its value.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a working directory; the next start will");
        }
    }
}

/// The working directory of this engine.
#[derive(Debug)]
struct Session {
    dir: PathBuf,
    next: AtomicU64,
    /// Locked as long as the engine lives; children do not inherit it.
    _lock: File,
}

impl Session {
    fn start(work: &Path) -> io::Result<Session> {
        // While one engine cleans and starts, no other does.
        let gate = File::create(work.join("lock"))?;
        rustix::fs::flock(&gate, FlockOperation::LockExclusive)?;
        for entry in fs::read_dir(work)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                sweep(&entry.path())?;
            }
        }
        let dir = tempfile::Builder::new()
            .prefix("engine-")
            .tempdir_in(work)?
            .keep();
        let lock = File::create(dir.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Session {
            dir,
            next: AtomicU64::new(0),
            _lock: lock,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "cannot remove the working directory; the next start will");
        }
    }
}

/// Removes the working directory of an engine that lives no more. Its commands died with it (they are started
/// so), which leaves mounts and files.
fn sweep(dir: &Path) -> io::Result<()> {
    match File::open(dir.join("lock")) {
        Ok(lock) => match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            Err(error) => return Err(error.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mounts = crate::snapshot::mounts_below(dir)?;
    for path in mounts.iter().rev() {
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)?;
    }
    tracing::info!(path = %dir.display(), mounts = mounts.len(), "cleaned up after a build that was killed");
    fs::remove_dir_all(dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_need_their_blob() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let key = Digest::of(b"key");
        assert_eq!(cache.lookup(&key), None);
        let digest = cache.blobs().put(b"blob").unwrap();
        let entry = Entry {
            layer: Some(StoredLayer {
                diff_id: Digest::of(b"tar"),
                digest,
                size: 4,
            }),
        };
        cache.record(&key, &entry).unwrap();
        assert_eq!(cache.lookup(&key), Some(entry));
        cache.blobs().remove(&digest).unwrap();
        assert_eq!(cache.lookup(&key), None);
        fs::write(dir.path().join("index").join(key.hex()), "{\"lay").unwrap();
        assert_eq!(cache.lookup(&key), None);
    }

    #[test]
    fn only_the_dead_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let living = Cache::open(dir.path()).unwrap();
        let scratch = living.scratch().unwrap();
        let dead = dir.path().join("work/engine-dead");
        fs::create_dir_all(dead.join("3/upper")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        let second = Cache::open(dir.path()).unwrap();
        assert!(!dead.exists());
        assert!(scratch.path.exists());
        drop(scratch);
        drop((living, second));
        let left: Vec<_> = fs::read_dir(dir.path().join("work"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["lock"]);
    }

    #[test]
    fn the_first_to_publish_wins() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let chain = Digest::of(b"chain");
        for content in ["one", "two"] {
            let scratch = cache.scratch().unwrap();
            let tree = scratch.path.join("upper");
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join("f"), content).unwrap();
            cache.publish(&tree, &chain).unwrap();
        }
        assert_eq!(
            fs::read_to_string(cache.layer(&chain).join("f")).unwrap(),
            "one"
        );
    }
}
