//! Leads requests to what serves them, once they are allowed to.

use std::sync::PoisonError;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::access::Denied;
use super::error::ApiError;
use super::route::{self, Route};
use super::{Permission, Registry};

/// Digest of the content that an answer is about.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

pub(super) fn router(registry: Registry) -> Router {
    // Repository names have slashes, which patterns of routes cannot express.
    Router::new().fallback(serve).with_state(registry)
}

async fn serve(State(registry): State<Registry>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match registry.respond(request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    response
        .headers_mut()
        .insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    tracing::debug!(%method, path, status = response.status().as_u16(), "registry request");
    response
}

impl Registry {
    async fn respond(&self, request: Request) -> Result<Response, ApiError> {
        let method = request.method().clone();
        let needed = match method {
            Method::GET | Method::HEAD => Permission::Pull,
            _ => Permission::Push,
        };
        let authorization = request
            .headers()
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes);
        let checked = self.inner.access.read();
        checked
            .unwrap_or_else(PoisonError::into_inner)
            .check(authorization, needed)
            .map_err(denied)?;

        let asked = request.uri().query().map(str::to_owned);
        let get = method == Method::GET || method == Method::HEAD;
        match route::parse(request.uri().path())? {
            Route::Root if get => Ok(json(StatusCode::OK, "{}")),
            Route::Blob { repository, digest } if get => {
                let range = request.headers().get(header::RANGE).cloned();
                self.get_blob(repository, digest, method, range).await
            }
            Route::Blob { repository, digest } if method == Method::DELETE => {
                self.delete_blob(repository, digest).await
            }
            Route::Uploads { repository } if method == Method::POST => {
                self.start_upload(repository, request).await
            }
            Route::Upload { repository, id } if get => self.upload_status(repository, id).await,
            Route::Upload { repository, id } if method == Method::PATCH => {
                self.continue_upload(repository, id, request).await
            }
            Route::Upload { repository, id } if method == Method::PUT => {
                self.finish_upload(repository, id, request).await
            }
            Route::Upload { repository, id } if method == Method::DELETE => {
                self.cancel_upload(repository, id).await
            }
            Route::Manifest {
                repository,
                version,
            } if get => self.get_manifest(repository, version).await,
            Route::Manifest {
                repository,
                version,
            } if method == Method::PUT => self.receive_manifest(repository, version, request).await,
            Route::Manifest {
                repository,
                version,
            } if method == Method::DELETE => self.delete_manifest(repository, version).await,
            Route::Tags { repository } if get => self.list_tags(repository, asked.as_deref()).await,
            Route::Referrers { repository, digest } if get => {
                self.list_referrers(repository, digest, asked.as_deref())
                    .await
            }
            _ => Err(ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                format!("{method} is not supported here"),
            )),
        }
    }
}

fn denied(denied: Denied) -> ApiError {
    let unauthorized = |message| {
        ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message).with(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"caprock\", charset=\"UTF-8\""),
        )
    };
    match denied {
        Denied::Missing => unauthorized("user name and password are required"),
        Denied::Wrong => unauthorized("user name or password is wrong"),
        Denied::NotPermitted => {
            ApiError::new(StatusCode::FORBIDDEN, "DENIED", "this user may only pull")
        }
    }
}

pub(super) fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.into(),
    )
        .into_response()
}

/// The values of a query, by name. Names and digests need no decoding beyond what URLs always have.
pub(super) fn query(query: Option<&str>, name: &str) -> Option<String> {
    let pairs: Vec<(String, String)> = axum::extract::Query::try_from_uri(
        &format!("/?{}", query.unwrap_or_default()).parse().ok()?,
    )
    .ok()?
    .0;
    pairs
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// A header value made of what is known to be plain ASCII.
pub(super) fn value(text: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::from_str(&text.to_string())
        .expect("digests, names, numbers and media types are plain ASCII")
}
