//! The log on disk. Layout: table `log` maps a revision to a record, table `meta` holds counters.
//!
//! A record stays as long as it is the newest version of a live object, or as the kept history needs it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::state::{Event, EventKind, State};
use super::{Key, Object, OpenError, Revision};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
/// Readers never touch the file after start, so the engine's cache only serves the writer.
const CACHE: usize = 4 << 20;

pub(super) struct Disk {
    path: PathBuf,
    /// `None` after a failed commit, until the file could be opened again.
    database: Option<Database>,
    /// The last revision whose commit succeeded.
    committed: Revision,
}

impl Disk {
    /// Opens the file and replays it.
    pub(super) fn open(path: &Path) -> Result<(Self, State), OpenError> {
        let storage = |message: String| OpenError::Storage {
            path: path.into(),
            message,
        };
        // Secrets are in there: nobody else may read it.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| storage(error.to_string()))?;
        let database = database(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.into() },
            other => storage(other.to_string()),
        })?;
        let found = initialise(&database).map_err(|error| storage(error.to_string()))?;
        if found != FORMAT {
            return Err(OpenError::Format {
                path: path.into(),
                found,
                known: FORMAT,
            });
        }
        let state = replay(&database).map_err(storage)?;
        let disk = Self {
            path: path.into(),
            database: Some(database),
            committed: state.revision,
        };
        Ok((disk, state))
    }

    /// Makes a new file that holds these objects, and no history.
    pub(super) fn create(
        path: &Path,
        revision: Revision,
        objects: &[Arc<Event>],
    ) -> Result<(), OpenError> {
        let (mut disk, _) = Self::open(path)?;
        let written = disk.append(objects, Some(revision), &[]);
        let written = written.and_then(|()| disk.set_revision(revision).map_err(|e| e.to_string()));
        written.map_err(|message| OpenError::Storage {
            path: path.into(),
            message,
        })
    }

    /// Commits events and, if asked, forgets history: all of it or nothing.
    pub(super) fn append(
        &mut self,
        events: &[Arc<Event>],
        compacted: Option<Revision>,
        obsolete: &[Revision],
    ) -> Result<(), String> {
        let written = self
            .reopen()
            .and_then(|()| self.try_append(events, compacted, obsolete));
        match written {
            Ok(()) => {
                self.committed = events
                    .last()
                    .map_or(self.committed, |event| event.revision());
                Ok(())
            }
            Err(error) => {
                // After an error of the disk the engine wants to be opened again, and nobody knows whether the
                // batch arrived.
                self.database = None;
                Err(error.to_string())
            }
        }
    }

    /// Opens the file again after a failure, without what nobody was told about.
    fn reopen(&mut self) -> Result<(), redb::Error> {
        if self.database.is_some() {
            return Ok(());
        }
        let database = database(&self.path)?;
        let transaction = database.begin_write()?;
        {
            let mut log = transaction.open_table(LOG)?;
            log.retain_in(self.committed + 1.., |_, _| false)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert("revision", self.committed)?;
        }
        transaction.commit()?;
        tracing::info!("the store can be written again");
        self.database = Some(database);
        Ok(())
    }

    fn open_database(&self) -> Result<&Database, redb::Error> {
        let closed = || redb::Error::Io(io::Error::other("the store is closed"));
        self.database.as_ref().ok_or_else(closed)
    }

    fn set_revision(&self, revision: Revision) -> Result<(), redb::Error> {
        let transaction = self.open_database()?.begin_write()?;
        transaction.open_table(META)?.insert("revision", revision)?;
        transaction.commit()?;
        Ok(())
    }

    fn try_append(
        &mut self,
        events: &[Arc<Event>],
        compacted: Option<Revision>,
        obsolete: &[Revision],
    ) -> Result<(), redb::Error> {
        let transaction = self.open_database()?.begin_write()?;
        {
            let mut log = transaction.open_table(LOG)?;
            for event in events {
                log.insert(event.revision(), encode(event).as_slice())?;
            }
            for revision in obsolete {
                log.remove(revision)?;
            }
            let mut meta = transaction.open_table(META)?;
            if let Some(last) = events.last() {
                meta.insert("revision", last.revision())?;
            }
            if let Some(compacted) = compacted {
                meta.insert("compacted", compacted)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn database(path: &Path) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(CACHE).create(path)
}

fn initialise(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let found = {
        transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("format")?.map(|value| value.value());
        if found.is_none() {
            meta.insert("format", FORMAT)?;
        }
        found
    };
    transaction.commit()?;
    Ok(found.unwrap_or(FORMAT))
}

fn replay(database: &Database) -> Result<State, String> {
    let text = |error: redb::Error| error.to_string();
    let transaction = database.begin_read().map_err(|e| text(e.into()))?;
    let meta = transaction.open_table(META).map_err(|e| text(e.into()))?;
    let counter = |name: &str| -> Result<u64, String> {
        let value = meta.get(name).map_err(|e| text(e.into()))?;
        Ok(value.map_or(0, |value| value.value()))
    };
    let (revision, compacted) = (counter("revision")?, counter("compacted")?);
    let log = transaction.open_table(LOG).map_err(|e| text(e.into()))?;
    let mut state = State::new(compacted);
    for record in log.iter().map_err(|e| text(e.into()))? {
        let (at, bytes) = record.map_err(|e| text(e.into()))?;
        let (deleted, object) = decode(at.value(), bytes.value())
            .ok_or_else(|| format!("log record {} is malformed", at.value()))?;
        let previous = state.objects.get(&object.key).cloned();
        let object = Arc::new(object);
        if at.value() <= compacted {
            state.objects.insert(object.key.clone(), object);
            continue;
        }
        let kind = match (deleted, &previous) {
            (true, _) => EventKind::Deleted,
            (false, Some(_)) => EventKind::Modified,
            (false, None) => EventKind::Added,
        };
        state.apply(Arc::new(Event {
            kind,
            object,
            previous,
        }));
    }
    // Compaction may have removed the newest record, a deletion; its revision stays used.
    state.revision = revision;
    Ok(state)
}

/// `deleted`, then resource, namespace and name each with a 32-bit length, then the object's JSON.
fn encode(event: &Event) -> Vec<u8> {
    let key = &event.object.key;
    let mut record = vec![u8::from(event.kind == EventKind::Deleted)];
    for part in [key.resource(), key.namespace(), key.name()] {
        let length = u32::try_from(part.len()).expect("names are far below 4 GiB");
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(part.as_bytes());
    }
    record.extend_from_slice(&event.object.bytes);
    record
}

fn decode(revision: Revision, record: &[u8]) -> Option<(bool, Object)> {
    let (&deleted, mut rest) = record.split_first()?;
    let mut part = || {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, tail) = tail.split_at_checked(length)?;
        rest = tail;
        std::str::from_utf8(text).ok()
    };
    let key = Key::new(part()?, part()?, part()?);
    let bytes = Bytes::copy_from_slice(rest);
    Some((deleted != 0, Object::new(key, revision, bytes)))
}
