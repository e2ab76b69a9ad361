//! Revisioned, persistent object store.
//!
//! Every write gets the next revision of one counter. The current objects and the recent history are
//! kept in memory for readers and watchers; the log on disk is the truth. One thread commits writes in
//! batches, and nothing is visible to a reader or a watcher before it is on disk.

mod backup;
mod disk;
mod state;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub(crate) use backup::Snapshot;
pub use backup::{RestoreError, restore};
use disk::Disk;
use state::State;
pub(crate) use state::{Event, EventKind, Page};
pub(crate) use watch::{Start, Watcher};
use writer::{Request, Writer};

/// A point in the history of the store; the `resourceVersion` of the API.
pub(crate) type Revision = u64;

/// Bytes of one object at most.
pub(crate) const MAX_OBJECT: usize = 3 << 20;
/// How many writes may wait for the writer before callers are made to wait.
const QUEUE: usize = 1024;

/// Where an object lives: `group/plural`, namespace (empty for cluster scope) and name.
///
/// The order of keys is the order of lists: by resource, then namespace, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    resource: Arc<str>,
    namespace: Box<str>,
    name: Box<str>,
}

impl Key {
    /// `resource` is `group/plural`, with an empty group for the core kinds.
    pub(crate) fn new(resource: impl Into<Arc<str>>, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// `group/plural`.
    pub(crate) fn resource(&self) -> &str {
        &self.resource
    }

    /// Empty for cluster-scoped objects.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The object's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
    }
}

/// What a list or a watch covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every object there is.
    Everything,
    /// All objects of a resource (`group/plural`).
    Resource(Arc<str>),
    /// All objects of a resource in one namespace.
    Namespace(Arc<str>, Box<str>),
}

impl Scope {
    fn contains(&self, key: &Key) -> bool {
        match self {
            Self::Everything => true,
            Self::Resource(resource) => key.resource == *resource,
            Self::Namespace(resource, namespace) => {
                key.resource == *resource && key.namespace == *namespace
            }
        }
    }
}

/// One version of one object, as it is sent to clients.
#[derive(Debug)]
pub(crate) struct Object {
    /// Where it lives.
    pub(crate) key: Key,
    /// The revision that wrote it; also inside the bytes, as `metadata.resourceVersion`.
    pub(crate) revision: Revision,
    /// JSON.
    pub(crate) bytes: Bytes,
    head: OnceLock<Head>,
}

/// The parts of an object that lists, watches and the collector look at, read once per version.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Head {
    /// `apiVersion` the object was written with.
    #[serde(default, rename = "apiVersion")]
    pub(crate) api_version: Box<str>,
    /// The metadata of interest.
    #[serde(default)]
    pub(crate) metadata: HeadMetadata,
}

/// See [`Head`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HeadMetadata {
    /// The object's identity across renames of its name's owner.
    pub(crate) uid: Box<str>,
    /// Labels, for selectors.
    pub(crate) labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
    /// Owners, for the collector.
    pub(crate) owner_references: Option<Vec<Owner>>,
    /// Set once deletion has been asked for.
    pub(crate) deletion_timestamp: Option<Box<str>>,
    /// What still has to happen before the object may go.
    pub(crate) finalizers: Option<Vec<Box<str>>>,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Owner {
    /// Group and version of the owner's kind.
    pub(crate) api_version: Box<str>,
    /// The owner's kind.
    pub(crate) kind: Box<str>,
    /// The owner's name.
    pub(crate) name: Box<str>,
    /// The owner's identity.
    pub(crate) uid: Box<str>,
    /// Whether foreground deletion of the owner waits for this object.
    pub(crate) block_owner_deletion: Option<bool>,
}

impl Object {
    fn new(key: Key, revision: Revision, bytes: Bytes) -> Self {
        Self {
            key,
            revision,
            bytes,
            head: OnceLock::new(),
        }
    }

    /// An object that is shown but not stored, as a dry run shows it.
    pub(crate) fn unsaved(key: Key, revision: Revision, value: &Value) -> Self {
        let bytes = serde_json::to_vec(value).expect("JSON values serialise");
        Self::new(key, revision, bytes.into())
    }

    /// Labels, owners and the like, parsed at most once.
    pub(crate) fn head(&self) -> &Head {
        self.head.get_or_init(|| {
            serde_json::from_slice(&self.bytes).unwrap_or_else(|error| {
                tracing::error!(key = %self.key, %error, "stored object has malformed metadata");
                Head::default()
            })
        })
    }

    /// The whole object.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("the store holds only JSON it serialised itself")
    }
}

/// A change to one object, accepted only if the object is at the expected revision.
#[derive(Debug)]
pub(crate) struct Write {
    /// The object to change.
    pub(crate) key: Key,
    /// `None`: the object must not exist. Otherwise it must exist at exactly this revision.
    pub(crate) expected: Option<Revision>,
    /// What to do.
    pub(crate) change: Change,
}

/// What a [`Write`] does.
#[derive(Debug)]
pub(crate) enum Change {
    /// Store this value; the store fills in `metadata.resourceVersion`.
    Put(Value),
    /// Remove the object.
    Delete,
}

/// Why a write was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum WriteError {
    /// Somebody else wrote first; read again and decide again.
    #[error("`{key}` is at another revision than expected")]
    Conflict {
        /// The object.
        key: Key,
        /// Its revision now; `None` if it does not exist.
        current: Option<Revision>,
    },
    /// The object would be larger than the store takes.
    #[error("the object is larger than {MAX_OBJECT} bytes")]
    TooLarge,
    /// The disk refused. Nothing of the batch was made visible.
    #[error("cannot write to the store: {0}")]
    Storage(Arc<str>),
    /// The server is stopping.
    #[error("the store is closed")]
    Closed,
}

/// The requested revision is older than the history that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub(crate) struct Expired {
    /// What was asked for.
    pub(crate) requested: Revision,
    /// The oldest revision that can still be served.
    pub(crate) oldest: Revision,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the data directory.
    #[error("`{path}` is in use by another process; stop it, or choose another data directory")]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// The file was written by a newer program.
    #[error(
        "`{path}` has store format {found}, this program reads format {known}; run the newer program"
    )]
    Format {
        /// The store's file.
        path: PathBuf,
        /// Format of the file.
        found: u64,
        /// Format of this program.
        known: u64,
    },
    /// The file cannot be read.
    #[error("cannot open the store `{path}`: {message}")]
    Storage {
        /// The store's file.
        path: PathBuf,
        /// What the storage engine or the operating system said.
        message: String,
    },
}

/// How much history is kept for watchers and consistent list pages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// Events kept at most.
    pub(crate) events: usize,
    /// Bytes of events kept at most.
    pub(crate) bytes: usize,
}

impl Default for Retention {
    /// Enough for a client that was away for some minutes of a busy roll-out.
    fn default() -> Self {
        Self {
            events: 8192,
            bytes: 32 << 20,
        }
    }
}

/// The store. Dropping it waits for the writes in flight and releases the file.
pub(crate) struct Store {
    state: Arc<RwLock<State>>,
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the store in file `path`.
    pub(crate) fn open(path: &Path, retention: Retention) -> Result<Self, OpenError> {
        let (disk, state) = Disk::open(path)?;
        let state = Arc::new(RwLock::new(state));
        let (requests, receiver) = mpsc::channel(QUEUE);
        let writer = Writer::new(disk, state.clone(), retention);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(receiver))
            .map_err(|error| OpenError::Storage {
                path: path.into(),
                message: error.to_string(),
            })?;
        Ok(Self {
            state,
            requests: Some(requests),
            writer: Some(thread),
        })
    }

    /// The revision of the last committed write.
    pub(crate) fn revision(&self) -> Revision {
        self.read().revision
    }

    /// Why the last commit failed, if it did.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.read().failure.clone()
    }

    /// The current version of an object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.read().objects.get(key).cloned()
    }

    /// Up to `limit` objects of `scope` after `after`, as they were at revision `at` (default: now).
    pub(crate) fn list(
        &self,
        scope: &Scope,
        at: Option<Revision>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, Expired> {
        self.read().list(scope, at, after, limit)
    }

    /// How many objects `scope` has.
    pub(crate) fn count(&self, scope: &Scope) -> usize {
        self.read().count(scope)
    }

    /// Everything as it is now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.read();
        Snapshot::new(state.revision, state.objects.values().cloned().collect())
    }

    /// Changes of `scope` from `start` on.
    pub(crate) fn watch(&self, scope: Scope, start: Start) -> Result<Watcher, Expired> {
        Watcher::new(self.state.clone(), scope, start)
    }

    /// Does one write; when this returns `Ok`, it is on disk and visible.
    pub(crate) async fn write(&self, write: Write) -> Result<Arc<Object>, WriteError> {
        let requests = self.requests.as_ref().ok_or(WriteError::Closed)?;
        let (reply, answer) = oneshot::channel();
        requests
            .send(Request { write, reply })
            .await
            .map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().expect(state::LOCK)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}
