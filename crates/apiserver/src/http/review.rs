//! Questions about oneself: `kubectl auth can-i` and `kubectl auth whoami`. Nothing of it is stored.

use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{body, encode};
use crate::auth::{Action, Decision, User};
use crate::cluster::Cluster;
use crate::http::path::ResourcePath;
use crate::status::ApiError;

/// Group, version, plural and kind of the reviews, for discovery.
pub(crate) const REVIEWS: &[(&str, &str, &str, &str)] = &[
    (
        "authentication.k8s.io",
        "v1",
        "selfsubjectreviews",
        "SelfSubjectReview",
    ),
    (
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
    ),
    (
        "authorization.k8s.io",
        "v1",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
    ),
];

/// Whether a path is a review, which every user may create.
pub(super) fn kind_of(path: &ResourcePath) -> Option<&'static str> {
    REVIEWS
        .iter()
        .find(|(group, version, plural, _)| {
            path.group == *group && path.version == *version && path.resource == *plural
        })
        .map(|(.., kind)| *kind)
}

/// Answers a review.
pub(super) async fn serve(
    cluster: &Cluster,
    user: &User,
    kind: &str,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    if *request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let media_type = body::media_type(request.headers());
    let bytes = body::read(request.into_body()).await?;
    let mut review = body::parse_object(&media_type, &bytes)?.value;
    if !review.is_object() || review["kind"].as_str().is_some_and(|given| given != kind) {
        return Err(ApiError::bad_request(format!("expected a {kind}")));
    }
    review["status"] = match kind {
        "SelfSubjectReview" => json!({
            "userInfo": {"username": user.name, "groups": user.groups},
        }),
        "SelfSubjectAccessReview" => access(cluster, user, &review["spec"])?,
        _ => rules(cluster, user, &review["spec"]),
    };
    Ok(encode::respond(
        StatusCode::CREATED,
        review.to_string().into(),
    ))
}

fn access(cluster: &Cluster, user: &User, spec: &Value) -> Result<Value, ApiError> {
    let asked = &spec["resourceAttributes"];
    if asked.is_object() {
        let text = |name: &str| asked[name].as_str().unwrap_or_default();
        let some = |name: &str| Some(text(name)).filter(|text| !text.is_empty());
        let action = Action {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: some("subresource"),
            namespace: some("namespace"),
            name: some("name"),
        };
        return Ok(match cluster.auth.authorize(user, action) {
            Decision::Allowed => json!({"allowed": true}),
            Decision::AllowedForName(name) => json!({
                "allowed": true,
                "reason": format!("only for the object named {name:?}"),
            }),
            Decision::Denied => json!({"allowed": false, "reason": user.denial(action)}),
        });
    }
    if spec["nonResourceAttributes"].is_object() {
        return Ok(json!({"allowed": user.is_master()}));
    }
    Err(ApiError::bad_request(
        "spec: exactly one of resourceAttributes and nonResourceAttributes must be given",
    ))
}

fn rules(cluster: &Cluster, user: &User, spec: &Value) -> Value {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    if user.is_master() {
        return json!({
            "incomplete": false,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        });
    }
    let rules: Vec<Value> = cluster
        .auth
        .rules_of(user, namespace)
        .map(|(rule, name)| {
            let mut entry = json!({
                "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources,
            });
            if let Some(name) = name {
                entry["resourceNames"] = json!([name]);
            }
            entry
        })
        .collect();
    json!({"incomplete": false, "resourceRules": rules, "nonResourceRules": []})
}
