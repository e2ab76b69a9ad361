//! Blobs over HTTP: reading, whole or in part, and deleting.

use std::io::SeekFrom;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::Registry;
use super::error::ApiError;
use super::http_api::{CONTENT_DIGEST, value};
use crate::digest::Digest;
use crate::pump::blocking;

/// Bytes of a file read at once.
const CHUNK: usize = 256 << 10;

impl Registry {
    pub(super) async fn get_blob(
        &self,
        repository: String,
        digest: Digest,
        method: Method,
        range: Option<HeaderValue>,
    ) -> Result<Response, ApiError> {
        let registry = self.clone();
        let asks = method == Method::HEAD;
        let opened = blocking(move || {
            let layout = &registry.inner.layout;
            let _kept = registry.inner.gate.pass();
            if !layout.has_blob(&repository, &digest) {
                return Ok(None);
            }
            // A client that hears of a blob does not send it, and names it in a manifest a little later.
            if asks {
                layout.touch_blob(&repository, &digest)?;
            }
            let file = registry.blobs().open_blob(&digest)?;
            Ok::<_, super::RegistryError>(Some((file, registry.blobs().size(&digest)?)))
        });
        let (file, size) = opened.await?.ok_or_else(|| unknown(&digest))?;
        let wanted = range.as_ref().and_then(|range| range.to_str().ok());
        let (status, start, length) =
            match wanted.map_or(Range::Whole, |wanted| read_range(wanted, size)) {
                Range::Whole => (StatusCode::OK, 0, size),
                Range::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
                Range::Unsatisfiable => {
                    let error = ApiError::new(
                        StatusCode::RANGE_NOT_SATISFIABLE,
                        "BLOB_UNKNOWN",
                        format!("blob has {size} bytes"),
                    );
                    return Err(error.with(header::CONTENT_RANGE, value(format!("bytes */{size}"))));
                }
            };
        let mut response = Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::ETAG, value(format!("\"{digest}\"")))
            .header(CONTENT_DIGEST, value(digest));
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {start}-{}/{size}", start + length - 1);
            response = response.header(header::CONTENT_RANGE, range);
        }
        let body = match method {
            Method::HEAD => Body::empty(),
            _ => {
                let mut file = tokio::fs::File::from_std(file);
                file.seek(SeekFrom::Start(start))
                    .await
                    .map_err(|error| ApiError::internal(&error))?;
                Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK))
            }
        };
        response
            .body(body)
            .map_err(|error| ApiError::internal(&error))
    }

    pub(super) async fn delete_blob(
        &self,
        repository: String,
        digest: Digest,
    ) -> Result<Response, ApiError> {
        let registry = self.clone();
        match blocking(move || registry.inner.layout.unlink_blob(&repository, &digest)).await? {
            true => Ok(accepted()),
            false => Err(unknown(&digest)),
        }
    }
}

pub(super) fn accepted() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn unknown(digest: &Digest) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "BLOB_UNKNOWN",
        format!("the repository has no blob `{digest}`"),
    )
}

/// Which part of a blob to send.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// At least one byte.
    Part {
        start: u64,
        length: u64,
    },
    Unsatisfiable,
}

/// Reads a `Range` header. What is not one range of bytes is passed over, as RFC 9110 allows.
fn read_range(header: &str, size: u64) -> Range {
    let Some((first, last)) = header
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Range::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    let number = |text: &str| {
        text.bytes()
            .all(|c| c.is_ascii_digit())
            .then(|| text.parse::<u64>().ok())
            .flatten()
    };
    match (number(first), number(last)) {
        (None, Some(0)) if first.is_empty() => Range::Unsatisfiable,
        (None, Some(suffix)) if first.is_empty() && size > 0 => {
            let length = suffix.min(size);
            Range::Part {
                start: size - length,
                length,
            }
        }
        (Some(start), None) if last.is_empty() && start < size => Range::Part {
            start,
            length: size - start,
        },
        (Some(start), Some(end)) if start <= end && start < size => Range::Part {
            start,
            length: end.min(size - 1) - start + 1,
        },
        (Some(start), _) if start >= size => Range::Unsatisfiable,
        _ => Range::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        let part = |start, length| Range::Part { start, length };
        let cases = [
            ("bytes=0-", part(0, 10)),
            ("bytes=3-", part(3, 7)),
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-4", part(2, 3)),
            ("bytes=2-400", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-30", part(0, 10)),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=10-12", Range::Unsatisfiable),
            ("bytes=4-2", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=x-y", Range::Whole),
            ("bytes=+1-", Range::Whole),
            ("bytes=-", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("", Range::Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(read_range(header, 10), expected, "{header}");
        }
        assert_eq!(read_range("bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(read_range("bytes=-5", 0), Range::Whole);
    }
}
