//! Errors as the distribution specification writes them.

use std::io;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::RegistryError;
use super::route::RouteError;
use crate::blob_store::StoreError;

/// An error answer.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    /// One of the specification's codes.
    code: &'static str,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> ApiError {
        ApiError {
            status,
            code,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> ApiError {
        self.headers.push((name, value));
        self
    }

    /// Something of ours failed. The reason is for the log, not for the other side, unless the disk is full: whoever pushes
    /// asks for more.
    pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> ApiError {
        let causes: Vec<_> = std::iter::successors(Some(error), |error| error.source()).collect();
        let words: Vec<String> = causes.iter().map(ToString::to_string).collect();
        tracing::error!(error = words.join(": "), "the registry failed");
        let full = causes
            .iter()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|cause| {
                use io::ErrorKind::{QuotaExceeded, StorageFull};
                matches!(cause.kind(), StorageFull | QuotaExceeded)
            });
        if full {
            return ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "UNKNOWN",
                "the registry has no room left on its disk",
            );
        }
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            "the registry failed; its log says why",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body =
            serde_json::json!({ "errors": [{ "code": self.code, "message": self.message }] })
                .to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> ApiError {
        match error {
            RouteError::Unknown => {
                ApiError::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such path")
            }
            RouteError::Name(name) => ApiError::new(
                StatusCode::BAD_REQUEST,
                "NAME_INVALID",
                format!("`{name}` is not a repository name"),
            ),
            RouteError::Digest(digest) => ApiError::new(
                StatusCode::BAD_REQUEST,
                "DIGEST_INVALID",
                format!("`{digest}` is not a SHA-256 digest"),
            ),
            RouteError::Tag(tag) => ApiError::new(
                StatusCode::BAD_REQUEST,
                "MANIFEST_INVALID",
                format!("`{tag}` is not a tag"),
            ),
        }
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> ApiError {
        let message = error.to_string();
        match &error {
            RegistryError::Dangling(_) => {
                ApiError::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", message)
            }
            RegistryError::Manifest(_) | RegistryError::Size { .. } => {
                ApiError::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
            }
            RegistryError::Name(_) => {
                ApiError::new(StatusCode::BAD_REQUEST, "NAME_INVALID", message)
            }
            RegistryError::Store(StoreError::Mismatch { .. }) => {
                ApiError::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
            }
            RegistryError::Store(StoreError::Missing(_)) => {
                ApiError::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", message)
            }
            RegistryError::Store(StoreError::Io { .. })
            | RegistryError::Io { .. }
            | RegistryError::InUse(_) => ApiError::internal(&error),
        }
    }
}
