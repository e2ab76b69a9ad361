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
            Privilege::Full | Privilege::Namespace => {
                let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
                rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(unmapped(entry))
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
                Err(Errno::PERM) if self.may_leave_out(name) => self.counts.left_out += 1,
                // Some file systems keep none for users; nothing that an image needs to work is there.
                Err(Errno::NOTSUP) if name.starts_with(b"user.") => self.counts.left_out += 1,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Whether an attribute that may not be set is one that the superuser in question need not set.
    fn may_leave_out(&self, name: &[u8]) -> bool {
        match self.options.privilege {
            Privilege::Full => false,
            Privilege::Namespace => name.starts_with(b"trusted.") || name == b"security.ima",
            Privilege::None => true,
        }
    }
}

/// Tells what the kernel means when it calls an owner invalid.
pub(super) fn unmapped(entry: &Entry) -> impl FnOnce(Errno) -> io::Error {
    let (uid, gid) = (entry.uid, entry.gid);
    move |errno| match errno {
        Errno::INVAL => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "its owner {uid}:{gid} is not mapped in this user namespace, which must map every owner in an image"
            ),
        ),
        errno => errno.into(),
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
