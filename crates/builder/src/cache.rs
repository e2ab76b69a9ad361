//! What builds keep on disk: blobs, unpacked layers, the index from cache keys to layers, cache mounts, and a
//! working directory for each living engine.
//!
//! ```text
//! blobs/sha256/<hex>      compressed layers
//! layers/<boot>/<chain>/  one layer in overlayfs form, named by the chain it is the top of; `<boot>-userxattr` has those
//!                         that a user namespace made
//! index/<key>             what a step with this key gave
//! mounts/<id>             `RUN --mount=type=cache`
//! git/<repository>/       a commit of a git repository, checked out
//! used/<entry>            its time says when something of the above was used last
//! in-use                  locked by every build, and by whoever removes old entries
//! work/<engine>/          scratch of one engine, which holds a lock on work/<engine>/lock while it lives
//! ```
//!
//! Blobs are synced to disk, layers are not: that would take as long as the rest of a build. A machine that went
//! down may have torn them, so they count for one boot only and are unpacked from the blobs again in the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci::layer::Marks;
use oci::manifest::chain_id;
use oci::{BlobStore, Digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::compress::Compression;
use crate::error::BuildError;
use crate::session::{Scratch, Session};
use crate::superuser::Superuser;

/// The directory of an engine.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    blobs: BlobStore,
    session: Session,
    layers: PathBuf,
    superuser: Superuser,
}

/// What a step gave: a layer, or nothing when it changed no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) layer: Option<CachedLayer>,
}

/// A layer that a step gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedLayer {
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// The packed layer. A layer that goes into no image is not packed, and known as long as it lies unpacked.
    pub(crate) blob: Option<Blob>,
}

/// A packed layer in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    /// Its length.
    pub(crate) size: u64,
    /// How it is compressed.
    #[serde(default)]
    pub(crate) compression: Compression,
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
        let superuser = Superuser::here().map_err(failed())?;
        fs::create_dir_all(dir)
            .and_then(|()| superuser.check_owner(dir))
            .map_err(failed())?;
        for name in ["layers", "index", "mounts", "git", "used", "work"] {
            fs::create_dir_all(dir.join(name)).map_err(failed())?;
        }
        // Mounts are told apart by their paths, which must therefore be the kernel's.
        let dir = dir.canonicalize().map_err(failed())?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed())?;
        let form = match superuser.marks() {
            Marks::Trusted => "",
            Marks::User => "-userxattr",
        };
        let layers = dir.join("layers").join(format!("{}{form}", boot.trim()));
        forget_earlier(&layers, boot.trim()).map_err(failed())?;
        let blobs = BlobStore::open(&dir)?;
        let session = Session::start(&dir.join("work")).map_err(BuildError::host(format!(
            "build cache `{}` cannot be cleaned",
            dir.display()
        )))?;
        Ok(Cache {
            dir,
            blobs,
            session,
            layers,
            superuser,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whose superuser the layers are for.
    pub(crate) fn superuser(&self) -> Superuser {
        self.superuser
    }

    pub(crate) fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// A fresh directory that disappears with its value.
    pub(crate) fn scratch(&self) -> io::Result<Scratch> {
        self.session.scratch()
    }

    /// A fresh directory in memory that disappears with its value.
    pub(crate) fn memory(&self) -> io::Result<Scratch> {
        self.session.memory()
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
        self.layers.join(chain.hex())
    }

    /// Makes a finished tree the top layer of a chain. When another build was faster, its tree stays.
    pub(crate) fn publish(&self, tree: &Path, chain: &Digest) -> io::Result<()> {
        let place = self.layer(chain);
        self.used(&place);
        match fs::rename(tree, &place) {
            Err(_) if place.is_dir() => Ok(()),
            other => other,
        }
    }

    /// What a step with this key gave before on the chain `below`, if it is still there.
    pub(crate) fn lookup(&self, key: &Digest, below: Option<Digest>) -> Option<Entry> {
        let mut entry: Entry = self.read(key)?;
        if let Some(layer) = &mut entry.layer {
            layer.blob = layer.blob.filter(|blob| self.blobs.has(&blob.digest));
            let unpacked = || self.layer(&chain_id(below, &layer.diff_id)).is_dir();
            if layer.blob.is_none() && !unpacked() {
                return None;
            }
            if let Some(blob) = layer.blob {
                self.used(&self.blobs.path(&blob.digest));
            }
        }
        self.used(&self.index(key));
        Some(entry)
    }

    fn index(&self, key: &Digest) -> PathBuf {
        self.dir.join("index").join(key.hex())
    }

    /// What is remembered under a key. A torn file after a power cut is as good as none.
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &Digest) -> Option<T> {
        let text = fs::read(self.index(key)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Remembers something under a key.
    pub(crate) fn record<T: Serialize>(&self, key: &Digest, entry: &T) -> io::Result<()> {
        let text = serde_json::to_vec(entry)?;
        let path = self.session.fresh();
        fs::write(&path, text)?;
        fs::rename(path, self.index(key))
    }

    /// Where a git repository is checked out, or would be.
    pub(crate) fn checkout(&self, name: &Digest) -> PathBuf {
        self.dir.join("git").join(name.hex())
    }

    /// The directory of a cache mount, and the file whose lock says who uses it.
    pub(crate) fn mount(&self, id: &str) -> (PathBuf, PathBuf) {
        let name = Digest::of(id.as_bytes()).hex();
        let dir = self.dir.join("mounts");
        (dir.join(&name), dir.join(format!("{name}.lock")))
    }
}

/// Removes the layers of earlier boots, and makes room for those of this one.
fn forget_earlier(current: &Path, boot: &str) -> io::Result<()> {
    for made in fs::read_dir(current.parent().unwrap_or(current))? {
        let made = made?;
        if made.file_name().to_string_lossy().starts_with(boot) {
            continue;
        }
        match fs::remove_dir_all(made.path()) {
            // Another engine is removing it too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    fs::create_dir_all(current)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_need_their_blob_or_tree() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let key = Digest::of(b"key");
        assert_eq!(cache.lookup(&key, None), None);
        let digest = cache.blobs().put(b"blob").unwrap();
        let diff_id = Digest::of(b"tar");
        let mut entry = Entry {
            layer: Some(CachedLayer {
                diff_id,
                blob: Some(Blob {
                    digest,
                    size: 4,
                    compression: Compression::default(),
                }),
            }),
        };
        cache.record(&key, &entry).unwrap();
        assert_eq!(cache.lookup(&key, None), Some(entry.clone()));
        cache.blobs().remove(&digest).unwrap();
        assert_eq!(cache.lookup(&key, None), None);
        fs::create_dir(cache.layer(&diff_id)).unwrap();
        entry.layer.as_mut().unwrap().blob = None;
        assert_eq!(cache.lookup(&key, None), Some(entry), "it is unpacked");
        assert_eq!(cache.lookup(&key, Some(diff_id)), None, "on another chain");
        fs::write(dir.path().join("index").join(key.hex()), "{\"lay").unwrap();
        assert_eq!(cache.lookup(&key, None), None);
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
    fn layers_count_for_one_boot() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        fs::create_dir(cache.layer(&Digest::of(b"now"))).unwrap();
        let earlier = dir.path().join("layers/earlier-boot");
        fs::create_dir_all(earlier.join("chain/usr")).unwrap();
        let again = Cache::open(dir.path()).unwrap();
        assert!(again.layer(&Digest::of(b"now")).is_dir());
        assert!(!earlier.exists());
    }
}
