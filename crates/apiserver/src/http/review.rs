//! Questions about users: `kubectl auth can-i` and `kubectl auth whoami`, and the same about others. Nothing of it is
//! stored.

use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{body, encode};
use crate::auth::service_account::ISSUER;
use crate::auth::{self, Action, Decision, User};
use crate::cluster::Cluster;
use crate::http::path::ResourcePath;
use crate::status::{ApiError, Cause, Subject};

/// A kind that is asked and answered, never stored.
#[derive(Debug)]
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    /// About who asks, so that everybody may.
    own: bool,
}

const fn review(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    own: bool,
) -> Review {
    Review {
        group,
        version: "v1",
        plural,
        kind,
        namespaced: false,
        own,
    }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// All reviews, for routing and discovery.
pub(crate) const REVIEWS: &[Review] = &[
    review(
        AUTHENTICATION,
        "selfsubjectreviews",
        "SelfSubjectReview",
        true,
    ),
    review(AUTHENTICATION, "tokenreviews", "TokenReview", false),
    review(
        AUTHORIZATION,
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        true,
    ),
    review(
        AUTHORIZATION,
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        true,
    ),
    review(
        AUTHORIZATION,
        "subjectaccessreviews",
        "SubjectAccessReview",
        false,
    ),
    Review {
        namespaced: true,
        ..review(
            AUTHORIZATION,
            "localsubjectaccessreviews",
            "LocalSubjectAccessReview",
            false,
        )
    },
];

/// The review that a path is about.
pub(super) fn of(path: &ResourcePath) -> Option<&'static Review> {
    REVIEWS.iter().find(|review| {
        path.group == review.group
            && path.version == review.version
            && path.resource == review.plural
            && path.namespace.is_some() == review.namespaced
            && path.name.is_none()
    })
}

/// Answers a review.
pub(super) async fn serve(
    cluster: &Cluster,
    user: &User,
    review: &Review,
    path: &ResourcePath,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    if *request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let action = Action::new("create", path, None);
    let allowed = || cluster.auth.authorize(user, action);
    if !review.own && !matches!(allowed(), Decision::Allowed { .. }) {
        let subject = Subject {
            group: review.group.into(),
            kind: review.plural.into(),
            name: String::new(),
        };
        return Err(ApiError::forbidden(&subject, &user.denial(action)));
    }
    let media_type = body::media_type(request.headers());
    let bytes = body::read(request.into_body()).await?;
    let mut document = body::parse_object(&media_type, &bytes)?.value;
    let is_kind = |given: &str| given == review.kind;
    if !document.is_object() || !document["kind"].as_str().is_none_or(is_kind) {
        return Err(ApiError::bad_request(format!("expected a {}", review.kind)));
    }
    let spec = &document["spec"];
    document["status"] = match review.kind {
        "SelfSubjectReview" => json!({"userInfo": user_info(user)}),
        "TokenReview" => token(cluster, spec),
        "SelfSubjectAccessReview" => access(cluster, user, spec)?,
        "SubjectAccessReview" => access(cluster, &subject(spec)?, spec)?,
        "LocalSubjectAccessReview" => {
            let asked = spec["resourceAttributes"]["namespace"].as_str();
            if asked != path.namespace.as_deref() {
                let subject = Subject {
                    group: review.group.into(),
                    kind: review.kind.into(),
                    name: String::new(),
                };
                let field = "spec.resourceAttributes.namespace";
                let given = &spec["resourceAttributes"]["namespace"];
                let cause = Cause::invalid(field, given, "must match metadata.namespace");
                return Err(ApiError::invalid(&subject, vec![cause]));
            }
            access(cluster, &subject(spec)?, spec)?
        }
        _ => rules(cluster, user, spec),
    };
    Ok(encode::respond(
        StatusCode::CREATED,
        document.to_string().into(),
    ))
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = json!(uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// The strings of a list; what is none is left out.
fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(String::from).collect()
}

/// The user that a review is about.
fn subject(spec: &Value) -> Result<User, ApiError> {
    let groups = strings(&spec["groups"]);
    let name = spec["user"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() && groups.is_empty() {
        return Err(ApiError::bad_request(
            "spec: at least one of user and groups must be given",
        ));
    }
    Ok(User {
        name,
        groups,
        ..User::default()
    })
}

fn token(cluster: &Cluster, spec: &Value) -> Value {
    let secret = spec["token"].as_str().unwrap_or_default();
    let given = strings(&spec["audiences"]);
    let wanted = match given.as_slice() {
        [] => vec![ISSUER.to_owned()],
        given => given.to_vec(),
    };
    if wanted.iter().any(|audience| audience == ISSUER)
        && let Some(user) = auth::static_user(cluster, secret)
    {
        return json!({"authenticated": true, "user": user_info(&user), "audiences": [ISSUER]});
    }
    match auth::token_user(cluster, secret, &wanted, Timestamp::now()) {
        Some((user, audiences)) => json!({
            "authenticated": true, "user": user_info(&user), "audiences": audiences,
        }),
        None => json!({"authenticated": false, "error": "invalid bearer token"}),
    }
}

fn access(cluster: &Cluster, user: &User, spec: &Value) -> Result<Value, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |asked: &'_ Value, name: &str| asked[name].as_str().unwrap_or_default().to_owned();
    if resource.is_object() == path.is_object() {
        return Err(ApiError::bad_request(
            "spec: exactly one of resourceAttributes and nonResourceAttributes must be given",
        ));
    }
    if path.is_object() {
        let (verb, path) = (text(path, "verb"), text(path, "path"));
        return Ok(json!({"allowed": cluster.auth.authorize_path(user, &verb, &path)}));
    }
    let asked: Vec<String> = [
        "verb",
        "group",
        "resource",
        "subresource",
        "namespace",
        "name",
    ]
    .iter()
    .map(|name| text(resource, name))
    .collect();
    let some = |index: usize| Some(asked[index].as_str()).filter(|text| !text.is_empty());
    let action = Action {
        verb: &asked[0],
        group: &asked[1],
        resource: &asked[2],
        subresource: some(3),
        namespace: some(4),
        name: some(5),
    };
    Ok(match cluster.auth.authorize(user, action) {
        Decision::Allowed { reason } if reason.is_empty() => json!({"allowed": true}),
        Decision::Allowed { reason } => json!({"allowed": true, "reason": reason}),
        Decision::AllowedForName(name) => json!({
            "allowed": true,
            "reason": format!("only for the object named {name:?}"),
        }),
        Decision::Denied => json!({"allowed": false}),
    })
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
    let mut resources: Vec<Value> = cluster
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
    let mut paths = Vec::new();
    for rule in cluster.auth.policy().rules_of(user, namespace) {
        match rule.non_resource_urls.as_slice() {
            [] => resources.push(json!(rule)),
            urls => paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls})),
        }
    }
    json!({"incomplete": false, "resourceRules": resources, "nonResourceRules": paths})
}
