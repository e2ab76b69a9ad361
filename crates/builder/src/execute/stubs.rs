//! Places to mount on. A step's mounts need files and directories that the image may not have; what is made
//! for them must not end up in the layer.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::root::{Owner, Root, modified};

/// What was made in a root, to be removed after the step.
#[derive(Debug, Default)]
pub(super) struct Stubs {
    made: Vec<Stub>,
}

#[derive(Debug)]
struct Stub {
    /// Relative to the root, without links in it.
    path: PathBuf,
    file: bool,
    /// The time of the directory that it was made in, before and after.
    before: Timespec,
    after: Timespec,
}

impl Stubs {
    /// Sees to it that there is a directory.
    pub(super) fn directory(&mut self, root: &Root, path: &Path) -> io::Result<()> {
        if root.stat(path)?.is_none() {
            self.make_dirs(root, path)?;
        }
        Ok(())
    }

    /// Sees to it that there is a file, where a link points too.
    pub(super) fn file(&mut self, root: &Root, path: &Path) -> io::Result<()> {
        if root.stat(path)?.is_some() {
            return Ok(());
        }
        let mut path = path.to_path_buf();
        for _ in 0..40 {
            let name = path.file_name().ok_or(Errno::INVAL)?.to_os_string();
            let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
            let (dir, real) = self.make_dirs(root, &parent)?;
            match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    use std::os::unix::ffi::OsStringExt as _;
                    let target = rustix::fs::readlinkat(&dir, &name, Vec::new())?.into_bytes();
                    path = real.join(PathBuf::from(std::ffi::OsString::from_vec(target)));
                }
                Ok(_) => return Ok(()),
                Err(Errno::NOENT) => {
                    let before = modified(&rustix::fs::fstat(&dir)?);
                    let flags = OFlags::CREATE
                        | OFlags::EXCL
                        | OFlags::WRONLY
                        | OFlags::NOFOLLOW
                        | OFlags::CLOEXEC;
                    rustix::fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o644))?;
                    let after = modified(&rustix::fs::fstat(&dir)?);
                    self.made.push(Stub {
                        path: real.join(name),
                        file: true,
                        before,
                        after,
                    });
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::LOOP.into())
    }

    fn make_dirs(&mut self, root: &Root, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let made = root.make_dirs(path, Owner::default())?;
        for dir in made.created {
            self.made.push(Stub {
                path: dir.path,
                file: false,
                before: dir.before,
                after: dir.after,
            });
        }
        Ok((made.fd, made.path))
    }

    /// Removes what was made and is still as it was made, and gives the directories around it their time back
    /// unless the step changed them too.
    pub(super) fn remove(self, root: &Root) -> io::Result<()> {
        for stub in self.made.iter().rev() {
            let parent = stub.path.parent().unwrap_or(Path::new(""));
            let name = stub.path.file_name().ok_or(Errno::INVAL)?;
            // The step may have removed or replaced anything.
            let dir = match root.resolve(parent, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(dir) => dir,
                Err(error) if crate::root::absent(&error) => continue,
                Err(error) => return Err(error),
            };
            let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let untouched = match stub.file {
                true => kind == FileType::RegularFile && stat.st_size == 0,
                false => kind == FileType::Directory,
            };
            if !untouched {
                continue;
            }
            let now = modified(&rustix::fs::fstat(&dir)?);
            let flags = if stub.file {
                AtFlags::empty()
            } else {
                AtFlags::REMOVEDIR
            };
            match rustix::fs::unlinkat(&dir, name, flags) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY) => continue,
                Err(error) => return Err(error.into()),
            }
            let time = if now == stub.after { stub.before } else { now };
            set_mtime(&dir, time)?;
        }
        Ok(())
    }
}

fn set_mtime(dir: &OwnedFd, time: Timespec) -> io::Result<()> {
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(dir, &times)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn privileged_what_was_made_is_removed_and_leaves_no_time() {
        // Directories are made for the superuser, which takes being it.
        if std::env::var("CAPROCK_TEST_PRIVILEGED").as_deref() != Ok("1") {
            eprintln!("skipped: CAPROCK_TEST_PRIVILEGED is not 1");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir(at("etc")).unwrap();
        symlink("../run/stub/resolv.conf", at("etc/resolv.conf")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let before = std::fs::metadata(at("etc")).unwrap().modified().unwrap();
        let mut stubs = Stubs::default();
        stubs.file(&root, Path::new("/etc/resolv.conf")).unwrap();
        stubs.file(&root, Path::new("/etc/hosts")).unwrap();
        stubs.directory(&root, Path::new("/var/cache/apt")).unwrap();
        stubs.directory(&root, Path::new("/etc")).unwrap();
        assert!(at("run/stub/resolv.conf").is_file());
        std::fs::write(at("var/kept"), "x").unwrap();
        stubs.remove(&root).unwrap();
        let left: Vec<_> = crate::root::names(&root).unwrap();
        assert_eq!(left, ["etc", "var"]);
        assert_eq!(
            crate::root::names(std::fs::File::open(at("etc")).unwrap()).unwrap(),
            ["resolv.conf"]
        );
        assert_eq!(
            crate::root::names(std::fs::File::open(at("var")).unwrap()).unwrap(),
            ["kept"]
        );
        assert_eq!(
            std::fs::metadata(at("etc")).unwrap().modified().unwrap(),
            before
        );
    }
}
