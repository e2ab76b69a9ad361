//! `COPY` and `ADD`: finding the files, naming them by their content, and writing them into a root.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use oci::Digest;
use oci::digest::Digester;
use oci::layer;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::user::Users;
use crate::ignore::{self, Ignore};
use crate::root::{Made, Owner, Root, names};
use crate::state::{CopyAction, CopySource};

/// Where files come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a> {
    pub(crate) path: &'a Path,
    pub(crate) ignore: &'a Ignore,
}

/// Why files were not copied.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The author of the Containerfile has to look.
    Refused(String),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Failure::Io(error.into())
    }
}

/// One source of a copy, found.
#[derive(Debug)]
pub(crate) struct Found {
    /// What a file is called below a destination directory.
    name: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Inline(String),
    /// A file and, for a directory, everything in it, parents first.
    Items(Vec<Item>),
}

#[derive(Debug)]
struct Item {
    /// Relative to the source.
    path: PathBuf,
    full: PathBuf,
    metadata: fs::Metadata,
}

/// Finds the sources of a copy.
pub(crate) fn find(action: &CopyAction, tree: Tree<'_>) -> Result<Vec<Found>, Failure> {
    let root = Root::open(tree.path)?;
    let exclude = Ignore::parse(&action.exclude.join("\n"));
    let seen = |path: &Path| {
        let path = path.to_string_lossy();
        !tree.ignore.excludes(&path) && !exclude.excludes(&path)
    };
    let mut found = Vec::new();
    for source in &action.sources {
        let pattern = match source {
            CopySource::Inline { name, content } => {
                found.push(Found {
                    name: name.into(),
                    content: Content::Inline(content.clone()),
                });
                continue;
            }
            CopySource::Path(pattern) => pattern,
        };
        let mut paths = expand(&root, pattern)?;
        let before = paths.len();
        paths.retain(|path| path.as_os_str().is_empty() || seen(path));
        if paths.is_empty() {
            return Err(Failure::Refused(match before {
                0 => format!("there is no `{pattern}` to copy"),
                _ => format!("`{pattern}` is left out by the ignore file or `--exclude`"),
            }));
        }
        for path in paths {
            found.push(read_source(&root, tree, &path, &seen, action.parents)?);
        }
    }
    Ok(found)
}

fn read_source(
    root: &Root,
    tree: Tree<'_>,
    path: &Path,
    seen: &dyn Fn(&Path) -> bool,
    parents: bool,
) -> Result<Found, Failure> {
    // The source itself may be a link, also by way of a linked directory; what is in it is copied as it is.
    let fd = root.resolve(path, OFlags::PATH)?;
    let full = descriptor_path(&fd)?;
    let metadata = fs::symlink_metadata(&full)?;
    let name = if parents {
        path.to_path_buf()
    } else {
        path.file_name().map(PathBuf::from).unwrap_or_default()
    };
    let mut items = Vec::new();
    let directory = metadata.is_dir();
    items.push(Item {
        path: PathBuf::new(),
        full: full.clone(),
        metadata,
    });
    if directory {
        let all = tree.ignore.is_final();
        walk(&full, path, Path::new(""), seen, all, &mut items)?;
    }
    Ok(Found {
        name,
        content: Content::Items(items),
    })
}

fn descriptor_path(fd: &OwnedFd) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Lists a directory. `place` is where it lies in the tree, `inside` where in the source.
fn walk(
    full: &Path,
    place: &Path,
    inside: &Path,
    seen: &dyn Fn(&Path) -> bool,
    prune: bool,
    items: &mut Vec<Item>,
) -> io::Result<()> {
    let mut names: Vec<OsString> = fs::read_dir(full)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let (place, inside, full) = (place.join(&name), inside.join(&name), full.join(&name));
        let metadata = fs::symlink_metadata(&full)?;
        let visible = seen(&place);
        let directory = metadata.is_dir();
        if !visible && (prune || !directory) {
            continue;
        }
        if metadata.file_type().is_socket() {
            continue;
        }
        let at = items.len();
        items.push(Item {
            path: inside.clone(),
            full: full.clone(),
            metadata,
        });
        if directory {
            walk(&full, &place, &inside, seen, prune, items)?;
            // A hidden directory is there only for what is visible in it.
            if !visible && items.len() == at + 1 {
                items.pop();
            }
        }
    }
    Ok(())
}

/// The paths in a tree that fit a pattern, sorted.
fn expand(root: &Root, pattern: &str) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = vec![PathBuf::new()];
    for part in pattern
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        let mut next = Vec::new();
        for path in paths {
            if part == ".." {
                next.push(path.parent().map(Path::to_path_buf).unwrap_or_default());
                continue;
            }
            if !ignore::is_glob(part) {
                let path = path.join(part);
                if root.stat(&path)?.is_some() {
                    next.push(path);
                }
                continue;
            }
            let dir = match root.resolve(&path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(dir) => dir,
                Err(error) if crate::root::absent(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            let fits = names(&dir)?
                .into_iter()
                .filter(|name| ignore::glob(part, &name.to_string_lossy()));
            next.extend(fits.map(|name| path.join(name)));
        }
        paths = next;
    }
    Ok(paths)
}

/// The digest of names, modes and content, for files whose owners and times do not count.
pub(crate) fn digest(found: &[Found]) -> io::Result<Digest> {
    let mut digester = Digester::new();
    let mut field = |bytes: &[u8]| {
        digester.update(&(bytes.len() as u64).to_le_bytes());
        digester.update(bytes);
    };
    for source in found {
        field(source.name.as_os_str().as_bytes());
        let items = match &source.content {
            Content::Inline(text) => {
                field(b"inline");
                field(text.as_bytes());
                continue;
            }
            Content::Items(items) => items,
        };
        for item in items {
            field(item.path.as_os_str().as_bytes());
            let kind = item.metadata.file_type();
            field(&(item.metadata.mode() & 0o7777).to_le_bytes());
            if kind.is_file() {
                field(b"file");
                let mut content = Digester::new();
                io::copy(&mut open(&item.full)?, &mut content)?;
                field(content.finish().to_string().as_bytes());
            } else if kind.is_symlink() {
                field(b"link");
                field(fs::read_link(&item.full)?.as_os_str().as_bytes());
            } else {
                field(if kind.is_dir() {
                    b"directory"
                } else {
                    b"special"
                });
                field(&item.metadata.rdev().to_le_bytes());
            }
        }
        field(b"end");
    }
    Ok(digester.finish())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

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
        mode: action.chmod,
        keep,
        parent: None,
        times: Vec::new(),
    };
    for source in found {
        let into_directory = action.dest.ends_with('/')
            || root
                .stat(dest)?
                .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        let place = if into_directory {
            dest.join(&source.name)
        } else {
            dest.to_path_buf()
        };
        match &source.content {
            Content::Inline(text) => writer.inline(&place, text)?,
            Content::Items(items) => {
                let [first, rest @ ..] = items.as_slice() else {
                    continue;
                };
                if !first.metadata.is_dir() {
                    if action.unpack && writer.archive(dest, first)? {
                        continue;
                    }
                    writer.item(&place, first)?;
                    continue;
                }
                // The content of a directory is copied, not the directory.
                let base = if action.parents {
                    place
                } else {
                    dest.to_path_buf()
                };
                writer.directory(&base, first)?;
                for item in rest {
                    writer.item(&base.join(&item.path), item)?;
                }
            }
        }
    }
    writer.finish()
}

struct Writer<'a> {
    root: &'a Root,
    owner: Option<Owner>,
    mode: Option<u32>,
    keep: bool,
    /// The directory of the last file, which is often that of the next.
    parent: Option<(PathBuf, Made)>,
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

    fn mode_of(&self, metadata: &fs::Metadata) -> u32 {
        self.mode.unwrap_or(metadata.mode() & 0o7777)
    }

    fn item(&mut self, place: &Path, item: &Item) -> Result<(), Failure> {
        let kind = item.metadata.file_type();
        if kind.is_dir() {
            return self.directory(place, item);
        }
        let owner = self.owner_of(&item.metadata);
        let mode = self.mode_of(&item.metadata);
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
            io::copy(&mut from, &mut to)?;
            finish_file(&to, owner, mode)?;
            if keep {
                copy_capabilities(&from, &to)?;
            }
        } else if keep || kind.is_fifo() {
            let kind = FileType::from_raw_mode(item.metadata.mode());
            rustix::fs::mknodat(
                &parent.fd,
                &name,
                kind,
                Mode::from_raw_mode(mode),
                item.metadata.rdev(),
            )?;
            owner.give(&parent.fd, &name)?;
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

    /// Makes a directory as it is in the source. One that is there keeps its owner and mode.
    fn directory(&mut self, place: &Path, item: &Item) -> Result<(), Failure> {
        let made = self.make_dirs(place)?;
        if made.created.last().is_some_and(|dir| dir.path == made.path) {
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
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(self.mode_of(&item.metadata)))?;
            if self.keep {
                self.times.push((dir, time_of(&item.metadata)));
            }
        }
        self.parent = Some((place.to_path_buf(), made));
        Ok(())
    }

    fn inline(&mut self, place: &Path, text: &str) -> Result<(), Failure> {
        let (owner, mode) = (self.owner.unwrap_or_default(), self.mode.unwrap_or(0o644));
        let name = place.file_name().ok_or(Errno::INVAL)?.to_os_string();
        let parent = self.vacate(place)?;
        let mut file = create(&parent.fd, &name)?;
        file.write_all(text.as_bytes())?;
        finish_file(&file, owner, mode)?;
        Ok(())
    }

    /// Unpacks a local archive into a directory; false when the file is not one.
    fn archive(&mut self, dest: &Path, item: &Item) -> Result<bool, Failure> {
        if !item.metadata.is_file() {
            return Ok(false);
        }
        let mut file = open(&item.full)?;
        let media_type = match archive_kind(&mut file)? {
            ArchiveKind::Not => return Ok(false),
            ArchiveKind::Unsupported(name) => {
                let message = format!(
                    "`{}` is compressed with {name}, which `ADD` cannot unpack",
                    item.full.display()
                );
                return Err(Failure::Refused(message));
            }
            ArchiveKind::Tar(media_type) => media_type,
        };
        let made = self.make_dirs(dest)?;
        let options = layer::Options {
            whiteouts: layer::Whiteouts::Apply,
            privilege: layer::Privilege::Full,
            limits: layer::Limits::default(),
        };
        let place = descriptor_path(&made.fd)?;
        layer::unpack(file, media_type, &place, &options).map_err(|error| match error {
            layer::LayerError::Write { source, .. } => Failure::Io(source),
            other => Failure::Refused(format!(
                "archive `{}`: {}",
                item.full.display(),
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
    fn vacate(&mut self, place: &Path) -> Result<&Made, Failure> {
        let parent = place.parent().unwrap_or(Path::new("/"));
        let name = place.file_name().ok_or(Errno::INVAL)?;
        if self.parent.as_ref().is_none_or(|(path, _)| path != parent) {
            self.parent = Some((parent.to_path_buf(), self.make_dirs(parent)?));
        }
        let (_, made) = self.parent.as_ref().ok_or(Errno::INVAL)?;
        match rustix::fs::unlinkat(&made.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(made),
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
    std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))?;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

fn copy_capabilities(from: &File, to: &File) -> io::Result<()> {
    let mut value = [0; 64];
    match rustix::fs::fgetxattr(from, "security.capability", &mut value) {
        Ok(length) => Ok(rustix::fs::fsetxattr(
            to,
            "security.capability",
            &value[..length],
            XattrFlags::empty(),
        )?),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn time_of(metadata: &fs::Metadata) -> Timespec {
    Timespec {
        tv_sec: metadata.mtime(),
        tv_nsec: metadata.mtime_nsec(),
    }
}

enum ArchiveKind {
    Tar(&'static str),
    Unsupported(&'static str),
    Not,
}

/// What kind of archive a file is, by its first bytes; the file is left at its start.
fn archive_kind(file: &mut File) -> io::Result<ArchiveKind> {
    let head = |reader: &mut dyn Read| -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        match reader.take(512).read_to_end(&mut head) {
            // Not what its first bytes promised: an ordinary file.
            Err(error)
                if error.kind() == io::ErrorKind::InvalidData
                    || error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            other => drop(other?),
        }
        Ok(head)
    };
    let is_tar = |head: &[u8]| head.get(257..262) == Some(b"ustar");
    let first = head(file)?;
    file.rewind()?;
    let kind = if is_tar(&first) {
        ArchiveKind::Tar("application/vnd.oci.image.layer.v1.tar")
    } else if first.starts_with(b"\x1f\x8b") {
        match is_tar(&head(&mut flate2::read::MultiGzDecoder::new(&mut *file))?) {
            true => ArchiveKind::Tar("application/vnd.oci.image.layer.v1.tar+gzip"),
            false => ArchiveKind::Not,
        }
    } else if first.starts_with(b"\x28\xb5\x2f\xfd") {
        match is_tar(&head(&mut zstd::Decoder::new(&mut *file)?)?) {
            true => ArchiveKind::Tar("application/vnd.oci.image.layer.v1.tar+zstd"),
            false => ArchiveKind::Not,
        }
    } else if first.starts_with(b"BZh") {
        ArchiveKind::Unsupported("bzip2")
    } else if first.starts_with(b"\xfd7zXZ\0") {
        ArchiveKind::Unsupported("xz")
    } else {
        ArchiveKind::Not
    };
    file.rewind()?;
    Ok(kind)
}

#[cfg(test)]
mod tests;
