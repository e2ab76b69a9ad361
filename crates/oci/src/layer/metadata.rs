//! Owners, attributes and times of what a layer puts into a tree.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Gid, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::archive::Entry;
use super::unpack::Unpacker;
use super::{Privilege, path};

impl Unpacker {
    pub(super) fn set_owner(&mut self, file: impl AsFd, entry: &Entry) -> io::Result<()> {
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

    pub(super) fn set_xattrs(&mut self, file: impl AsFd, entry: &Entry) -> io::Result<()> {
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
}

/// Takes attributes of a lower layer from a directory that this layer has as well. Labels of the host's security
/// policy stay.
pub(super) fn clear_xattrs(dir: impl AsFd) -> io::Result<()> {
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

pub(super) fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
