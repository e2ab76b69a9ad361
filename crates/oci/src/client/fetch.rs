//! Fetching blobs into a store.

use futures::StreamExt as _;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::places::Place;
use super::pull::{blob_name, unusable};
use super::request::{Action, Call};
use super::retry::Backoff;
use super::{Client, ClientError, failure};
use crate::blob_store::{BlobStore, BlobWriter, StoreError};
use crate::digest::Digest;
use crate::manifest::{Descriptor, digest_of};
use crate::pump::{PumpError, blocking, pump};
use crate::reference::Reference;

impl Client {
    /// Fetches a blob into `store`, unless it is there. Size and digest are verified; after a cut, or when an earlier
    /// run was stopped half-way, the rest is asked for. `progress` is told how many bytes of it are there, never fewer than before unless the registry makes us
    /// start again.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        store: &BlobStore,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        let digest = digest_of(descriptor).map_err(|error| unusable(reference, error.into()))?;
        if store
            .size(&digest)
            .is_ok_and(|size| size == descriptor.size())
        {
            progress(descriptor.size());
            return Ok(());
        }
        let (mut place, mut others) = self.places(reference)?;
        loop {
            let fetched = self
                .fetch_blob_at(&place, descriptor, store, progress)
                .await;
            match fetched {
                Err(error) => place = others.after(error)?,
                fetched => return fetched,
            }
        }
    }

    async fn fetch_blob_at(
        &self,
        place: &Place,
        descriptor: &Descriptor,
        store: &BlobStore,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        let reference = &place.reference;
        let digest = digest_of(descriptor).map_err(|error| unusable(reference, error.into()))?;
        let what = blob_name(reference, &digest);
        let call = self.call(&place.host, reference, Action::Pull, what);
        let partial = store.clone();
        let mut writer = blocking(move || partial.resume(&digest)).await?;
        if writer.written() > descriptor.size() {
            writer.restart()?;
        }
        let mut backoff = Backoff::new(place.retry);
        loop {
            let before = writer.written();
            let (returned, fetched) = self
                .fetch_part(&call, &digest, descriptor.size(), writer, progress)
                .await?;
            writer = returned;
            match fetched {
                Ok(()) => break,
                Err(error) => {
                    if writer.written() > before {
                        backoff.reset();
                    }
                    backoff.wait_after(error).await?;
                }
            }
        }
        match blocking(move || writer.commit(Some(&digest))).await {
            Err(StoreError::Mismatch { expected, found }) => {
                Err(ClientError::mismatch(call.what, expected, found))
            }
            committed => committed.map(|_| ()).map_err(ClientError::Store),
        }
    }

    /// Fetches what the writer does not have yet. The writer comes back with as much as arrived.
    async fn fetch_part(
        &self,
        call: &Call<'_>,
        digest: &Digest,
        size: u64,
        mut writer: BlobWriter,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(BlobWriter, Result<(), ClientError>), ClientError> {
        let start = writer.written();
        if start == size && size > 0 {
            return Ok((writer, Ok(())));
        }
        let sent = async {
            let url = call.url(&format!("blobs/{digest}")).await?;
            let range = |request: reqwest::RequestBuilder| match start {
                0 => Ok(request),
                start => Ok(request.header(RANGE, format!("bytes={start}-"))),
            };
            self.send_once(call, &call.host.http, Method::GET, url, range)
                .await
        };
        let response = match sent.await {
            Ok(response) => response,
            Err(ClientError::Refused { status: 416, .. }) => {
                writer.restart()?;
                let reason = "it cannot continue a transfer".to_owned();
                return Ok((
                    writer,
                    Err(ClientError::Unreachable {
                        host: call.host.name().to_owned(),
                        reason,
                    }),
                ));
            }
            Err(error) => return Ok((writer, Err(error))),
        };
        if start > 0 && !continues_at(&response, start) {
            writer.restart()?;
        }
        let start = writer.written();
        let observe = |moved| progress(start + moved);
        let paced = response.bytes_stream().then(async |chunk| {
            if let (Some(pace), Ok(chunk)) = (&self.shared.pace, &chunk) {
                pace.pass(chunk.len() as u64).await;
            }
            chunk
        });
        let (writer, pumped) = pump(paced, writer, size - start, observe).await;
        let host = || call.host.name().to_owned();
        let fetched = match pumped {
            Ok(()) if writer.written() == size => Ok(()),
            Ok(()) => Err(ClientError::Unreachable {
                host: host(),
                reason: format!(
                    "the transfer ended after {} of {size} bytes",
                    writer.written()
                ),
            }),
            Err(PumpError::TooLong) => Err(ClientError::Corrupt {
                what: call.what.clone(),
                reason: format!("it is longer than its size, {size} bytes"),
            }),
            Err(PumpError::Source(error)) => Err(failure::transport(&host(), error)),
            Err(PumpError::Sink(error)) => Err(writer.failed(error).into()),
        };
        Ok((writer, fetched))
    }
}

/// Whether the answer is the part asked for, from `start`.
fn continues_at(response: &Response, start: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| {
        range
            .strip_prefix("bytes ")?
            .split('-')
            .next()?
            .parse::<u64>()
            .ok()
    });
    response.status() == StatusCode::PARTIAL_CONTENT && first == Some(start)
}
