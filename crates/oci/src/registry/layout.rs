//! How repositories are kept on disk, beside the blobs that they share:
//!
//! ```text
//! repositories/NAME/_blobs/HEX            the repository has this blob
//! repositories/NAME/_manifests/HEX        the repository has this manifest; holds its media type
//! repositories/NAME/_tags/TAG             holds a digest
//! repositories/NAME/_referrers/HEX/HEX    the second manifest names the first as its subject
//! ```
//!
//! Content is in the blob store alone, so what is in use can be found by walking `repositories`. Every file appears
//! whole and synced, and no part of a repository name starts with `_`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::RegistryError;
use crate::digest::Digest;
use crate::durable::{create_dirs, sync_dir};

/// The files of all repositories. Names and tags given to it were checked.
#[derive(Debug)]
pub(super) struct Layout {
    repositories: PathBuf,
    staging: PathBuf,
}

impl Layout {
    /// Opens the layout in `dir`, creating it when missing. Nobody else may have it open: what is left in staging
    /// is removed.
    pub(super) fn open(dir: &Path) -> Result<Layout, RegistryError> {
        let layout = Layout {
            repositories: dir.join("repositories"),
            staging: dir.join("staging"),
        };
        match fs::remove_dir_all(&layout.staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("clean", &layout.staging)(error))
            }
            _ => Ok(()),
        }?;
        for dir in [&layout.repositories, &layout.staging] {
            fs::create_dir_all(dir).map_err(failed("create", dir))?;
        }
        Ok(layout)
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.repositories.join(name)
    }

    fn blob(&self, repository: &str, digest: &Digest) -> PathBuf {
        self.repository(repository)
            .join("_blobs")
            .join(digest.hex())
    }

    fn manifest(&self, repository: &str, digest: &Digest) -> PathBuf {
        self.repository(repository)
            .join("_manifests")
            .join(digest.hex())
    }

    fn tag(&self, repository: &str, tag: &str) -> PathBuf {
        self.repository(repository).join("_tags").join(tag)
    }

    fn referrer_dir(&self, repository: &str, subject: &Digest) -> PathBuf {
        self.repository(repository)
            .join("_referrers")
            .join(subject.hex())
    }

    pub(super) fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        self.blob(repository, digest).is_file()
    }

    pub(super) fn link_blob(&self, repository: &str, digest: &Digest) -> Result<(), RegistryError> {
        match self.has_blob(repository, digest) {
            true => self.touch_blob(repository, digest),
            false => self.write(&self.blob(repository, digest), b""),
        }
    }

    pub(super) fn unlink_blob(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        remove(&self.blob(repository, digest))
    }

    /// The media type of a manifest that the repository has.
    pub(super) fn media_type(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<String>, RegistryError> {
        read(&self.manifest(repository, digest))
    }

    pub(super) fn put_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        media_type: &str,
        subject: Option<&Digest>,
    ) -> Result<(), RegistryError> {
        if let Some(subject) = subject {
            self.write(
                &self.referrer_dir(repository, subject).join(digest.hex()),
                b"",
            )?;
        }
        self.write(&self.manifest(repository, digest), media_type.as_bytes())
    }

    /// Removes the manifest and the tags that stand for it. Tells whether it was there.
    pub(super) fn remove_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<bool, RegistryError> {
        for tag in self.tags(repository)?.unwrap_or_default() {
            if self.tagged(repository, &tag)? == Some(*digest) {
                self.remove_tag(repository, &tag)?;
            }
        }
        if let Some(subject) = subject {
            remove(&self.referrer_dir(repository, subject).join(digest.hex()))?;
        }
        remove(&self.manifest(repository, digest))
    }

    /// What a tag stands for.
    pub(super) fn tagged(
        &self,
        repository: &str,
        tag: &str,
    ) -> Result<Option<Digest>, RegistryError> {
        let path = self.tag(repository, tag);
        let text = read(&path)?;
        let parse = |text: String| {
            text.parse()
                .map_err(|error| failed("read", &path)(io::Error::other(error)))
        };
        text.map(parse).transpose()
    }

    pub(super) fn put_tag(
        &self,
        repository: &str,
        tag: &str,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        self.write(&self.tag(repository, tag), digest.to_string().as_bytes())
    }

    pub(super) fn remove_tag(&self, repository: &str, tag: &str) -> Result<bool, RegistryError> {
        remove(&self.tag(repository, tag))
    }

    /// The tags in byte order; `None` when there is no such repository.
    pub(super) fn tags(&self, repository: &str) -> Result<Option<Vec<String>>, RegistryError> {
        let dir = self.repository(repository);
        let known = ["_tags", "_manifests", "_blobs"]
            .iter()
            .any(|part| dir.join(part).is_dir());
        known.then(|| names(&dir.join("_tags"))).transpose()
    }

    /// The names of all repositories.
    pub(super) fn repositories(&self) -> Result<Vec<String>, RegistryError> {
        let mut found = Vec::new();
        let mut todo = vec![String::new()];
        while let Some(name) = todo.pop() {
            let mut has_content = false;
            for part in names(&self.repositories.join(&name))? {
                if part.starts_with('_') {
                    has_content = true;
                } else if name.is_empty() {
                    todo.push(part);
                } else {
                    todo.push(format!("{name}/{part}"));
                }
            }
            if has_content {
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }

    /// The manifests of a repository with their media types.
    pub(super) fn manifests(
        &self,
        repository: &str,
    ) -> Result<Vec<(Digest, String)>, RegistryError> {
        let names = names(&self.repository(repository).join("_manifests"))?;
        let digests = names.iter().filter_map(|name| Digest::from_hex(name).ok());
        let mut found = Vec::new();
        for digest in digests {
            if let Some(media_type) = self.media_type(repository, &digest)? {
                found.push((digest, media_type));
            }
        }
        Ok(found)
    }

    /// The blobs of a repository, and when each was linked or last asked for.
    pub(super) fn blobs(
        &self,
        repository: &str,
    ) -> Result<Vec<(Digest, SystemTime)>, RegistryError> {
        let dir = self.repository(repository).join("_blobs");
        let names = names(&dir)?;
        let digests = names.iter().filter_map(|name| Digest::from_hex(name).ok());
        digests
            .map(|digest| {
                let path = self.blob(repository, &digest);
                let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
                Ok((digest, modified.map_err(failed("read", &path))?))
            })
            .collect()
    }

    /// Takes note that somebody asked whether the repository has a blob, and may rely on the answer.
    pub(super) fn touch_blob(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        let path = self.blob(repository, digest);
        let touched = File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        touched.map_err(failed("touch", &path))
    }

    /// The manifests that name `subject` as theirs.
    pub(super) fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
    ) -> Result<Vec<Digest>, RegistryError> {
        let names = names(&self.referrer_dir(repository, subject))?;
        // Anything else in there is not ours.
        Ok(names
            .iter()
            .filter_map(|name| Digest::from_hex(name).ok())
            .collect())
    }

    /// Writes a file so that it is either there as a whole, and stays, or not at all.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), RegistryError> {
        let dir = path.parent().unwrap_or(&self.repositories);
        create_dirs(dir).map_err(failed("create", dir))?;
        let written = NamedTempFile::new_in(&self.staging).and_then(|mut file| {
            file.write_all(content)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            sync_dir(dir)
        });
        written.map_err(failed("write", path))
    }
}

/// Takes the directory, created when missing, for this registry alone until the file is closed.
pub(super) fn lock(dir: &Path) -> Result<File, RegistryError> {
    let path = dir.join("lock");
    let opened = fs::create_dir_all(dir).and_then(|()| File::create(&path));
    let file = opened.map_err(failed("create", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(RegistryError::InUse(dir.to_owned())),
        Err(errno) => Err(failed("lock", &path)(errno.into())),
    }
}

fn read(path: &Path) -> Result<Option<String>, RegistryError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Removes a file and tells whether it was there.
fn remove(path: &Path) -> Result<bool, RegistryError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// The names in a directory in byte order; none when it is missing.
fn names(dir: &Path) -> Result<Vec<String>, RegistryError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", dir)(error)),
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed("read", dir))?;
    names.sort_unstable();
    Ok(names)
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    move |source| RegistryError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
