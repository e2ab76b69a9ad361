//! Manifests, tags and referrers over HTTP.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderName, StatusCode, header};
use serde_json::json;

use super::blobs::accepted;
use super::error::ApiError;
use super::http_api::{CONTENT_DIGEST, json as json_response, query, value};
use super::route::Version;
use super::{Registry, RegistryError, subject};
use crate::digest::Digest;
use crate::manifest::{Document, MAX_MANIFEST, MediaType, OCI_INDEX, digest_of};
use crate::pump::blocking;

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Tags in one answer, when the client does not ask for fewer.
const TAGS_PAGE: usize = 1000;

fn unknown(version: &Version) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "MANIFEST_UNKNOWN",
        format!("the repository has no manifest `{version}`"),
    )
}

impl Registry {
    pub(super) async fn get_manifest(
        &self,
        repository: String,
        version: Version,
    ) -> Result<Response, ApiError> {
        let (registry, asked) = (self.clone(), version.clone());
        let found = blocking(move || {
            let found = registry.find(&repository, &asked)?;
            let read = |(digest, media_type)| {
                Ok((
                    digest,
                    media_type,
                    registry.blobs().read(&digest, MAX_MANIFEST)?,
                ))
            };
            found.map(read).transpose()
        });
        let found: Result<_, RegistryError> = found.await;
        let (digest, media_type, bytes) = found?.ok_or_else(|| unknown(&version))?;
        // For HEAD the server leaves the body out and keeps its length.
        Response::builder()
            .header(header::CONTENT_TYPE, media_type)
            .header(header::CONTENT_LENGTH, bytes.len())
            .header(header::ETAG, value(format!("\"{digest}\"")))
            .header(CONTENT_DIGEST, value(digest))
            .body(Body::from(bytes))
            .map_err(|error| ApiError::internal(&error))
    }

    pub(super) async fn receive_manifest(
        &self,
        repository: String,
        version: Version,
        request: Request,
    ) -> Result<Response, ApiError> {
        let media_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let media_type = media_type.map(str::to_owned);
        let too_long = |_| {
            let message = format!("the manifest was cut, or has more than {MAX_MANIFEST} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", message)
        };
        let bytes = axum::body::to_bytes(request.into_body(), MAX_MANIFEST as usize)
            .await
            .map_err(too_long)?;
        let document =
            Document::parse(bytes, media_type.as_deref()).map_err(RegistryError::Manifest)?;
        let digest = document.digest();
        let tag = match &version {
            Version::Tag(tag) => Some(tag.clone()),
            Version::Digest(expected) if *expected == digest => None,
            Version::Digest(expected) => {
                let message = format!("manifest has digest `{digest}`, expected `{expected}`");
                return Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "DIGEST_INVALID",
                    message,
                ));
            }
        };
        let subject = subject(&document)
            .map(digest_of)
            .transpose()
            .map_err(RegistryError::from)?;
        let (registry, target) = (self.clone(), repository.clone());
        blocking(move || registry.put_manifest(&target, tag.as_deref(), &document)).await?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::CREATED;
        let headers = response.headers_mut();
        headers.insert(
            header::LOCATION,
            value(format!("/v2/{repository}/manifests/{digest}")),
        );
        headers.insert(CONTENT_DIGEST, value(digest));
        if let Some(subject) = subject {
            headers.insert(SUBJECT, value(subject));
        }
        Ok(response)
    }

    /// Removes a tag alone, or a manifest with all its tags. Blobs stay.
    pub(super) async fn delete_manifest(
        &self,
        repository: String,
        version: Version,
    ) -> Result<Response, ApiError> {
        let (registry, asked) = (self.clone(), version.clone());
        let deleted = blocking(move || match &asked {
            Version::Tag(tag) => registry.inner.layout.remove_tag(&repository, tag),
            Version::Digest(digest) => {
                let Some((_, media_type)) = registry.find(&repository, &asked)? else {
                    return Ok(false);
                };
                let document = registry.document(digest, &media_type)?;
                let subject = subject(&document).map(digest_of).transpose()?;
                registry
                    .inner
                    .layout
                    .remove_manifest(&repository, digest, subject.as_ref())
            }
        });
        match deleted.await? {
            true => Ok(accepted()),
            false => Err(unknown(&version)),
        }
    }

    pub(super) async fn list_tags(
        &self,
        repository: String,
        asked: Option<&str>,
    ) -> Result<Response, ApiError> {
        let limit = query(asked, "n")
            .and_then(|n| n.parse::<usize>().ok())
            .unwrap_or(TAGS_PAGE)
            .min(TAGS_PAGE);
        let last = query(asked, "last");
        let (registry, name) = (self.clone(), repository.clone());
        let tags = blocking(move || registry.inner.layout.tags(&name))
            .await?
            .ok_or_else(|| {
                ApiError::new(
                    StatusCode::NOT_FOUND,
                    "NAME_UNKNOWN",
                    format!("there is no repository `{repository}`"),
                )
            })?;
        let start = last.map_or(0, |last| tags.partition_point(|tag| *tag <= last));
        let page = &tags[start..tags.len().min(start + limit)];
        let body = json!({ "name": repository, "tags": page }).to_string();
        let mut response = json_response(StatusCode::OK, body);
        if let Some(last) = page.last().filter(|_| start + limit < tags.len()) {
            let link = format!("</v2/{repository}/tags/list?n={limit}&last={last}>; rel=\"next\"");
            response.headers_mut().insert(header::LINK, value(link));
        }
        Ok(response)
    }

    /// The manifests that name `digest` as their subject, as an index.
    pub(super) async fn list_referrers(
        &self,
        repository: String,
        digest: Digest,
        asked: Option<&str>,
    ) -> Result<Response, ApiError> {
        let wanted = query(asked, "artifactType");
        let filtered = wanted.is_some();
        let registry = self.clone();
        let descriptors = blocking(move || {
            let mut descriptors = Vec::new();
            for referrer in registry.inner.layout.referrers(&repository, &digest)? {
                // The link may be there when the manifest is not, between two writes.
                if let Some((_, media_type)) =
                    registry.find(&repository, &Version::Digest(referrer))?
                {
                    let document = registry.document(&referrer, &media_type)?;
                    if wanted
                        .as_ref()
                        .is_none_or(|wanted| artifact_type(&document).as_ref() == Some(wanted))
                    {
                        descriptors.push(describe(&document));
                    }
                }
            }
            Ok::<_, RegistryError>(descriptors)
        });
        let index =
            json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors.await? });
        let mut response = json_response(StatusCode::OK, index.to_string());
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, value(OCI_INDEX));
        if filtered {
            response
                .headers_mut()
                .insert(FILTERS_APPLIED, value("artifactType"));
        }
        Ok(response)
    }
}

/// What kind of artifact a manifest is; images that do not say so are known by their configuration's type.
fn artifact_type(document: &Document) -> Option<String> {
    let text = |media_type: &MediaType| media_type.to_string();
    match document {
        Document::Manifest(manifest) => {
            let own = manifest.content().artifact_type().as_ref();
            Some(text(own.unwrap_or(manifest.config().media_type())))
        }
        Document::Index(index) => index.content().artifact_type().as_ref().map(text),
    }
}

/// A descriptor with the fields that lists of referrers have.
fn describe(document: &Document) -> serde_json::Value {
    let annotations = match document {
        Document::Manifest(manifest) => manifest.content().annotations().as_ref(),
        Document::Index(index) => index.content().annotations().as_ref(),
    };
    let mut descriptor = json!({
        "mediaType": document.media_type(),
        "digest": document.digest(),
        "size": document.bytes().len(),
    });
    if let Some(artifact_type) = artifact_type(document) {
        descriptor["artifactType"] = artifact_type.into();
    }
    if let Some(annotations) = annotations {
        descriptor["annotations"] = json!(annotations);
    }
    descriptor
}
