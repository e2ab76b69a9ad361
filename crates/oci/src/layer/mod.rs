//! Applies image layers to directory trees. A layer comes from a registry and may be hostile: nothing in it can
//! reach outside the tree, and its size, number of entries and length of names are bounded.

mod archive;
mod metadata;
mod path;
mod stream;
mod tree;
mod unpack;
mod whiteout;

use std::io::Read;
use std::path::Path;

use crate::digest::Digest;

/// What a whiteout in the layer becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Removes what lies beneath, from the tree itself. For a tree that holds the lower layers, which may be hard
    /// links into a shared store: files are replaced, never written to.
    Apply,
    /// Is kept as overlayfs has it: a character device 0/0, or an attribute of a directory. For a tree that holds this
    /// layer alone.
    Overlay(Marks),
}

/// Which attributes overlayfs marks directories with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `trusted.overlay.*`: its default, which takes the superuser of the machine.
    Trusted,
    /// `user.overlay.*`: the mount option `userxattr`, for user namespaces.
    User,
}

impl Marks {
    /// The attribute of a directory that hides what lower layers have in it. Its value is `y`.
    pub const fn opaque(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted.overlay.opaque",
            Marks::User => "user.overlay.opaque",
        }
    }

    /// Whether an attribute is a note of overlayfs itself, of either kind, and not a file's own.
    pub fn is_mark(attribute: &[u8]) -> bool {
        attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.")
    }
}

/// What to do about owners, devices and privileged attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Set them all, as the superuser can.
    Full,
    /// Set owners and what a user namespace lets its superuser set; leave devices, `trusted.*` and signatures out and
    /// count them.
    Namespace,
    /// Leave them out and count them, for anyone else.
    None,
}

/// Bounds of what a layer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed layer.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of all their paths together, which bounds the memory used.
    pub names: u64,
}

impl Default for Limits {
    /// 64 GiB, two million entries and 256 MiB of names: several times the largest operating system images.
    fn default() -> Limits {
        Limits {
            bytes: 64 << 30,
            entries: 2_000_000,
            names: 256 << 20,
        }
    }
}

/// How to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What becomes of whiteouts.
    pub whiteouts: Whiteouts,
    /// What to do about owners and devices.
    pub privilege: Privilege,
    /// Bounds.
    pub limits: Limits,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The digest of the uncompressed layer, to compare with the image's `rootfs.diff_ids`.
    pub diff_id: Digest,
    /// Length of the uncompressed layer.
    pub bytes: u64,
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Whiteouts.
    pub whiteouts: u64,
    /// Owners, devices and attributes left out for want of privilege.
    pub left_out: u64,
}

/// Why a layer could not be unpacked. What was unpacked before stays in the tree.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Not a layer that we can read.
    #[error("media type `{0}` is not a tar layer, plain or compressed with gzip or zstd")]
    MediaType(String),
    /// The stream is broken or could not be read.
    #[error("layer cannot be read")]
    Read(#[source] std::io::Error),
    /// The tree refused.
    #[error("cannot {action} `{path}`")]
    Write {
        /// A verb, for the message.
        action: &'static str,
        /// The entry.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// An entry that no honest layer has.
    #[error("layer entry `{path}` {reason}")]
    Entry {
        /// The entry.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Past one of the [`Limits`].
    #[error("layer has more than {limit} {unit}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// What it counts.
        unit: &'static str,
    },
}

impl LayerError {
    fn entry(path: &[u8], reason: impl Into<String>) -> LayerError {
        LayerError::Entry {
            path: shown(path),
            reason: reason.into(),
        }
    }
}

/// A path of a layer in a form fit for messages.
fn shown(path: &[u8]) -> String {
    path[..path.len().min(400)].escape_ascii().to_string()
}

/// Unpacks one layer onto the tree at `root`, which must exist and which nobody else may change meanwhile. Paths and
/// the targets of hard links are resolved with `root` as `/`. Blocks; nothing is synced to disk.
///
/// Parents that the layer does not list are made with mode 0755. The caller compares [`Stats::diff_id`] with the
/// image's configuration. A reader that blocks is waited for, also after a failure.
pub fn unpack(
    reader: impl Read + Send,
    media_type: &str,
    root: &Path,
    options: &Options,
) -> Result<Stats, LayerError> {
    unpack::unpack(reader, media_type, root, options)
}
