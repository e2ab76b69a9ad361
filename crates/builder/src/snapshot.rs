//! The file system of a step: layers stacked by overlayfs, with a fresh layer on top for what changes.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::cache::Cache;
use crate::session::Scratch;

/// What container tools allow in one image; the mount options of so many layers fit into one page.
pub(crate) const MAX_LAYERS: usize = 127;

/// A mounted stack of layers. Dropping it unmounts and removes everything that was not taken.
#[derive(Debug)]
pub(crate) struct Snapshot {
    scratch: Scratch,
    mounted: bool,
}

impl Snapshot {
    /// Mounts `layers` (lowest first) below a fresh layer.
    pub(crate) fn writable(cache: &Cache, layers: &[PathBuf]) -> io::Result<Snapshot> {
        Snapshot::mount(cache, layers, true)
    }

    /// Mounts `layers` (lowest first) for reading.
    pub(crate) fn readonly(cache: &Cache, layers: &[PathBuf]) -> io::Result<Snapshot> {
        Snapshot::mount(cache, layers, false)
    }

    fn mount(cache: &Cache, layers: &[PathBuf], writable: bool) -> io::Result<Snapshot> {
        if layers.len() > MAX_LAYERS {
            let message = format!(
                "an image can have at most {MAX_LAYERS} layers, this one has {}",
                layers.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let scratch = cache.scratch()?;
        let root = scratch.path.join("root");
        fs::create_dir(&root)?;
        // Overlayfs wants a lower directory below an upper one, and two of them without; these hide nothing.
        let needed = if writable { 1usize } else { 2 };
        let missing = needed.saturating_sub(layers.len());
        let empty: Vec<PathBuf> = (0..missing)
            .map(|number| cache.empty(number))
            .collect::<io::Result<_>>()?;
        let lower = layers.iter().rev().chain(&empty);
        // Paths go through descriptors, so that the options fit into one page whatever the paths are.
        let open = |dir: &Path| -> io::Result<OwnedFd> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(CWD, dir, flags, Mode::empty())?)
        };
        let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let lower: Vec<OwnedFd> = lower.map(|dir| open(dir)).collect::<io::Result<_>>()?;
        let paths: Vec<String> = lower.iter().map(path).collect();
        let mut options = format!(
            "lowerdir={},{}",
            paths.join(":"),
            cache.superuser().overlay_options()
        );
        let mut flags = MountFlags::NODEV;
        let mut held = Vec::new();
        if writable {
            let (upper, work) = (scratch.path.join("upper"), scratch.path.join("work"));
            fs::create_dir(&upper)?;
            fs::create_dir(&work)?;
            let mut mode = 0o755;
            if let Some(top) = layers.last() {
                // The top layer gives the root directory its owner and mode.
                let metadata = fs::metadata(top)?;
                std::os::unix::fs::chown(&upper, Some(metadata.uid()), Some(metadata.gid()))?;
                mode = metadata.mode() & 0o7777;
            }
            fs::set_permissions(&upper, fs::Permissions::from_mode(mode))?;
            held.extend([open(&upper)?, open(&work)?]);
            // What a crash could tear is thrown away anyway, so nothing needs to be synced.
            options += &format!(
                ",upperdir={},workdir={},volatile",
                path(&held[0]),
                path(&held[1])
            );
        } else {
            flags |= MountFlags::RDONLY;
        }
        mount_overlay(&root, flags, &options)?;
        Ok(Snapshot {
            scratch,
            mounted: true,
        })
    }

    /// The root of the stack.
    pub(crate) fn root(&self) -> PathBuf {
        self.scratch.path.join("root")
    }

    /// A directory beside the root for whatever the step needs.
    pub(crate) fn aside(&self, name: &str) -> PathBuf {
        self.scratch.path.join(name)
    }

    /// Unmounts; what changed is then in [`Snapshot::upper`].
    pub(crate) fn unmount(&mut self) -> io::Result<()> {
        if self.mounted {
            for path in mounts_below(&self.scratch.path)?.iter().rev() {
                rustix::mount::unmount(path, UnmountFlags::DETACH)?;
            }
            self.mounted = false;
        }
        Ok(())
    }

    /// The fresh layer.
    pub(crate) fn upper(&self) -> PathBuf {
        self.scratch.path.join("upper")
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::warn!(path = %self.scratch.path.display(), %error, "cannot unmount; the next start will");
        }
    }
}

fn mount_overlay(target: &Path, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    let mounted = rustix::mount::mount(
        "overlay",
        target,
        "overlay",
        flags,
        Some(options.as_c_str()),
    );
    mounted.map_err(|errno| {
        let hint = match errno {
            Errno::INVAL => " (the cache directory must lie on a file system that can be written by overlayfs, such as ext4 or xfs, and not on another overlay; in a user namespace it takes Linux 5.11)",
            Errno::NODEV => " (the kernel has no overlayfs)",
            Errno::PERM => " (it takes the capability CAP_SYS_ADMIN)",
            _ => "",
        };
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("overlayfs: {error}{hint}"))
    })
}

/// The mount points of this mount namespace that lie below a directory, in the order they were mounted.
pub(crate) fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(mount_points(&table)
        .filter(|point| point.starts_with(dir))
        .collect())
}

/// The fifth field of each line of a mount table, with its escapes resolved.
fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        let mut point = Vec::with_capacity(field.len());
        let mut at = 0;
        while at < field.len() {
            let octal = field.get(at + 1..at + 4).and_then(|digits| {
                let text = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(text, 8).ok()
            });
            match octal {
                Some(byte) if field[at] == b'\\' => {
                    point.push(byte);
                    at += 4;
                }
                _ => {
                    point.push(field[at]);
                    at += 1;
                }
            }
        }
        Some(PathBuf::from(std::ffi::OsString::from_vec(point)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let table = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /a\\040b\\134c rw - x x rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(
            points,
            [PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/a b\\c")]
        );
    }
}
