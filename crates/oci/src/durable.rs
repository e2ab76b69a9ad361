//! Directories that stay after a power cut.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Creates missing directories and syncs the ones that got a new entry.
pub(crate) fn create_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent().ok_or(io::ErrorKind::NotFound)? {
        // A relative path of one part.
        parent if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent,
    };
    create_dirs(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(parent),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parents_are_created_whatever_the_path_starts_with() {
        let dir = tempfile::tempdir().unwrap();
        create_dirs(&dir.path().join("a/b/c")).unwrap();
        create_dirs(&dir.path().join("a/b/c")).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create_dirs(&dir.path().join("file/x")).is_err());
    }
}
