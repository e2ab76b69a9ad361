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
        let mut accounts = Self::default();
        for folder in FOLDERS {
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
        accounts.has_key_folder = root.find(Utf8Path::new(KEY_FOLDER_CONFIG))? != Found::Nothing;
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

    /// The file from which sshd takes the keys that configs set for a user.
    pub(super) fn keys_file(&self, user: &str) -> Option<Utf8PathBuf> {
        let name = if self.has_key_folder {
            "authorized_keys.d/ignition"
        } else {
            "authorized_keys"
        };
        self.users
            .get(user)
            .map(|user| user.home.join(".ssh").join(name))
    }

    /// Sets a user's password hash in the root's shadow file. Returns whether it changed.
    pub(super) fn set_password(
        &self,
        root: &Root,
        user: &str,
        hash: &str,
    ) -> Result<bool, ConfigureError> {
        let path = Utf8Path::new("/etc/shadow");
        let no_user = || missing("user", user, "passwd.users[].passwordHash");
        let Found::File { bytes, access } = root.find(path)? else {
            return Err(no_user());
        };
        let text = with_hash(&String::from_utf8_lossy(&bytes), user, hash).ok_or_else(no_user)?;
        Ok(root.write(path, text.as_bytes(), access)?)
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

/// The shadow file with another hash for one user; nothing when it has no such user.
fn with_hash(shadow: &str, user: &str, hash: &str) -> Option<String> {
    let mut found = false;
    let lines = shadow.lines().map(|line| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields.first() == Some(&user) && fields.len() > 1 {
            found = true;
            fields[1] = hash;
        }
        fields.join(":") + "\n"
    });
    let text = lines.collect();
    found.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_users_hash_is_replaced() {
        let shadow = "root:*:1:0:99999:7:::\ncore:!:1:0:99999:7:::\n";
        assert_eq!(
            with_hash(shadow, "core", "$6$x").as_deref(),
            Some("root:*:1:0:99999:7:::\ncore:$6$x:1:0:99999:7:::\n")
        );
        assert_eq!(with_hash(shadow, "cor", "$6$x"), None);
    }
}
