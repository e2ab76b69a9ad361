//! `COPY` and `ADD`: finding the files and naming them by their content; `write` puts them into a root.

mod archive;
mod write;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;

use oci::Digest;
use oci::digest::Digester;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::compress::workers;
use crate::ignore::{self, Ignore};
use crate::root::{Root, names};
use crate::state::{CopyAction, CopySource};

pub(crate) use write::apply;

/// Files that are not worth another thread.
const FEW: usize = 64;
/// Bytes of a file that are read at once.
const BUFFER: usize = 256 << 10;

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
    /// With `--parents`, the directories of that name.
    parents: Vec<Item>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Inline(String),
    /// A file and, for a directory, everything in it, parents first.
    Items(Vec<Item>),
    /// A file that was fetched.
    Fetched {
        path: PathBuf,
        digest: Digest,
    },
}

/// What a remote source is on this machine.
#[derive(Debug)]
pub(crate) enum Fetched {
    File { path: PathBuf, digest: Digest },
    Tree { path: PathBuf },
}

#[derive(Debug)]
struct Item {
    /// Relative to the source.
    path: PathBuf,
    full: PathBuf,
    metadata: fs::Metadata,
}

/// Finds the sources of a copy; `fetch` gets those that are remote.
pub(crate) fn find(
    action: &CopyAction,
    tree: Tree<'_>,
    fetch: &mut dyn FnMut(&CopySource) -> Result<Fetched, Failure>,
) -> Result<Vec<Found>, Failure> {
    let root = Root::open(tree.path)?;
    let exclude = Ignore::parse(&action.exclude.join("\n"));
    let seen = Seen {
        ignore: tree.ignore,
        exclude: &exclude,
    };
    let mut found = Vec::new();
    for source in &action.sources {
        let pattern = match source {
            CopySource::Inline { name, content } => {
                found.push(Found {
                    name: name.into(),
                    parents: Vec::new(),
                    content: Content::Inline(content.clone()),
                });
                continue;
            }
            CopySource::Url { name, url, .. } => {
                if name.is_empty() && action.dest.ends_with('/') {
                    return Err(Failure::Refused(format!(
                        "`{url}` does not end with a file name, so the destination must be one"
                    )));
                }
                found.push(remote(fetch(source)?, Path::new(name), action)?);
                continue;
            }
            CopySource::Git(git) => {
                let directory = git.directory.as_deref().unwrap_or_default();
                found.push(remote(fetch(source)?, Path::new(directory), action)?);
                continue;
            }
            CopySource::Path(pattern) => pattern,
        };
        let paths = expand(&root, pattern)?;
        let before = found.len();
        for path in &paths {
            let mut source = read_source(&root, path, seen)?;
            if action.parents {
                keep_parents(&mut source, &root, path, dropped(pattern))?;
            }
            // A directory that is left out is still there for what is visible in it.
            let hidden = !path.as_os_str().is_empty() && !seen.sees(path, &source.own_name());
            if !(hidden && matches!(&source.content, Content::Items(items) if items.len() == 1)) {
                found.push(source);
            }
        }
        if found.len() == before {
            return Err(Failure::Refused(match paths.is_empty() {
                true => format!("there is no `{pattern}` to copy"),
                false => format!("`{pattern}` is left out by the ignore file or `--exclude`"),
            }));
        }
    }
    Ok(found)
}

/// What was fetched, as a source: a file of that name, or the directory of that name in a tree.
fn remote(fetched: Fetched, name: &Path, action: &CopyAction) -> Result<Found, Failure> {
    match fetched {
        Fetched::File { path, digest } => Ok(Found {
            name: name.to_path_buf(),
            parents: Vec::new(),
            content: Content::Fetched { path, digest },
        }),
        Fetched::Tree { path } => {
            let keeps =
                |source: &CopySource| matches!(source, CopySource::Git(git) if git.keep_git_dir);
            let hidden = match action.sources.iter().any(keeps) {
                true => "",
                false => "**/.git",
            };
            let seen = Seen {
                ignore: &Ignore::parse(hidden),
                exclude: &Ignore::parse(&action.exclude.join("\n")),
            };
            let mut source =
                read_source(&Root::open(&path)?, name, seen).map_err(|failure| match failure {
                    Failure::Refused(_) => Failure::Refused(format!(
                        "the repository has no directory `{}`",
                        name.display()
                    )),
                    other => other,
                })?;
            source.name = PathBuf::new();
            Ok(source)
        }
    }
}

/// How many directories of a path that fits a pattern are not kept with `--parents`: those before `/./`.
fn dropped(pattern: &str) -> usize {
    let before = pattern.find("/./").map_or("", |at| &pattern[..at]);
    before.split('/').fold(0, |depth: usize, part| match part {
        "" | "." => depth,
        ".." => depth.saturating_sub(1),
        _ => depth + 1,
    })
}

/// Gives a source its path as a name, without the first directories, and the directories in it.
fn keep_parents(
    source: &mut Found,
    root: &Root,
    path: &Path,
    dropped: usize,
) -> Result<(), Failure> {
    source.name = path.components().skip(dropped).collect();
    let above: PathBuf = path.components().take(dropped).collect();
    let mut parents: Vec<&Path> = source.name.ancestors().skip(1).collect();
    parents.pop();
    for parent in parents.into_iter().rev() {
        let fd = root.resolve(&above.join(parent), OFlags::PATH)?;
        let full = descriptor_path(&fd)?;
        source.parents.push(Item {
            path: parent.to_path_buf(),
            metadata: fs::symlink_metadata(&full)?,
            full,
        });
    }
    Ok(())
}

/// What of a tree a copy sees.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    ignore: &'a Ignore,
    exclude: &'a Ignore,
}

impl Seen<'_> {
    /// Whether a file is copied, by its place in the tree and by its place in the source that is a directory: builders
    /// differ in which of the two `--exclude` is about.
    fn sees(&self, place: &Path, inside: &Path) -> bool {
        let (place, inside) = (place.to_string_lossy(), inside.to_string_lossy());
        !self.ignore.excludes(&place)
            && !self.exclude.excludes(&place)
            && !self.exclude.excludes(&inside)
    }

    /// Whether nothing below a directory that is left out can be seen.
    fn is_final(&self) -> bool {
        self.ignore.is_final() && self.exclude.is_final()
    }
}

impl Found {
    /// What `--exclude` may say of a source that is a file.
    fn own_name(&self) -> PathBuf {
        match &self.content {
            Content::Items(items) if !items[0].metadata.is_dir() => {
                self.name.file_name().map(PathBuf::from).unwrap_or_default()
            }
            _ => PathBuf::new(),
        }
    }
}

fn read_source(root: &Root, path: &Path, seen: Seen<'_>) -> Result<Found, Failure> {
    // The source itself may be a link, also by way of a linked directory; what is in it is copied as it is.
    let fd =
        root.resolve(path, OFlags::PATH)
            .map_err(|error| match crate::root::absent(&error) {
                true => Failure::Refused(format!("`{}` is a link to nothing", path.display())),
                false => Failure::Io(error),
            })?;
    let full = descriptor_path(&fd)?;
    let metadata = fs::symlink_metadata(&full)?;
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let mut items = Vec::new();
    let directory = metadata.is_dir();
    items.push(Item {
        path: PathBuf::new(),
        full: full.clone(),
        metadata,
    });
    if directory {
        walk(&full, path, Path::new(""), seen, &mut items)?;
    }
    Ok(Found {
        name,
        parents: Vec::new(),
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
    seen: Seen<'_>,
    items: &mut Vec<Item>,
) -> io::Result<()> {
    let mut names: Vec<OsString> = fs::read_dir(full)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let (place, inside, full) = (place.join(&name), inside.join(&name), full.join(&name));
        let metadata = fs::symlink_metadata(&full)?;
        let visible = seen.sees(&place, &inside);
        let directory = metadata.is_dir();
        if !visible && (seen.is_final() || !directory) {
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
            walk(&full, &place, &inside, seen, items)?;
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
    let mut contents = file_digests(found)?.into_iter();
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
            Content::Fetched { digest, .. } => {
                field(b"fetched");
                field(digest.to_string().as_bytes());
                continue;
            }
            Content::Items(items) => items,
        };
        for item in source.parents.iter().chain(items) {
            field(item.path.as_os_str().as_bytes());
            let kind = item.metadata.file_type();
            field(&(item.metadata.mode() & 0o7777).to_le_bytes());
            if kind.is_file() {
                field(b"file");
                let content = contents.next().expect("every file has a digest");
                field(content.to_string().as_bytes());
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

/// The digests of all regular files, in their order. Reading them is most of the work, so every core takes part.
fn file_digests(found: &[Found]) -> io::Result<Vec<Digest>> {
    let files: Vec<&Path> = found
        .iter()
        .filter_map(|source| match &source.content {
            Content::Items(items) => Some(items),
            Content::Inline(_) | Content::Fetched { .. } => None,
        })
        .flatten()
        .filter(|item| item.metadata.is_file())
        .map(|item| item.full.as_path())
        .collect();
    let share = files.len().div_ceil(workers()).max(FEW);
    thread::scope(|scope| {
        let hash = |files: &[&Path]| {
            let mut buffer = vec![0; BUFFER];
            let digest = |path: &&Path| file_digest(path, &mut buffer);
            files.iter().map(digest).collect()
        };
        let (mine, others) = files.split_at(share.min(files.len()));
        let running: Vec<_> = others
            .chunks(share)
            .map(|files| scope.spawn(move || hash(files)))
            .collect();
        let mut digests: Vec<Digest> = hash(mine)?;
        for worker in running {
            let found: io::Result<Vec<Digest>> = worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            digests.append(&mut found?);
        }
        Ok(digests)
    })
}

fn file_digest(path: &Path, buffer: &mut [u8]) -> io::Result<Digest> {
    let mut content = Digester::new();
    pour(&mut open(path)?, &mut content, buffer)?;
    Ok(content.finish())
}

/// Moves everything by way of a buffer. Between the file systems that files of a build lie on, the kernel's own
/// ways are refused or go page by page.
fn pour(from: &mut dyn Read, to: &mut dyn Write, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Checks that nobody changed the files since they were found.
pub(crate) fn same(found: &[Found]) -> Result<(), Failure> {
    let stamp = |metadata: &fs::Metadata| {
        (
            metadata.ino(),
            metadata.size(),
            metadata.mode(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        )
    };
    for source in found {
        let Content::Items(items) = &source.content else {
            continue;
        };
        for item in source.parents.iter().chain(items) {
            let now = fs::symlink_metadata(&item.full);
            if !now.is_ok_and(|now| stamp(&now) == stamp(&item.metadata)) {
                let message = format!("`{}` changed while it was copied", item.full.display());
                return Err(Failure::Refused(message));
            }
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

#[cfg(test)]
mod tests;
