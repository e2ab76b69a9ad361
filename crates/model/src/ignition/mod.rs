//! The part of Ignition that a running node can apply: files, directories, links, systemd units, and the keys and password
//! of user `core`.
//!
//! Reading is strict: what would be dropped or could never be applied is refused, with the field's path. Contents are
//! decoded while reading, so that a rendered config depends on the bytes and not on how a data URL spelled them, and
//! so that compression and hash never part from the contents they belong to.

mod data_url;
mod fields;
mod merge;
mod path;
mod read;
mod ssh_key;
mod unit;
mod write;

use crate::file_secret::{SecretKey, Value, Values};

pub use data_url::MAX_CONTENT_BYTES;
pub use merge::{Conflict, Subject, conflicts, merge};
pub use read::{VERSIONS, parse};
pub use unit::{has_install_section, unit_name_problem};
pub use write::{OUTPUT_VERSION, to_value};

pub(crate) use data_url::hex_of;
pub(crate) use path::{normalised, real};
pub(crate) use write::write;

/// An Ignition config, or a fragment of one that becomes whole when merged with others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Files, directories and links; no two have the same path.
    pub nodes: Vec<Node>,
    /// Units; no two have the same name.
    pub units: Vec<Unit>,
    /// What is set for user `core`, the one user that nodes keep up to date.
    pub core: CoreUser,
}

/// Something with a path. Files, directories and links have one key space: a path is one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Absolute path without `.`, `..`, doubled or trailing slashes.
    pub path: String,
    /// Owner; root when absent.
    pub user: Option<Owner>,
    /// Owning group; root when absent.
    pub group: Option<Owner>,
    /// What it is.
    pub kind: NodeKind,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    File {
        /// What it holds. Absent in a fragment that changes only mode or owner of another config's file.
        contents: Option<Contents>,
        /// Permission bits, at most 07777.
        mode: Option<u32>,
    },
    Directory {
        /// Permission bits, at most 07777.
        mode: Option<u32>,
    },
    Link {
        /// Where the symbolic link points. Absent in a fragment that changes only the owner.
        target: Option<String>,
    },
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// These bytes, decoded.
    Inline(Vec<u8>),
    /// What a Secret holds.
    Secret {
        /// Where it is.
        from: SecretKey,
        /// The value, where it is known: on the node that the file is for.
        value: Option<Value>,
    },
}

impl Contents {
    /// The bytes, as far as they are known.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Contents::Inline(bytes) => Some(bytes),
            Contents::Secret { value, .. } => value.as_ref().map(|value| value.bytes.as_slice()),
        }
    }

    /// Whether a file with the one is a file with the other: the bytes count where both are known, else where they come
    /// from.
    pub fn same(&self, other: &Contents) -> bool {
        match (self, other) {
            (
                Contents::Secret { from, value: None },
                Contents::Secret {
                    from: other,
                    value: None,
                },
            ) => from == other,
            _ => self.bytes().is_some() && self.bytes() == other.bytes(),
        }
    }
}

/// A user or group, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    Id(u32),
    Name(String),
}

/// Owner of what names no other.
pub const ROOT: Owner = Owner::Id(0);
/// Where a node keeps the units and drop-ins of its config.
pub const UNIT_DIRECTORY: &str = "/etc/systemd/system";
/// Permissions of a file that says none.
pub const DEFAULT_FILE_MODE: u32 = 0o644;
/// Permissions of a directory that says none.
pub const DEFAULT_DIRECTORY_MODE: u32 = 0o755;

impl Node {
    /// The owner, root by default.
    pub fn user(&self) -> &Owner {
        self.user.as_ref().unwrap_or(&ROOT)
    }

    /// The owning group, root by default.
    pub fn group(&self) -> &Owner {
        self.group.as_ref().unwrap_or(&ROOT)
    }

    /// Permission bits of a file or directory; a link has none of its own.
    pub fn mode(&self) -> u32 {
        match &self.kind {
            NodeKind::File { mode, .. } => mode.unwrap_or(DEFAULT_FILE_MODE),
            NodeKind::Directory { mode } => mode.unwrap_or(DEFAULT_DIRECTORY_MODE),
            NodeKind::Link { .. } => 0o777,
        }
    }

    /// Bytes of a file, as far as they are known; nothing for anything else.
    pub fn contents(&self) -> Option<&[u8]> {
        match &self.kind {
            NodeKind::File { contents, .. } => contents.as_ref()?.bytes(),
            NodeKind::Directory { .. } | NodeKind::Link { .. } => None,
        }
    }

    /// The Secret that a file's content is in.
    pub fn secret(&self) -> Option<&SecretKey> {
        match &self.kind {
            NodeKind::File {
                contents: Some(Contents::Secret { from, .. }),
                ..
            } => Some(from),
            NodeKind::File { .. } | NodeKind::Directory { .. } | NodeKind::Link { .. } => None,
        }
    }

    /// `file`, `directory` or `link`.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            NodeKind::File { .. } => "file",
            NodeKind::Directory { .. } => "directory",
            NodeKind::Link { .. } => "link",
        }
    }
}

/// A systemd unit: its text, its drop-ins, and whether it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// Name with suffix, such as `autofs.service`.
    pub name: String,
    /// Text of the unit; absent when the image has it.
    pub contents: Option<String>,
    /// Whether it is enabled or disabled; absent leaves that to the presets.
    pub enabled: Option<bool>,
    /// Whether it is masked.
    pub mask: Option<bool>,
    /// Drop-ins; no two have the same name.
    pub dropins: Vec<Dropin>,
}

impl Unit {
    /// Whether the unit must not run at all.
    pub fn masked(&self) -> bool {
        self.mask == Some(true)
    }
}

/// A file below `<unit>.d/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropin {
    /// Name that ends in `.conf`.
    pub name: String,
    /// Its text. Absent in a fragment that changes nothing; empty removes another config's drop-in.
    pub contents: Option<String>,
}

/// What is set for user `core`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreUser {
    /// Lines for `authorized_keys`, each once.
    pub ssh_keys: Vec<String>,
    /// Hash for `/etc/shadow`; absent leaves the password alone.
    pub password_hash: Option<String>,
}

impl Config {
    /// What is at a path.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.path == path)
    }

    /// The unit of a name.
    pub fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.name == name)
    }

    /// The one form that configs of equal effect share: everything sorted by its key, defaults of modes written out and of
    /// owners left out, nothing that does nothing.
    pub fn canonical(mut self) -> Self {
        for node in &mut self.nodes {
            let usual = node.mode();
            match &mut node.kind {
                NodeKind::File { mode, .. } | NodeKind::Directory { mode } => *mode = Some(usual),
                NodeKind::Link { .. } => {}
            }
            for owner in [&mut node.user, &mut node.group] {
                *owner = owner.take().filter(|owner| *owner != ROOT);
            }
        }
        self.nodes.sort_by(|a, b| a.path.cmp(&b.path));
        for unit in &mut self.units {
            unit.mask = unit.mask.filter(|&mask| mask);
            if unit.masked() {
                // A mask stands where the unit's text would, and nothing else of the unit counts.
                unit.contents = None;
                unit.enabled = None;
                unit.dropins.clear();
            }
            unit.contents = unit.contents.take().filter(|text| !text.is_empty());
            unit.dropins.retain(|dropin| {
                dropin
                    .contents
                    .as_deref()
                    .is_some_and(|text| !text.is_empty())
            });
            unit.dropins.sort_by(|a, b| a.name.cmp(&b.name));
        }
        self.units.retain(|unit| {
            let Unit {
                name: _,
                contents,
                enabled,
                mask,
                dropins,
            } = unit;
            contents.is_some() || enabled.is_some() || mask.is_some() || !dropins.is_empty()
        });
        self.units.sort_by(|a, b| a.name.cmp(&b.name));
        self.core.ssh_keys.sort();
        self.core.ssh_keys.dedup();
        self
    }

    /// Puts the values in place that are known. A file whose value is not keeps the one that it has.
    pub fn fill(&mut self, values: &Values) {
        for node in &mut self.nodes {
            if let NodeKind::File {
                contents: Some(Contents::Secret { from, value }),
                ..
            } = &mut node.kind
                && let Some(known) = values.get(from)
            {
                *value = Some(known.clone());
            }
        }
    }

    /// The values that are in place.
    pub fn values(&self) -> Values {
        let found = self.nodes.iter().filter_map(|node| match &node.kind {
            NodeKind::File {
                contents:
                    Some(Contents::Secret {
                        from,
                        value: Some(value),
                    }),
                ..
            } => Some((from.clone(), value.clone())),
            NodeKind::File { .. } | NodeKind::Directory { .. } | NodeKind::Link { .. } => None,
        });
        found.collect()
    }

    /// Decoded bytes of all files.
    pub fn content_bytes(&self) -> usize {
        self.nodes
            .iter()
            .filter_map(Node::contents)
            .map(<[u8]>::len)
            .sum()
    }
}

#[cfg(test)]
mod tests;
