//! From the words of `USER` and `--chown` to numbers, by the user database of the image. Pure.

use std::path::Path;

use crate::root::{Owner, Root};

/// Larger than the user database of any image.
const MAX_DATABASE: u64 = 4 << 20;

/// The user database of an image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Users {
    passwd: String,
    group: String,
}

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) owner: Owner,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl Users {
    /// Reads `/etc/passwd` and `/etc/group`, either of which may be missing.
    pub(crate) fn read(root: &Root) -> std::io::Result<Users> {
        let text = |path: &str| -> std::io::Result<String> {
            let content = root
                .read(Path::new(path), MAX_DATABASE)?
                .unwrap_or_default();
            Ok(String::from_utf8_lossy(&content).into_owned())
        };
        Ok(Users {
            passwd: text("/etc/passwd")?,
            group: text("/etc/group")?,
        })
    }

    /// Resolves `user`, `uid`, `user:group` and so on; an empty text is root.
    pub(crate) fn user(&self, text: &str) -> Result<User, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let number = user.parse::<u32>().ok();
        let entry = self
            .passwd_entries()
            .find(|entry| entry.name == user || number == Some(entry.uid));
        let uid = match (number, &entry) {
            (Some(uid), _) => uid,
            (None, Some(entry)) => entry.uid,
            (None, None) => {
                return Err(format!(
                    "there is no user `{user}` in the image's `/etc/passwd`"
                ));
            }
        };
        let gid = match group {
            Some(group) => self.gid(group)?,
            None => entry.as_ref().map_or(0, |entry| entry.gid),
        };
        // An explicit group replaces all others.
        let groups = match (&entry, group) {
            (Some(entry), None) => self.groups_of(entry.name),
            _ => Vec::new(),
        };
        let home = entry
            .map(|entry| entry.home)
            .filter(|home| !home.is_empty())
            .unwrap_or("/")
            .to_string();
        Ok(User {
            owner: Owner { uid, gid },
            groups,
            home,
        })
    }

    /// Resolves the value of `--chown`. A name alone brings its own group; a number alone is that of the group, too.
    pub(crate) fn owner(&self, text: &str) -> Result<Owner, String> {
        match text.parse() {
            Ok(number) => Ok(Owner {
                uid: number,
                gid: number,
            }),
            Err(_) => Ok(self.user(text)?.owner),
        }
    }

    fn gid(&self, group: &str) -> Result<u32, String> {
        if let Ok(gid) = group.parse() {
            return Ok(gid);
        }
        let found = self
            .group_entries()
            .find(|(name, ..)| *name == group)
            .map(|(_, gid, _)| gid);
        found.ok_or_else(|| format!("there is no group `{group}` in the image's `/etc/group`"))
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        let mine = self
            .group_entries()
            .filter(|(_, _, members)| members.split(',').any(|member| member == user));
        mine.map(|(_, gid, _)| gid).collect()
    }

    fn passwd_entries(&self) -> impl Iterator<Item = Passwd<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Passwd {
                name,
                uid,
                gid,
                home: fields.nth(1).unwrap_or_default(),
            })
        })
    }

    fn group_entries(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let users = Users {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:w:/srv:/bin/sh\n".into(),
            group: "root:x:0:\nadm:x:4:web,other\nssl:x:110:web\n".into(),
        };
        for (text, expected) in [
            ("", Ok((0, 0, vec![], "/root"))),
            ("web", Ok((33, 34, vec![4, 110], "/srv"))),
            ("33", Ok((33, 34, vec![4, 110], "/srv"))),
            ("web:adm", Ok((33, 4, vec![], "/srv"))),
            ("1000", Ok((1000, 0, vec![], "/"))),
            ("1000:1001", Ok((1000, 1001, vec![], "/"))),
            (":adm", Ok((0, 4, vec![], "/root"))),
            (
                "nobody",
                Err("there is no user `nobody` in the image's `/etc/passwd`"),
            ),
            (
                "web:none",
                Err("there is no group `none` in the image's `/etc/group`"),
            ),
        ] {
            let found = users
                .user(text)
                .map(|user| (user.owner.uid, user.owner.gid, user.groups, user.home));
            let expected = expected
                .map(|(u, g, gs, home)| (u, g, gs, home.to_string()))
                .map_err(str::to_string);
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(
            users.owner("1000"),
            Ok(Owner {
                uid: 1000,
                gid: 1000
            })
        );
        assert_eq!(users.owner("web"), Ok(Owner { uid: 33, gid: 34 }));
        assert!(users.owner("web:web").is_err());
    }
}
