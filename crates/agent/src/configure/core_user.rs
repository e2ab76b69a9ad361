//! User `core`: made where the image has none, given its password, and given back as it was.
//!
//! The four account files are edited line by line and replaced one by one, under the lock that `useradd` and `passwd`
//! take. Each edit is idempotent, so a run that was killed between two files is finished by the next.

use std::time::{Duration, Instant};

use camino::Utf8Path;
use model::update::Version;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::ConfigureError;
use super::accounts::{Accounts, CORE};
use crate::root::{Found, Root};
use crate::state::CoreOriginal;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const SHADOW: &str = "/etc/shadow";
const GROUP_SHADOW: &str = "/etc/gshadow";
/// Groups of an administrator, on the systems that have them: what CoreOS gives `core`.
const GROUPS: [&str; 4] = ["adm", "sudo", "systemd-journal", "wheel"];
/// No password, and none that fits.
const LOCKED: &str = "!";
/// As long as the tools of the system wait for each other.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);

/// Whether a version sets anything for `core`.
pub(super) fn is_set(version: &Version) -> bool {
    let core = &version.ignition.core;
    !core.ssh_keys.is_empty() || core.password_hash.is_some()
}

/// How `core` is now.
pub(super) fn original(root: &Root, accounts: &Accounts) -> Result<CoreOriginal, ConfigureError> {
    let shadow = Table::read(root, SHADOW)?;
    Ok(CoreOriginal {
        existed: accounts.ids(CORE).is_some(),
        password: shadow.and_then(|table| table.line(CORE)?.get(1).cloned()),
    })
}

/// Makes `core` when the root has no such user. Returns whether anything changed.
pub(super) fn make(root: &Root, accounts: &Accounts) -> Result<bool, ConfigureError> {
    if accounts.ids(CORE).is_some() {
        return Ok(false);
    }
    let id = match accounts.group_id(CORE) {
        // Also what a killed run has made: the same number as if it had not been killed.
        Some(gid) if !accounts.is_user_id(gid) => Some((gid, gid)),
        Some(gid) => accounts.free_id().map(|uid| (uid, gid)),
        None => accounts.free_id().map(|id| (id, id)),
    };
    let (uid, gid) = id.ok_or(ConfigureError::NoFreeId)?;
    let _lock = Lock::take(root)?;
    for (path, line) in [
        (GROUP, format!("{CORE}:x:{gid}:")),
        (GROUP_SHADOW, format!("{CORE}:{LOCKED}::")),
    ] {
        edit(root, path, |table| {
            table.add(&line);
            for group in GROUPS {
                table.add_member(group);
            }
        })?;
    }
    let shell = match root.find(Utf8Path::new("/bin/bash"))? {
        Found::Nothing => "/bin/sh",
        _ => "/bin/bash",
    };
    edit(root, SHADOW, |table| {
        table.add(&format!("{CORE}:{LOCKED}:::::::"))
    })?;
    // Last: with this line the user is there.
    let home = accounts.home(CORE);
    edit(root, PASSWD, |table| {
        table.add(&format!("{CORE}:x:{uid}:{gid}:CoreOS Admin:{home}:{shell}"));
    })?;
    Ok(true)
}

/// Sets the password hash. Returns whether it changed.
pub(super) fn set_password(root: &Root, hash: &str) -> Result<bool, ConfigureError> {
    let _lock = Lock::take(root)?;
    edit(root, SHADOW, |table| {
        // A user of `/usr/lib/passwd` may have no line yet.
        table.add(&format!("{CORE}:{LOCKED}:::::::"));
        if let Some(field) = table.line_mut(CORE).and_then(|line| line.get_mut(1)) {
            hash.clone_into(field);
        }
    })
}

/// Lets the password be what it was. Returns whether anything changed.
pub(super) fn reset_password(root: &Root, original: &CoreOriginal) -> Result<bool, ConfigureError> {
    match &original.password {
        Some(hash) => set_password(root, hash),
        // Made by us, or never had a line of its own.
        None if original.existed => {
            let _lock = Lock::take(root)?;
            edit(root, SHADOW, Table::remove)
        }
        None => set_password(root, LOCKED),
    }
}

/// Undoes what [`make`] and [`set_password`] did. Returns whether anything changed.
pub(super) fn give_back(root: &Root, original: &CoreOriginal) -> Result<bool, ConfigureError> {
    if original.existed || Accounts::of_image(root)?.ids(CORE).is_some() {
        return reset_password(root, original);
    }
    let _lock = Lock::take(root)?;
    let mut changed = false;
    // In the opposite order: without this line there is no user.
    for path in [PASSWD, SHADOW, GROUP_SHADOW, GROUP] {
        changed |= edit(root, path, |table| {
            table.remove();
            table.remove_member();
        })?;
    }
    Ok(changed)
}

/// An account file: lines of fields.
struct Table(Vec<Vec<String>>);

impl Table {
    fn read(root: &Root, path: &str) -> Result<Option<Self>, ConfigureError> {
        let Found::File { bytes, .. } = root.find(Utf8Path::new(path))? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|_| ConfigureError::Accounts {
            path: path.to_owned(),
            problem: "is not UTF-8 text; mend it with `vipw`".to_owned(),
        })?;
        let fields = |line: &str| line.split(':').map(str::to_owned).collect();
        Ok(Some(Self(text.lines().map(fields).collect())))
    }

    fn text(&self) -> String {
        self.0.iter().map(|line| line.join(":") + "\n").collect()
    }

    fn line(&self, name: &str) -> Option<&Vec<String>> {
        self.0.iter().find(|line| line[0] == name)
    }

    fn line_mut(&mut self, name: &str) -> Option<&mut Vec<String>> {
        self.0.iter_mut().find(|line| line[0] == name)
    }

    fn add(&mut self, line: &str) {
        if self.line(CORE).is_none() {
            self.0.push(line.split(':').map(str::to_owned).collect());
        }
    }

    fn remove(&mut self) {
        self.0.retain(|line| line[0] != CORE);
    }

    /// Makes `core` a member of a group, when there is such a group.
    fn add_member(&mut self, group: &str) {
        let members = self.line_mut(group).and_then(|line| line.get_mut(3));
        let Some(members) = members.filter(|members| members.split(',').all(|m| m != CORE)) else {
            return;
        };
        if !members.is_empty() {
            members.push(',');
        }
        members.push_str(CORE);
    }

    fn remove_member(&mut self) {
        for group in GROUPS {
            if let Some(members) = self.line_mut(group).and_then(|line| line.get_mut(3)) {
                let others: Vec<&str> = members.split(',').filter(|m| *m != CORE).collect();
                *members = others.join(",");
            }
        }
    }
}

/// Changes an account file; one that the root does not have is none.
fn edit(root: &Root, path: &str, change: impl FnOnce(&mut Table)) -> Result<bool, ConfigureError> {
    let (Some(mut table), Found::File { access, .. }) =
        (Table::read(root, path)?, root.find(Utf8Path::new(path))?)
    else {
        return Ok(false);
    };
    let before = table.text();
    change(&mut table);
    let after = table.text();
    if before == after {
        root.discard(Utf8Path::new(path))?;
        return Ok(false);
    }
    Ok(root.write(Utf8Path::new(path), after.as_bytes(), access)?)
}

/// The lock of the account files, as `lckpwdf` takes it. The kernel lets go of it with the descriptor.
struct Lock {
    _file: std::os::fd::OwnedFd,
}

impl Lock {
    fn take(root: &Root) -> Result<Self, ConfigureError> {
        let path = Utf8Path::new("/etc/.pwd.lock");
        let problem = |errno: Errno| ConfigureError::Accounts {
            path: path.to_string(),
            problem: format!("cannot be locked: {errno}"),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = root
            .open_file(path, flags, Mode::from_raw_mode(0o600))
            .map_err(problem)?;
        let since = Instant::now();
        loop {
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::ACCESS | Errno::AGAIN) if since.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(Errno::ACCESS | Errno::AGAIN) => {
                    return Err(ConfigureError::Accounts {
                        path: path.to_string(),
                        problem: "is held by another tool; end it, `fuser` shows which".to_owned(),
                    });
                }
                Err(errno) => return Err(problem(errno)),
            }
        }
    }
}
