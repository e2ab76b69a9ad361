//! Hears of changes where Caprock wrote something. What it misses, the regular look finds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::sync::Notify;

/// After a change, others that belong to it are waited for; and who changes something all the time is heard only so often.
const PAUSE: Duration = Duration::from_secs(1);
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR);

/// An ear at every directory that holds something of ours.
#[derive(Debug)]
pub(crate) struct Watch {
    paths: BTreeSet<Utf8PathBuf>,
    stop: Arc<OwnedFd>,
    listener: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&self.stop, &1_u64.to_ne_bytes()) {
            tracing::warn!(%error, "cannot end a watch for drift");
        }
    }
}

impl Watch {
    /// Wakes `changed` when one of `paths` below `root` may have changed.
    pub(crate) fn new(
        root: &Utf8Path,
        paths: &BTreeSet<Utf8PathBuf>,
        changed: Arc<Notify>,
    ) -> io::Result<Self> {
        let mut ear = Ear {
            fd: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            names: BTreeMap::new(),
        };
        for path in paths {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            let dir = root.join(parent.strip_prefix("/").unwrap_or(parent));
            match inotify::add_watch(&ear.fd, dir.as_std_path(), CHANGES) {
                Ok(watch) => {
                    ear.names.entry(watch).or_default().insert(name.to_owned());
                }
                // What is not there cannot change; the regular look sees that it is gone.
                Err(error) => tracing::debug!(%dir, %error, "not watched"),
            }
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = stop.clone();
        let listener = std::thread::Builder::new()
            .name("drift".to_owned())
            .spawn(move || {
                if let Err(error) = ear.listen(&stopped, &changed) {
                    tracing::warn!(%error, "drift is only looked for now and then");
                }
            })?;
        Ok(Self {
            paths: paths.clone(),
            stop,
            listener,
        })
    }

    /// Whether it listens at these paths.
    pub(crate) fn is_at(&self, paths: &BTreeSet<Utf8PathBuf>) -> bool {
        self.paths == *paths && !self.listener.is_finished()
    }
}

struct Ear {
    fd: OwnedFd,
    /// Names that count, by the directory's watch.
    names: BTreeMap<i32, BTreeSet<String>>,
}

impl Ear {
    fn listen(&self, stop: &OwnedFd, changed: &Notify) -> Result<(), Errno> {
        loop {
            let mut ready = [
                PollFd::new(stop, PollFlags::IN),
                PollFd::new(&self.fd, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            if !ready[0].revents().is_empty() {
                return Ok(());
            }
            if self.read()? {
                changed.notify_one();
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Reads what has happened, and says whether any of it is about ours.
    fn read(&self) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        let lost = ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
        let mut ours = false;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(ours),
                Err(errno) => return Err(errno),
            };
            let named = event.file_name();
            ours |= event.events().intersects(lost)
                || named.is_some_and(|name| self.is_ours(event.wd(), name));
        }
    }

    fn is_ours(&self, watch: i32, name: &CStr) -> bool {
        let name = OsStr::from_bytes(name.to_bytes()).to_str();
        let names = self.names.get(&watch);
        name.is_some_and(|name| names.is_some_and(|names| names.contains(name)))
    }
}
