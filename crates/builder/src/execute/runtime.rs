//! The container runtime, and what this machine needs so that it starts.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

/// Programs that start a command. Found once, when the first `RUN` needs them.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    crun: PathBuf,
    setpriv: PathBuf,
    unshare: PathBuf,
    mount: PathBuf,
    /// Mount points that the runtime must not see, see [`hybrid_cgroups`].
    hidden: Vec<PathBuf>,
}

impl Runtime {
    /// Finds the programs; `crun` may be given.
    pub(crate) fn find(crun: Option<&Path>) -> io::Result<Runtime> {
        let missing = |name: &str, package: &str| {
            let message =
                format!("`{name}` is not installed; it comes with the package `{package}`");
            io::Error::new(io::ErrorKind::NotFound, message)
        };
        let crun = match crun {
            Some(path) if path.is_file() => path.to_path_buf(),
            Some(path) => {
                let message = format!("there is no OCI runtime `{}`", path.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            None => find("crun").ok_or_else(|| missing("crun", "crun"))?,
        };
        let setpriv = find("setpriv").ok_or_else(|| missing("setpriv", "util-linux"))?;
        let unshare = find("unshare").ok_or_else(|| missing("unshare", "util-linux"))?;
        let mount = find("mount").ok_or_else(|| missing("mount", "mount"))?;
        let hidden = hybrid_cgroups(&std::fs::read_to_string("/proc/self/mountinfo")?);
        Ok(Runtime {
            crun,
            setpriv,
            unshare,
            mount,
            hidden,
        })
    }

    /// The `mount` program.
    pub(crate) fn mount(&self) -> &Path {
        &self.mount
    }

    /// The command that runs a bundle.
    ///
    /// The runtime is the first process of a process namespace of its own that dies with us (`--pdeathsig`,
    /// `--kill-child`), so nothing of a step outlives a builder that is killed. The thread that spawns the command
    /// must wait for it: the kernel takes the death of that thread for ours. Mounts made elsewhere must not be
    /// held by a long step, so their removal is followed (`slave`).
    pub(crate) fn command(&self, bundle: &Path, log: &Path) -> Command {
        let mut command = Command::new(&self.setpriv);
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.unshare);
        command.args([
            "--mount",
            "--propagation",
            "slave",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ]);
        // Its state lies in the bundle, where a runtime that was killed leaves it to be removed with the step.
        command
            .arg(&self.crun)
            .arg("--root")
            .arg(bundle.join("state"));
        // A step has no limits of its own, and stopping it does not need a cgroup.
        command
            .arg("--cgroup-manager=disabled")
            .arg("--log-format=json")
            .arg("--log")
            .arg(log);
        command.arg("run").arg("--bundle").arg(bundle).arg("step");
        command
    }

    /// Takes away from the calling thread, and from what it starts, the mounts that the runtime must not see. The
    /// thread should do nothing else afterwards.
    pub(crate) fn hide_mounts(&self) -> io::Result<()> {
        if self.hidden.is_empty() {
            return Ok(());
        }
        // SAFETY: descriptors, whose table must not be taken from other threads, stay shared.
        #[expect(unsafe_code)]
        unsafe {
            rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)?;
        }
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", slave)?;
        for place in &self.hidden {
            rustix::mount::unmount(place, UnmountFlags::DETACH)?;
        }
        Ok(())
    }
}

/// Looks a program up in `PATH`, and where services with a short one have it.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.extend(
        ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"]
            .map(|dir| PathBuf::from(OsString::from(dir))),
    );
    dirs.into_iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// The cgroup v2 mounts of a machine that has v1 as well: `crun` refuses such a mixture, and is content with v1
/// when it does not see them.
fn hybrid_cgroups(mountinfo: &str) -> Vec<PathBuf> {
    let mut unified = Vec::new();
    let mut legacy = false;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        match (after.split(' ').next(), before.split(' ').nth(4)) {
            (Some("cgroup2"), Some(point)) => unified.push(PathBuf::from(point)),
            (Some("cgroup"), _) => legacy = true,
            _ => {}
        }
    }
    if legacy { unified } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_mounts_are_hidden_on_hybrid_machines_only() {
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        let unified =
            "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:1 - cgroup2 cgroup2 rw\n";
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            hybrid_cgroups(&format!("{v1}{unified}")),
            [PathBuf::from("/sys/fs/cgroup/unified")]
        );
        assert_eq!(hybrid_cgroups(v2), Vec::<PathBuf>::new());
        assert_eq!(hybrid_cgroups(v1), Vec::<PathBuf>::new());
    }
}
