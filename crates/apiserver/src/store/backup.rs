//! Backup and restore: everything at one moment, as lines of JSON.
//!
//! The first line says what it is, then comes one line per object, then a line that counts them and holds the digest of
//! all lines before: what is cut short or changed is refused.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::disk::Disk;
use super::state::{Event, EventKind};
use super::{Key, MAX_OBJECT, Object, OpenError, Revision};

const KIND: &str = "apiserver-backup";
const FORMAT: u64 = 1;
/// Versions that clients saw after the backup was made must not be given out again.
const LEAP: Revision = 1_000_000_000;
/// Bytes of a line at most: an object and its name.
const MAX_LINE: u64 = (MAX_OBJECT + 4096) as u64;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    kind: String,
    format: u64,
    revision: Revision,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    resource: String,
    namespace: String,
    name: String,
    revision: Revision,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Debug, Serialize, Deserialize)]
struct Tail {
    objects: usize,
    sha256: String,
}

/// Everything at one moment. It costs no copy of the objects.
#[derive(Debug)]
pub(crate) struct Snapshot {
    revision: Revision,
    objects: Vec<Arc<Object>>,
}

impl Snapshot {
    pub(super) fn new(revision: Revision, objects: Vec<Arc<Object>>) -> Self {
        Self { revision, objects }
    }

    /// The backup, line by line.
    pub(crate) fn lines(self) -> impl Iterator<Item = Bytes> {
        let count = self.objects.len();
        let head = to_line(&Head {
            kind: KIND.into(),
            format: FORMAT,
            revision: self.revision,
        });
        let mut digest = Sha256::new();
        digest.update(&head);
        let mut objects = self.objects.into_iter();
        let mut tail_is_due = true;
        let rest = std::iter::from_fn(move || {
            if let Some(object) = objects.next() {
                let line = object_line(&object);
                digest.update(&line);
                return Some(line);
            }
            std::mem::take(&mut tail_is_due).then(|| {
                to_line(&Tail {
                    objects: count,
                    sha256: hex(&digest.finalize_reset()),
                })
            })
        });
        std::iter::once(head).chain(rest)
    }
}

fn object_line(object: &Object) -> Bytes {
    let text = std::str::from_utf8(&object.bytes).expect("stored JSON is UTF-8");
    let raw: &RawValue =
        serde_json::from_str(text).expect("the store holds only JSON it serialised itself");
    to_line(&Line {
        resource: object.key.resource().into(),
        namespace: object.key.namespace().into(),
        name: object.key.name().into(),
        revision: object.revision,
        object: raw,
    })
}

fn to_line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("lines serialise");
    line.push(b'\n');
    line.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a backup could not be restored. The data directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is a store already.
    #[error("`{path}` exists; restore into an empty data directory")]
    Exists {
        /// The store's file.
        path: PathBuf,
    },
    /// It is no backup, or not a whole one.
    #[error("line {line} of the backup: {message}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// It cannot be read.
    #[error("cannot read the backup")]
    Read(#[source] io::Error),
    /// The new store cannot be put in its place.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The new store cannot be written.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// Makes the store of the server that will have this data directory from what `GET /backup` gave. No server may use
/// the directory. Resource versions go on far above those of the backup, so that none is given out twice; watches from
/// before start anew. `amend` sees each object, and may change what
/// does not hold any more.
pub fn restore(
    data_dir: &Path,
    backup: impl BufRead,
    amend: impl Fn(&mut Value),
) -> Result<(), RestoreError> {
    let path = data_dir.join("store.redb");
    if path.exists() {
        return Err(RestoreError::Exists { path });
    }
    let (revision, events) = read(backup, amend)?;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Write { path, source }
    };
    std::fs::create_dir_all(data_dir).map_err(at(data_dir))?;
    let partial = data_dir.join("store.redb.restoring");
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&partial)(error)),
        _ => {}
    }
    Disk::create(&partial, revision + LEAP, &events)?;
    std::fs::rename(&partial, &path).map_err(at(&path))?;
    let synced = std::fs::File::open(data_dir).and_then(|directory| directory.sync_all());
    synced.map_err(at(data_dir))
}

fn read(
    mut backup: impl BufRead,
    amend: impl Fn(&mut Value),
) -> Result<(Revision, Vec<Arc<Event>>), RestoreError> {
    let mut digest = Sha256::new();
    let (mut revision, mut events) = (0, Vec::new());
    let mut text = String::new();
    for number in 1.. {
        let malformed = |message: &str| RestoreError::Malformed {
            line: number,
            message: message.into(),
        };
        text.clear();
        let length = io::Read::take(&mut backup, MAX_LINE)
            .read_line(&mut text)
            .map_err(RestoreError::Read)?;
        if length == 0 {
            return Err(malformed("the backup is cut short"));
        }
        if number == 1 {
            let head: Head = serde_json::from_str(&text)
                .ok()
                .filter(|head: &Head| head.kind == KIND)
                .ok_or_else(|| malformed("this is not a backup of an API server"))?;
            if head.format != FORMAT {
                return Err(malformed("the format is newer than this program"));
            }
            revision = head.revision;
        } else if let Ok(tail) = serde_json::from_str::<Tail>(&text) {
            let whole = tail.objects == events.len() && tail.sha256 == hex(&digest.finalize());
            return match whole {
                true => Ok((revision, events)),
                false => Err(malformed("the digest does not fit the lines before")),
            };
        } else {
            let line: Line<'_> =
                serde_json::from_str(&text).map_err(|error| malformed(&error.to_string()))?;
            if line.revision > revision {
                return Err(malformed("an object is newer than the backup"));
            }
            let mut object: Value = serde_json::from_str(line.object.get())
                .map_err(|error| malformed(&error.to_string()))?;
            amend(&mut object);
            let bytes = Bytes::from(object.to_string());
            let key = Key::new(line.resource, &line.namespace, &line.name);
            events.push(Arc::new(Event {
                kind: EventKind::Added,
                object: Arc::new(Object::new(key, line.revision, bytes)),
                previous: None,
            }));
        }
        digest.update(text.as_bytes());
    }
    unreachable!("the loop ends by returning")
}
