//! The tar stream of a layer: entries in order, with nothing of the machine that builds in them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat};
use tar::{EntryType, Header};

use super::{Change, Changed, attributes};

/// Bytes of a file read at once.
const BUFFER: usize = 256 << 10;

/// Writes the archive of a list of changes.
pub(super) fn write(upper: &Path, changes: &[Changed], sink: &mut dyn Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(sink);
    let mut buffer = vec![0; BUFFER];
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
                entry.append(&mut tar, &[], io::empty(), &mut buffer)?;
            }
            Change::Directory { opaque } => {
                entry.kind(EntryType::Directory);
                entry.append(&mut tar, &attributes(&full)?, io::empty(), &mut buffer)?;
                if *opaque {
                    let mut entry = Entry::new(&change.path.join(".wh..wh..opq"), &change.stat);
                    entry.header.set_mode(0);
                    entry.header.set_mtime(0);
                    entry.append(&mut tar, &[], io::empty(), &mut buffer)?;
                }
            }
            Change::Other(kind) => {
                let id = (change.stat.st_dev, change.stat.st_ino);
                if change.stat.st_nlink > 1 {
                    if let Some(first) = links.get(&id) {
                        entry.kind(EntryType::Link);
                        entry.link = Some(first.as_os_str().as_bytes().to_vec());
                        entry.append(&mut tar, &[], io::empty(), &mut buffer)?;
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
                        entry.append(&mut tar, &attributes, file, &mut buffer)?;
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
                entry.append(&mut tar, &attributes, io::empty(), &mut buffer)?;
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
        buffer: &mut [u8],
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
        let out = tar.get_mut();
        out.write_all(self.header.as_bytes())?;
        copy(content, self.size, out, buffer)
    }
}

/// Copies exactly as many bytes as the header says, or the rest of the archive would be read wrongly, and fills the
/// last block of the archive.
fn copy(
    mut content: impl io::Read,
    size: u64,
    out: &mut impl Write,
    buffer: &mut [u8],
) -> io::Result<()> {
    const BLOCK: u64 = 512;
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let length = content.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a file became shorter while it was read",
            ));
        }
        out.write_all(&buffer[..length])?;
        left -= length as u64;
    }
    let padding = (BLOCK - size % BLOCK) % BLOCK;
    out.write_all(&[0; BLOCK as usize][..padding as usize])
}

/// Copies into a fixed field, as much as fits, and says whether everything did.
fn fit(field: &mut [u8], value: &[u8]) -> bool {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
    length == value.len()
}
