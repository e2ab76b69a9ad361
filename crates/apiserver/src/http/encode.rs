//! From stored objects to what a client reads.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::accept::{Meta, Shape};
use crate::kinds::Version;
use crate::resources::read::List;
use crate::resources::{Outcome, Target};
use crate::store::Object;
use crate::table::{self, IncludeObject};

/// Encodes objects of one kind and version in the shape a client asked for.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    pub(crate) target: &'a Target,
    pub(crate) shape: Shape,
    pub(crate) include: IncludeObject,
}

impl Encoder<'_> {
    /// One object.
    pub(crate) fn object(&self, object: &Object) -> Bytes {
        let version = self.target.version();
        match self.shape {
            Shape::Table(meta) => {
                let value = version.read(object);
                let revision = value["metadata"]["resourceVersion"].clone();
                let row = table::row(version, &value, self.include, Timestamp::now());
                let metadata = json!({"resourceVersion": revision});
                bytes(&self.table(meta, metadata, vec![row]))
            }
            Shape::Partial(meta) => bytes(&table::partial(&object.value(), meta.api_version())),
            _ => plain(version, object),
        }
    }

    /// A list.
    pub(crate) fn list(&self, list: &List) -> Bytes {
        let version = self.target.version();
        let mut metadata = json!({"resourceVersion": list.revision.to_string()});
        if let Some(next) = &list.next {
            metadata["continue"] = json!(next);
        }
        if let Some(remaining) = list.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        match self.shape {
            Shape::Table(meta) => {
                let now = Timestamp::now();
                let values = list.items.iter().map(|object| version.read(object));
                let rows = values
                    .map(|value| table::row(version, &value, self.include, now))
                    .collect();
                bytes(&self.table(meta, metadata, rows))
            }
            Shape::Partial(meta) => {
                let api_version = meta.api_version();
                let items = list.items.iter();
                let items: Vec<Value> = items
                    .map(|object| table::partial(&object.value(), api_version))
                    .collect();
                bytes(&json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": api_version,
                    "metadata": metadata,
                    "items": items,
                }))
            }
            _ => self.plain_list(list, &metadata),
        }
    }

    /// Glues the stored bytes together: a list costs no parsing.
    fn plain_list(&self, list: &List, metadata: &Value) -> Bytes {
        let version = self.target.version();
        let size: usize = list.items.iter().map(|object| object.bytes.len() + 1).sum();
        let mut out = BytesMut::with_capacity(size + 256);
        let head = format!(
            "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
            json!(self.target.resource.list_kind),
            json!(version.api_version),
        );
        out.put_slice(head.as_bytes());
        for (index, object) in list.items.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            out.put_slice(&plain(version, object));
        }
        out.put_slice(b"]}");
        out.freeze()
    }

    fn table(&self, meta: Meta, metadata: Value, rows: Vec<Value>) -> Value {
        json!({
            "kind": "Table",
            "apiVersion": meta.api_version(),
            "metadata": metadata,
            "columnDefinitions": table::headers(self.target.version()),
            "rows": rows,
        })
    }

    /// The answer to a write.
    pub(crate) fn outcome(&self, outcome: &Outcome) -> Response {
        let code = if outcome.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let mut response = respond(code, self.object(&outcome.object));
        for warning in &outcome.warnings {
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        response
    }
}

/// The stored bytes if they are in the version asked for already.
fn plain(version: &Version, object: &Object) -> Bytes {
    if version.is_stored(object) {
        object.bytes.clone()
    } else {
        bytes(&version.read(object))
    }
}

fn bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value)
        .expect("JSON values serialise")
        .into()
}

/// A JSON answer.
pub(crate) fn respond(code: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// `/openapi/v2` as protobuf. The `@` of the type that clients ask for may not stand in an answer's.
pub(crate) fn openapi_v2(document: Vec<u8>) -> Response {
    const TYPE: HeaderValue =
        HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let mut response = Response::new(Body::from(document));
    response.headers_mut().insert(header::CONTENT_TYPE, TYPE);
    response
}

/// A JSON answer with code 200.
pub(crate) fn json(value: &Value) -> Response {
    respond(StatusCode::OK, bytes(value))
}
