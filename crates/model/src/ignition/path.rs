//! Which paths a config may write.

use std::borrow::Cow;

/// Longest path that Linux takes, with its final NUL taken off.
const MAX_PATH_BYTES: usize = 4095;
/// Longest file name that the usual file systems take.
const MAX_NAME_BYTES: usize = 255;

/// Places where nothing that is written lasts, or that belong to the image and the deployment.
const CLOSED: &[(&str, &str)] = &[
    ("/dev", "belongs to the kernel"),
    ("/proc", "belongs to the kernel"),
    ("/sys", "belongs to the kernel"),
    (
        "/run",
        "is empty again after a reboot; write a `tmpfiles.d` file in `/etc/tmpfiles.d` instead",
    ),
    (
        "/tmp",
        "is empty again after a reboot; write a `tmpfiles.d` file in `/etc/tmpfiles.d` instead",
    ),
    (
        "/var/run",
        "is `/run`, which is empty again after a reboot; write a `tmpfiles.d` file in `/etc/tmpfiles.d` instead",
    ),
    (
        "/var/lock",
        "is `/run/lock`, which is empty again after a reboot; write a `tmpfiles.d` file in `/etc/tmpfiles.d` instead",
    ),
    ("/boot", "belongs to the boot loader"),
    (
        "/var/lib/caprock",
        "is where the agent keeps what it is doing",
    ),
    ("/ostree", "belongs to the deployments"),
    ("/sysroot", "belongs to the deployments"),
    (
        "/usr",
        "is read-only on a node; put it into the image with the MachineOSConfig's Containerfile",
    ),
    (
        "/bin",
        "is part of `/usr`; put it into the image with the MachineOSConfig's Containerfile",
    ),
    (
        "/sbin",
        "is part of `/usr`; put it into the image with the MachineOSConfig's Containerfile",
    ),
    (
        "/lib",
        "is part of `/usr`; put it into the image with the MachineOSConfig's Containerfile",
    ),
    (
        "/lib64",
        "is part of `/usr`; put it into the image with the MachineOSConfig's Containerfile",
    ),
];

/// The writable part of `/usr`: a link to `/var/usrlocal`.
const USR_LOCAL: &str = "/usr/local";

/// What deployments can be written to.
const OPEN: &[&str] = &["/etc", "/var"];

/// Why there can be no file, directory or link of a config at `path`; nothing when there can be.
pub(super) fn problem(path: &str, is_directory: bool) -> Option<String> {
    if !path.starts_with('/') {
        return Some(format!("expected an absolute path, found `{path}`"));
    }
    if path.chars().any(char::is_control) {
        return Some(format!(
            "expected a path without control characters, found {path:?}"
        ));
    }
    if path.len() > MAX_PATH_BYTES || path.split('/').any(|name| name.len() > MAX_NAME_BYTES) {
        return Some(format!(
            "expected a path of at most {MAX_PATH_BYTES} bytes with names of at most {MAX_NAME_BYTES}"
        ));
    }
    let clean = normalised(path);
    if clean == "/" {
        return Some("expected a path below `/`".into());
    }
    if clean != path {
        return Some(format!("expected `{clean}`, found `{path}`"));
    }
    let place = real(path);
    let closed = CLOSED
        .iter()
        .find(|(closed, _)| place == *closed || is_below(&place, closed));
    if let Some((closed, why)) = closed {
        return Some(format!("`{path}` cannot be written: `{closed}` {why}"));
    }
    // The root directory holds what the image brings and takes nothing new: not even what one of its links would give
    // way to.
    let is_open = |open: &&str| is_below(&place, open) || (is_directory && place == **open);
    if OPEN.iter().any(is_open) {
        return None;
    }
    Some(format!(
        "`{path}` cannot be written: on a node only `/etc`, `/var` and what leads there ({}) can; put it there, or into \
         the image with the MachineOSConfig's Containerfile",
        LINKS.map(|(link, _)| format!("`{link}`")).join(", ")
    ))
}

/// Top-level links of ostree hosts, and where they lead: there a path has two names.
const LINKS: [(&str, &str); 6] = [
    ("/home", "/var/home"),
    ("/mnt", "/var/mnt"),
    ("/opt", "/var/opt"),
    ("/root", "/var/roothome"),
    ("/srv", "/var/srv"),
    (USR_LOCAL, "/var/usrlocal"),
];

/// The path with the links of ostree hosts followed, so that two names of one place are equal.
pub(crate) fn real(path: &str) -> Cow<'_, str> {
    for (link, target) in LINKS {
        if is_below(path, link) {
            return Cow::Owned(format!("{target}{}", &path[link.len()..]));
        }
    }
    Cow::Borrowed(path)
}

/// Whether `path` lies below `directory` (and is not `directory` itself). Both are normalised.
pub(super) fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// The absolute path without `.`, `..`, doubled and trailing slashes.
pub(crate) fn normalised(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn usual_paths_pass() {
        for path in [
            "/etc/chrony.conf",
            "/var/mnt/home.map",
            "/usr/local/bin/tool",
            "/opt/x",
            "/etc/a b",
            "/root/.profile",
            "/var/runs/x",
        ] {
            assert_eq!(problem(path, false), None, "{path}");
        }
        for path in ["/etc", "/var", "/srv/data"] {
            assert_eq!(problem(path, true), None, "{path}");
        }
    }

    #[test]
    fn two_names_of_one_place() {
        for (path, expected) in [
            ("/mnt/home/dale", "/var/mnt/home/dale"),
            ("/usr/local/bin/x", "/var/usrlocal/bin/x"),
            ("/root/.profile", "/var/roothome/.profile"),
            ("/rootless", "/rootless"),
            ("/etc/opt/x", "/etc/opt/x"),
        ] {
            assert_eq!(real(path), expected);
        }
    }

    #[test]
    fn others_are_refused() {
        let refused: Vec<String> = [
            "etc/chrony.conf",
            "/",
            "//",
            "/etc/x/../app",
            "/etc//app",
            "/etc/app/",
            "/../../etc/shadow",
            "/etc/a\0b",
            "/usr/bin/tool",
            "/usr/local",
            "/run/x",
            "/lib",
            "/sysroot/ostree",
            "/var/lib/caprock/plan",
            "/var/run/app.pid",
            "/libexec",
            "/data/x",
            "/opt",
            "/media/x",
            "/etc",
        ]
        .into_iter()
        .map(|path| format!("{path:?}: {}", problem(path, false).unwrap()))
        .collect();
        insta::assert_snapshot!(refused.join("\n"));
        assert!(problem(&format!("/etc/{}", "x".repeat(256)), false).is_some());
        for path in ["/data", "/home", "/usr/local"] {
            assert!(problem(path, true).is_some(), "{path}");
        }
    }
}
