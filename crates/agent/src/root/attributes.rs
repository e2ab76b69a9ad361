//! Extended attributes: what a file carries besides content, owner and mode, its SELinux label above all.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where SELinux keeps a file's label.
pub(super) const LABEL: &str = "security.selinux";
/// Linux allows no longer list of names and no longer value.
const LIMIT: usize = 64 << 10;

/// Extended attributes by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes(BTreeMap<String, Vec<u8>>);

impl Attributes {
    /// Reads what `name` in `dir` carries. A file system without attributes has none.
    pub(super) fn read(dir: BorrowedFd<'_>, name: &str) -> Result<Self, Errno> {
        let path = place(dir, name);
        Self::gather(
            |buffer| rustix::fs::llistxattr(&path, buffer),
            |attribute, buffer| rustix::fs::lgetxattr(&path, attribute, buffer),
        )
    }

    fn gather(
        list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
        get: impl Fn(&str, &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<Self, Errno> {
        let mut buffer = vec![0; LIMIT];
        let length = match list(&mut buffer) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => return Ok(Self::default()),
            Err(errno) => return Err(errno),
        };
        let names = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut found = BTreeMap::new();
        for attribute in names.split('\0').filter(|name| !name.is_empty()) {
            match get(attribute, &mut buffer) {
                Ok(length) => {
                    found.insert(attribute.to_owned(), buffer[..length].to_vec());
                }
                // Gone meanwhile, or listed by a file system that does not hand it out.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Self(found))
    }

    /// Gives an open file or directory these and no others.
    pub(super) fn write(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let there = Self::gather(
            |buffer| rustix::fs::flistxattr(fd, buffer),
            |attribute, buffer| rustix::fs::fgetxattr(fd, attribute, buffer),
        )?;
        for (attribute, value) in &self.0 {
            if there.0.get(attribute) != Some(value) {
                rustix::fs::fsetxattr(fd, attribute.as_str(), value, XattrFlags::empty())?;
            }
        }
        for attribute in there.0.keys().filter(|name| !self.0.contains_key(*name)) {
            match rustix::fs::fremovexattr(fd, attribute.as_str()) {
                Ok(()) | Err(Errno::NODATA) => {}
                // The label that the kernel gave at birth cannot be taken off again.
                Err(_) if attribute == LABEL => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Gives a symbolic link the label: links carry nothing else that is ours to set.
    pub(super) fn write_to_link(&self, dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        match self.0.get(LABEL) {
            Some(label) => {
                rustix::fs::lsetxattr(place(dir, name), LABEL, label, XattrFlags::empty())
            }
            None => Ok(()),
        }
    }

    /// Those that stay when the content is replaced: not what speaks of the old content (capabilities, signatures), nor
    /// access lists, which would let in others than the mode does.
    pub(super) fn of_successor(mut self) -> Self {
        self.0.retain(|name, _| {
            name == LABEL || name.starts_with("user.") || name.starts_with("trusted.")
        });
        self
    }

    /// With a label, unless there is one.
    pub(super) fn or_label(mut self, label: &str) -> Self {
        // libselinux counts the final NUL in.
        let value = || label.bytes().chain([0]).collect();
        self.0.entry(LABEL.to_owned()).or_insert_with(value);
        self
    }
}

/// A name for calls that take no directory. The descriptor's own link leads to the directory, wherever it is.
fn place(dir: BorrowedFd<'_>, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let encoded = self
            .0
            .iter()
            .map(|(name, value)| (name, STANDARD.encode(value)));
        serializer.collect_map(encoded)
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let encoded = BTreeMap::<String, String>::deserialize(deserializer)?;
        let decoded = encoded.into_iter().map(|(name, value)| {
            let value = STANDARD.decode(value).map_err(serde::de::Error::custom)?;
            Ok((name, value))
        });
        decoded.collect::<Result<_, _>>().map(Self)
    }
}
