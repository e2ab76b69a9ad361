//! Whiteouts: how a layer hides what lower layers have.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::io::Errno;

use super::tree::{is_missing, kind_at, names, open_dir_at, split};
use super::unpack::Unpacker;
use super::{Marks, Privilege, Whiteouts, path};

/// What is a layer's own, by the hashes of paths: whiteouts are about lower layers only. Hashes keep it small, and with
/// random keys nobody can make two paths meet.
#[derive(Default)]
pub(super) struct Own {
    /// Everything that the layer has, parents included.
    touched: HashSet<u64>,
    /// Directories that have nothing of lower layers, so that none is searched twice.
    unmixed: HashSet<u64>,
    hasher: RandomState,
}

impl Own {
    /// Notes a path and its parents.
    pub(super) fn touch(&mut self, path: &[u8]) {
        let mut path = path;
        // Parents of a path that is known are known.
        while !path.is_empty() && self.touched.insert(self.hasher.hash_one(path)) {
            path = split(path).0;
        }
    }

    fn is_touched(&self, path: &[u8]) -> bool {
        self.touched.contains(&self.hasher.hash_one(path))
    }

    /// Notes that a directory has nothing of lower layers; false when that was known.
    pub(super) fn unmix(&mut self, path: &[u8]) -> bool {
        self.unmixed.insert(self.hasher.hash_one(path))
    }
}

impl Unpacker {
    /// Hides what lower layers have at a path. Like any entry, a whiteout implies the directory that it is in.
    pub(super) fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> io::Result<()> {
        self.counts.whiteouts += 1;
        let dir = self.tree.make_dirs(parent)?;
        self.own.touch(parent);
        match self.options.whiteouts {
            Whiteouts::Apply => self.remove_lower(&path::join(parent, hidden)),
            Whiteouts::Overlay(marks) => match kind_at(dir, hidden)? {
                None => {
                    let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
                    Ok(rustix::fs::mknodat(
                        dir,
                        hidden,
                        kind,
                        mode,
                        rustix::fs::makedev(0, 0),
                    )?)
                }
                Some(FileType::Directory) => {
                    let dir = open_dir_at(dir, hidden)?;
                    self.mark_opaque(&dir, marks)
                }
                // The layer's own file hides it.
                Some(_) => Ok(()),
            },
        }
    }

    /// Hides what lower layers have in a directory.
    pub(super) fn opaque(&mut self, path: &[u8]) -> io::Result<()> {
        self.counts.whiteouts += 1;
        self.tree.make_dirs(path)?;
        self.own.touch(path);
        match self.options.whiteouts {
            Whiteouts::Apply => self.remove_lower_in(path),
            Whiteouts::Overlay(marks) => {
                let dir = self.tree.exact_dir(path)?;
                self.mark_opaque(&dir, marks)
            }
        }
    }

    /// Sees to it that directories made in the place of whiteouts and files hide in an overlay what those hid.
    pub(super) fn mark_replacements(&mut self) -> io::Result<()> {
        for path in self.tree.take_replacements() {
            if let Whiteouts::Overlay(marks) = self.options.whiteouts {
                let dir = self.tree.exact_dir(&path)?;
                self.mark_opaque(&dir, marks)?;
            }
        }
        Ok(())
    }

    /// Removes what is at `path`, except for what this layer itself has there.
    fn remove_lower(&mut self, path: &[u8]) -> io::Result<()> {
        let (parent, name) = split(path);
        if self.own.is_touched(path) {
            return self.remove_lower_in(path);
        }
        match self.tree.remove(parent, name) {
            Err(error) if is_missing(&error) => Ok(()),
            removed => removed,
        }
    }

    fn remove_lower_in(&mut self, path: &[u8]) -> io::Result<()> {
        if !self.own.unmix(path) {
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

    pub(super) fn mark_opaque(&mut self, dir: impl AsFd, marks: Marks) -> io::Result<()> {
        match rustix::fs::fsetxattr(dir, marks.opaque(), b"y", XattrFlags::empty()) {
            Err(Errno::PERM) if self.options.privilege == Privilege::None => {
                self.counts.left_out += 1;
                Ok(())
            }
            set => Ok(set?),
        }
    }
}
