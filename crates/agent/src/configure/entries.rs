//! A version as a flat list of paths: files, directories and links as the config has them, units as their files, masks
//! as links, keys as the file that sshd reads.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use model::ignition::{DEFAULT_FILE_MODE, Node, NodeKind, Unit};
use model::update::Version;

use super::accounts::{Accounts, CORE};
use super::{ConfigureError, Places};

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
    File { bytes: Vec<u8>, mode: u32 },
    Directory { mode: u32 },
    Link { target: String },
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
}

/// Everything of a version that lies in `places`, parents before what is in them.
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
            what: what(node),
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
    Ok(entries)
}

/// The paths of a version, wherever they lie.
pub(super) fn paths(version: &Version, accounts: &Accounts) -> Vec<Utf8PathBuf> {
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
    let keys = accounts
        .keys_file(CORE)
        .filter(|_| !version.ignition.core.ssh_keys.is_empty());
    nodes.chain(units).chain(keys).collect()
}

fn what(node: &Node) -> What {
    match &node.kind {
        NodeKind::File { contents, .. } => What::File {
            bytes: contents.clone().unwrap_or_default(),
            mode: node.mode(),
        },
        NodeKind::Directory { .. } => What::Directory { mode: node.mode() },
        NodeKind::Link { target } => What::Link {
            target: target.clone().unwrap_or_default(),
        },
    }
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
    let path = accounts.keys_file(CORE).ok_or_else(missing)?;
    let (uid, gid) = accounts.ids(CORE).ok_or_else(missing)?;
    let folders = path
        .ancestors()
        .skip(1)
        .take_while(|folder| folder.file_name() != Some(CORE));
    for folder in folders {
        entries.insert(
            folder.to_owned(),
            Entry {
                what: What::Directory { mode: 0o700 },
                uid,
                gid,
            },
        );
    }
    let bytes = keys
        .iter()
        .flat_map(|key| [key.as_bytes(), b"\n"])
        .flatten()
        .copied()
        .collect();
    entries.insert(
        path,
        Entry {
            what: What::File { bytes, mode: 0o600 },
            uid,
            gid,
        },
    );
    Ok(())
}
