//! Who may use the registry, and for what.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// What a user may do, in every repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Read.
    Pull,
    /// Read, write and delete.
    Push,
}

/// The users of a registry. Passwords are kept as salted SHA-256 digests: they are meant to be long random tokens,
/// for which a slow hash adds nothing.
#[derive(Clone, Default)]
pub struct Access {
    users: Option<BTreeMap<String, User>>,
}

#[derive(Clone)]
struct User {
    salt: [u8; 16],
    hash: [u8; 32],
    permission: Permission,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.users {
            None => f.write_str("Access(anyone)"),
            Some(users) => {
                let users = users.iter().map(|(name, user)| (name, user.permission));
                f.write_str("Access")?;
                f.debug_map().entries(users).finish()
            }
        }
    }
}

impl Access {
    /// Anyone may do anything.
    pub fn anyone() -> Access {
        Access { users: None }
    }

    /// Nobody may do anything until users are added.
    pub fn nobody() -> Access {
        Access {
            users: Some(BTreeMap::new()),
        }
    }

    /// Adds a user, or changes one.
    pub fn user(mut self, name: &str, password: &str, permission: Permission) -> Access {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).expect("the operating system has random numbers");
        let user = User {
            salt,
            hash: hash(&salt, password),
            permission,
        };
        self.users
            .get_or_insert_default()
            .insert(name.to_owned(), user);
        self
    }
}

/// Why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// No credentials were shown.
    Missing,
    /// They are wrong, or of a kind that is not known here.
    Wrong,
    /// The user may not do this.
    NotPermitted,
}

impl Access {
    /// Checks the value of `Authorization` against what the request needs.
    pub(super) fn check(
        &self,
        authorization: Option<&[u8]>,
        needed: Permission,
    ) -> Result<(), Denied> {
        let Some(users) = &self.users else {
            return Ok(());
        };
        let (name, password) =
            read_basic(authorization.ok_or(Denied::Missing)?).ok_or(Denied::Wrong)?;
        let user = users.get(&name).ok_or(Denied::Wrong)?;
        if !equal(&user.hash, &hash(&user.salt, &password)) {
            return Err(Denied::Wrong);
        }
        match user.permission >= needed {
            true => Ok(()),
            false => Err(Denied::NotPermitted),
        }
    }
}

/// User name and password of a `Basic` authorization.
fn read_basic(authorization: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(authorization).ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// Compares without telling by the time taken where the difference is.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter()
        .zip(b)
        .fold(0, |difference, (a, b)| difference | (a ^ b))
        == 0
}

fn hash(salt: &[u8], password: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(password);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_in_whom_it_knows() {
        let access = Access::nobody()
            .user("node", "secret", Permission::Pull)
            .user("builder", "pa:ss", Permission::Push);
        let check = |text: &str, needed| {
            let header = format!("Basic {}", STANDARD.encode(text));
            access.check(Some(header.as_bytes()), needed)
        };
        assert_eq!(check("node:secret", Permission::Pull), Ok(()));
        assert_eq!(
            check("node:secret", Permission::Push),
            Err(Denied::NotPermitted)
        );
        assert_eq!(check("builder:pa:ss", Permission::Push), Ok(()));
        assert_eq!(check("builder:pa:ss", Permission::Pull), Ok(()));
        for wrong in [
            "node:Secret",
            "node:",
            "node",
            "other:secret",
            ":",
            "builder:pa",
        ] {
            assert_eq!(
                check(wrong, Permission::Pull),
                Err(Denied::Wrong),
                "{wrong}"
            );
        }
        assert_eq!(access.check(None, Permission::Pull), Err(Denied::Missing));
        for header in ["", "Basic", "Basic ???", "Bearer x", "Basic \u{e9}"] {
            assert_eq!(
                access.check(Some(header.as_bytes()), Permission::Pull),
                Err(Denied::Wrong),
                "{header}"
            );
        }
        assert_eq!(Access::anyone().check(None, Permission::Push), Ok(()));
        assert!(Access::nobody().check(None, Permission::Pull).is_err());
    }

    #[test]
    fn never_shows_passwords() {
        let text = format!(
            "{:?}",
            Access::nobody().user("node", "secret", Permission::Pull)
        );
        assert_eq!(text, "Access{\"node\": Pull}");
    }
}
