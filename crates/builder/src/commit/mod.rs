//! From the upper directory of an overlay to a layer: what changed is written as a tar in a fixed order with
//! fixed times, hashed and compressed on the way into the blob store.

mod tar;

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci::digest::Digester;
use rustix::fs::{AtFlags, CWD, FileType, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::cache::{Cache, StoredLayer};
use crate::compress;
use crate::root::Root;

/// Marks a directory that hides everything below it in the lower layers.
const OPAQUE: &str = "trusted.overlay.opaque";
/// Attributes that belong to a file's content. Others belong to the machine that builds.
const KEPT_ATTRIBUTES: [&str; 2] = ["security.capability", "security.ima"];
const KEPT_PREFIX: &str = "user.";

/// Which times of modification are an accident of the build, and what they become.
///
/// A file that a step wrote has the time of the step, which differs from build to build. A file whose time a
/// package or base image set keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// Times from here on are replaced, in seconds since 1970.
    pub(crate) since: i64,
    /// What replaces them.
    pub(crate) epoch: i64,
}

impl Times {
    fn settle(self, seconds: i64) -> i64 {
        if seconds >= self.since {
            self.epoch
        } else {
            seconds
        }
    }
}

#[derive(Debug)]
struct Changed {
    /// Relative to the root.
    path: PathBuf,
    stat: Stat,
    kind: Change,
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Whiteout,
    Directory { opaque: bool },
    Other(FileType),
}

/// Makes a layer of what is in `upper`; `None` when that is nothing. Afterwards the tree on disk is what the layer
/// says, times included. `lower` is called for the tree below when it takes that to see whether something changed.
pub(crate) fn commit(
    cache: &Cache,
    upper: &Path,
    times: Times,
    lower: &mut dyn FnMut() -> io::Result<Root>,
) -> io::Result<Option<StoredLayer>> {
    let mut changes = Vec::new();
    collect(upper, Path::new(""), &mut changes, lower)?;
    if changes.is_empty() {
        return Ok(None);
    }
    for change in &mut changes {
        settle_time(upper, change, times)?;
    }
    let mut writer = cache.blobs().writer().map_err(io::Error::other)?;
    let mut plain = Digester::new();
    compress::gzip(&mut writer, |sink| {
        let mut tee = Tee {
            plain: &mut plain,
            sink,
        };
        tar::write(upper, &changes, &mut tee)
    })?;
    let size = writer.written();
    let digest = writer.commit(None).map_err(|error| match error {
        oci::StoreError::Io { source, .. } => source,
        other => io::Error::other(other),
    })?;
    Ok(Some(StoredLayer {
        diff_id: plain.finish(),
        digest,
        size,
    }))
}

struct Tee<'a> {
    plain: &'a mut Digester,
    sink: &'a mut dyn Write,
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.plain.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Lists what changed, sorted by name, each directory before its content. Directories that a step only passed
/// through are removed.
fn collect(
    upper: &Path,
    dir: &Path,
    changes: &mut Vec<Changed>,
    lower: &mut dyn FnMut() -> io::Result<Root>,
) -> io::Result<()> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(upper.join(dir))? {
        names.push(entry?.file_name());
    }
    names.sort();
    for name in names {
        let path = dir.join(name);
        let full = upper.join(&path);
        let stat = rustix::fs::statat(CWD, &full, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                changes.push(Changed {
                    path,
                    stat,
                    kind: Change::Whiteout,
                });
            }
            FileType::Directory => {
                let hides = attribute(&full, OPAQUE)?.is_some_and(|value| value == b"y");
                // The kernel marks new directories too, where there is nothing to hide.
                let opaque = hides && is_directory(&lower()?, &path)?;
                let at = changes.len();
                let kind = Change::Directory { opaque };
                changes.push(Changed {
                    path: path.clone(),
                    stat,
                    kind,
                });
                collect(upper, &path, changes, lower)?;
                let empty = changes.len() == at + 1;
                if !hides && empty && unchanged(&full, &path, &stat, &lower()?)? {
                    changes.pop();
                    fs::remove_dir(&full)?;
                }
            }
            // A socket is of no use without its process.
            FileType::Socket => fs::remove_file(&full)?,
            kind => changes.push(Changed {
                path,
                stat,
                kind: Change::Other(kind),
            }),
        }
    }
    Ok(())
}

fn is_directory(root: &Root, path: &Path) -> io::Result<bool> {
    match root.resolve(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(error) if crate::root::absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a directory is what it was in the lower layers, but for its time.
fn unchanged(full: &Path, path: &Path, stat: &Stat, lower: &Root) -> io::Result<bool> {
    let old = match lower.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
        Ok(old) => old,
        Err(error) if crate::root::absent(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let before = rustix::fs::fstat(&old)?;
    if (before.st_mode, before.st_uid, before.st_gid) != (stat.st_mode, stat.st_uid, stat.st_gid) {
        return Ok(false);
    }
    use std::os::fd::AsRawFd as _;
    let old = PathBuf::from(format!("/proc/self/fd/{}/.", old.as_raw_fd()));
    Ok(attributes(&old)? == attributes(full)?)
}

/// Gives the file on disk the time that it has in the layer.
fn settle_time(upper: &Path, change: &mut Changed, times: Times) -> io::Result<()> {
    if change.kind == Change::Whiteout {
        return Ok(());
    }
    let seconds = times.settle(change.stat.st_mtime).max(0);
    if seconds == change.stat.st_mtime && change.stat.st_mtime_nsec == 0 {
        return Ok(());
    }
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let both = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(
        CWD,
        upper.join(&change.path),
        &both,
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    change.stat.st_mtime = seconds as _;
    Ok(())
}

/// The attributes of a file that belong into a layer, sorted by name.
fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut list = vec![0u8; 256];
    let length = loop {
        match rustix::fs::llistxattr(path, &mut list) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < 1 << 16 => list.resize(list.len() * 4, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    };
    let mut found = Vec::new();
    for name in list[..length]
        .split(|byte| *byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok())
    {
        if (KEPT_ATTRIBUTES.contains(&name) || name.starts_with(KEPT_PREFIX))
            && let Some(value) = attribute(path, name)?
        {
            found.push((name.to_string(), value));
        }
    }
    found.sort();
    Ok(found)
}

fn attribute(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    /// The kernel's bound for one value.
    const MAX_VALUE: usize = 1 << 16;
    let name = CString::new(name)?;
    let mut value = vec![0u8; 256];
    loop {
        match rustix::fs::lgetxattr(path, &name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < MAX_VALUE => value.resize(MAX_VALUE, 0),
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
