//! Who may use the registry, and for what.

use std::collections::BTreeMap;
use std::fmt;

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

fn hash(salt: &[u8], password: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(password);
    hash.finalize().into()
}
