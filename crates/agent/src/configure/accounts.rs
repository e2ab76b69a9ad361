//! Users and groups of a root, read from its own files: the host's would be those of another image.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use model::ignition::Owner;

use super::ConfigureError;
use crate::root::{Found, Root, RootError};

/// The one user whose keys and password configs set.
pub(super) const CORE: &str = "core";

/// `/etc` first; hosts with static accounts of the image have those in `/usr/lib`.
const FOLDERS: [&str; 2] = ["/etc", "/usr/lib"];
/// Where sshd of CoreOS looks for one file per source of keys.
const KEY_FOLDER_CONFIG: &str = "/etc/ssh/sshd_config.d/40-ssh-key-dir.conf";
/// Numbers of accounts that are people's.
const PEOPLE: std::ops::Range<u32> = 1000..60000;

#[derive(Debug, Default)]
pub(super) struct Accounts {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, u32>,
    has_key_folder: bool,
}

#[derive(Debug)]
struct User {
    uid: u32,
    gid: u32,
    home: Utf8PathBuf,
}

impl Accounts {
    pub(super) fn read(root: &Root) -> Result<Self, RootError> {
        let mut accounts = Self::of_folders(root, &FOLDERS)?;
        accounts.has_key_folder = root.find(Utf8Path::new(KEY_FOLDER_CONFIG))? != Found::Nothing;
        Ok(accounts)
    }

    /// Those that the image brings.
    pub(super) fn of_image(root: &Root) -> Result<Self, RootError> {
        Self::of_folders(root, &["/usr/etc", "/usr/lib"])
    }

    fn of_folders(root: &Root, folders: &[&str]) -> Result<Self, RootError> {
        let mut accounts = Self::default();
        for folder in folders {
            let folder = Utf8Path::new(folder);
            for fields in lines(root, &folder.join("passwd"))? {
                if let [name, _, uid, gid, _, home, ..] = fields.as_slice()
                    && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
                {
                    let user = User {
                        uid,
                        gid,
                        home: home.into(),
                    };
                    accounts.users.entry(name.clone()).or_insert(user);
                }
            }
            for fields in lines(root, &folder.join("group"))? {
                if let [name, _, gid, ..] = fields.as_slice()
                    && let Ok(gid) = gid.parse()
                {
                    accounts.groups.entry(name.clone()).or_insert(gid);
                }
            }
        }
        Ok(accounts)
    }

    pub(super) fn user(&self, owner: &Owner, path: &str) -> Result<u32, ConfigureError> {
        match owner {
            Owner::Id(id) => Ok(*id),
            Owner::Name(name) if name == "root" => Ok(0),
            Owner::Name(name) => self
                .users
                .get(name)
                .map(|user| user.uid)
                .ok_or_else(|| missing("user", name, path)),
        }
    }

    pub(super) fn group(&self, owner: &Owner, path: &str) -> Result<u32, ConfigureError> {
        match owner {
            Owner::Id(id) => Ok(*id),
            Owner::Name(name) if name == "root" => Ok(0),
            Owner::Name(name) => self
                .groups
                .get(name)
                .copied()
                .ok_or_else(|| missing("group", name, path)),
        }
    }

    pub(super) fn ids(&self, user: &str) -> Option<(u32, u32)> {
        self.users.get(user).map(|user| (user.uid, user.gid))
    }

    pub(super) fn group_id(&self, group: &str) -> Option<u32> {
        self.groups.get(group).copied()
    }

    pub(super) fn is_user_id(&self, id: u32) -> bool {
        self.users.values().any(|user| user.uid == id)
    }

    /// A number that is no user's and no group's; none when all are taken.
    pub(super) fn free_id(&self) -> Option<u32> {
        let is_taken = |id: &u32| {
            self.users
                .values()
                .any(|user| user.uid == *id || user.gid == *id)
                || self.groups.values().any(|gid| gid == id)
        };
        PEOPLE.into_iter().find(|id| !is_taken(id))
    }

    /// A user's home, also of one that does not exist (yet, or any more).
    pub(super) fn home(&self, user: &str) -> Utf8PathBuf {
        let known = self.users.get(user).map(|user| user.home.clone());
        known
            .filter(|home| home.is_absolute() && home != "/")
            .unwrap_or_else(|| Utf8Path::new("/home").join(user))
    }

    /// The file from which sshd takes the keys that configs set for a user.
    pub(super) fn keys_file(&self, user: &str) -> Utf8PathBuf {
        let name = if self.has_key_folder {
            "authorized_keys.d/ignition"
        } else {
            "authorized_keys"
        };
        self.home(user).join(".ssh").join(name)
    }
}

fn missing(kind: &'static str, name: &str, path: &str) -> ConfigureError {
    ConfigureError::MissingOwner {
        kind,
        name: name.to_owned(),
        path: path.to_owned(),
    }
}

fn lines(root: &Root, path: &Utf8Path) -> Result<Vec<Vec<String>>, RootError> {
    Ok(match root.find(path)? {
        Found::File { bytes, .. } => String::from_utf8_lossy(&bytes)
            .lines()
            .map(|line| line.split(':').map(str::to_owned).collect())
            .collect(),
        _ => Vec::new(),
    })
}
