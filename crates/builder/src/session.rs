//! The working directory of an engine. It disappears with the engine; when that is killed, the next one to start
//! removes it with the mounts in it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// A directory that is removed with its value.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a working directory; the next start will");
        }
    }
}

/// The working directory of a living engine.
#[derive(Debug)]
pub(crate) struct Session {
    dir: PathBuf,
    next: AtomicU64,
    /// Whether the memory file system is mounted.
    memory: Mutex<bool>,
    /// Locked as long as the engine lives; children do not inherit it.
    _lock: File,
}

impl Session {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A fresh directory that disappears with its value.
    pub(crate) fn scratch(&self) -> io::Result<Scratch> {
        let path = self.fresh();
        fs::create_dir(&path)?;
        Ok(Scratch { path })
    }

    /// A fresh directory in memory, for small files: a disk may take milliseconds to give up a file again.
    pub(crate) fn memory(&self) -> io::Result<Scratch> {
        let place = self.dir.join("memory");
        let mut mounted = self.memory.lock().expect("nobody panics with this lock");
        if !*mounted {
            fs::create_dir(&place)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            rustix::mount::mount("tmpfs", &place, "tmpfs", flags, Some(c"mode=700"))?;
            *mounted = true;
        }
        drop(mounted);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = place.join(number.to_string());
        fs::create_dir(&path)?;
        Ok(Scratch { path })
    }

    /// A name in the working directory that nobody else uses.
    pub(crate) fn fresh(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(number.to_string())
    }

    /// Cleans up after dead engines and starts a new one.
    pub(crate) fn start(work: &Path) -> io::Result<Session> {
        // While one engine cleans and starts, no other does.
        let gate = File::create(work.join("lock"))?;
        rustix::fs::flock(&gate, FlockOperation::LockExclusive)?;
        for entry in fs::read_dir(work)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // What cannot be removed is in nobody's way, so it may wait for the next start.
                if let Err(error) = sweep(&entry.path()) {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot clean up after a build that was killed");
                }
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
            memory: Mutex::new(false),
            _lock: lock,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mounted = self.memory.get_mut().is_ok_and(|mounted| *mounted);
        if mounted
            && let Err(error) =
                rustix::mount::unmount(self.dir.join("memory"), UnmountFlags::DETACH)
        {
            tracing::warn!(path = %self.dir.display(), %error, "cannot unmount; the next start will");
            return;
        }
        if let Err(error) = remove(&self.dir) {
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
            Err(Errno::WOULDBLOCK) => return Ok(()),
            Err(error) => return Err(error.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mounts = crate::snapshot::mounts_below(dir)?;
    for path in mounts.iter().rev() {
        match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            // Its owner was not dead but ending, and was faster.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tracing::info!(path = %dir.display(), mounts = mounts.len(), "cleaned up after a build that was killed");
    remove(dir)
}

/// Removes a directory in which processes that were killed a moment ago may still write their last.
fn remove(dir: &Path) -> io::Result<()> {
    const ATTEMPTS: usize = 50;
    const PAUSE: Duration = Duration::from_millis(20);
    let mut attempts = 0..ATTEMPTS;
    loop {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::DirectoryNotEmpty
                    && attempts.next().is_some() =>
            {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}
