//! Folders for build contexts: locked by the builder that uses them, so that what a killed one left can be told apart and
//! removed.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = "caprock-build-";

/// Removes the build contexts that builders left behind when they were killed.
pub(crate) fn remove_left_over() -> io::Result<()> {
    remove_left_over_in(&std::env::temp_dir())
}

fn remove_left_over_in(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(PREFIX) && entry.file_type()?.is_dir() {
            match remove_unless_held(&entry.path()) {
                // Another builder cleans up as well, or this one's owner did.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn remove_unless_held(dir: &Path) -> io::Result<()> {
    // Held until the folder is gone: who made it a moment ago waits for the lock, and sees then that it is.
    let lock = fs::File::open(dir)?;
    match lock.try_lock() {
        Ok(()) => fs::remove_dir_all(dir),
        Err(_) => Ok(()),
    }
}

/// A folder that nobody cleans up while the lock is held.
pub(super) fn make() -> io::Result<(TempDir, fs::File)> {
    make_in(&std::env::temp_dir())
}

fn make_in(dir: &Path) -> io::Result<(TempDir, fs::File)> {
    loop {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(dir)?;
        let lock = match fs::File::open(dir.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        lock.lock()?;
        if dir.path().try_exists()? {
            return Ok((dir, lock));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_removed() {
        // Not where builders of other tests clean up, who hold a folder for the moment that takes.
        let place = tempfile::tempdir().unwrap();
        let make_and_look = || {
            for _ in 0..200 {
                let (dir, _lock) = make_in(place.path()).unwrap();
                fs::write(dir.path().join("file"), "").unwrap();
            }
        };
        let clean = || {
            for _ in 0..200 {
                remove_left_over_in(place.path()).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(make_and_look);
                scope.spawn(clean);
            }
        });
        let (dir, lock) = make_in(place.path()).unwrap();
        let left = dir.keep();
        remove_left_over_in(place.path()).unwrap();
        assert!(left.exists(), "it is held");
        drop(lock);
        remove_left_over_in(place.path()).unwrap();
        assert!(!left.exists());
    }
}
