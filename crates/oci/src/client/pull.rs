//! Reading from registries.

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, LINK, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::request::{Action, Call};
use super::retry::Backoff;
use super::{Client, ClientError, FetchedManifest, Image, failure};
use crate::blob_store::{BlobStore, BlobWriter, StoreError};
use crate::digest::Digest;
use crate::manifest::{
    ACCEPTED, Descriptor, Document, ImageConfig, MAX_CONFIG, MAX_MANIFEST, Manifest, ManifestError,
    Platform, digest_of, platform_text,
};
use crate::pump::{PumpError, blocking, pump};
use crate::reference::Reference;

/// The header in which registries tell the digest of a manifest.
pub(super) const CONTENT_DIGEST: &str = "docker-content-digest";
/// Bounds of a list of tags, against registries that never end.
const MAX_TAGS_PAGE: u64 = 4 << 20;
const MAX_TAGS_PAGES: usize = 1000;

impl Client {
    /// The digest and media type that the reference stands for now, without fetching the manifest where the
    /// registry tells both.
    pub async fn resolve(&self, reference: &Reference) -> Result<(Digest, String), ClientError> {
        let host = self.host(reference.host())?;
        let call = self.call(&host, reference, Action::Pull, reference.to_string());
        let path = format!("manifests/{}", reference.version());
        let response = self
            .send(&call, Method::HEAD, &path, |request| {
                request.header(ACCEPT, ACCEPTED.join(", "))
            })
            .await?;
        match (told_digest(&response), media_type(&response)) {
            (Some(told), Some(media_type)) => match reference.digest() {
                Some(expected) if expected != told => {
                    Err(ClientError::mismatch(&call.what, expected, told))
                }
                _ => Ok((told, media_type)),
            },
            _ => {
                let manifest = self.manifest(reference).await?;
                Ok((manifest.digest, manifest.media_type))
            }
        }
    }

    /// Fetches a manifest or index of at most [`MAX_MANIFEST`] bytes. With a digest in the reference it is what the
    /// digest says; otherwise it is what the registry says the tag stands for.
    pub async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, ClientError> {
        let host = self.host(reference.host())?;
        let call = self.call(&host, reference, Action::Pull, reference.to_string());
        let path = format!("manifests/{}", reference.version());
        let mut backoff = Backoff::new(self.retry());
        loop {
            let fetched = async {
                let accept = |request: reqwest::RequestBuilder| {
                    Ok(request.header(ACCEPT, ACCEPTED.join(", ")))
                };
                let url = call.url(&path).await?;
                let response = self
                    .send_once(&call, &host.http, Method::GET, url, accept)
                    .await?;
                let expected = reference.digest().or_else(|| told_digest(&response));
                let media_type = media_type(&response);
                let bytes = read_body(&call, response, MAX_MANIFEST).await?;
                let digest = Digest::of(&bytes);
                if let Some(expected) = expected
                    && expected != digest
                {
                    return Err(ClientError::mismatch(&call.what, expected, digest));
                }
                let document = Document::parse(bytes.clone(), media_type.as_deref());
                let media_type = document
                    .map_err(|error| unusable(reference, error))?
                    .media_type()
                    .to_owned();
                Ok(FetchedManifest {
                    bytes,
                    digest,
                    media_type,
                })
            };
            match fetched.await {
                Err(error) => backoff.wait_after(error).await?,
                fetched => return fetched,
            }
        }
    }

    /// Fetches manifest and configuration of the image for `platform`, through an index where there is one.
    pub async fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Image, ClientError> {
        let manifest = self.image_manifest(reference, platform).await?;
        let reference = reference.with_digest(manifest.digest());
        let config_bytes = self
            .blob_bytes(&reference, manifest.config(), MAX_CONFIG)
            .await?;
        let corrupt = |reason: String| ClientError::Corrupt {
            what: format!("configuration of {reference}"),
            reason,
        };
        let config: ImageConfig = serde_json::from_slice(&config_bytes)
            .map_err(|error| corrupt(format!("it is not valid: {error}")))?;
        let (layers, diff_ids) = (manifest.layers().len(), config.rootfs().diff_ids().len());
        if layers != diff_ids {
            return Err(corrupt(format!(
                "it has {diff_ids} `rootfs.diff_ids` for {layers} layers"
            )));
        }
        if (config.os(), config.architecture()) != (platform.os(), platform.architecture()) {
            return Err(ClientError::NoPlatform {
                reference: reference.to_string(),
                platform: platform_text(platform),
                available: format!("{}/{}", config.os(), config.architecture()),
            });
        }
        Ok(Image {
            reference,
            manifest,
            config_bytes,
            config,
        })
    }

    async fn image_manifest(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Manifest, ClientError> {
        let parse =
            |fetched: &FetchedManifest| fetched.parse().map_err(|error| unusable(reference, error));
        let index = match parse(&self.manifest(reference).await?)? {
            Document::Manifest(manifest) => return Ok(manifest),
            Document::Index(index) => index,
        };
        let chosen = index
            .select(platform)
            .ok_or_else(|| ClientError::NoPlatform {
                reference: reference.to_string(),
                platform: platform_text(platform),
                available: match index.platforms() {
                    platforms if platforms.is_empty() => "none".to_owned(),
                    platforms => platforms.join(", "),
                },
            })?;
        let digest = digest_of(chosen).map_err(|error| unusable(reference, error.into()))?;
        match parse(&self.manifest(&reference.with_digest(digest)).await?)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(index) => Err(unusable(
                reference,
                ManifestError::MediaType(index.media_type().to_owned()),
            )),
        }
    }

    /// Fetches a small blob of at most `limit` bytes into memory.
    pub async fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, ClientError> {
        let digest = digest_of(descriptor).map_err(|error| unusable(reference, error.into()))?;
        let host = self.host(reference.host())?;
        let call = self.call(
            &host,
            reference,
            Action::Pull,
            blob_name(reference, &digest),
        );
        if descriptor.size() > limit {
            let reason = format!("its size is {}, more than {limit}", descriptor.size());
            return Err(ClientError::Corrupt {
                what: call.what,
                reason,
            });
        }
        let path = format!("blobs/{digest}");
        let mut backoff = Backoff::new(self.retry());
        loop {
            let fetched = async {
                let url = call.url(&path).await?;
                let response = self
                    .send_once(&call, &host.http, Method::GET, url, Ok)
                    .await?;
                let bytes = read_body(&call, response, descriptor.size()).await?;
                match Digest::of(&bytes) {
                    found if found == digest => Ok(bytes),
                    found => Err(ClientError::mismatch(&call.what, digest, found)),
                }
            };
            match fetched.await {
                Err(error) => backoff.wait_after(error).await?,
                fetched => return fetched,
            }
        }
    }

    /// Fetches a blob into `store`, unless it is there. Size and digest are verified; after a cut the rest is asked
    /// for. `progress` is told how many bytes of it are there, never fewer than before unless the registry makes us
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
        let host = self.host(reference.host())?;
        let call = self.call(
            &host,
            reference,
            Action::Pull,
            blob_name(reference, &digest),
        );
        let mut writer = store.writer()?;
        let mut backoff = Backoff::new(self.retry());
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
        let (writer, pumped) = pump(response.bytes_stream(), writer, size - start, observe).await;
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

    /// The tags of the repository, sorted.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, ClientError> {
        let host = self.host(reference.host())?;
        let what = format!("{}/{}", reference.host(), reference.repository());
        let call = self.call(&host, reference, Action::Pull, what);
        let mut url = call.url("tags/list?n=1000").await?;
        let mut tags = Vec::new();
        for _ in 0..MAX_TAGS_PAGES {
            let (page, next) = self.tags_page(&call, &url).await?;
            tags.extend(page);
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    async fn tags_page(
        &self,
        call: &Call<'_>,
        url: &Url,
    ) -> Result<(Vec<String>, Option<Url>), ClientError> {
        let mut backoff = Backoff::new(self.retry());
        loop {
            let fetched = async {
                let response = self
                    .send_once(call, &call.host.http, Method::GET, url.clone(), Ok)
                    .await?;
                // A page of another host is not this registry's to give.
                let link = response
                    .headers()
                    .get(LINK)
                    .and_then(|link| link.to_str().ok())
                    .and_then(next_page);
                let next = link
                    .and_then(|link| url.join(&link).ok())
                    .filter(|next| next.origin() == url.origin());
                let body = read_body(call, response, MAX_TAGS_PAGE).await?;
                let list: TagList =
                    serde_json::from_slice(&body).map_err(|error| ClientError::Corrupt {
                        what: format!("list of tags of {}", call.what),
                        reason: error.to_string(),
                    })?;
                Ok((list.tags.unwrap_or_default(), next))
            };
            match fetched.await {
                Err(error) => backoff.wait_after(error).await?,
                fetched => return fetched,
            }
        }
    }
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

/// The target of `<…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let rel = parameters
        .split(';')
        .map(|parameter| parameter.trim().replace('"', ""));
    rel.into_iter()
        .any(|parameter| parameter == "rel=next")
        .then(|| target.to_owned())
}

fn blob_name(reference: &Reference, digest: &Digest) -> String {
    format!("{}/{}@{digest}", reference.host(), reference.repository())
}

fn told_digest(response: &Response) -> Option<Digest> {
    response
        .headers()
        .get(CONTENT_DIGEST)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn media_type(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned(),
    )
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

pub(super) fn unusable(reference: &Reference, source: ManifestError) -> ClientError {
    ClientError::Manifest {
        reference: reference.to_string(),
        source,
    }
}

async fn read_body(call: &Call<'_>, response: Response, limit: u64) -> Result<Bytes, ClientError> {
    let body = failure::read_limited(response, limit).await;
    body.map_err(|error| failure::transport(call.host.name(), error))?
        .ok_or_else(|| ClientError::Corrupt {
            what: call.what.clone(),
            reason: format!("it is longer than {limit} bytes"),
        })
}
