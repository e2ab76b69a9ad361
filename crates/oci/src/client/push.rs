//! Writing to registries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::time::MissedTickBehavior;
use tokio_util::io::ReaderStream;

use super::pull::{CONTENT_DIGEST, unusable};
use super::request::{Action, Call};
use super::retry::Backoff;
use super::{BlobSource, Client, ClientError, Pushed, failure};
use crate::digest::Digest;
use crate::manifest::{Descriptor, digest_of};
use crate::reference::Reference;

/// An upload may take this long, and as long again as its bytes take at the slowest speed put up with.
const UPLOAD_WITHIN: Duration = Duration::from_secs(300);
const SLOWEST: u64 = 100_000;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of a file read at once.
pub(super) const CHUNK: usize = 256 << 10;

impl Client {
    /// Sees to it that the repository of `reference` has the blob: asks, then mounts it from the repository of
    /// `from` when that is at the same registry, then sends it. `progress` is told how many of its bytes are there;
    /// it starts again at nothing when sending has to.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: BlobSource<'_>,
        from: Option<&Reference>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed, ClientError> {
        let digest = digest_of(descriptor).map_err(|error| unusable(reference, error.into()))?;
        let host = self.host(reference.host())?;
        let what = format!("{}/{}@{digest}", reference.host(), reference.repository());
        let mut call = self.call(&host, reference, Action::Push, what);
        let from = from.filter(|from| {
            from.host() == reference.host() && from.repository() != reference.repository()
        });
        call.from = from.map(Reference::repository);
        let mut backoff = Backoff::new(self.retry());
        loop {
            match self
                .push_blob_once(&call, &digest, descriptor.size(), &source, progress)
                .await
            {
                Err(error) => backoff.wait_after(error).await?,
                Ok(pushed) => {
                    progress(descriptor.size());
                    return Ok(pushed);
                }
            }
        }
    }

    async fn push_blob_once(
        &self,
        call: &Call<'_>,
        digest: &Digest,
        size: u64,
        source: &BlobSource<'_>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed, ClientError> {
        let http = &call.host.http;
        let url = call.url(&format!("blobs/{digest}")).await?;
        match self.send_once(call, http, Method::HEAD, url, Ok).await {
            Ok(_) => return Ok(Pushed::Present),
            Err(ClientError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let mut url = call.url("blobs/uploads/").await?;
        if let Some(from) = call.from {
            url.query_pairs_mut()
                .append_pair("mount", &digest.to_string())
                .append_pair("from", from);
        }
        let empty = |request: reqwest::RequestBuilder| Ok(request.header(CONTENT_LENGTH, 0));
        let started = self.send_once(call, http, Method::POST, url, empty).await?;
        if started.status() == StatusCode::CREATED {
            return Ok(Pushed::Mounted);
        }
        let mut place = location(call, &started)?;
        place
            .query_pairs_mut()
            .append_pair("digest", &digest.to_string());

        let sent = Arc::new(AtomicU64::new(0));
        let within = UPLOAD_WITHIN + Duration::from_secs(size / SLOWEST);
        let with_body = |request: reqwest::RequestBuilder| {
            sent.store(0, Ordering::Relaxed);
            let request = request
                .timeout(within)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, size);
            Ok(request.body(body(source, digest, sent.clone())?))
        };
        let upload = self.send_once(call, &call.host.upload, Method::PUT, place, with_body);
        match watched(upload, || progress(sent.load(Ordering::Relaxed))).await {
            Ok(_) => Ok(Pushed::Uploaded),
            // The registry was restarted and has forgotten the upload; another may go through.
            Err(ClientError::NotFound(_)) => Err(ClientError::Unreachable {
                host: call.host.name().to_owned(),
                reason: "it forgot the upload".to_owned(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Puts a manifest or index under the reference's tag, or under its digest when it has none. What it refers to
    /// must be there already.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        bytes: Bytes,
        media_type: &str,
    ) -> Result<Digest, ClientError> {
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest()
            && expected != digest
        {
            return Err(ClientError::mismatch(
                reference.to_string(),
                expected,
                digest,
            ));
        }
        let host = self.host(reference.host())?;
        let call = self.call(&host, reference, Action::Push, reference.to_string());
        let version = reference
            .tag()
            .map_or_else(|| digest.to_string(), str::to_owned);
        let response = self
            .send(
                &call,
                Method::PUT,
                &format!("manifests/{version}"),
                self.retry(),
                |request| request.header(CONTENT_TYPE, media_type).body(bytes.clone()),
            )
            .await?;
        let told = response
            .headers()
            .get(CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        match told {
            Some(told) if told != digest => Err(ClientError::mismatch(call.what, digest, told)),
            _ => Ok(digest),
        }
    }

    /// Deletes the manifest that the reference names by digest, or just its tag. One that is not there is no error.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<(), ClientError> {
        let host = self.host(reference.host())?;
        let call = self.call(&host, reference, Action::Delete, reference.to_string());
        let path = format!("manifests/{}", reference.version());
        match self
            .send(&call, Method::DELETE, &path, self.retry(), |request| {
                request
            })
            .await
        {
            Ok(_) | Err(ClientError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
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

fn body(
    source: &BlobSource<'_>,
    digest: &Digest,
    sent: Arc<AtomicU64>,
) -> Result<Body, ClientError> {
    Ok(match source {
        BlobSource::Bytes(bytes) => Body::wrap_stream(counted(in_chunks(bytes.clone()), sent)),
        BlobSource::Store(store) => {
            let file = tokio::fs::File::from_std(store.open_blob(digest)?);
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
