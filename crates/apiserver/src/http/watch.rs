//! Watch requests: an endless answer with one JSON document a line.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::accept::Shape;
use super::encode::{Encoder, respond};
use super::query::Query;
use crate::cluster::Cluster;
use crate::metrics::Held;
use crate::resources::Target;
use crate::selector::Selector;
use crate::status::{ApiError, Cause, Subject};
use crate::store::{Event, EventKind, Expired, Object, Revision, Start, Watcher};
use crate::table::IncludeObject;

/// How often a quiet watch is told how far it has come.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a watch lasts unless the client says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// What goes out next.
#[derive(Debug)]
enum Phase {
    /// What exists, then (for a streaming list) the bookmark that ends it.
    Initial {
        end_mark: bool,
    },
    Follow,
    Ended,
}

/// Why a following watch has something to do.
enum Woken {
    Events(Result<Vec<Arc<Event>>, Expired>),
    Bookmark,
    Deadline,
    Stopping,
}

/// An open watch.
struct Stream {
    watcher: Watcher,
    target: Target,
    selector: Selector,
    shape: Shape,
    include: IncludeObject,
    bookmarks: bool,
    phase: Phase,
    deadline: Instant,
    next_bookmark: Instant,
    stopping: tokio::sync::watch::Receiver<bool>,
    _counted: Held,
}

/// Answers a watch request.
pub(crate) fn watch(
    cluster: &Cluster,
    target: Target,
    selector: Selector,
    query: &Query,
    shape: Shape,
    include: IncludeObject,
) -> Result<Response, ApiError> {
    let bookmarks = query.flag("allowWatchBookmarks");
    let send_initial = query
        .get("sendInitialEvents")
        .map(|_| query.flag("sendInitialEvents"));
    check_options(query, send_initial)?;
    let requested = query.number("resourceVersion")?.unwrap_or(0);
    let current = cluster.store.revision();
    if requested > current {
        return Err(ApiError::future_version(requested, current));
    }
    let start = match send_initial {
        Some(true) => Start::Now,
        Some(false) if requested == 0 => Start::After(current),
        None if requested == 0 => Start::Now,
        _ => Start::After(requested),
    };
    let timeout = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds).min(24 * DEFAULT_TIMEOUT),
        _ => DEFAULT_TIMEOUT,
    };
    let watcher = match cluster.store.watch(target.scope(), start) {
        Ok(watcher) => watcher,
        // Clients expect this inside the stream.
        Err(expired) => return Ok(respond(StatusCode::OK, error_line(expired))),
    };
    let now = Instant::now();
    let stream = Stream {
        _counted: cluster.metrics.watching(&target.resource.plural),
        phase: match start {
            Start::Now => Phase::Initial {
                end_mark: bookmarks && send_initial == Some(true),
            },
            Start::After(_) => Phase::Follow,
        },
        watcher,
        target,
        selector,
        shape,
        include,
        bookmarks,
        deadline: now + timeout,
        next_bookmark: now + BOOKMARK_INTERVAL,
        stopping: cluster.stopping.subscribe(),
    };
    let lines = stream::unfold(stream, |mut stream| async move {
        let lines = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(lines), stream))
    });
    let mut response = respond(StatusCode::OK, Bytes::new());
    *response.body_mut() = Body::from_stream(lines);
    Ok(response)
}

fn check_options(query: &Query, send_initial: Option<bool>) -> Result<(), ApiError> {
    let version_match = query.get("resourceVersionMatch");
    let cause = match (send_initial, version_match) {
        (None, None) | (Some(_), Some("NotOlderThan")) => return Ok(()),
        (None, Some(_)) => Cause::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (Some(_), _) => Cause::forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    };
    Err(ApiError::invalid(&Subject::list_options(), vec![cause]))
}

impl Stream {
    /// The next lines; `None` ends the answer.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let lines = match self.phase {
                Phase::Ended => return None,
                Phase::Initial { end_mark } => {
                    self.phase = Phase::Follow;
                    self.initial(end_mark)
                }
                Phase::Follow => self.follow().await?,
            };
            if !lines.is_empty() {
                return Some(lines);
            }
        }
    }

    fn initial(&mut self, end_mark: bool) -> Bytes {
        let mut out = BytesMut::new();
        for object in self.watcher.initial() {
            if self.selector.matches(&object) {
                self.line(&mut out, "ADDED", &object);
            }
        }
        if end_mark {
            self.bookmark(&mut out, true);
        }
        out.freeze()
    }

    async fn follow(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        let woken = tokio::select! {
            events = self.watcher.next() => Woken::Events(events),
            () = sleep_until(self.next_bookmark), if self.bookmarks => Woken::Bookmark,
            () = sleep_until(self.deadline) => Woken::Deadline,
            _ = self.stopping.wait_for(|stopping| *stopping) => Woken::Stopping,
        };
        match woken {
            Woken::Events(Ok(events)) => {
                for event in &events {
                    self.event(&mut out, event);
                }
            }
            Woken::Events(Err(expired)) => {
                self.phase = Phase::Ended;
                return Some(error_line(expired));
            }
            Woken::Bookmark => {
                self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                self.catch_up(&mut out);
                self.bookmark(&mut out, false);
            }
            Woken::Deadline => {
                self.phase = Phase::Ended;
                self.catch_up(&mut out);
                if self.bookmarks {
                    self.bookmark(&mut out, false);
                }
            }
            Woken::Stopping => return None,
        }
        Some(out.freeze())
    }

    /// Hands out what is there, so that a bookmark can name the present.
    fn catch_up(&mut self, out: &mut BytesMut) {
        match self.watcher.advance() {
            Ok(events) => events.iter().for_each(|event| self.event(out, event)),
            Err(expired) => {
                out.put_slice(&error_line(expired));
                self.phase = Phase::Ended;
            }
        }
    }

    /// An event as this watch sees it: what enters the selection is added, what leaves it is deleted.
    fn event(&self, out: &mut BytesMut, event: &Arc<Event>) {
        let before = event
            .previous
            .as_ref()
            .is_some_and(|previous| self.selector.matches(previous));
        let after = event.kind != EventKind::Deleted && self.selector.matches(&event.object);
        match (before, after) {
            (false, true) => self.line(out, "ADDED", &event.object),
            (true, true) => self.line(out, "MODIFIED", &event.object),
            (true, false) if event.kind == EventKind::Deleted => {
                self.line(out, "DELETED", &event.object);
            }
            (true, false) => {
                // The last state that was selected, at the version that took it out.
                if let Some(previous) = &event.previous {
                    let mut last = previous.value();
                    last["metadata"]["resourceVersion"] = json!(event.revision().to_string());
                    let key = previous.key.clone();
                    self.line(
                        out,
                        "DELETED",
                        &Object::unsaved(key, event.revision(), &last),
                    );
                }
            }
            (false, false) => {}
        }
    }

    fn line(&self, out: &mut BytesMut, kind: &str, object: &Object) {
        let encoder = Encoder {
            target: &self.target,
            shape: self.shape,
            include: self.include,
        };
        put_line(out, kind, &encoder.object(object));
    }

    fn bookmark(&self, out: &mut BytesMut, initial_end: bool) {
        let revision: Revision = self.watcher.revision();
        let mut metadata = json!({
            "resourceVersion": revision.to_string(),
            "creationTimestamp": null,
        });
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Table(meta) => json!({
                "kind": "Table", "apiVersion": meta.api_version(),
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": null, "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": meta.api_version(),
                    "metadata": metadata,
                }}],
            }),
            Shape::Partial(meta) => json!({
                "kind": "PartialObjectMetadata", "apiVersion": meta.api_version(),
                "metadata": metadata,
            }),
            _ => json!({
                "kind": self.target.resource.kind,
                "apiVersion": self.target.version().api_version,
                "metadata": metadata,
            }),
        };
        put_line(out, "BOOKMARK", object.to_string().as_bytes());
    }
}

fn put_line(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

fn error_line(expired: Expired) -> Bytes {
    let status: Value = ApiError::from(expired).status();
    let mut out = BytesMut::new();
    put_line(&mut out, "ERROR", status.to_string().as_bytes());
    out.freeze()
}
