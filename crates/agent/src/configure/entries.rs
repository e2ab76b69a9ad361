//! A version as a flat list of paths: files, directories and links as the config has them, units as their files, masks
//! as links, keys as the file that sshd reads.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use model::ignition::{DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE, Node, NodeKind, Unit};
use model::update::Version;

use super::accounts::{Accounts, CORE};
use super::{ConfigureError, Places};
use crate::root::{Access, Found};

/// Where configs put units.
pub(super) const UNITS: &str = "/etc/systemd/system";

/// Something at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) what: What,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    File {
        bytes: Vec<u8>,
        mode: u32,
    },
    Directory {
        mode: u32,
    },
    /// A directory that has to be there for others, and is left as it is where it exists.
    Parent {
        mode: u32,
    },
    Link {
        target: String,
    },
}

impl Entry {
    fn of_root(what: What) -> Self {
        Self {
            what,
            uid: 0,
            gid: 0,
        }
    }

    fn text(text: &str) -> Self {
        Self::of_root(What::File {
            bytes: text.into(),
            mode: DEFAULT_FILE_MODE,
        })
    }

    /// What it looks like on the disk.
    pub(super) fn found(&self) -> Found {
        let access = |mode| Access {
            mode,
            uid: self.uid,
            gid: self.gid,
        };
        match &self.what {
            What::File { bytes, mode } => Found::File {
                bytes: bytes.clone(),
                access: access(*mode),
            },
            What::Directory { mode } | What::Parent { mode } => Found::Directory {
                access: access(*mode),
            },
            What::Link { target } => Found::Link {
                target: target.clone(),
                uid: self.uid,
                gid: self.gid,
            },
        }
    }
}

/// Everything of a version that lies in `places`, with its parents, and they first.
pub(super) fn of(
    version: &Version,
    accounts: &Accounts,
    places: Places,
) -> Result<BTreeMap<Utf8PathBuf, Entry>, ConfigureError> {
    let mut entries = BTreeMap::new();
    for node in version
        .ignition
        .nodes
        .iter()
        .filter(|node| places.include(Utf8Path::new(&node.path)))
    {
        let entry = Entry {
            what: what(node)?,
            uid: accounts.user(node.user(), &node.path)?,
            gid: accounts.group(node.group(), &node.path)?,
        };
        entries.insert(Utf8PathBuf::from(&node.path), entry);
    }
    if places == Places::Shared {
        keys(version, accounts, &mut entries)?;
    } else {
        for unit in &version.ignition.units {
            entries.extend(unit_files(unit));
        }
    }
    for parent in parents(entries.keys()) {
        entries
            .entry(parent)
            .or_insert(Entry::of_root(What::Parent {
                mode: DEFAULT_DIRECTORY_MODE,
            }));
    }
    Ok(entries)
}

/// Directories that the paths lie in, without those that every root has.
fn parents<'a>(paths: impl Iterator<Item = &'a Utf8PathBuf>) -> BTreeSet<Utf8PathBuf> {
    let folders = paths.flat_map(|path| path.ancestors().skip(1));
    folders
        .filter(|folder| folder.parent().is_some_and(|above| above != "/"))
        .map(Utf8Path::to_owned)
        .collect()
}

/// The paths of a version with their parents, wherever they lie.
pub(super) fn paths(version: &Version, accounts: &Accounts) -> BTreeSet<Utf8PathBuf> {
    let nodes = version
        .ignition
        .nodes
        .iter()
        .map(|node| Utf8PathBuf::from(&node.path));
    let units = version
        .ignition
        .units
        .iter()
        .flat_map(unit_files)
        .map(|(path, _)| path);
    let keys = (!version.ignition.core.ssh_keys.is_empty()).then(|| accounts.keys_file(CORE));
    let mut paths: BTreeSet<Utf8PathBuf> = nodes.chain(units).chain(keys).collect();
    paths.append(&mut parents(paths.iter()));
    paths
}

fn what(node: &Node) -> Result<What, ConfigureError> {
    Ok(match &node.kind {
        NodeKind::File { .. } => What::File {
            bytes: match (node.contents(), node.secret()) {
                (Some(bytes), _) => bytes.to_vec(),
                (None, None) => Vec::new(),
                (None, Some(from)) => {
                    return Err(ConfigureError::NoValue {
                        path: node.path.clone(),
                        from: from.clone(),
                    });
                }
            },
            mode: node.mode(),
        },
        NodeKind::Directory { .. } => What::Directory { mode: node.mode() },
        NodeKind::Link { target } => What::Link {
            target: target.clone().unwrap_or_default(),
        },
    })
}

fn unit_files(unit: &Unit) -> Vec<(Utf8PathBuf, Entry)> {
    let place = Utf8Path::new(UNITS).join(&unit.name);
    let mut files = Vec::new();
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if unit.masked() {
        files.push((
            place,
            Entry::of_root(What::Link {
                target: "/dev/null".to_owned(),
            }),
        ));
    } else if let Some(text) = some(&unit.contents) {
        files.push((place, Entry::text(&text)));
    }
    let folder = Utf8Path::new(UNITS).join(format!("{}.d", unit.name));
    for dropin in &unit.dropins {
        if let Some(text) = some(&dropin.contents) {
            files.push((folder.join(&dropin.name), Entry::text(&text)));
        }
    }
    files
}

fn keys(
    version: &Version,
    accounts: &Accounts,
    entries: &mut BTreeMap<Utf8PathBuf, Entry>,
) -> Result<(), ConfigureError> {
    let keys = &version.ignition.core.ssh_keys;
    if keys.is_empty() {
        return Ok(());
    }
    let missing = || ConfigureError::MissingOwner {
        kind: "user",
        name: CORE.to_owned(),
        path: "passwd.users[].sshAuthorizedKeys".to_owned(),
    };
    let (uid, gid) = accounts.ids(CORE).ok_or_else(missing)?;
    let of_core = |what| Entry { what, uid, gid };
    let path = accounts.keys_file(CORE);
    let home = accounts.home(CORE);
    let folders = path.ancestors().skip(1);
    for folder in folders.take_while(|folder| *folder != home) {
        entries.insert(folder.to_owned(), of_core(What::Directory { mode: 0o700 }));
    }
    entries.insert(home, of_core(What::Parent { mode: 0o700 }));
    let bytes = keys
        .iter()
        .flat_map(|key| [key.as_bytes(), b"\n"])
        .flatten()
        .copied()
        .collect();
    entries.insert(path, of_core(What::File { bytes, mode: 0o600 }));
    Ok(())
}
