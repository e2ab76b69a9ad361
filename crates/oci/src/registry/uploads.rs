//! Uploads of blobs: in one piece, or in several to a session. Sessions live in memory and their bytes in an
//! unfinished blob, so that a restart forgets both and the client starts again.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderName, StatusCode, header};
use tokio::sync::OwnedMutexGuard;

use super::blobs::accepted;
use super::error::ApiError;
use super::http_api::{CONTENT_DIGEST, query, value};
use super::{Registry, RegistryError};
use crate::blob_store::BlobWriter;
use crate::digest::Digest;
use crate::pump::{PumpError, blocking, pump};
use crate::reference::check_repository;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Largest blob taken, the bound of what is unpacked later.
const MAX_BLOB: u64 = 64 << 30;
/// Sessions at once; each holds an open file.
const MAX_SESSIONS: usize = 256;
/// A session that nothing happened in for so long is given up.
const IDLE: Duration = Duration::from_secs(3600);

/// The sessions, by name.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    sessions: Mutex<HashMap<String, Session>>,
}

#[derive(Debug, Clone)]
struct Session {
    repository: String,
    /// Gone once the blob is finished. Locked while a request writes.
    writer: Arc<tokio::sync::Mutex<Option<BlobWriter>>>,
    touched: Instant,
}

/// The writer of a session on its way through a request.
struct Held(OwnedMutexGuard<Option<BlobWriter>>);

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.as_mut() {
            Some(writer) => writer.write(bytes),
            None => Err(io::Error::other("the upload is finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Held {
    fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, BlobWriter::written)
    }
}

impl Uploads {
    /// The map is whole at any time, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, repository: String, writer: BlobWriter) -> Result<String, ApiError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| ApiError::internal(&io::Error::other(error)))?;
        let id = Digest::of(&random).hex()[..32].to_owned();
        let now = Instant::now();
        let mut sessions = self.lock();
        sessions.retain(|_, session| now.duration_since(session.touched) < IDLE);
        if sessions.len() >= MAX_SESSIONS {
            let message = format!("there are {MAX_SESSIONS} uploads at the moment");
            return Err(ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TOOMANYREQUESTS",
                message,
            ));
        }
        let writer = Arc::new(tokio::sync::Mutex::new(Some(writer)));
        sessions.insert(
            id.clone(),
            Session {
                repository,
                writer,
                touched: now,
            },
        );
        Ok(id)
    }

    /// Waits until no other request writes to the session.
    async fn hold(&self, repository: &str, id: &str) -> Result<Held, ApiError> {
        let session = self.lock().get_mut(id).map(|session| {
            session.touched = Instant::now();
            session.clone()
        });
        match session {
            Some(session) if session.repository == repository => {
                let held = session.writer.lock_owned().await;
                // Another request may have finished it while this one waited.
                if held.is_some() {
                    Ok(Held(held))
                } else {
                    Err(unknown(id))
                }
            }
            _ => Err(unknown(id)),
        }
    }

    fn remove(&self, id: &str) {
        self.lock().remove(id);
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "BLOB_UPLOAD_UNKNOWN",
        format!("there is no upload `{id}`; start again"),
    )
}

impl Registry {
    /// Starts a session, mounts a blob of another repository, or takes the blob at once.
    pub(super) async fn start_upload(
        &self,
        repository: String,
        request: Request,
    ) -> Result<Response, ApiError> {
        let asked = request.uri().query().map(str::to_owned);
        let mount =
            query(asked.as_deref(), "mount").and_then(|digest| digest.parse::<Digest>().ok());
        let from = query(asked.as_deref(), "from").filter(|from| check_repository(from).is_ok());
        if let (Some(digest), Some(from)) = (mount, from) {
            let (registry, target) = (self.clone(), repository.clone());
            let mounted = blocking(move || {
                let there = registry.inner.layout.has_blob(&from, &digest);
                if there {
                    registry.link_blob(&target, &digest).map(|()| true)
                } else {
                    Ok(false)
                }
            });
            if mounted.await? {
                return Ok(created(&repository, &digest));
            }
        }
        let registry = self.clone();
        let writer = blocking(move || registry.blobs().writer())
            .await
            .map_err(RegistryError::Store)?;
        let id = self.inner.uploads.add(repository.clone(), writer)?;
        if query(asked.as_deref(), "digest").is_some() {
            let finished = self.finish_upload(repository, id.clone(), request).await;
            // The client does not know the session, so nobody would ever continue it.
            self.inner.uploads.remove(&id);
            return finished;
        }
        Ok(progress(StatusCode::ACCEPTED, &repository, &id, 0))
    }

    pub(super) async fn upload_status(
        &self,
        repository: String,
        id: String,
    ) -> Result<Response, ApiError> {
        let held = self.inner.uploads.hold(&repository, &id).await?;
        Ok(progress(
            StatusCode::NO_CONTENT,
            &repository,
            &id,
            held.written(),
        ))
    }

    pub(super) async fn continue_upload(
        &self,
        repository: String,
        id: String,
        request: Request,
    ) -> Result<Response, ApiError> {
        let held = self.inner.uploads.hold(&repository, &id).await?;
        let held = self.receive(&repository, &id, held, request).await?;
        Ok(progress(
            StatusCode::ACCEPTED,
            &repository,
            &id,
            held.written(),
        ))
    }

    /// Takes the last piece, if there is one, and makes the blob part of the repository.
    pub(super) async fn finish_upload(
        &self,
        repository: String,
        id: String,
        request: Request,
    ) -> Result<Response, ApiError> {
        let digest =
            query(request.uri().query(), "digest").and_then(|digest| digest.parse::<Digest>().ok());
        let digest = digest.ok_or_else(|| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "DIGEST_INVALID",
                "`digest` must be the SHA-256 digest of the blob",
            )
        })?;
        let held = self.inner.uploads.hold(&repository, &id).await?;
        let mut held = self.receive(&repository, &id, held, request).await?;
        let writer = held.0.take().ok_or_else(|| unknown(&id))?;
        self.inner.uploads.remove(&id);
        let (registry, target) = (self.clone(), repository.clone());
        // Both on one thread: a client that leaves now finds the blob when it comes back.
        blocking(move || {
            let _kept = registry.inner.gate.pass();
            writer.commit(Some(&digest))?;
            registry.inner.layout.link_blob(&target, &digest)
        })
        .await?;
        Ok(created(&repository, &digest))
    }

    pub(super) async fn cancel_upload(
        &self,
        repository: String,
        id: String,
    ) -> Result<Response, ApiError> {
        let mut held = self.inner.uploads.hold(&repository, &id).await?;
        held.0.take();
        self.inner.uploads.remove(&id);
        let mut response = accepted();
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    /// Appends the body of a request. What arrived before a cut stays, and the client may continue after it.
    async fn receive(
        &self,
        repository: &str,
        id: &str,
        held: Held,
        request: Request,
    ) -> Result<Held, ApiError> {
        let written = held.written();
        if let Some(range) = request.headers().get(header::CONTENT_RANGE) {
            let text = range.to_str().unwrap_or_default();
            let start = text
                .strip_prefix("bytes ")
                .unwrap_or(text)
                .split('-')
                .next()
                .and_then(|start| start.parse().ok());
            if start != Some(written) {
                let message =
                    format!("the upload has {written} bytes, the next piece must start there");
                let error = ApiError::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "BLOB_UPLOAD_INVALID",
                    message,
                );
                return Err(error
                    .with(header::LOCATION, value(place(repository, id)))
                    .with(header::RANGE, value(received(written))));
            }
        }
        let (mut held, pumped) = pump(
            request.into_body().into_data_stream(),
            held,
            MAX_BLOB - written,
            |_| {},
        )
        .await;
        match pumped {
            Ok(()) => Ok(held),
            Err(PumpError::Source(error)) => {
                let message = format!("the upload was cut: {error}");
                Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "BLOB_UPLOAD_INVALID",
                    message,
                ))
            }
            Err(PumpError::TooLong) => {
                let message = format!("blobs of more than {MAX_BLOB} bytes are not taken");
                Err(ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "SIZE_INVALID",
                    message,
                ))
            }
            Err(PumpError::Sink(error)) => {
                // What is there is in the way of everybody else where the disk is full, and is not known to be whole.
                held.0.take();
                self.inner.uploads.remove(id);
                Err(ApiError::internal(&error))
            }
        }
    }
}

fn place(repository: &str, id: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

/// The bytes received as registries write it: the last one counts, and nothing is `0-0`.
fn received(written: u64) -> String {
    format!("0-{}", written.saturating_sub(1))
}

fn progress(status: StatusCode, repository: &str, id: &str, written: u64) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, value(place(repository, id)));
    headers.insert(header::RANGE, value(received(written)));
    headers.insert(UPLOAD_ID, value(id));
    response
}

fn created(repository: &str, digest: &Digest) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(
        header::LOCATION,
        value(format!("/v2/{repository}/blobs/{digest}")),
    );
    headers.insert(CONTENT_DIGEST, value(digest));
    response
}
