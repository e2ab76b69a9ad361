//! Whose superuser builds run as: the machine's, or that of a user namespace, which may not do everything. Layers on disk
//! are marked by attributes that this superuser may set, so each has its own in the cache; images come out the same.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use oci::layer::{Marks, Privilege};

use crate::root::Owner;

/// The inode of the machine's own user namespace (`PROC_USER_INIT_INO` in the kernel's `proc_ns.h`).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Whose superuser this process can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Superuser {
    /// The machine's.
    Machine,
    /// That of a user namespace, as a pod with `hostUsers: false` has it.
    Namespace,
}

impl Superuser {
    /// Looks in which user namespace this process is.
    pub(crate) fn here() -> io::Result<Superuser> {
        match fs::metadata("/proc/self/ns/user") {
            Ok(namespace) if namespace.ino() == FIRST_NAMESPACE => Ok(Superuser::Machine),
            Ok(_) => Ok(Superuser::Namespace),
            // A kernel without user namespaces.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Superuser::Machine),
            Err(error) => Err(error),
        }
    }

    /// How layers in the cache mark what they hide.
    pub(crate) fn marks(self) -> Marks {
        match self {
            Superuser::Machine => Marks::Trusted,
            Superuser::Namespace => Marks::User,
        }
    }

    /// What can be set on files of base images.
    pub(crate) fn privilege(self) -> Privilege {
        match self {
            Superuser::Machine => Privilege::Full,
            Superuser::Namespace => Privilege::Namespace,
        }
    }

    /// Options of overlayfs that say where its marks are, and that nothing but marks is looked for in layers.
    pub(crate) fn overlay_options(self) -> &'static str {
        match self {
            Superuser::Machine => "redirect_dir=off,metacopy=off,index=off",
            // `off` may mean that redirections are followed, which `userxattr` forbids.
            Superuser::Namespace => "userxattr,redirect_dir=nofollow,metacopy=off,index=off",
        }
    }

    /// Refuses a cache whose files belong to owners outside of the namespace: nothing in it could be changed.
    pub(crate) fn check_owner(self, dir: &Path) -> io::Result<()> {
        let own = rustix::process::geteuid().as_raw();
        if self == Superuser::Machine || fs::metadata(dir)?.uid() == own {
            return Ok(());
        }
        let message = "it does not belong to the superuser of this user namespace: use another directory, or mount this \
                       one with mapped owners";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }

    /// Why nothing can belong to an owner here; `None` when it can.
    pub(crate) fn unmapped(self, owner: Owner) -> io::Result<Option<String>> {
        if self == Superuser::Machine {
            return Ok(None);
        }
        for (kind, map, id) in [
            ("user", "/proc/self/uid_map", owner.uid),
            ("group", "/proc/self/gid_map", owner.gid),
        ] {
            if !is_mapped(&fs::read_to_string(map)?, id) {
                return Ok(Some(format!(
                    "{kind} {id} is not mapped in the builder's user namespace, which must map every owner in an image"
                )));
            }
        }
        Ok(None)
    }
}

/// Whether a map of a namespace (first inside, first outside, how many; a line each) has an owner.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line
            .split_ascii_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        matches!(numbers[..], [first, _, count] if (first..first.saturating_add(count)).contains(&id.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_mapped_by_any_line() {
        let map = "         0     700000      65536\n    100000          5          1\n";
        for (id, mapped) in [
            (0, true),
            (65535, true),
            (65536, false),
            (99999, false),
            (100_000, true),
            (100_001, false),
            (u32::MAX, false),
        ] {
            assert_eq!(is_mapped(map, id), mapped, "{id}");
        }
        assert!(is_mapped("0 0 4294967295\n", 70000));
        assert!(!is_mapped("", 0));
    }
}
