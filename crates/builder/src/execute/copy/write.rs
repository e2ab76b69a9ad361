//! Writing what was found into a root.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use oci::layer;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::archive::Archive;
use super::{BUFFER, Content, Failure, Found, Item, descriptor_path, open, pour};
use crate::commit;
use crate::execute::user::Users;
use crate::root::{Made, Owner, Root};
use crate::state::{Chmod, CopyAction, Unpack};

/// Copies what was found into a root. With `keep`, owners, times and attributes belong to the files (of a stage or
/// an image) and are kept; those of a build context belong to the machine it lies on.
pub(crate) fn apply(
    action: &CopyAction,
    found: &[Found],
    keep: bool,
    root: &Root,
) -> Result<(), Failure> {
    let users = Users::read(root)?;
    let owner = action
        .chown
        .as_deref()
        .map(|text| users.owner(text))
        .transpose()
        .map_err(Failure::Refused)?;
    let dest = Path::new(&action.dest);
    let mut writer = Writer {
        root,
        owner,
        chmod: action.chmod.as_ref(),
        keep,
        parent: None,
        links: HashMap::new(),
        buffer: vec![0; BUFFER],
        times: Vec::new(),
    };
    for source in found {
        let into_directory = action.parents
            || action.dest.ends_with('/')
            || root
                .stat(dest)?
                .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        let place = if into_directory {
            dest.join(&source.name)
        } else {
            dest.to_path_buf()
        };
        match &source.content {
            Content::Inline(text) => {
                let mode = writer.mode_of(0o644, false);
                writer.file(&place, &mut text.as_bytes(), mode)?;
            }
            Content::Fetched { path, .. } => {
                if action.unpack == Unpack::All && writer.archive(dest, path)? {
                    continue;
                }
                // What comes from elsewhere is nobody else's to read.
                let mode = writer.mode_of(0o600, false);
                writer.file(&place, &mut open(path)?, mode)?;
            }
            Content::Items(items) => {
                let [first, rest @ ..] = items.as_slice() else {
                    continue;
                };
                for parent in &source.parents {
                    writer.directory(&dest.join(&parent.path), parent, Existing::Keep)?;
                }
                if !first.metadata.is_dir() {
                    if action.unpack != Unpack::None
                        && first.metadata.is_file()
                        && writer.archive(dest, &first.full)?
                    {
                        continue;
                    }
                    writer.item(&place, first)?;
                    continue;
                }
                let base = if action.parents && !source.name.as_os_str().is_empty() {
                    writer.directory(&place, first, Existing::Change)?;
                    place
                } else {
                    // The content of a directory is copied, not the directory.
                    writer.destination(dest)?;
                    dest.to_path_buf()
                };
                for item in rest {
                    writer.item(&base.join(&item.path), item)?;
                }
            }
        }
    }
    writer.finish()
}

/// What becomes of owner and mode of a directory that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Change,
}

struct Writer<'a> {
    root: &'a Root,
    owner: Option<Owner>,
    chmod: Option<&'a Chmod>,
    keep: bool,
    /// The directory of the last file, which is often that of the next.
    parent: Option<(PathBuf, Rc<Made>)>,
    /// Where files lie that have several names in their source, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// What content goes through.
    buffer: Vec<u8>,
    /// Times of new directories, set when nothing is written into them any more.
    times: Vec<(OwnedFd, Timespec)>,
}

impl Writer<'_> {
    fn owner_of(&self, metadata: &fs::Metadata) -> Owner {
        let own = Owner {
            uid: metadata.uid(),
            gid: metadata.gid(),
        };
        self.owner
            .unwrap_or(if self.keep { own } else { Owner::default() })
    }

    fn mode_of(&self, mode: u32, directory: bool) -> u32 {
        match self.chmod {
            Some(chmod) => chmod.apply(mode, directory),
            None => mode & 0o7777,
        }
    }

    fn item(&mut self, place: &Path, item: &Item) -> Result<(), Failure> {
        let kind = item.metadata.file_type();
        if kind.is_dir() {
            return self.directory(place, item, Existing::Change);
        }
        if kind.is_file() && self.keep && self.linked(place, item)? {
            return Ok(());
        }
        let owner = self.owner_of(&item.metadata);
        let mode = self.mode_of(item.metadata.mode(), false);
        let keep = self.keep;
        let name = place.file_name().ok_or(Errno::INVAL)?.to_os_string();
        let parent = self.vacate(place)?;
        if kind.is_symlink() {
            let target = fs::read_link(&item.full)?;
            rustix::fs::symlinkat(&target, &parent.fd, &name)?;
            owner.give(&parent.fd, &name)?;
        } else if kind.is_file() {
            let mut from = open(&item.full)?;
            let mut to = create(&parent.fd, &name)?;
            pour(&mut from, &mut to, &mut self.buffer)?;
            finish_file(&to, owner, mode)?;
            if keep {
                copy_attributes(&item.full, &to)?;
            }
        } else if keep || kind.is_fifo() {
            let kind = FileType::from_raw_mode(item.metadata.mode());
            rustix::fs::mknodat(
                &parent.fd,
                &name,
                kind,
                Mode::from_raw_mode(mode),
                item.metadata.rdev(),
            )
            .map_err(|errno| match errno {
                Errno::PERM => Failure::Refused(format!(
                    "`{}` is a device, which takes the superuser of the machine",
                    place.display()
                )),
                errno => errno.into(),
            })?;
            owner.give(&parent.fd, &name)?;
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::chmodat(&parent.fd, &name, mode, AtFlags::empty())?;
        } else {
            return Err(Failure::Refused(format!(
                "`{}` is a device",
                place.display()
            )));
        }
        if keep {
            let time = time_of(&item.metadata);
            let both = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(&parent.fd, &name, &both, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Makes another name for a file that was copied already; false when it is the first of its names.
    fn linked(&mut self, place: &Path, item: &Item) -> Result<bool, Failure> {
        if item.metadata.nlink() < 2 {
            return Ok(false);
        }
        let identity = (item.metadata.dev(), item.metadata.ino());
        let Some(first) = self.links.get(&identity).cloned() else {
            self.links.insert(identity, place.to_path_buf());
            return Ok(false);
        };
        let above = first.parent().unwrap_or(Path::new("/"));
        let above = self.root.resolve(above, OFlags::PATH | OFlags::DIRECTORY)?;
        let old = first.file_name().ok_or(Errno::INVAL)?;
        let name = place.file_name().ok_or(Errno::INVAL)?.to_os_string();
        let parent = self.vacate(place)?;
        match rustix::fs::linkat(&above, old, &parent.fd, &name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Something else was copied over it since.
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sees to it that there is a directory to copy into. It has nothing of the directory that is copied.
    fn destination(&mut self, place: &Path) -> Result<(), Failure> {
        let made = self.make_dirs(place)?;
        self.parent = Some((place.to_path_buf(), Rc::new(made)));
        Ok(())
    }

    /// Makes a directory as it is in the source.
    fn directory(&mut self, place: &Path, item: &Item, existing: Existing) -> Result<(), Failure> {
        let made = self.make_dirs(place)?;
        let new = made.created.last().is_some_and(|dir| dir.path == made.path);
        if new || existing == Existing::Change {
            use std::os::fd::AsRawFd as _;
            let dir = rustix::fs::openat(
                &made.fd,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let owner = self.owner_of(&item.metadata);
            let path = format!("/proc/self/fd/{}/.", dir.as_raw_fd());
            owner.give(rustix::fs::CWD, path)?;
            let mode = self.mode_of(item.metadata.mode(), true);
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
            if self.keep {
                copy_attributes(&item.full, &dir)?;
                self.times.push((dir, time_of(&item.metadata)));
            }
        }
        self.parent = Some((place.to_path_buf(), Rc::new(made)));
        Ok(())
    }

    fn file(&mut self, place: &Path, from: &mut dyn Read, mode: u32) -> Result<(), Failure> {
        let owner = self.owner.unwrap_or_default();
        let name = place.file_name().ok_or(Errno::INVAL)?.to_os_string();
        let parent = self.vacate(place)?;
        let mut file = create(&parent.fd, &name)?;
        pour(from, &mut file, &mut self.buffer)?;
        finish_file(&file, owner, mode)?;
        Ok(())
    }

    /// Unpacks an archive into a directory; false when the file is not one.
    fn archive(&mut self, dest: &Path, path: &Path) -> Result<bool, Failure> {
        let Some(archive) = Archive::open(open(path)?)? else {
            return Ok(false);
        };
        let made = self.make_dirs(dest)?;
        let options = layer::Options {
            whiteouts: layer::Whiteouts::Apply,
            privilege: layer::Privilege::Full,
            limits: layer::Limits::default(),
        };
        let place = descriptor_path(&made.fd)?;
        archive
            .unpack(&place, &options)
            .map_err(|error| match error {
                layer::LayerError::Write { source, .. } => Failure::Io(source),
                other => Failure::Refused(format!(
                    "archive `{}`: {}",
                    path.display(),
                    crate::error::chain(&other)
                )),
            })?;
        Ok(true)
    }

    fn make_dirs(&self, place: &Path) -> Result<Made, Failure> {
        let made = self.root.make_dirs(place, self.owner.unwrap_or_default());
        made.map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::NOTDIR.raw_os_error() => {
                Failure::Refused(format!("`{}` is not a directory", place.display()))
            }
            Some(code) if code == Errno::LOOP.raw_os_error() => {
                Failure::Refused(format!("`{}` has too many symbolic links", place.display()))
            }
            _ => Failure::Io(error),
        })
    }

    /// Opens the directory of a file to be, and removes what is in the file's place.
    fn vacate(&mut self, place: &Path) -> Result<Rc<Made>, Failure> {
        let parent = place.parent().unwrap_or(Path::new("/"));
        let name = place.file_name().ok_or(Errno::INVAL)?;
        if self.parent.as_ref().is_none_or(|(path, _)| path != parent) {
            self.parent = Some((parent.to_path_buf(), Rc::new(self.make_dirs(parent)?)));
        }
        let (_, made) = self.parent.as_ref().ok_or(Errno::INVAL)?;
        match rustix::fs::unlinkat(&made.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(made.clone()),
            Err(Errno::ISDIR) => Err(Failure::Refused(format!(
                "`{}` is a directory, which a file cannot replace",
                place.display()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        for (dir, time) in self.times.iter().rev() {
            rustix::fs::futimens(
                dir,
                &Timestamps {
                    last_access: *time,
                    last_modification: *time,
                },
            )?;
        }
        Ok(())
    }
}

fn create(dir: &OwnedFd, name: &std::ffi::OsStr) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?))
}

/// Owner first: changing it takes set-user-id bits away.
fn finish_file(file: &File, owner: Owner, mode: u32) -> io::Result<()> {
    owner.give_file(file)?;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

fn copy_attributes(from: &Path, to: impl AsFd) -> io::Result<()> {
    for (name, value) in commit::attributes(from)? {
        rustix::fs::fsetxattr(&to, name, &value, XattrFlags::empty())?;
    }
    Ok(())
}

fn time_of(metadata: &fs::Metadata) -> Timespec {
    Timespec {
        tv_sec: metadata.mtime(),
        tv_nsec: metadata.mtime_nsec(),
    }
}
