//! What builds keep on disk: blobs, unpacked layers, the index from cache keys to layers, cache mounts, and a
//! working directory for each living engine.
//!
//! ```text
//! blobs/sha256/<hex>      compressed layers
//! layers/<chain>/         one layer in overlayfs form, named by the chain it is the top of
//! index/<key>             what a step with this key gave
//! mounts/<id>             `RUN --mount=type=cache`
//! unsynced/<boot>/<chain> layers that a power cut could still tear, by the boot of the machine they were made in
//! work/<engine>/          scratch of one engine, which holds a lock on work/<engine>/lock while it lives
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use oci::{BlobStore, Digest};
use serde::{Deserialize, Serialize};

use crate::error::BuildError;
use crate::session::{Scratch, Session};

/// The directory of an engine.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    blobs: BlobStore,
    session: Session,
    /// Names of layers that may not be on disk yet.
    unsynced: PathBuf,
    syncing: Mutex<()>,
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
        for name in ["layers", "index", "mounts", "unsynced", "work"] {
            fs::create_dir_all(dir.join(name)).map_err(failed())?;
        }
        // Mounts are told apart by their paths, which must therefore be the kernel's.
        let dir = dir.canonicalize().map_err(failed())?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed())?;
        let unsynced = dir.join("unsynced").join(boot.trim());
        forget_torn(&dir, &unsynced).map_err(failed())?;
        fs::create_dir_all(&unsynced).map_err(failed())?;
        let blobs = BlobStore::open(&dir)?;
        let session = Session::start(&dir.join("work")).map_err(BuildError::host(format!(
            "build cache `{}` cannot be cleaned",
            dir.display()
        )))?;
        Ok(Cache {
            dir,
            blobs,
            session,
            unsynced,
            syncing: Mutex::new(()),
        })
    }

    pub(crate) fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// A fresh directory that disappears with its value.
    pub(crate) fn scratch(&self) -> io::Result<Scratch> {
        self.session.scratch()
    }

    /// A directory with nothing in it, one for each number: overlayfs takes none twice.
    pub(crate) fn empty(&self, number: usize) -> io::Result<PathBuf> {
        let path = self.session.dir().join(format!("empty-{number}"));
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
        File::create(self.unsynced.join(chain.hex()))?;
        match fs::rename(tree, &place) {
            Err(_) if place.is_dir() => Ok(()),
            other => other,
        }
    }

    /// Brings all layers to disk. Takes as long as the disk needs, so nobody should wait for it; layers for which it
    /// did not happen before the machine went down are made anew.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let Ok(_alone) = self.syncing.try_lock() else {
            return Ok(());
        };
        let names: Vec<_> = fs::read_dir(&self.unsynced)?.collect::<io::Result<_>>()?;
        rustix::fs::syncfs(File::open(&self.dir)?)?;
        for name in names {
            remove(fs::remove_file(name.path()))?;
        }
        Ok(())
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

/// Removes the layers that were not on disk for sure when an earlier boot of the machine ended.
fn forget_torn(dir: &Path, current: &Path) -> io::Result<()> {
    for boot in fs::read_dir(dir.join("unsynced"))? {
        let boot = boot?.path();
        if boot == current {
            continue;
        }
        for name in fs::read_dir(&boot)? {
            remove(fs::remove_dir_all(
                dir.join("layers").join(name?.file_name()),
            ))?;
        }
        remove(fs::remove_dir_all(boot))?;
    }
    Ok(())
}

/// Another engine may be removing the same.
fn remove(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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

    #[test]
    fn layers_of_an_earlier_boot_count_only_when_synced() {
        let dir = tempfile::tempdir().unwrap();
        let publish = |name: &[u8]| {
            let cache = Cache::open(dir.path()).unwrap();
            let scratch = cache.scratch().unwrap();
            let tree = scratch.path.join("upper");
            fs::create_dir(&tree).unwrap();
            cache.publish(&tree, &Digest::of(name)).unwrap();
            cache
        };
        publish(b"synced").sync().unwrap();
        let cache = publish(b"torn");
        fs::rename(&cache.unsynced, dir.path().join("unsynced/earlier-boot")).unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        assert!(cache.layer(&Digest::of(b"synced")).is_dir());
        assert!(!cache.layer(&Digest::of(b"torn")).exists());
        assert!(!dir.path().join("unsynced/earlier-boot").exists());
    }
}
