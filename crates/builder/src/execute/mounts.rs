//! The mounts that a `RUN` asks for, made ready on the host.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation};
use rustix::mount::MountFlags;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use super::copy;
use super::spec::{Bind, Tmpfs};
use crate::cache::Cache;
use crate::containerfile::{Sharing, Word};
use crate::error::BuildError;
use crate::ignore::Ignore;
use crate::root::{Owner, Root};
use crate::secret::Secrets;
use crate::snapshot::Snapshot;
use crate::state::{Access, CacheMount, CopyAction, MountAction, MountSource};

/// Where the mounts come from.
pub(crate) struct Sources<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) secrets: &'a Secrets,
    /// The directory that a bind mount's `from` stands for; the build context without one.
    pub(crate) tree: &'a mut dyn FnMut(Option<&Word>) -> Result<PathBuf, BuildError>,
    pub(crate) cancel: &'a CancellationToken,
    /// Sockets of SSH agents by id.
    pub(crate) agents: &'a BTreeMap<String, PathBuf>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Mounts that are ready; they are given back when the value is dropped.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) binds: Vec<Bind>,
    pub(super) tmpfs: Vec<Tmpfs>,
    pub(super) env: Vec<(String, String)>,
    /// Locks on cache mounts.
    _locks: Vec<File>,
    _agents: Vec<Agent>,
    /// Writable copies of bind mounts, and private cache mounts.
    _copies: Vec<Snapshot>,
}

/// Why mounts cannot be had.
#[derive(Debug)]
pub(super) enum Failure {
    /// The Containerfile or the request asks for what is not there.
    Refused(String),
    Other(Box<BuildError>),
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Failure::Other(Box::new(error))
    }
}

/// Makes the mounts of a step ready. `aside` names a directory for secrets, which are kept in memory.
pub(super) fn prepare(
    actions: &[MountAction],
    sources: &mut Sources<'_>,
    aside: &Path,
) -> Result<Mounts, Failure> {
    let mut mounts = Mounts::default();
    for action in actions {
        let number = mounts.binds.len();
        let (source, readonly) = match &action.source {
            MountSource::Tmpfs { size } => {
                mounts.tmpfs.push(Tmpfs {
                    target: action.target.clone(),
                    size: *size,
                });
                continue;
            }
            MountSource::Bind { from, source } => {
                let tree = (sources.tree)(from.as_ref())?;
                let Some(path) = inside(&tree, source).map_err(host("bind mount"))? else {
                    return Err(Failure::Refused(format!(
                        "`--mount`: source `{source}` does not exist"
                    )));
                };
                let path = match action.readonly {
                    true => path,
                    false => mounts.writable(sources.cache, path, source)?,
                };
                (path, action.readonly)
            }
            MountSource::Cache(cache) => (mounts.cache(cache, sources)?, action.readonly),
            MountSource::Secret {
                id,
                env,
                required,
                access,
            } => {
                let secret = sources.secrets.get(id);
                let Some(secret) = given(secret, *required, "secret", id)? else {
                    continue;
                };
                if let Some(name) = env {
                    let text = String::from_utf8(secret.to_vec()).map_err(|_| {
                        Failure::Refused(format!(
                            "secret `{id}` is not text, which a variable must be"
                        ))
                    })?;
                    mounts.env.push((name.clone(), text));
                    continue;
                }
                let path = keep_secret(aside, number, secret, *access).map_err(host("secret"))?;
                (path, true)
            }
            MountSource::Ssh {
                id,
                required,
                access,
            } => {
                let socket = sources.agents.get(id);
                let Some(socket) = given(socket, *required, "SSH agent", id)? else {
                    continue;
                };
                let path = aside.with_file_name(format!("ssh-{number}"));
                let agent = Agent::forward(socket, &path).map_err(host("SSH agent"))?;
                own(&path, *access).map_err(host("SSH agent"))?;
                mounts._agents.push(agent);
                let variable = ("SSH_AUTH_SOCK".into(), action.target.clone());
                mounts.env.push(variable);
                (path, false)
            }
        };
        mounts.binds.push(Bind {
            source,
            target: action.target.clone(),
            readonly,
        });
    }
    Ok(mounts)
}

/// What the request gave under an id; nothing when it gave nothing and need not.
fn given<T>(found: Option<T>, required: bool, what: &str, id: &str) -> Result<Option<T>, Failure> {
    match found {
        None if required => Err(Failure::Refused(format!(
            "`--mount`: the build was given no {what} `{id}`"
        ))),
        found => Ok(found),
    }
}

impl Mounts {
    /// A copy of a directory, which the step may change.
    fn writable(&mut self, cache: &Cache, path: PathBuf, source: &str) -> Result<PathBuf, Failure> {
        if !path.is_dir() {
            let message =
                format!("`--mount`: source `{source}` is a file, which cannot be mounted writable");
            return Err(Failure::Refused(message));
        }
        let copy = Snapshot::writable(cache, &[path]).map_err(host("writable bind mount"))?;
        let root = copy.root();
        self._copies.push(copy);
        Ok(root)
    }

    /// The directory of a cache mount, locked as it asks for.
    fn cache(&mut self, mount: &CacheMount, sources: &mut Sources<'_>) -> Result<PathBuf, Failure> {
        let Some((dir, lock)) = cache_mount(sources, &mount.id, mount.sharing)? else {
            let copy =
                Snapshot::writable(sources.cache, &[]).map_err(host("private cache mount"))?;
            let dir = copy.root();
            own(&dir, mount.access).map_err(host("private cache mount"))?;
            self._copies.push(copy);
            return Ok(dir);
        };
        self._locks.push(lock);
        if !dir.is_dir() {
            make_owned(&dir, mount.access).map_err(host("cache mount"))?;
            if mount.from.is_some() {
                let tree = (sources.tree)(mount.from.as_ref())?;
                fill(&dir, &tree, mount.source.as_deref().unwrap_or("/"))?;
            }
        }
        sources.cache.used(&dir);
        Ok(dir)
    }
}

/// Fills a new cache with a copy of what lies at a path in a tree.
fn fill(dir: &Path, tree: &Path, source: &str) -> Result<(), Failure> {
    let action = CopyAction::everything_at(source);
    let ignore = Ignore::default();
    let tree = copy::Tree {
        path: tree,
        ignore: &ignore,
    };
    let copied = copy::find(&action, tree, &mut |_| {
        Err(copy::Failure::Refused(
            "a cache has no remote source".into(),
        ))
    })
    .and_then(|found| copy::apply(&action, &found, true, &Root::open(dir)?));
    copied.map_err(|failure| {
        // Half a copy must not pass for the cache later.
        if let Err(error) = fs::remove_dir_all(dir) {
            tracing::warn!(%error, "cannot remove a cache mount that was not filled");
        }
        match failure {
            copy::Failure::Refused(reason) => Failure::Refused(format!("`--mount`: {reason}")),
            copy::Failure::Io(error) => host("cache mount")(error),
        }
    })
}

fn host(what: &str) -> impl FnOnce(io::Error) -> Failure {
    move |source| {
        Failure::from(BuildError::Host {
            action: format!("cannot prepare a {what}"),
            source,
        })
    }
}

/// The host's path of a path inside a tree.
pub(crate) fn inside(tree: &Path, path: &str) -> io::Result<Option<PathBuf>> {
    let root = Root::open(tree)?;
    match root.resolve(Path::new(path), rustix::fs::OFlags::PATH) {
        Ok(fd) => {
            use std::os::fd::AsRawFd as _;
            Ok(Some(fs::read_link(format!(
                "/proc/self/fd/{}",
                fd.as_raw_fd()
            ))?))
        }
        Err(error) if crate::root::absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directory of a cache mount and the lock on it; nothing when a private one is in use elsewhere.
fn cache_mount(
    sources: &Sources<'_>,
    id: &str,
    sharing: Sharing,
) -> Result<Option<(PathBuf, File)>, Failure> {
    let (dir, lock) = sources.cache.mount(id);
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
    };
    let lock = open().map_err(host("cache mount"))?;
    let operation = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Locked | Sharing::Private => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match rustix::fs::flock(&lock, operation) {
            Ok(()) => return Ok(Some((dir, lock))),
            Err(rustix::io::Errno::WOULDBLOCK) if sharing == Sharing::Private => {
                return Ok(None);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                // A file lock cannot be waited for together with a cancellation.
                if sources.cancel.is_cancelled() {
                    return Err(Failure::from(BuildError::Cancelled));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(host("cache mount")(error.into())),
        }
    }
}

fn make_owned(dir: &Path, access: Access) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => own(dir, access),
    }
}

fn own(dir: &Path, Access { uid, gid, mode }: Access) -> io::Result<()> {
    Owner { uid, gid }.give(CWD, dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// Writes a secret into a memory file system, so that it never reaches a disk.
fn keep_secret(aside: &Path, number: usize, secret: &[u8], access: Access) -> io::Result<PathBuf> {
    use std::io::Write as _;
    if !aside.is_dir() {
        fs::create_dir(aside)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", aside, "tmpfs", flags, Some(c"mode=700"))?;
    }
    let path = aside.join(number.to_string());
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(secret)?;
    own(&path, access)?;
    Ok(path)
}
