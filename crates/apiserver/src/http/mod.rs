//! The HTTP side: from a request to an operation, and from its result to an answer.

pub(crate) mod accept;
mod body;
mod compress;
mod encode;
mod health;
pub(crate) mod path;
mod protobuf;
pub(crate) mod query;
mod resource;
pub(crate) mod review;
mod subresource;
mod token;
mod watch;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{FutureExt, stream};
use http::{HeaderValue, Method, Request, StatusCode, header};
use jiff::Timestamp;
use serde_json::json;

use crate::admission::Notes;
use crate::audit;
use crate::auth::{self, User};
use crate::cluster::Cluster;
use crate::discovery;
use crate::listener::Peer;
use crate::metrics::{self, RequestLabels};
use crate::openapi;
use crate::status::ApiError;
use accept::Shape;
use path::{Path, ResourcePath};

/// What is told about a request afterwards.
#[derive(Debug, Default)]
struct Record {
    path: Option<ResourcePath>,
    verb: Option<&'static str>,
    user: Option<User>,
    /// Who really asked, if it was as somebody else.
    impersonator: Option<User>,
    /// What policies had to say.
    notes: Notes,
}

/// Answers one request.
pub(crate) async fn answer(cluster: Arc<Cluster>, request: Request<Body>) -> Response {
    let (started, received) = (Instant::now(), Timestamp::now());
    let (gzip, yaml) = (
        compress::takes_gzip(request.headers()),
        accept::wants_yaml(request.headers()),
    );
    let audited = cluster.audit.as_ref().map(|_| Asked::of(&request));
    let method = verb_of(request.method());
    let mut record = Record::default();
    let held = cluster.metrics.in_flight();
    let routed = AssertUnwindSafe(route(&cluster, request, &mut record)).catch_unwind();
    let mut response = match routed.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        // The panic hook has told where; the client only needs an answer.
        Err(_) => ApiError::internal("the request could not be handled").into_response(),
    };
    drop(held);
    if yaml {
        response = compress::yaml(response).await;
    }
    if gzip {
        response = compress::gzip(response).await;
    }
    let verb = record.verb.unwrap_or(method);
    let code = response.status().as_u16();
    let took = (verb != "watch").then(|| started.elapsed());
    cluster
        .metrics
        .answered(labels(&cluster, &record, verb, code), took);
    if let (Some(log), Some(asked)) = (&cluster.audit, audited) {
        let facts = audit::Facts {
            verb,
            uri: asked.uri,
            path: record.path.as_ref(),
            user: record.user.as_ref(),
            impersonator: record.impersonator.as_ref(),
            address: asked.address,
            agent: asked.agent,
            received,
            code,
            notes: record.notes.all(),
        };
        log.add(facts).await;
    }
    response
}

/// The parts of a request that the audit log shows.
struct Asked {
    uri: String,
    address: Option<String>,
    agent: String,
}

impl Asked {
    fn of(request: &Request<Body>) -> Self {
        let agent = request.headers().get(header::USER_AGENT);
        let agent = agent.and_then(|value| value.to_str().ok());
        let peer = request.extensions().get::<Peer>();
        Self {
            uri: request.uri().to_string(),
            address: peer.map(|peer| peer.address.ip().to_string()),
            agent: agent.unwrap_or_default().to_owned(),
        }
    }
}

/// The verb of a request that is not about a resource.
fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

/// Labels of a request; what is not served has none, so that clients cannot invent them.
fn labels(cluster: &Cluster, record: &Record, verb: &'static str, code: u16) -> RequestLabels {
    let registry = cluster.registry();
    let known = record.path.as_ref().filter(|path| {
        registry
            .find(&path.group, &path.version, &path.resource)
            .is_some()
    });
    let text = |pick: fn(&ResourcePath) -> &str| known.map(pick).unwrap_or_default().to_owned();
    RequestLabels {
        verb,
        group: text(|path| &path.group),
        resource: text(|path| &path.resource),
        subresource: text(known_part),
        code,
    }
}

fn known_part(path: &ResourcePath) -> &str {
    const KNOWN: &[&str] = &["status", "scale", "eviction", "token"];
    let part = path.subresource.as_deref().unwrap_or_default();
    if KNOWN.contains(&part) { part } else { "" }
}

async fn route(
    cluster: &Arc<Cluster>,
    request: Request<Body>,
    record: &mut Record,
) -> Result<Response, ApiError> {
    let path = Path::parse(request.uri().path());
    if let Path::Health(health) = &path {
        return health::answer(cluster, health, request.uri());
    }
    if let Path::Resource(path) = &path {
        record.path = Some(path.clone());
    }
    let certificate = request.extensions().get::<Peer>();
    let certificate = certificate.and_then(|peer| peer.certificate.as_ref());
    let headers = request.headers();
    let asking = auth::authenticate(cluster, headers, certificate, Timestamp::now())
        .ok_or_else(ApiError::unauthorized)?;
    let user = auth::impersonate(cluster, &asking, headers)?;
    let user = match user {
        Some(served) => {
            record.impersonator = Some(asking);
            served
        }
        None => asking,
    };
    record.user = Some(user.clone());
    // Who acts as somebody else still uses its own seats.
    let seat_of = record.impersonator.as_ref().unwrap_or(&user);
    let Some(seat) = cluster.limits.seat(&seat_of.name).await else {
        cluster.metrics.rejected();
        return Err(ApiError::too_many_requests());
    };
    let answered = match path {
        Path::Resource(path) if let Some(review) = review::of(&path) => {
            record.verb = Some("create");
            review::serve(cluster, &user, review, &path, request).await
        }
        Path::Resource(path) => {
            let Record { verb, notes, .. } = record;
            resource::serve(cluster, &user, path, request, verb, notes).await
        }
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            Err(ApiError::method_not_allowed())
        }
        Path::Metrics | Path::Backup => operation(cluster, &user, &path, &request),
        other => document(cluster, &user, &other, &request),
    };
    drop(seat);
    answered
}

/// Paths for those who run the server.
fn operation(
    cluster: &Cluster,
    user: &User,
    path: &Path,
    request: &Request<Body>,
) -> Result<Response, ApiError> {
    let shown = request.uri().path();
    if !cluster.auth.authorize_path(user, "get", shown) {
        return Err(ApiError::forbidden_path(&user.name, "get", shown));
    }
    if *path == Path::Backup {
        let lines = cluster.store.snapshot().lines().map(Ok::<_, Infallible>);
        let mut response = encode::respond(StatusCode::OK, Bytes::new());
        *response.body_mut() = Body::from_stream(stream::iter(lines));
        return Ok(response);
    }
    let mut response = Response::new(Body::from(cluster.metrics_text()));
    let media_type = HeaderValue::from_static(metrics::MEDIA_TYPE);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    Ok(response)
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
        Path::Version => Ok(encode::json(&discovery::version(&cluster.version))),
        Path::OpenApiV2 => match Shape::negotiate(request.headers(), |_| false) {
            Err(_) if accept::takes(request.headers(), openapi::V2_PROTOBUF) => {
                Ok(encode::openapi_v2(openapi::document_v2_protobuf()))
            }
            Err(error) => Err(error),
            Ok(_) => Ok(encode::json(&openapi::document_v2(&registry))),
        },
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
