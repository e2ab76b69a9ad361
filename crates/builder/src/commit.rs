//! From the upper directory of an overlay to a layer: what changed is written as a tar in a fixed order with
//! fixed times, hashed and compressed on the way into the blob store.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oci::digest::Digester;
use rustix::fs::{AtFlags, CWD, FileType, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{EntryType, Header};

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
        write_tar(upper, &changes, &mut tee)
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
                let opaque = attribute(&full, OPAQUE)?.is_some_and(|value| value == b"y");
                let at = changes.len();
                changes.push(Changed {
                    path: path.clone(),
                    stat,
                    kind: Change::Directory { opaque },
                });
                collect(upper, &path, changes, lower)?;
                if !opaque && changes.len() == at + 1 && unchanged(&full, &path, &stat, &lower()?)?
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
    let seconds = times.settle(change.stat.st_mtime as i64).max(0);
    if seconds == change.stat.st_mtime as i64 && change.stat.st_mtime_nsec == 0 {
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

fn write_tar(upper: &Path, changes: &[Changed], sink: &mut dyn Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(sink);
    let mut links: HashMap<(u64, u64), &Path> = HashMap::new();
    for change in changes {
        let full = upper.join(&change.path);
        let mut entry = Entry::new(&change.path, &change.stat);
        match &change.kind {
            Change::Whiteout => {
                let name = change.path.file_name().unwrap_or_default();
                let mut entry =
                    Entry::new(&change.path.with_file_name(prefixed(name)), &change.stat);
                entry.header.set_mode(0);
                entry.header.set_mtime(0);
                entry.append(&mut tar, &[], io::empty())?;
            }
            Change::Directory { opaque } => {
                entry.kind(EntryType::Directory);
                entry.append(&mut tar, &attributes(&full)?, io::empty())?;
                if *opaque {
                    let mut entry = Entry::new(&change.path.join(".wh..wh..opq"), &change.stat);
                    entry.header.set_mode(0);
                    entry.header.set_mtime(0);
                    entry.append(&mut tar, &[], io::empty())?;
                }
            }
            Change::Other(kind) => {
                let id = (change.stat.st_dev as u64, change.stat.st_ino as u64);
                if change.stat.st_nlink > 1 {
                    if let Some(first) = links.get(&id) {
                        entry.kind(EntryType::Link);
                        entry.link = Some(first.as_os_str().as_bytes().to_vec());
                        entry.append(&mut tar, &[], io::empty())?;
                        continue;
                    }
                    links.insert(id, &change.path);
                }
                let attributes = attributes(&full)?;
                match kind {
                    FileType::RegularFile => {
                        let flags = OFlags::NOFOLLOW.bits() as i32;
                        let file = OpenOptions::new()
                            .read(true)
                            .custom_flags(flags)
                            .open(&full)?;
                        entry.size = change.stat.st_size as u64;
                        entry.append(&mut tar, &attributes, file)?;
                        continue;
                    }
                    FileType::Symlink => {
                        entry.kind(EntryType::Symlink);
                        entry.link = Some(fs::read_link(&full)?.into_os_string().into_vec());
                    }
                    FileType::Fifo => entry.kind(EntryType::Fifo),
                    FileType::CharacterDevice | FileType::BlockDevice => {
                        let block = *kind == FileType::BlockDevice;
                        entry.kind(if block {
                            EntryType::Block
                        } else {
                            EntryType::Char
                        });
                        entry
                            .header
                            .set_device_major(rustix::fs::major(change.stat.st_rdev))?;
                        entry
                            .header
                            .set_device_minor(rustix::fs::minor(change.stat.st_rdev))?;
                    }
                    other => {
                        return Err(io::Error::other(format!(
                            "`{}` is a {other:?}",
                            change.path.display()
                        )));
                    }
                }
                entry.append(&mut tar, &attributes, io::empty())?;
            }
        }
    }
    tar.finish()
}

fn prefixed(name: &OsStr) -> OsString {
    let mut whiteout = OsString::from(".wh.");
    whiteout.push(name);
    whiteout
}

/// One tar entry: a ustar header, with a PAX header before it for what does not fit.
struct Entry {
    header: Header,
    path: Vec<u8>,
    link: Option<Vec<u8>>,
    size: u64,
}

impl Entry {
    fn new(path: &Path, stat: &Stat) -> Entry {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(stat.st_uid));
        header.set_gid(u64::from(stat.st_gid));
        header.set_mtime(stat.st_mtime as u64);
        Entry {
            header,
            path: path.as_os_str().as_bytes().to_vec(),
            link: None,
            size: 0,
        }
    }

    fn kind(&mut self, kind: EntryType) {
        self.header.set_entry_type(kind);
        if kind == EntryType::Directory {
            self.path.push(b'/');
        }
    }

    fn append<W: Write>(
        mut self,
        tar: &mut tar::Builder<W>,
        attributes: &[(String, Vec<u8>)],
        content: impl io::Read,
    ) -> io::Result<()> {
        /// The largest number of eight octal digits, less the terminator: ustar's bound for owners.
        const MAX_OWNER: u64 = 0o7777777;
        /// Eleven octal digits: ustar's bound for sizes and times.
        const MAX_NUMBER: u64 = 0o77777777777;
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        self.header.set_size(self.size);
        let ustar = self
            .header
            .as_ustar_mut()
            .ok_or_else(|| io::Error::other("not a ustar header"))?;
        if !fit(&mut ustar.name, &self.path) {
            records.push(("path".into(), self.path.clone()));
        }
        if let Some(link) = &self.link
            && !fit(&mut ustar.linkname, link)
        {
            records.push(("linkpath".into(), link.clone()));
        }
        let numbers = [
            ("uid", self.header.uid()?, MAX_OWNER),
            ("gid", self.header.gid()?, MAX_OWNER),
            ("size", self.size, MAX_NUMBER),
            ("mtime", self.header.mtime()?, MAX_NUMBER),
        ];
        for (name, number, bound) in numbers {
            if number > bound {
                records.push((name.into(), number.to_string().into_bytes()));
            }
        }
        records.extend(
            attributes
                .iter()
                .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())),
        );
        if !records.is_empty() {
            tar.append_pax_extensions(
                records
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_slice())),
            )?;
        }
        self.header.set_cksum();
        // Exactly as many bytes as the header says, or the rest of the archive would be read wrongly.
        let mut content = Exact {
            content,
            left: self.size,
        };
        tar.append(&self.header, &mut content)?;
        Ok(())
    }
}

/// Copies into a fixed field, as much as fits, and says whether everything did.
fn fit(field: &mut [u8], value: &[u8]) -> bool {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
    length == value.len()
}

struct Exact<R> {
    content: R,
    left: u64,
}

impl<R: io::Read> io::Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let length = self.content.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a file became shorter while it was read",
            ));
        }
        self.left -= length as u64;
        Ok(length)
    }
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

/// Writes what a directory holds to disk, so that it survives a power cut under its final name.
pub(crate) fn sync_tree(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

#[cfg(test)]
mod tests;
