//! Puts the entries of a layer into a tree.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::path::{self, Name};
use super::stream::{Stream, with_stream};
use super::tree::{Tree, kind_at, names, open_dir_at, split};
use super::{LayerError, Options, Privilege, Stats, Whiteouts};

/// Bytes of a file copied at once.
const COPY: usize = 256 << 10;
/// Set on a directory, hides what lower directories of an overlay have in it.
const OPAQUE: &str = "trusted.overlay.opaque";
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
        touched: HashSet::new(),
        unmixed: HashSet::new(),
        hasher: RandomState::new(),
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
struct Counts {
    entries: u64,
    names: u64,
    whiteouts: u64,
    left_out: u64,
}

/// Mode and time of a directory, set when nothing more is put into it.
struct Unfinished {
    path: Vec<u8>,
    mode: u32,
    mtime: (i64, u32),
}

struct Unpacker {
    tree: Tree,
    options: Options,
    /// Hashes of the paths that this layer has, parents included: whiteouts are about lower layers only.
    touched: HashSet<u64>,
    /// Hashes of the paths of directories that have nothing of lower layers, so that none is searched twice.
    unmixed: HashSet<u64>,
    hasher: RandomState,
    unfinished: Vec<Unfinished>,
    counts: Counts,
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
                    self.touch(&path);
                }
            }
        }
        Ok(())
    }

    fn touch(&mut self, path: &[u8]) {
        let mut path = path;
        // Parents of a path that is known are known.
        while !path.is_empty() && self.touched.insert(self.hasher.hash_one(path)) {
            path = split(path).0;
        }
    }

    fn is_touched(&self, path: &[u8]) -> bool {
        self.touched.contains(&self.hasher.hash_one(path))
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
                if self.options.privilege == Privilege::None =>
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
                    // Only overlays keep whiteouts: what was lower stays hidden when the layer has its own.
                    hides = kind == Some(FileType::CharacterDevice)
                        && self.options.whiteouts == Whiteouts::Overlay;
                    self.tree.remove(parent, name)?;
                    let at = self.tree.make_dirs(parent)?;
                    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(WORKING_MODE))?;
                    fresh = true;
                }
                open_dir_at(self.tree.make_dirs(parent)?, name)?
            }
        };
        match fresh {
            true => drop(self.unmixed.insert(self.hasher.hash_one(path))),
            false => clear_xattrs(&dir)?,
        }
        self.own(&dir, entry)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(entry.mode | WORKING_MODE))?;
        self.set_xattrs(&dir, entry)?;
        if hides {
            self.mark_opaque(&dir)?;
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
        let finished = self.own(&file, entry).and_then(|()| {
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
        })?;
        self.finish_node(parent, name, entry)
    }

    /// Metadata of what cannot be opened.
    fn finish_node(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> io::Result<()> {
        let dir = self.tree.dir(parent)?;
        match self.options.privilege {
            Privilege::Full => {
                let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
                rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
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

    /// Hides what lower layers have at a path.
    fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> io::Result<()> {
        self.counts.whiteouts += 1;
        match self.options.whiteouts {
            Whiteouts::Apply => self.remove_lower(&path::join(parent, hidden)),
            Whiteouts::Overlay => {
                let dir = self.tree.make_dirs(parent)?;
                match kind_at(dir, hidden)? {
                    None => {
                        let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
                        rustix::fs::mknodat(dir, hidden, kind, mode, rustix::fs::makedev(0, 0))?;
                    }
                    Some(FileType::Directory) => {
                        let dir = open_dir_at(dir, hidden)?;
                        self.mark_opaque(&dir)?;
                    }
                    // The layer's own file hides it.
                    Some(_) => {}
                }
                self.touch(parent);
                Ok(())
            }
        }
    }

    /// Hides what lower layers have in a directory.
    fn opaque(&mut self, path: &[u8]) -> io::Result<()> {
        self.counts.whiteouts += 1;
        match self.options.whiteouts {
            Whiteouts::Apply => self.remove_lower_in(path),
            Whiteouts::Overlay => {
                let dir = rustix::io::fcntl_dupfd_cloexec(self.tree.make_dirs(path)?, 0)?;
                self.touch(path);
                self.mark_opaque(&dir)
            }
        }
    }

    /// Removes what is at `path`, except for what this layer itself has there.
    fn remove_lower(&mut self, path: &[u8]) -> io::Result<()> {
        let (parent, name) = split(path);
        if self.is_touched(path) {
            return self.remove_lower_in(path);
        }
        match self.tree.remove(parent, name) {
            Err(error) if is_missing(&error) => Ok(()),
            removed => removed,
        }
    }

    fn remove_lower_in(&mut self, path: &[u8]) -> io::Result<()> {
        if !self.unmixed.insert(self.hasher.hash_one(path)) {
            return Ok(());
        }
        let children = match self.tree.exact_dir(path).and_then(names) {
            Ok(children) => children,
            // Not there, or not a directory: then nothing of a lower layer is in it.
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        children
            .iter()
            .try_for_each(|child| self.remove_lower(&path::join(path, child)))
    }

    fn own(&mut self, file: impl AsFd, entry: &Entry) -> io::Result<()> {
        match self.options.privilege {
            Privilege::Full => {
                let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
                Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
            }
            Privilege::None => {
                self.counts.left_out += 1;
                Ok(())
            }
        }
    }

    fn set_xattrs(&mut self, file: impl AsFd, entry: &Entry) -> io::Result<()> {
        for (name, value) in &entry.xattrs {
            if !path::is_layer_xattr(name) {
                continue;
            }
            match rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::PERM) if self.options.privilege == Privilege::None => {
                    self.counts.left_out += 1
                }
                // Some file systems keep none for users; nothing that an image needs to work is there.
                Err(Errno::NOTSUP) if name.starts_with(b"user.") => self.counts.left_out += 1,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn mark_opaque(&mut self, dir: impl AsFd) -> io::Result<()> {
        match rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty()) {
            Err(Errno::PERM) if self.options.privilege == Privilege::None => {
                self.counts.left_out += 1;
                Ok(())
            }
            set => Ok(set?),
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

fn is_missing(error: &io::Error) -> bool {
    let link = Errno::from_io_error(error) == Some(Errno::LOOP);
    link || matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Takes attributes of a lower layer from a directory that this layer has as well. Labels of the host's security
/// policy stay.
fn clear_xattrs(dir: impl AsFd) -> io::Result<()> {
    let length = match rustix::fs::flistxattr_query(&dir) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    let mut list = Vec::with_capacity(length);
    rustix::fs::flistxattr(&dir, rustix::buffer::spare_capacity(&mut list))?;
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| path::is_layer_xattr(name))
    {
        rustix::fs::fremovexattr(&dir, name)?;
    }
    Ok(())
}

fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> LayerError {
    move |source| LayerError::Write {
        action,
        path: super::shown(path),
        source,
    }
}
