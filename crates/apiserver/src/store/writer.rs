//! The one thread that writes: it takes what is queued, decides, commits once, then publishes.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::disk::Disk;
use super::state::{LOCK, State};
use super::{
    Change, Event, EventKind, Key, MAX_OBJECT, Object, Retention, Revision, Write, WriteError,
};

/// Writes per commit at most, so that one batch stays short.
const BATCH: usize = 256;

/// A write and where to answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) write: Write,
    pub(super) reply: oneshot::Sender<Result<Arc<Object>, WriteError>>,
}

pub(super) struct Writer {
    disk: Disk,
    state: Arc<RwLock<State>>,
    retention: Retention,
}

impl Writer {
    pub(super) fn new(disk: Disk, state: Arc<RwLock<State>>, retention: Retention) -> Self {
        Self {
            disk,
            state,
            retention,
        }
    }

    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = requests.try_recv()
            {
                batch.push(next);
            }
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Request>) {
        let mut events: Vec<Arc<Event>> = Vec::with_capacity(batch.len());
        let mut replies = Vec::with_capacity(batch.len());
        let (since, drop_through, obsolete) = {
            let state = self.state.read().expect(LOCK);
            let mut latest: HashMap<Key, Option<Arc<Object>>> = HashMap::new();
            let mut revision = state.revision;
            for Request { write, reply } in batch {
                let current = match latest.get(&write.key) {
                    Some(current) => current.clone(),
                    None => state.objects.get(&write.key).cloned(),
                };
                match decide(write, current, revision + 1) {
                    Ok(event) => {
                        revision += 1;
                        let left = (event.kind != EventKind::Deleted).then(|| event.object.clone());
                        latest.insert(event.object.key.clone(), left);
                        replies.push((reply, Ok(event.object.clone())));
                        events.push(Arc::new(event));
                    }
                    Err(error) => replies.push((reply, Err(error))),
                }
            }
            let (drop_through, obsolete) = self.compaction(&state, &events);
            (state.revision, drop_through, obsolete)
        };
        if !events.is_empty() {
            match self.disk.append(&events, drop_through, &obsolete) {
                Ok(()) => {
                    let mut state = self.state.write().expect(LOCK);
                    state.failure = None;
                    for event in events {
                        state.apply(event);
                    }
                    if let Some(revision) = drop_through {
                        state.compact(revision);
                    }
                    state.announce(since);
                }
                Err(message) => {
                    tracing::error!(%message, "cannot write to the store");
                    let message: Arc<str> = message.into();
                    self.state.write().expect(LOCK).failure = Some(message.clone());
                    for (_, result) in &mut replies {
                        if result.is_ok() {
                            *result = Err(WriteError::Storage(message.clone()));
                        }
                    }
                }
            }
        }
        for (reply, result) in replies {
            // A caller that went away does not need its answer.
            reply.send(result).ok();
        }
    }

    /// Which events to forget with this batch, and the log records that nothing needs afterwards.
    fn compaction(&self, state: &State, new: &[Arc<Event>]) -> (Option<Revision>, Vec<Revision>) {
        let (count, weight) = state.size();
        let over = count + new.len() > self.retention.events || weight > self.retention.bytes;
        if !over || count == 0 {
            return (None, Vec::new());
        }
        // Half at a time: compaction is rare and a batch stays short.
        let victims: Vec<&Arc<Event>> = state.oldest(count.div_ceil(2)).collect();
        let mut obsolete = Vec::new();
        for event in &victims {
            obsolete.extend(event.previous.as_ref().map(|previous| previous.revision));
            if event.kind == EventKind::Deleted {
                obsolete.push(event.revision());
            }
        }
        (victims.last().map(|event| event.revision()), obsolete)
    }
}

fn decide(
    write: Write,
    current: Option<Arc<Object>>,
    revision: Revision,
) -> Result<Event, WriteError> {
    let found = current.as_ref().map(|object| object.revision);
    if found != write.expected {
        return Err(WriteError::Conflict {
            key: write.key,
            current: found,
        });
    }
    let (kind, value) = match (write.change, &current) {
        (Change::Put(value), None) => (EventKind::Added, value),
        (Change::Put(value), Some(_)) => (EventKind::Modified, value),
        (Change::Delete, Some(current)) => (EventKind::Deleted, current.value()),
        (Change::Delete, None) => {
            return Err(WriteError::Conflict {
                key: write.key,
                current: None,
            });
        }
    };
    let bytes = stamp(value, revision);
    if bytes.len() > MAX_OBJECT {
        return Err(WriteError::TooLarge);
    }
    Ok(Event {
        kind,
        object: Arc::new(Object::new(write.key, revision, bytes)),
        previous: current,
    })
}

/// The object's JSON with its revision in `metadata.resourceVersion`.
fn stamp(mut value: Value, revision: Revision) -> Bytes {
    value["metadata"]["resourceVersion"] = json!(revision.to_string());
    serde_json::to_vec(&value)
        .expect("JSON values serialise")
        .into()
}
