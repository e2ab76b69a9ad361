//! A request and its answer.

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::common::{ADMIN, Fixture};

pub(crate) const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// One request: method, path, token, headers and body.
pub(crate) struct Call {
    request: http::request::Builder,
    body: Vec<u8>,
}

impl Call {
    pub(crate) fn new(method: Method, path: &str) -> Self {
        let request = Request::builder().method(method).uri(path);
        Self {
            request: request.header("authorization", format!("Bearer {ADMIN}")),
            body: Vec::new(),
        }
    }

    pub(crate) fn anonymous(path: &str) -> Self {
        Self {
            request: Request::builder().uri(path),
            body: Vec::new(),
        }
    }

    pub(crate) fn token(path: &str, token: &str) -> Self {
        let request = Request::builder().uri(path);
        Self {
            request: request.header("authorization", format!("Bearer {token}")),
            body: Vec::new(),
        }
    }

    pub(crate) fn method(mut self, method: Method) -> Self {
        self.request = self.request.method(method);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn body(self, kind: &str, body: &[u8]) -> Self {
        Self {
            body: body.to_vec(),
            ..self.header("content-type", kind)
        }
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string().as_bytes())
    }

    pub(crate) async fn send(self, fixture: &Fixture) -> (StatusCode, http::HeaderMap, Vec<u8>) {
        let request = self.request.body(Body::from(self.body)).unwrap();
        let response = fixture.server.router().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, body.to_vec())
    }

    pub(crate) async fn answer(self, fixture: &Fixture) -> (u16, Value) {
        let (code, _, body) = self.send(fixture).await;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        (code.as_u16(), body)
    }
}

pub(crate) fn get(path: &str) -> Call {
    Call::new(Method::GET, path)
}

pub(crate) fn post(path: &str, body: &Value) -> Call {
    Call::new(Method::POST, path).json(body)
}
