//! The HTTP side: from a request to an operation, and from its result to an answer.

pub(crate) mod accept;
mod body;
mod encode;
pub(crate) mod path;
mod protobuf;
pub(crate) mod query;
mod resource;
pub(crate) mod review;
mod watch;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;

use crate::auth::User;
use crate::cluster::Cluster;
use crate::discovery;
use crate::openapi;
use crate::status::ApiError;
use accept::Shape;
use path::Path;

/// Answers one request.
pub(crate) async fn answer(cluster: Arc<Cluster>, request: Request<Body>) -> Response {
    let routed = AssertUnwindSafe(route(&cluster, request)).catch_unwind();
    match routed.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        // The panic hook has told where; the client only needs an answer.
        Err(_) => ApiError::internal("the request could not be handled").into_response(),
    }
}

async fn route(cluster: &Arc<Cluster>, request: Request<Body>) -> Result<Response, ApiError> {
    let path = Path::parse(request.uri().path());
    match path {
        Path::Health => return Ok(health(cluster)),
        Path::Version => return Ok(encode::json(&discovery::version(&cluster.version))),
        _ => {}
    }
    let authorization = request.headers().get(header::AUTHORIZATION);
    let user = cluster
        .auth
        .authenticate(authorization.and_then(|value| value.to_str().ok()))
        .ok_or_else(ApiError::unauthorized)?;
    let path = match path {
        Path::Resource(path) if let Some(kind) = review::kind_of(&path) => {
            return review::serve(cluster, &user, kind, request).await;
        }
        Path::Resource(path) => return resource::serve(cluster, &user, path, request).await,
        other => other,
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    document(cluster, &user, &path, &request)
}

fn health(cluster: &Cluster) -> Response {
    let (code, text) = match cluster.store.failure() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(failure) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the store cannot be written: {failure}"),
        ),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Discovery and OpenAPI: every authenticated user may read them.
fn document(
    cluster: &Cluster,
    user: &User,
    path: &Path,
    request: &Request<Body>,
) -> Result<Response, ApiError> {
    let registry = cluster.registry();
    let aggregated = |shape| {
        matches!(
            shape,
            Shape::AggregatedDiscovery | Shape::AggregatedDiscoveryBeta
        )
    };
    match path {
        Path::CoreVersions | Path::Groups => {
            let shape = Shape::negotiate(request.headers(), aggregated)?;
            let core = *path == Path::CoreVersions;
            if !aggregated(shape) {
                let document = if core {
                    discovery::core_versions(&registry)
                } else {
                    discovery::groups(&registry)
                };
                return Ok(encode::json(&document));
            }
            let version = match shape {
                Shape::AggregatedDiscovery => "v2",
                _ => "v2beta1",
            };
            let document = discovery::aggregated(&registry, core, version);
            let mut response = encode::json(&document);
            let media_type = format!(
                "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            );
            if let Ok(value) = HeaderValue::from_str(&media_type) {
                response.headers_mut().insert(header::CONTENT_TYPE, value);
            }
            Ok(response)
        }
        Path::Group(group) => discovery::group(&registry, group)
            .map(|document| encode::json(&document))
            .ok_or_else(ApiError::no_such_resource),
        Path::Resources { group, version } => discovery::resources(&registry, group, version)
            .map(|document| encode::json(&document))
            .ok_or_else(ApiError::no_such_resource),
        Path::OpenApiIndex => Ok(encode::json(&openapi::index(&registry))),
        Path::OpenApi { group, version } => openapi::document(&registry, group, version)
            .map(|document| encode::json(&document))
            .ok_or_else(ApiError::no_such_resource),
        Path::OpenApiV2 => {
            Shape::negotiate(request.headers(), |_| false)?;
            Ok(encode::json(&openapi::document_v2(&registry)))
        }
        Path::Unknown if !user.is_master() => {
            let verb = request.method().as_str().to_lowercase();
            let path = request.uri().path();
            Err(ApiError::forbidden_path(&user.name, &verb, path))
        }
        _ => Err(ApiError::no_such_resource()),
    }
}

/// `Status` for something that went well.
fn success(details: serde_json::Value) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details,
    });
    encode::respond(StatusCode::OK, status.to_string().into())
}
