//! Puts the entries of a layer into a tree.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::metadata::{clear_xattrs, timestamps, unmapped};
use super::path::{self, Name};
use super::stream::{Stream, with_stream};
use super::tree::{Tree, is_missing, kind_at, open_dir_at, split};
use super::whiteout::Own;
use super::{LayerError, Options, Privilege, Stats, Whiteouts};

/// Bytes of a file copied at once.
const COPY: usize = 256 << 10;
/// Permissions that a directory has until it is complete.
const WORKING_MODE: u32 = 0o700;

pub(super) fn unpack(
    reader: impl Read + Send,
    media_type: &str,
    root: &Path,
    options: &Options,
) -> Result<Stats, LayerError> {
    let tree = Tree::open(root).map_err(failed("open", root.as_os_str().as_encoded_bytes()))?;
    let mut unpacker = Unpacker {
        tree,
        options: *options,
        own: Own::default(),
        unfinished: Vec::new(),
        counts: Counts::default(),
        buffer: vec![0; COPY],
    };
    let work = |stream| {
        let mut archive = Archive::new(stream);
        let unpacked = unpacker
            .entries(&mut archive)
            .and_then(|()| unpacker.finish_directories());
        (archive.into_reader(), unpacked)
    };
    let ((), bytes, diff_id) = with_stream(reader, media_type, options.limits.bytes, work)?;
    let Counts {
        entries,
        whiteouts,
        left_out,
        ..
    } = unpacker.counts;
    Ok(Stats {
        diff_id,
        bytes,
        entries,
        whiteouts,
        left_out,
    })
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    entries: u64,
    names: u64,
    pub(super) whiteouts: u64,
    pub(super) left_out: u64,
}

/// Mode and time of a directory, set when nothing more is put into it.
struct Unfinished {
    path: Vec<u8>,
    mode: u32,
    mtime: (i64, u32),
}

pub(super) struct Unpacker {
    pub(super) tree: Tree,
    pub(super) options: Options,
    /// What is this layer's own.
    pub(super) own: Own,
    unfinished: Vec<Unfinished>,
    pub(super) counts: Counts,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn entries(&mut self, archive: &mut Archive<Stream>) -> Result<(), LayerError> {
        while let Some(entry) = archive.next_entry()? {
            let limits = &self.options.limits;
            self.counts.entries += 1;
            self.counts.names += entry.path.len() as u64;
            if self.counts.entries > limits.entries {
                return Err(LayerError::TooLarge {
                    limit: limits.entries,
                    unit: "entries",
                });
            }
            if self.counts.names > limits.names {
                return Err(LayerError::TooLarge {
                    limit: limits.names,
                    unit: "bytes of names",
                });
            }
            let path = path::normalise(&entry.path)
                .map_err(|reason| LayerError::entry(&entry.path, reason))?;
            let (parent, name) = split(&path);
            match path::name(&path).map_err(|reason| LayerError::entry(&entry.path, reason))? {
                Name::Foreign => {}
                Name::Whiteout(hidden) => self
                    .whiteout(parent, hidden)
                    .map_err(failed("hide what is beneath", &path))?,
                Name::Opaque => self
                    .opaque(parent)
                    .map_err(failed("hide what is beneath", &path))?,
                // The mark that overlayfs itself uses.
                Name::Plain if entry.kind == Kind::CharDevice(0, 0) => {
                    self.whiteout(parent, name)
                        .map_err(failed("hide what is beneath", &path))?;
                }
                Name::Plain => {
                    self.entry(&path, &entry, archive)?;
                    self.own.touch(&path);
                }
            }
            self.mark_replacements()
                .map_err(failed("hide what is beneath", &path))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &[u8],
        entry: &Entry,
        archive: &mut Archive<Stream>,
    ) -> Result<(), LayerError> {
        if let Kind::Directory = entry.kind {
            return self.directory(path, entry).map_err(failed("create", path));
        }
        let (parent, name) = split(path);
        if name.is_empty() {
            return Err(LayerError::entry(
                &entry.path,
                "would replace the root directory",
            ));
        }
        match &entry.kind {
            Kind::File => self.file(parent, name, entry, archive),
            Kind::HardLink(target) => {
                let target = path::normalise(target)
                    .map_err(|reason| LayerError::entry(&entry.path, reason))?;
                if target == path {
                    return Err(LayerError::entry(&entry.path, "is a hard link to itself"));
                }
                self.hard_link(parent, name, &target)
                    .map_err(failed("link", path))
            }
            Kind::Symlink(target) => self
                .symlink(parent, name, target, entry)
                .map_err(failed("create", path)),
            Kind::Fifo => self
                .node(parent, name, FileType::Fifo, 0, entry)
                .map_err(failed("create", path)),
            Kind::CharDevice(..) | Kind::BlockDevice(..)
                if self.options.privilege != Privilege::Full =>
            {
                self.counts.left_out += 1;
                Ok(())
            }
            Kind::CharDevice(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(parent, name, FileType::CharacterDevice, device, entry)
                    .map_err(failed("create", path))
            }
            Kind::BlockDevice(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(parent, name, FileType::BlockDevice, device, entry)
                    .map_err(failed("create", path))
            }
            Kind::Directory => unreachable!("directories are handled above"),
        }
    }

    /// Makes a directory, or gives one that is there the metadata of the entry: directories of layers are merged.
    fn directory(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        let (parent, name) = split(path);
        let mut fresh = false;
        let mut hides = false;
        let dir = match name {
            b"" => rustix::io::fcntl_dupfd_cloexec(self.tree.dir(b"")?, 0)?,
            name => {
                let at = self.tree.make_dirs(parent)?;
                let kind = kind_at(at, name)?;
                if kind != Some(FileType::Directory) {
                    // What the layer put or hid there before keeps hiding what is lower.
                    hides = kind.is_some();
                    self.tree.remove(parent, name)?;
                    let at = self.tree.make_dirs(parent)?;
                    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(WORKING_MODE))?;
                    fresh = true;
                }
                open_dir_at(self.tree.make_dirs(parent)?, name)?
            }
        };
        match fresh {
            true => drop(self.own.unmix(path)),
            false => clear_xattrs(&dir)?,
        }
        self.set_owner(&dir, entry)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(entry.mode | WORKING_MODE))?;
        self.set_xattrs(&dir, entry)?;
        if hides && let Whiteouts::Overlay(marks) = self.options.whiteouts {
            self.mark_opaque(&dir, marks)?;
        }
        self.unfinished.push(Unfinished {
            path: path.to_vec(),
            mode: entry.mode,
            mtime: entry.mtime,
        });
        Ok(())
    }

    fn file(
        &mut self,
        parent: &[u8],
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<Stream>,
    ) -> Result<(), LayerError> {
        let failed = || failed("write", &entry.path);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.replacing(parent, name, |dir| {
            rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
        });
        let mut file = File::from(file.map_err(failed())?);
        loop {
            match archive.read_content(&mut self.buffer)? {
                0 => break,
                read => file.write_all(&self.buffer[..read]).map_err(failed())?,
            }
        }
        let finished = self.set_owner(&file, entry).and_then(|()| {
            // After the owner, whose change takes set-user-id bits and capabilities away.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
            self.set_xattrs(&file, entry)?;
            Ok(rustix::fs::futimens(&file, &timestamps(entry.mtime))?)
        });
        finished.map_err(failed())
    }

    fn hard_link(&mut self, parent: &[u8], name: &[u8], target: &[u8]) -> io::Result<()> {
        let (target_parent, target_name) = split(target);
        let from = rustix::io::fcntl_dupfd_cloexec(self.tree.dir(target_parent)?, 0)?;
        if kind_at(&from, target_name)?.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "its target is not there",
            ));
        }
        self.replacing(parent, name, |to| {
            rustix::fs::linkat(&from, target_name, to, name, AtFlags::empty())
        })
    }

    fn symlink(
        &mut self,
        parent: &[u8],
        name: &[u8],
        target: &[u8],
        entry: &Entry,
    ) -> io::Result<()> {
        self.replacing(parent, name, |dir| rustix::fs::symlinkat(target, dir, name))?;
        self.finish_node(parent, name, entry)
    }

    fn node(
        &mut self,
        parent: &[u8],
        name: &[u8],
        kind: FileType,
        device: u64,
        entry: &Entry,
    ) -> io::Result<()> {
        let mode = Mode::from_raw_mode(0o600);
        self.replacing(parent, name, |dir| {
            rustix::fs::mknodat(dir, name, kind, mode, device)
        })
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                io::Error::new(error.kind(), "a device takes the superuser of the machine")
            }
            _ => error,
        })?;
        self.finish_node(parent, name, entry)
    }

    /// Metadata of what cannot be opened.
    fn finish_node(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> io::Result<()> {
        let dir = self.tree.dir(parent)?;
        match self.options.privilege {
            Privilege::Full | Privilege::Namespace => {
                let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
                rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(unmapped(entry))?;
            }
            Privilege::None => self.counts.left_out += 1,
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            // Nobody else changes the tree, so this is what was just made, not a link.
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(
            dir,
            name,
            &timestamps(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Makes something new called `name`. What has the name is removed first, never written to: it may be a hard link
    /// into a store that others share.
    fn replacing<T>(
        &mut self,
        parent: &[u8],
        name: &[u8],
        make: impl Fn(rustix::fd::BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> io::Result<T> {
        match make(self.tree.make_dirs(parent)?) {
            Err(Errno::EXIST) => {
                self.tree.remove(parent, name)?;
                Ok(make(self.tree.make_dirs(parent)?)?)
            }
            made => Ok(made?),
        }
    }

    /// Inner directories first, as they are searched through the outer ones.
    fn finish_directories(&mut self) -> Result<(), LayerError> {
        for Unfinished { path, mode, mtime } in
            std::mem::take(&mut self.unfinished).into_iter().rev()
        {
            let finished = self.tree.exact_dir(&path).and_then(|dir| {
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
                Ok(rustix::fs::futimens(&dir, &timestamps(mtime))?)
            });
            match finished {
                // The layer replaced it later on.
                Err(error) if is_missing(&error) => {}
                finished => finished.map_err(failed("finish", &path))?,
            }
        }
        Ok(())
    }
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> LayerError {
    move |source| LayerError::Write {
        action,
        path: super::shown(path),
        source,
    }
}
