//! Content-addressed blobs in a directory, laid out as the OCI image layout has them: `blobs/sha256/<hex>`.
//! A blob appears under its name only when it is complete, verified and synced, so that processes killed at
//! any point, and several processes at once, never show each other half a blob.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use tempfile::{NamedTempFile, TempPath};

use crate::digest::{Digest, Digester};
use crate::durable::{create_dirs, sync_dir};

/// How long half a blob is kept for somebody to get the rest.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A directory of blobs named by their content. Clones and other processes may use the same directory.
#[derive(Debug, Clone)]
pub struct BlobStore {
    blobs: PathBuf,
    incoming: PathBuf,
    partial: PathBuf,
}

/// A blob that a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored.
    pub modified: SystemTime,
}

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store has no such blob.
    #[error("blob `{0}` is not in the store")]
    Missing(Digest),
    /// What was written is not what was expected; nothing was kept.
    #[error("content has digest `{found}`, expected `{expected}`")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The directory refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// A verb, for the message.
        action: &'static str,
        /// The file or directory it was done to.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

impl BlobStore {
    /// Opens the store in `dir`, creating it when missing, and removes what killed writers left behind.
    pub fn open(dir: impl AsRef<Path>) -> Result<BlobStore, StoreError> {
        let dir = dir.as_ref();
        let store = BlobStore {
            blobs: dir.join("blobs/sha256"),
            incoming: dir.join("incoming"),
            partial: dir.join("partial"),
        };
        for dir in [&store.blobs, &store.incoming, &store.partial] {
            create_dirs(dir).map_err(StoreError::io("create", dir))?;
        }
        store.sweep()?;
        store.sweep_partial()?;
        Ok(store)
    }

    /// Whether the blob is there.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// The blob's size in bytes.
    pub fn size(&self, digest: &Digest) -> Result<u64, StoreError> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(missing_or(error, digest, &path)),
        }
    }

    /// Opens the blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        File::open(&path).map_err(|error| missing_or(error, digest, &path))
    }

    /// Reads a whole blob that is expected to be small; one longer than `limit` bytes is an error.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let read = self
            .open_blob(digest)?
            .take(limit + 1)
            .read_to_end(&mut bytes);
        match read {
            Ok(length) if length as u64 <= limit => Ok(bytes),
            Ok(_) => Err(StoreError::io("read", &path)(io::Error::other(format!(
                "longer than {limit} bytes"
            )))),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Stores `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut writer = self.writer()?;
        writer
            .write_all(bytes)
            .map_err(StoreError::io("write in", &self.incoming))?;
        writer.commit(None)
    }

    /// Where the blob is, or would be. The file must not be written to.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// Removes the blob; one that is not there is no error. Readers that have it open keep it.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// All blobs, in no order.
    pub fn list(&self) -> Result<Vec<StoredBlob>, StoreError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.blobs).map_err(StoreError::io("read", &self.blobs))? {
            let entry = entry.map_err(StoreError::io("read", &self.blobs))?;
            let name = entry.file_name();
            // Anything else in there is not ours.
            let Some(digest) = name.to_str().and_then(|name| Digest::from_hex(name).ok()) else {
                continue;
            };
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(StoreError::io("read", &entry.path()))?,
            };
            found.push(StoredBlob {
                digest,
                size: metadata.len(),
                modified: metadata
                    .modified()
                    .map_err(StoreError::io("read", &entry.path()))?,
            });
        }
        Ok(found)
    }

    /// Reads the blob again and compares it with its name.
    pub fn verify(&self, digest: &Digest) -> Result<(), StoreError> {
        let mut digester = Digester::new();
        io::copy(&mut self.open_blob(digest)?, &mut digester)
            .map_err(StoreError::io("read", &self.path(digest)))?;
        match digester.finish() {
            found if found == *digest => Ok(()),
            found => Err(StoreError::Mismatch {
                expected: *digest,
                found,
            }),
        }
    }

    /// Starts a new blob. Dropping the writer leaves nothing behind.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let failed = |error| StoreError::io("create a file in", &self.incoming)(error);
        let directory = File::open(&self.incoming).map_err(failed)?;
        // Under the shared lock no sweep can see the new file before it is locked itself.
        rustix::fs::flock(&directory, FlockOperation::LockShared)
            .map_err(|errno| failed(errno.into()))?;
        let file = NamedTempFile::new_in(&self.incoming).map_err(failed)?;
        rustix::fs::flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed(errno.into()))?;
        Ok(BlobWriter {
            store: self.clone(),
            file,
            digester: Digester::new(),
        })
    }

    /// Starts a blob of which an earlier writer may have left a part, which counts as written. What this writer does
    /// not finish is kept for the next one.
    pub fn resume(&self, digest: &Digest) -> Result<BlobWriter, StoreError> {
        let path = self.partial.join(digest.hex());
        let failed = |error| StoreError::io("open", &path)(error);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Somebody else is at it, or has finished it between the two calls: whoever is first wins.
        if !locked || !is_at(&file, &path).map_err(failed)? {
            return self.writer();
        }
        let mut digester = Digester::new();
        io::copy(&mut file, &mut digester).map_err(StoreError::io("read", &path))?;
        let kept = TempPath::try_from_path(&path).map_err(failed)?;
        let mut file = NamedTempFile::from_parts(file, kept);
        file.disable_cleanup(true);
        Ok(BlobWriter {
            store: self.clone(),
            file,
            digester,
        })
    }

    /// Removes parts of blobs that nobody came back for.
    fn sweep_partial(&self) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("clean", &self.partial)(error);
        for entry in fs::read_dir(&self.partial).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Ok(file) = File::open(&path) else {
                continue;
            };
            let age = file
                .metadata()
                .and_then(|metadata| metadata.modified())
                .map_err(failed)?
                .elapsed();
            let old = age.is_ok_and(|age| age > PARTIAL_KEPT);
            if old
                && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
                && let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(failed(error));
            }
        }
        Ok(())
    }

    /// Removes files of writers that no longer live: living ones hold a lock on theirs.
    fn sweep(&self) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("clean", &self.incoming)(error);
        let directory = File::open(&self.incoming).map_err(failed)?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // Someone is writing or sweeping; the next one to open the store will see to it.
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            Err(errno) => return Err(failed(errno.into())),
        }
        for entry in fs::read_dir(&self.incoming).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed(error));
                    }
                    _ => tracing::debug!(path = %path.display(), "removed an unfinished blob"),
                }
            }
        }
        Ok(())
    }
}

/// Whether the open file is the one that the path leads to.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn missing_or(error: io::Error, digest: &Digest, path: &Path) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing(*digest),
        _ => StoreError::io("open", path)(error),
    }
}

/// A blob being written: hashed on the way, visible to nobody until [`commit`](BlobWriter::commit).
#[derive(Debug)]
pub struct BlobWriter {
    store: BlobStore,
    file: NamedTempFile,
    digester: Digester,
}

impl BlobWriter {
    /// How many bytes were written so far.
    pub fn written(&self) -> u64 {
        self.digester.length()
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        self.digester.clone().finish()
    }

    /// What was written so far, for reading while more is written.
    pub fn reader(&self) -> Result<File, StoreError> {
        self.file
            .reopen()
            .map_err(StoreError::io("open", self.file.path()))
    }

    /// Forgets what was written and starts again at nothing.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let path = self.file.path().to_owned();
        let file = self.file.as_file_mut();
        file.set_len(0)
            .and_then(|()| io::Seek::rewind(file))
            .map_err(StoreError::io("truncate", &path))?;
        self.digester = Digester::new();
        Ok(())
    }

    /// Names the file in an error of writing.
    pub(crate) fn failed(&self, error: io::Error) -> StoreError {
        StoreError::io("write", self.file.path())(error)
    }

    /// Makes the blob durable and visible under its digest. With `expected`, content of another digest is
    /// refused and dropped. Storing what is there already succeeds and changes nothing.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<Digest, StoreError> {
        let size = self.written();
        let found = std::mem::take(&mut self.digester).finish();
        if let Some(expected) = expected
            && *expected != found
        {
            self.discard()?;
            return Err(StoreError::Mismatch {
                expected: *expected,
                found,
            });
        }
        let path = self.store.path(&found);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == size) {
            self.discard()?;
            return Ok(found);
        }
        self.file
            .as_file()
            .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .and_then(|()| self.file.as_file().sync_all())
            .map_err(StoreError::io("sync", self.file.path()))?;
        self.file
            .persist(&path)
            .map_err(|error| StoreError::io("create", &path)(error.error))?;
        sync_dir(&self.store.blobs).map_err(StoreError::io("sync", &self.store.blobs))?;
        Ok(found)
    }
}

impl BlobWriter {
    /// Leaves nothing behind, also of a blob that was resumed.
    fn discard(mut self) -> Result<(), StoreError> {
        self.file.disable_cleanup(false);
        let path = self.file.path().to_owned();
        self.file.close().map_err(StoreError::io("remove", &path))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.as_file_mut().write(bytes)?;
        self.digester.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}
