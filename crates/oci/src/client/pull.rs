//! Reading manifests and images from registries.

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response};

use super::places::Place;
use super::request::{Action, Call};
use super::retry::Backoff;
use super::{Client, ClientError, FetchedManifest, Image, failure};
use crate::digest::Digest;
use crate::manifest::{
    ACCEPTED, Descriptor, Document, ImageConfig, MAX_CONFIG, MAX_MANIFEST, Manifest, ManifestError,
    Platform, digest_of, platform_text,
};
use crate::reference::Reference;

/// The header in which registries tell the digest of a manifest.
pub(super) const CONTENT_DIGEST: &str = "docker-content-digest";

impl Client {
    /// The digest and media type that the reference stands for now, without fetching the manifest where the
    /// registry tells both.
    pub async fn resolve(&self, reference: &Reference) -> Result<(Digest, String), ClientError> {
        let (mut place, mut others) = self.places(reference)?;
        loop {
            match self.resolve_at(&place).await {
                Err(error) => place = others.after(error)?,
                resolved => return resolved,
            }
        }
    }

    async fn resolve_at(&self, place: &Place) -> Result<(Digest, String), ClientError> {
        let reference = &place.reference;
        let call = self.call(&place.host, reference, Action::Pull, reference.to_string());
        let path = format!("manifests/{}", reference.version());
        let response = self
            .send(&call, Method::HEAD, &path, place.retry, |request| {
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
                let manifest = self.manifest_at(place).await?;
                Ok((manifest.digest, manifest.media_type))
            }
        }
    }

    /// Fetches a manifest or index of at most [`MAX_MANIFEST`] bytes. With a digest in the reference it is what the
    /// digest says; otherwise it is what the registry says the tag stands for.
    pub async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, ClientError> {
        let (mut place, mut others) = self.places(reference)?;
        loop {
            match self.manifest_at(&place).await {
                Err(error) => place = others.after(error)?,
                fetched => return fetched,
            }
        }
    }

    async fn manifest_at(&self, place: &Place) -> Result<FetchedManifest, ClientError> {
        let reference = &place.reference;
        let call = self.call(&place.host, reference, Action::Pull, reference.to_string());
        let path = format!("manifests/{}", reference.version());
        let mut backoff = Backoff::new(place.retry);
        loop {
            let fetched = async {
                let accept = |request: reqwest::RequestBuilder| {
                    Ok(request.header(ACCEPT, ACCEPTED.join(", ")))
                };
                let url = call.url(&path).await?;
                let response = self
                    .send_once(&call, &place.host.http, Method::GET, url, accept)
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
        let (mut place, mut others) = self.places(reference)?;
        loop {
            match self.blob_bytes_at(&place, descriptor, limit).await {
                Err(error) => place = others.after(error)?,
                fetched => return fetched,
            }
        }
    }

    async fn blob_bytes_at(
        &self,
        place: &Place,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, ClientError> {
        let reference = &place.reference;
        let digest = digest_of(descriptor).map_err(|error| unusable(reference, error.into()))?;
        let what = blob_name(reference, &digest);
        let call = self.call(&place.host, reference, Action::Pull, what);
        if descriptor.size() > limit {
            let reason = format!("its size is {}, more than {limit}", descriptor.size());
            return Err(ClientError::Corrupt {
                what: call.what,
                reason,
            });
        }
        let path = format!("blobs/{digest}");
        let mut backoff = Backoff::new(place.retry);
        loop {
            let fetched = async {
                let url = call.url(&path).await?;
                let response = self
                    .send_once(&call, &place.host.http, Method::GET, url, Ok)
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
}

pub(super) fn blob_name(reference: &Reference, digest: &Digest) -> String {
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

pub(super) fn unusable(reference: &Reference, source: ManifestError) -> ClientError {
    ClientError::Manifest {
        reference: reference.to_string(),
        source,
    }
}

pub(super) async fn read_body(
    call: &Call<'_>,
    response: Response,
    limit: u64,
) -> Result<Bytes, ClientError> {
    failure::read_limited(call.host.name(), response, limit)
        .await?
        .ok_or_else(|| ClientError::Corrupt {
            what: call.what.clone(),
            reason: format!("it is longer than {limit} bytes"),
        })
}
