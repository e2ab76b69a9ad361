//! Tokens of service accounts, on request: `kubectl create token`.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::encode;
use crate::auth::service_account::{Bindings, ISSUER, Reference};
use crate::cluster::Cluster;
use crate::resources::metadata::timestamp;
use crate::resources::{Target, read};
use crate::status::{ApiError, Cause, Subject};
use crate::store::{Key, Object};

/// How long a token holds unless the client says otherwise.
const DEFAULT_SECONDS: i64 = 3600;
/// As in Kubernetes: a token that ends sooner would end while it is used.
const LEAST_SECONDS: i64 = 600;
/// A year: an account that needs longer renews.
const MOST_SECONDS: i64 = 365 * 24 * 3600;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    audiences: Vec<String>,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<BoundObject>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BoundObject {
    kind: String,
    name: String,
    uid: String,
}

/// A `TokenRequest` that can be answered.
#[derive(Debug)]
pub(super) struct TokenRequest {
    audiences: Vec<String>,
    seconds: i64,
    bound: Option<BoundObject>,
}

impl TokenRequest {
    /// As policies see it, with what the client left out.
    pub(super) fn shown(&self) -> Value {
        let mut spec = json!({"audiences": self.audiences, "expirationSeconds": self.seconds});
        if let Some(bound) = &self.bound {
            spec["boundObjectRef"] = json!({
                "kind": bound.kind, "apiVersion": "v1", "name": bound.name, "uid": bound.uid,
            });
        }
        json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec})
    }
}

/// Reads a `TokenRequest` for the service account that `target` is.
pub(super) fn parse(
    cluster: &Cluster,
    target: &Target,
    mut request: Value,
) -> Result<TokenRequest, ApiError> {
    if !request.is_object()
        || request["kind"]
            .as_str()
            .is_some_and(|kind| kind != "TokenRequest")
    {
        return Err(ApiError::bad_request("expected a TokenRequest"));
    }
    let spec = match request["spec"].take() {
        Value::Null => Spec::default(),
        spec => Spec::deserialize(spec)
            .map_err(|error| ApiError::bad_request(format!("malformed TokenRequest: {error}")))?,
    };
    read::get(cluster, target)?;
    let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    if !(LEAST_SECONDS..=MOST_SECONDS).contains(&seconds) {
        let detail = format!("must be between {LEAST_SECONDS} and {MOST_SECONDS}");
        let cause = Cause::invalid("spec.expirationSeconds", &json!(seconds), &detail);
        let subject = Subject {
            group: "authentication.k8s.io".into(),
            kind: "TokenRequest".into(),
            name: target.name.clone(),
        };
        return Err(ApiError::invalid(&subject, vec![cause]));
    }
    Ok(TokenRequest {
        audiences: match spec.audiences {
            empty if empty.is_empty() => vec![ISSUER.to_owned()],
            given => given,
        },
        seconds,
        bound: spec.bound_object_ref,
    })
}

/// Answers a `TokenRequest` for the service account that `target` is.
pub(super) fn create(
    cluster: &Cluster,
    target: &Target,
    request: TokenRequest,
) -> Result<Response, ApiError> {
    let account = read::get(cluster, target)?;
    let mut bindings = Bindings {
        namespace: target.namespace.clone().unwrap_or_default(),
        serviceaccount: reference(&account),
        pod: None,
        node: None,
        secret: None,
    };
    if let Some(bound) = &request.bound {
        bind(cluster, &mut bindings, bound)?;
    }
    let audiences = request.audiences.clone();
    let (token, until) = cluster
        .auth
        .signer
        .sign(bindings, audiences, Timestamp::now(), request.seconds)
        .ok_or_else(|| ApiError::internal("no random numbers from the system"))?;
    let mut answer = request.shown();
    answer["metadata"] = json!({
        "name": target.name, "namespace": target.namespace,
        "creationTimestamp": timestamp(Timestamp::now()),
    });
    if request.bound.is_none() {
        answer["spec"]["boundObjectRef"] = Value::Null;
    }
    answer["status"] = json!({"token": token, "expirationTimestamp": timestamp(until)});
    Ok(encode::respond(
        StatusCode::CREATED,
        answer.to_string().into(),
    ))
}

fn reference(object: &Object) -> Reference {
    Reference {
        name: object.key.name().into(),
        uid: object.head().metadata.uid.to_string(),
    }
}

/// Ties the token to the life of another object.
fn bind(cluster: &Cluster, bindings: &mut Bindings, bound: &BoundObject) -> Result<(), ApiError> {
    let namespace = bindings.namespace.clone();
    let (plural, namespace, slot) = match bound.kind.as_str() {
        "Pod" => ("pods", namespace.as_str(), &mut bindings.pod),
        "Secret" => ("secrets", namespace.as_str(), &mut bindings.secret),
        "Node" => ("nodes", "", &mut bindings.node),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount to {other:?}: expected Pod, Secret or Node"
            )));
        }
    };
    let key = Key::new(format!("/{plural}"), namespace, &bound.name);
    let subject = Subject {
        group: String::new(),
        kind: plural.into(),
        name: bound.name.clone(),
    };
    let object = cluster
        .store
        .get(&key)
        .ok_or_else(|| ApiError::not_found(&subject))?;
    let found = reference(&object);
    if !bound.uid.is_empty() && bound.uid != found.uid {
        let detail = format!(
            "the UID in the bound object reference ({}) does not match the UID in record",
            bound.uid
        );
        return Err(ApiError::conflict(&subject, &detail));
    }
    *slot = Some(found);
    if bound.kind == "Pod"
        && let Some(node) = object.value()["spec"]["nodeName"].as_str()
    {
        let node_object = cluster.store.get(&Key::new("/nodes", "", node));
        bindings.node = Some(node_object.map_or_else(
            || Reference {
                name: node.to_owned(),
                uid: String::new(),
            },
            |node| reference(&node),
        ));
    }
    Ok(())
}
