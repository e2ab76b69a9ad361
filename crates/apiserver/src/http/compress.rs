//! What is done to a finished answer: YAML instead of JSON, and gzip for long ones, when the client asks for it.

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use std::io::Write;

/// Shorter answers are sent as they are, as in Kubernetes.
const LEAST: u64 = 128 << 10;

/// Whether a client takes gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next() == Some("gzip") && parts.all(|part| part != "q=0")
        })
}

/// Compresses a long answer that is not a stream.
pub(super) async fn gzip(response: Response) -> Response {
    let long = response
        .body()
        .size_hint()
        .exact()
        .is_some_and(|n| n >= LEAST);
    if !long || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Some(plain) = whole(body).await else {
        return Response::from_parts(head, Body::empty());
    };
    let kept = plain.clone();
    // Megabytes take long enough to hold up the other requests of a thread.
    let packed = tokio::task::spawn_blocking(move || pack(&plain)).await;
    let Ok(Ok(packed)) = packed else {
        return Response::from_parts(head, Body::from(kept));
    };
    let gzip = HeaderValue::from_static("gzip");
    head.headers.insert(header::CONTENT_ENCODING, gzip);
    let vary = HeaderValue::from_static("Accept-Encoding");
    head.headers.append(header::VARY, vary);
    Response::from_parts(head, Body::from(packed))
}

/// Turns a JSON answer into YAML.
pub(super) async fn yaml(response: Response) -> Response {
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !is_json || response.body().size_hint().exact().is_none() {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Some(plain) = whole(body).await else {
        return Response::from_parts(head, Body::empty());
    };
    let text = serde_json::from_slice::<serde_json::Value>(&plain)
        .ok()
        .and_then(|value| serde_saphyr::to_string(&value).ok());
    let Some(text) = text else {
        return Response::from_parts(head, Body::from(plain));
    };
    let yaml = HeaderValue::from_static("application/yaml");
    head.headers.insert(header::CONTENT_TYPE, yaml);
    Response::from_parts(head, Body::from(text))
}

/// A body that is in memory already.
async fn whole(body: Body) -> Option<Bytes> {
    body.collect().await.ok().map(|body| body.to_bytes())
}

fn pack(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish()
}
