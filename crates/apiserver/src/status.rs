//! Errors as clients see them: `metav1.Status`, with the reasons, codes and causes of the API conventions.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::store::{Expired, MAX_OBJECT, WriteError};

/// One problem of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// `FieldValueInvalid` and its siblings.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Path such as `spec.files[0].path`.
    pub(crate) field: String,
}

impl Cause {
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {}: {detail}", shown(value)),
            field: field.into(),
        }
    }

    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = match detail {
            "" => "Required value".to_owned(),
            detail => format!("Required value: {detail}"),
        };
        Self {
            reason: "FieldValueRequired",
            message,
            field: field.into(),
        }
    }

    pub(crate) fn not_supported(
        field: impl Into<String>,
        value: &Value,
        supported: &[String],
    ) -> Self {
        let supported: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        Self {
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: {}: supported values: {}",
                shown(value),
                supported.join(", ")
            ),
            field: field.into(),
        }
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self {
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {detail}"),
            field: field.into(),
        }
    }

    pub(crate) fn too_many(field: impl Into<String>, found: usize, max: u64) -> Self {
        Self {
            reason: "FieldValueTooMany",
            message: format!("Too many: {found}: must have at most {max} items"),
            field: field.into(),
        }
    }

    pub(crate) fn too_long(field: impl Into<String>, max: u64) -> Self {
        Self {
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {max} bytes"),
            field: field.into(),
        }
    }
}

/// A value as it appears in a message: whole if small, its type otherwise.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 256;
    match value {
        Value::Object(_) => "\"object\"".into(),
        Value::Array(_) => "\"array\"".into(),
        Value::String(text) if text.len() > LONGEST => {
            let end = text.floor_char_boundary(LONGEST);
            format!("{:?}", format!("{}…", &text[..end]))
        }
        other => other.to_string(),
    }
}

/// What an error is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) group: String,
    /// Plural resource name, or the kind where Kubernetes puts the kind (422).
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl Subject {
    /// The parameters of a list or watch.
    pub(crate) fn list_options() -> Self {
        Self {
            group: "meta.k8s.io".into(),
            kind: "ListOptions".into(),
            name: String::new(),
        }
    }

    /// `machineconfigpools.machineconfiguration.openshift.io`.
    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.kind.clone()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }
}

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) code: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    details: Box<Details>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Details {
    subject: Option<Subject>,
    causes: Vec<Cause>,
    /// Seconds.
    retry_after: Option<u32>,
    /// `metadata.continue`: where a list may go on.
    rest: Option<String>,
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Box::default(),
        }
    }

    fn about(mut self, subject: &Subject) -> Self {
        self.details.subject = Some(subject.clone());
        self
    }

    fn because(mut self, causes: Vec<Cause>) -> Self {
        self.details.causes = causes;
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.details.retry_after = Some(seconds);
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(subject: &Subject, detail: &str) -> Self {
        let name = match subject.name.as_str() {
            "" => String::new(),
            name => format!(" {name:?}"),
        };
        let message = format!("{}{name} is forbidden: {detail}", subject.qualified());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(subject)
    }

    /// A policy is against it, for a reason of its own.
    pub(crate) fn refused_by_policy(
        subject: &Subject,
        message: &str,
        reason: &'static str,
    ) -> Self {
        let mut error = Self::forbidden(subject, message);
        error.reason = reason;
        error.code = match reason {
            "Unauthorized" => StatusCode::UNAUTHORIZED,
            "Forbidden" => StatusCode::FORBIDDEN,
            "RequestEntityTooLarge" => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        error.because(vec![Cause {
            reason: "",
            message: message.to_owned(),
            field: String::new(),
        }])
    }

    /// A path, not an object, is forbidden.
    pub(crate) fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User {user:?} cannot {verb} path {path:?}");
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(&Subject::default())
    }

    pub(crate) fn not_found(subject: &Subject) -> Self {
        let message = format!("{} {:?} not found", subject.qualified(), subject.name);
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(subject)
    }

    /// No such path.
    pub(crate) fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(&Subject::default())
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::method_not_allowed_because(
            "the server does not allow this method on the requested resource",
        )
    }

    pub(crate) fn method_not_allowed_because(message: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            .about(&Subject::default())
    }

    pub(crate) fn not_acceptable(supported: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            supported.join(", ")
        );
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(crate) fn unsupported_media_type(supported: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    pub(crate) fn already_exists(subject: &Subject) -> Self {
        let message = format!("{} {:?} already exists", subject.qualified(), subject.name);
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(subject)
    }

    pub(crate) fn conflict(subject: &Subject, detail: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: {detail}",
            subject.qualified(),
            subject.name
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(subject)
    }

    /// The object was written by somebody else in between.
    pub(crate) fn modified(subject: &Subject) -> Self {
        let detail = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(subject, detail)
    }

    /// Server-side apply met fields that others own.
    pub(crate) fn apply_conflict(causes: Vec<Cause>) -> Self {
        let message = match causes.as_slice() {
            [only] => format!(
                "Apply failed with 1 conflict: {}: {}",
                only.message, only.field
            ),
            many => {
                let mut lines = format!("Apply failed with {} conflicts:", many.len());
                for cause in many {
                    lines.push_str(&format!("\n{}:\n- {}", cause.message, cause.field));
                }
                lines
            }
        };
        Self::new(StatusCode::CONFLICT, "Conflict", message)
            .about(&Subject::default())
            .because(causes)
    }

    /// `subject.kind` is the kind here, not the plural.
    pub(crate) fn invalid(subject: &Subject, causes: Vec<Cause>) -> Self {
        let told: Vec<String> = causes
            .iter()
            .map(|cause| match cause.field.as_str() {
                "" => cause.message.clone(),
                field => format!("{field}: {}", cause.message),
            })
            .collect();
        let told = match told.as_slice() {
            [only] => only.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!(
            "{} {:?} is invalid: {told}",
            subject.qualified(),
            subject.name
        );
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .about(subject)
            .because(causes)
    }

    /// A request that is well formed but cannot be carried out on the object.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(&Subject::default())
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The moment that a list's pages show is no longer known; `rest` goes on with the present.
    pub(crate) fn expired_page(rest: &str) -> Self {
        let mut error = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - \
             objects that were created, modified, or deleted between the time the first chunk was returned and \
             now may show up in the list.",
        );
        error.details.rest = Some(rest.to_owned());
        error
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// An eviction that a disruption budget forbids for now.
    pub(crate) fn disrupts(detail: &str) -> Self {
        let cause = Cause {
            reason: "DisruptionBudget",
            message: detail.into(),
            field: String::new(),
        };
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
            .about(&Subject::default())
            .because(vec![cause])
    }

    /// The client has too many requests under way.
    pub(crate) fn too_many_requests() -> Self {
        let message = "Too many requests, please try again later.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).retry_after(1)
    }

    /// The client is ahead of the server.
    pub(crate) fn future_version(requested: u64, current: u64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        };
        let message = format!("Too large resource version: {requested}, current: {current}");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
            .about(&Subject::default())
            .because(vec![cause])
            .retry_after(1)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        let code = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(code, "ServiceUnavailable", message).retry_after(1)
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        if let Some(rest) = &self.details.rest {
            status["metadata"]["continue"] = json!(rest);
        }
        if let Some(subject) = &self.details.subject {
            let mut details = Map::new();
            for (name, value) in [
                ("name", &subject.name),
                ("group", &subject.group),
                ("kind", &subject.kind),
            ] {
                if !value.is_empty() {
                    details.insert(name.into(), json!(value));
                }
            }
            if !self.details.causes.is_empty() {
                let causes = self.details.causes.iter().map(|cause| {
                    let mut entry = json!({"message": cause.message});
                    if !cause.reason.is_empty() {
                        entry["reason"] = json!(cause.reason);
                    }
                    if !cause.field.is_empty() {
                        entry["field"] = json!(cause.field);
                    }
                    entry
                });
                details.insert("causes".into(), causes.collect());
            }
            if let Some(seconds) = self.details.retry_after {
                details.insert("retryAfterSeconds".into(), json!(seconds));
            }
            status["details"] = Value::Object(details);
        }
        status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.status().to_string()));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(seconds) = self.details.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Expired> for ApiError {
    fn from(error: Expired) -> Self {
        Self::expired(error.to_string())
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict { ref key, .. } => Self::modified(&Subject {
                group: String::new(),
                kind: key.resource().trim_start_matches('/').into(),
                name: key.name().into(),
            }),
            WriteError::TooLarge => Self::too_large(MAX_OBJECT),
            WriteError::Storage(_) => Self::internal(error.to_string()),
            WriteError::Closed => Self::unavailable("the server is stopping"),
        }
    }
}
