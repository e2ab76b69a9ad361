//! The OCI runtime configuration of one `RUN`. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::seccomp;
use super::user::User;

/// What package managers' scripts expect. Docker's `CAP_MKNOD` and `CAP_NET_RAW` are missing: a step has no device
/// cgroup that would make the one harmless, and it shares the host's network, where the other could listen.
const CAPABILITIES: [&str; 12] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A file or directory of the host that the command sees.
#[derive(Debug, Clone)]
pub(super) struct Bind {
    pub(super) source: std::path::PathBuf,
    pub(super) target: String,
    pub(super) readonly: bool,
}

/// A fresh memory file system.
#[derive(Debug, Clone)]
pub(super) struct Tmpfs {
    pub(super) target: String,
    pub(super) size: Option<u64>,
}

/// Everything that differs from one command to the next.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) root: &'a Path,
    /// The `mount` program.
    pub(super) mount: &'a Path,
    pub(super) args: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) cwd: &'a str,
    pub(super) user: &'a User,
    pub(super) offline: bool,
    pub(super) binds: &'a [Bind],
    pub(super) tmpfs: &'a [Tmpfs],
}

/// The host name that commands see: a constant, so that it cannot make two builds differ.
pub(super) const HOSTNAME: &str = "build";

/// Builds `config.json`.
pub(super) fn spec(step: &Step<'_>) -> Value {
    let env: Vec<String> = step
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let held: &[&str] = if step.user.owner.uid == 0 {
        &CAPABILITIES
    } else {
        &[]
    };
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if step.offline {
        namespaces.push("network");
    }
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
    ];
    for tmpfs in step.tmpfs {
        let mut options = vec!["nosuid".to_string(), "nodev".into(), "mode=1777".into()];
        options.extend(tmpfs.size.map(|size| format!("size={size}")));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        mounts.push(mount(&tmpfs.target, "tmpfs", "tmpfs", &options));
    }
    for bind in step.binds {
        let access = if bind.readonly { "ro" } else { "rw" };
        mounts.push(mount(
            &bind.target,
            "bind",
            &bind.source.to_string_lossy(),
            &["bind", "private", "nodev", access],
        ));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {
                "uid": step.user.owner.uid,
                "gid": step.user.owner.gid,
                "additionalGids": step.user.groups,
                "umask": 0o022,
            },
            "args": step.args,
            "env": env,
            "cwd": step.cwd,
            "noNewPrivileges": false,
            "capabilities": { "bounding": CAPABILITIES, "effective": held, "permitted": held },
        },
        "root": { "path": step.root, "readonly": false },
        "hostname": HOSTNAME,
        // A device in an image is data; opened, it would be the host's. The runtime mounts the root anew without
        // the `nodev` that it had, so that is put back before the command starts.
        "hooks": {
            "createContainer": [{
                "path": "/bin/sh",
                // The runtime writes to its standard input, and takes it ill when nobody reads that.
                "args": ["sh", "-c", "while read -r _; do :; done; exec \"$0\" -n -o remount,bind,nodev \"$1\"", step.mount, step.root],
            }],
        },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ],
            "seccomp": seccomp::seccomp(),
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::Owner;

    #[test]
    fn a_user_holds_no_capabilities_and_offline_means_its_own_network() {
        let step = |uid, offline| {
            let user = User {
                owner: Owner { uid, gid: 7 },
                groups: vec![8],
                home: "/".into(),
            };
            spec(&Step {
                root: Path::new("/r"),
                mount: Path::new("/usr/bin/mount"),
                args: &["true".into()],
                env: &BTreeMap::from([("A".into(), "1".into())]),
                cwd: "/",
                user: &user,
                offline,
                binds: &[Bind {
                    source: "/s".into(),
                    target: "/t".into(),
                    readonly: true,
                }],
                tmpfs: &[Tmpfs {
                    target: "/m".into(),
                    size: Some(1024),
                }],
            })
        };
        let mut first = step(0, false);
        // A long list, which has a test of its own.
        first["linux"]["seccomp"] = json!(null);
        insta::assert_snapshot!(serde_json::to_string_pretty(&first).unwrap_or_default());
        let other = step(1000, true);
        assert_eq!(other["process"]["capabilities"]["effective"], json!([]));
        assert_eq!(other["linux"]["namespaces"][4], json!({"type": "network"}));
    }
}
