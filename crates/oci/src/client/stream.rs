//! Sending a blob while it is being made: its digest is known only when all of it was sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;

use bytes::Bytes;
use futures::{Stream, stream};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};
use tokio::sync::watch;

use super::request::Action;
use super::upload::{CHUNK, UPLOAD_WITHIN, empty, location, upload_within};
use super::{Client, ClientError, failure};
use crate::digest::Digest;
use crate::reference::Reference;

/// How far a blob has come that somebody is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// This many bytes can be read.
    Written(u64),
    /// It is complete.
    Complete {
        /// Its length.
        size: u64,
        /// Its digest.
        digest: Digest,
    },
}

impl Growth {
    fn readable(self) -> u64 {
        match self {
            Growth::Written(size) | Growth::Complete { size, .. } => size,
        }
    }
}

impl Client {
    /// Sends a blob to the repository of `reference` while it grows. `file` is where it is written to, `growth` tells
    /// how far it is; when its sender goes away before the blob is complete, nothing is stored.
    ///
    /// One attempt: whoever calls this looks afterwards whether the blob is there, as [`Client::push_blob`] does.
    pub async fn push_growing(
        &self,
        reference: &Reference,
        file: File,
        growth: watch::Receiver<Growth>,
    ) -> Result<(), ClientError> {
        let host = self.target(reference)?;
        let what = format!("{}/{}", reference.host(), reference.repository());
        let call = self.call(&host, reference, Action::Push, what);
        let url = call.url("blobs/uploads/").await?;
        let started = self
            .send_once(&call, &host.http, Method::POST, url, empty)
            .await?;
        let place = location(&call, &started)?;
        let gone = || ClientError::Unreachable {
            host: host.name().to_owned(),
            reason: "the upload was given up".to_owned(),
        };
        // A body can be sent once.
        let body = Mutex::new(Some(Body::wrap_stream(following(file, growth.clone()))));
        let with_body = |request: reqwest::RequestBuilder| {
            let body = body.lock().ok().and_then(|mut body| body.take());
            Ok(request
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(body.ok_or_else(gone)?))
        };
        let sending = self.send_once(&call, &host.upload, Method::PATCH, place, with_body);
        // How long the blob takes to grow is its maker's business; what comes after that is the registry's.
        let sent = tokio::select! {
            sent = sending => sent?,
            () = overdue(growth.clone()) => {
                return Err(ClientError::Unreachable {
                    host: host.name().to_owned(),
                    reason: "it does not take an upload in time".to_owned(),
                });
            }
        };
        let Growth::Complete { digest, .. } = *growth.borrow() else {
            return Err(gone());
        };
        let mut place = location(&call, &sent)?;
        place
            .query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let finished = self
            .send_once(&call, &host.upload, Method::PUT, place, |request| {
                empty(request.timeout(UPLOAD_WITHIN))
            })
            .await?;
        match finished.status().is_success() {
            true => Ok(()),
            false => Err(failure::refused(&call, finished.status(), "upload")),
        }
    }
}

/// Ends when a blob that is complete should have arrived.
async fn overdue(mut growth: watch::Receiver<Growth>) {
    let size = loop {
        let seen = *growth.borrow_and_update();
        match seen {
            Growth::Complete { size, .. } => break size,
            // Nobody writes any more, which ends the request as well.
            Growth::Written(size) => {
                if growth.changed().await.is_err() {
                    break size;
                }
            }
        }
    };
    tokio::time::sleep(upload_within(size)).await;
}

/// What is in the file and what is added to it, until it is complete.
fn following(
    file: File,
    growth: watch::Receiver<Growth>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let file = std::sync::Arc::new(file);
    stream::try_unfold((file, growth, 0u64), |(file, mut growth, at)| async move {
        loop {
            let seen = *growth.borrow_and_update();
            let left = seen.readable().saturating_sub(at);
            if left > 0 {
                let length = left.min(CHUNK as u64) as usize;
                let source = file.clone();
                let chunk = crate::pump::blocking(move || {
                    let mut chunk = vec![0; length];
                    source.read_exact_at(&mut chunk, at).map(|()| chunk)
                })
                .await?;
                return Ok(Some((
                    Bytes::from(chunk),
                    (file, growth, at + length as u64),
                )));
            }
            if matches!(seen, Growth::Complete { .. }) {
                return Ok(None);
            }
            // Ends the request in the middle, so that the registry does not take it for the whole.
            growth
                .changed()
                .await
                .map_err(|_| io::Error::other("the blob is not going to be complete"))?;
        }
    })
}
