//! From the upper directory of an overlay to a layer: what changed is written as a tar in a fixed order with
//! fixed times, hashed and compressed.

mod tar;

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci::Digest;
use oci::digest::Digester;
use oci::layer::Marks;
use rustix::fs::{AtFlags, CWD, FileType, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::compress::{self, Compression};

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

/// What a layer consists of, in the order of its archive.
#[derive(Debug)]
pub(crate) struct Changes {
    list: Vec<Changed>,
}

impl Changes {
    /// Whether there is nothing for a layer.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Lists what is in `upper`, over the layers `lower`. Afterwards the tree on disk is what the layer says, times
/// included.
pub(crate) fn settle(upper: &Path, times: Times, lower: &Lower<'_>) -> io::Result<Changes> {
    let mut list = Vec::new();
    collect(upper, Path::new(""), &mut list, lower.marks, Some(lower))?;
    for change in &mut list {
        settle_time(upper, change, times)?;
    }
    Ok(Changes { list })
}

/// Lists a tree that was settled before.
pub(crate) fn relist(tree: &Path, marks: Marks) -> io::Result<Changes> {
    let mut list = Vec::new();
    collect(tree, Path::new(""), &mut list, marks, None)?;
    Ok(Changes { list })
}

/// The digest of a layer's archive.
pub(crate) fn diff_id(tree: &Path, changes: &Changes) -> io::Result<Digest> {
    let mut plain = Digester::new();
    tar::write(tree, &changes.list, &mut plain)?;
    Ok(plain.finish())
}

/// Writes the layer, compressed, into `sink`.
pub(crate) fn pack(
    tree: &Path,
    changes: &Changes,
    compression: Compression,
    sink: &mut (impl Write + Send),
) -> io::Result<()> {
    compress::compress(compression, sink, |sink| {
        // The archive writes headers and small files one by one.
        let mut sink = io::BufWriter::with_capacity(1 << 16, sink);
        tar::write(tree, &changes.list, &mut sink)?;
        sink.flush()
    })
}

/// Both in one pass: writes the layer, and gives the digest of its archive.
pub(crate) fn pack_and_name(
    tree: &Path,
    changes: &Changes,
    compression: Compression,
    sink: &mut (impl Write + Send),
) -> io::Result<Digest> {
    compress::compress(compression, sink, |sink| {
        let mut plain = Digester::new();
        let mut tee = io::BufWriter::with_capacity(
            1 << 16,
            Tee {
                plain: &mut plain,
                sink,
            },
        );
        tar::write(tree, &changes.list, &mut tee)?;
        tee.flush()?;
        drop(tee);
        Ok(plain.finish())
    })
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

/// Lists what changed, sorted by name, each directory before its content. With `lower`, directories that a step only
/// passed through are removed, and marks that hide nothing are taken off.
fn collect(
    upper: &Path,
    dir: &Path,
    changes: &mut Vec<Changed>,
    marks: Marks,
    lower: Option<&Lower<'_>>,
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
                let hides = is_opaque(&full, marks)?;
                let mut opaque = hides;
                // The kernel marks new directories too, where there is nothing to hide.
                if hides
                    && let Some(lower) = lower
                    && lower.directory(&path)?.is_none()
                {
                    rustix::fs::lremovexattr(&full, marks.opaque())?;
                    opaque = false;
                }
                let at = changes.len();
                let kind = Change::Directory { opaque };
                changes.push(Changed {
                    path: path.clone(),
                    stat,
                    kind,
                });
                collect(upper, &path, changes, marks, lower)?;
                let empty = changes.len() == at + 1;
                if let Some(lower) = lower
                    && !hides
                    && empty
                    && unchanged(&full, &stat, lower.directory(&path)?)?
                {
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

/// Whether a directory is what it was in the lower layers, but for its time.
fn unchanged(full: &Path, stat: &Stat, before: Option<(PathBuf, Stat)>) -> io::Result<bool> {
    let Some((place, before)) = before else {
        return Ok(false);
    };
    if (before.st_mode, before.st_uid, before.st_gid) != (stat.st_mode, stat.st_uid, stat.st_gid) {
        return Ok(false);
    }
    Ok(attributes(&place)? == attributes(full)?)
}

/// The layers below the one that is committed, looked at one by one: mounting them would take longer.
#[derive(Debug)]
pub(crate) struct Lower<'a> {
    /// Trees in overlayfs form, lowest first.
    pub(crate) layers: &'a [PathBuf],
    /// How they mark what they hide.
    pub(crate) marks: Marks,
}

impl Lower<'_> {
    /// The directory at a path as the stack shows it: where it lies, in the topmost layer that has it.
    fn directory(&self, path: &Path) -> io::Result<Option<(PathBuf, Stat)>> {
        for layer in self.layers.iter().rev() {
            let mut place = layer.clone();
            let mut found = None;
            let mut hides = false;
            for name in path.components() {
                place.push(name);
                found = match rustix::fs::statat(CWD, &place, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => Some(stat),
                    Err(Errno::NOENT) => None,
                    Err(error) => return Err(error.into()),
                };
                match found {
                    None => break,
                    Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                        hides |= is_opaque(&place, self.marks)?;
                    }
                    // A file, or the mark of something that was removed, hides all that is below it.
                    Some(_) => return Ok(None),
                }
            }
            match found {
                Some(stat) => return Ok(Some((place, stat))),
                None if hides => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }
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
pub(crate) fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
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
            && !Marks::is_mark(name.as_bytes())
            && let Some(value) = attribute(path, name)?
        {
            found.push((name.to_string(), value));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a directory hides what lower layers have in it.
fn is_opaque(dir: &Path, marks: Marks) -> io::Result<bool> {
    Ok(attribute(dir, marks.opaque())?.is_some_and(|value| value == b"y"))
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
