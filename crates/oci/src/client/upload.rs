//! Sending blobs: asked for first, mounted where the registry has them elsewhere, sent in one piece, and continued
//! where a broken connection left off.

use std::io::{Seek as _, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use tokio::time::MissedTickBehavior;
use tokio_util::io::ReaderStream;

use super::pull::unusable;
use super::request::{Action, Call};
use super::retry::Backoff;
use super::{BlobSource, Client, ClientError, Pushed, failure};
use crate::blob_store::StoreError;
use crate::digest::Digest;
use crate::manifest::{Descriptor, digest_of};
use crate::reference::Reference;

/// An upload may take this long, and as long again as its bytes take at the slowest speed put up with.
pub(super) const UPLOAD_WITHIN: Duration = Duration::from_secs(300);
const SLOWEST: u64 = 100_000;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of a file read at once.
pub(super) const CHUNK: usize = 256 << 10;

/// One blob on its way.
struct Upload<'a> {
    call: Call<'a>,
    digest: Digest,
    size: u64,
    source: BlobSource<'a>,
    /// Where an attempt that broke off can be continued.
    session: Option<Url>,
    /// The most bytes that the registry ever said it has.
    confirmed: u64,
}

impl Client {
    /// Sees to it that the repository of `reference` has the blob: asks, then mounts it from the repository of
    /// `from` when that is at the same registry, then sends it. `progress` is told how many of its bytes are there;
    /// after a broken connection it goes on from what the registry has kept.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: BlobSource<'_>,
        from: Option<&Reference>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed, ClientError> {
        let digest = digest_of(descriptor).map_err(|error| unusable(reference, error.into()))?;
        let host = self.target(reference)?;
        let what = format!("{}/{}@{digest}", reference.host(), reference.repository());
        let mut call = self.call(&host, reference, Action::Push, what);
        let from = from.filter(|from| {
            from.host() == reference.host() && from.repository() != reference.repository()
        });
        call.from = from.map(Reference::repository);
        let mut upload = Upload {
            call,
            digest,
            size: descriptor.size(),
            source,
            session: None,
            confirmed: 0,
        };
        let mut backoff = Backoff::new(self.retry());
        loop {
            let before = upload.confirmed;
            match self.push_blob_once(&mut upload, progress).await {
                Err(error) => {
                    if upload.confirmed > before {
                        backoff.reset();
                    }
                    backoff.wait_after(error).await?;
                }
                Ok(pushed) => {
                    progress(descriptor.size());
                    return Ok(pushed);
                }
            }
        }
    }

    /// Whether the registry lets us push to the reference's repository, without sending anything: an upload is started
    /// and cancelled at once.
    pub async fn check_push(&self, reference: &Reference) -> Result<(), ClientError> {
        let host = self.target(reference)?;
        let what = format!("{}/{}", reference.host(), reference.repository());
        let call = self.call(&host, reference, Action::Push, what);
        let mut backoff = Backoff::new(self.retry());
        loop {
            let started = async {
                let url = call.url("blobs/uploads/").await?;
                let started = self.send_once(&call, &host.http, Method::POST, url, empty);
                location(&call, &started.await?)
            };
            match started.await {
                Ok(place) => {
                    self.cancel_upload(&call, place).await;
                    return Ok(());
                }
                Err(error) => backoff.wait_after(error).await?,
            }
        }
    }

    async fn push_blob_once(
        &self,
        upload: &mut Upload<'_>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed, ClientError> {
        if let Some(session) = upload.session.clone() {
            // Kept while the registry cannot be asked.
            let status = self.upload_status(upload, session).await?;
            upload.session = None;
            if let Some((place, start)) = status {
                upload.confirmed = upload.confirmed.max(start);
                return self.send_rest(upload, place, start, progress).await;
            }
        }
        let call = &upload.call;
        let http = &call.host.http;
        let url = call.url(&format!("blobs/{}", upload.digest)).await?;
        match self.send_once(call, http, Method::HEAD, url, Ok).await {
            Ok(_) => return Ok(Pushed::Present),
            Err(ClientError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let mut url = call.url("blobs/uploads/").await?;
        if let Some(from) = call.from {
            url.query_pairs_mut()
                .append_pair("mount", &upload.digest.to_string())
                .append_pair("from", from);
        }
        let started = self.send_once(call, http, Method::POST, url, empty).await?;
        if started.status() == StatusCode::CREATED {
            return Ok(Pushed::Mounted);
        }
        let place = location(call, &started)?;
        self.send_rest(upload, place, 0, progress).await
    }

    /// Where an upload that broke off continues, and after how many bytes; none when it has to start again.
    async fn upload_status(
        &self,
        upload: &Upload<'_>,
        session: Url,
    ) -> Result<Option<(Url, u64)>, ClientError> {
        let call = &upload.call;
        let asked = self.send_once(call, &call.host.http, Method::GET, session.clone(), Ok);
        let answer = match asked.await {
            Ok(answer) => answer,
            // Forgotten, or a registry that does not continue what was cut.
            Err(ClientError::NotFound(_) | ClientError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let place = match answer.headers().contains_key(LOCATION) {
            true => location(call, &answer)?,
            false => session,
        };
        let has = received(&answer).filter(|has| *has <= upload.size);
        Ok(has.map(|has| (place, has)))
    }

    /// Sends the blob from `start` on as the last piece of an upload.
    async fn send_rest(
        &self,
        upload: &mut Upload<'_>,
        place: Url,
        start: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed, ClientError> {
        let Upload {
            call,
            digest,
            size,
            source,
            ..
        } = upload;
        let mut end = place.clone();
        end.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let left = *size - start;
        let sent = Arc::new(AtomicU64::new(start));
        let with_body = |request: RequestBuilder| {
            sent.store(start, Ordering::Relaxed);
            let request = request
                .timeout(upload_within(left))
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, left);
            let request = match (start, left) {
                (0, _) | (_, 0) => request,
                (start, left) => {
                    request.header(CONTENT_RANGE, format!("{start}-{}", start + left - 1))
                }
            };
            Ok(request.body(body(source, digest, start, sent.clone())?))
        };
        let sending = self.send_once(call, &call.host.upload, Method::PUT, end, with_body);
        match watched(sending, || progress(sent.load(Ordering::Relaxed))).await {
            Ok(_) => Ok(Pushed::Uploaded),
            Err(error) => {
                if !error.is_transient() {
                    self.cancel_upload(call, place.clone()).await;
                }
                let gone = |reason: &str| ClientError::Unreachable {
                    host: call.host.name().to_owned(),
                    reason: reason.to_owned(),
                };
                Err(match error {
                    // The registry was restarted and has forgotten the upload; another may go through.
                    ClientError::NotFound(_) => gone("it forgot the upload"),
                    // What it kept of the broken piece is not what it said.
                    ClientError::Refused { .. } if start > 0 => {
                        gone("it does not continue an upload")
                    }
                    error => {
                        upload.session = error.is_transient().then_some(place);
                        error
                    }
                })
            }
        }
    }

    /// Lets the registry forget an upload that nobody continues. It does so by itself after a while.
    pub(super) async fn cancel_upload(&self, call: &Call<'_>, place: Url) {
        let asked = self.send_once(call, &call.host.http, Method::DELETE, place, Ok);
        if let Err(error) = asked.await {
            tracing::debug!(%error, "an upload was not cancelled");
        }
    }
}

/// How long an upload of so many bytes may take.
pub(super) fn upload_within(bytes: u64) -> Duration {
    UPLOAD_WITHIN + Duration::from_secs(bytes / SLOWEST)
}

pub(super) fn empty(request: RequestBuilder) -> Result<RequestBuilder, ClientError> {
    Ok(request.header(CONTENT_LENGTH, 0))
}

/// How many bytes a registry says it has: the last one's number and one, but `0-0` also stands for nothing.
fn received(answer: &Response) -> Option<u64> {
    let Some(range) = answer.headers().get(RANGE) else {
        return Some(0);
    };
    let range = range.to_str().ok()?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (_, last) = range.split_once('-')?;
    match last.parse::<u64>().ok()? {
        0 => Some(0),
        last => last.checked_add(1),
    }
}

/// Where an upload continues; registries may answer with a path or with another host.
pub(super) fn location(call: &Call<'_>, response: &Response) -> Result<Url, ClientError> {
    let invalid = |reason: &str| failure::refused(call, response.status(), reason);
    let text = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    let text = text.ok_or_else(|| invalid("it started an upload without `Location`"))?;
    let place = response
        .url()
        .join(text)
        .map_err(|_| invalid("it started an upload at an invalid `Location`"))?;
    match (response.url().scheme(), place.scheme()) {
        (_, "https") | ("http", "http") => Ok(place),
        _ => Err(invalid("it started an upload at a `Location` without TLS")),
    }
}

/// The blob from `start` on.
fn body(
    source: &BlobSource<'_>,
    digest: &Digest,
    start: u64,
    sent: Arc<AtomicU64>,
) -> Result<Body, ClientError> {
    Ok(match source {
        BlobSource::Bytes(bytes) => {
            let start = usize::try_from(start)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            Body::wrap_stream(counted(in_chunks(bytes.slice(start..)), sent))
        }
        BlobSource::Store(store) => {
            let mut file = store.open_blob(digest)?;
            file.seek(SeekFrom::Start(start))
                .map_err(|source| StoreError::Io {
                    action: "read",
                    path: store.path(digest),
                    source,
                })?;
            let file = tokio::fs::File::from_std(file);
            Body::wrap_stream(counted(ReaderStream::with_capacity(file, CHUNK), sent))
        }
    })
}

fn in_chunks(bytes: Bytes) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::unfold(bytes, |mut rest| async move {
        let chunk = rest.split_to(rest.len().min(CHUNK));
        (!chunk.is_empty()).then_some((Ok(chunk), rest))
    })
}

fn counted(
    stream: impl Stream<Item = std::io::Result<Bytes>>,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    })
}

/// Tells of the progress of `work` from time to time until it is done.
async fn watched<T>(work: impl Future<Output = T>, tell: impl Fn()) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => tell(),
        }
    }
}
