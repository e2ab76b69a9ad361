//! `/healthz`, `/livez` and `/readyz`: everybody may ask, load balancers above all.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri, header};

use super::path::Health;
use super::query::Query;
use crate::cluster::Cluster;
use crate::status::ApiError;

/// A check and why it fails.
type Check = (&'static str, Option<String>);

/// Answers as Kubernetes does: `ok`, or what is wrong; check by check with `?verbose`.
pub(super) fn answer(cluster: &Cluster, health: &Health, uri: &Uri) -> Result<Response, ApiError> {
    let query = Query::parse(uri)?;
    let excluded = query.all("exclude");
    let checks: Vec<Check> = checks(cluster, &health.endpoint)
        .into_iter()
        .filter(|(name, _)| match &health.check {
            Some(wanted) => name == wanted,
            None => !excluded.contains(name),
        })
        .collect();
    if health.check.is_some() && checks.is_empty() {
        return Err(ApiError::no_such_resource());
    }
    let failed = checks.iter().any(|(_, failure)| failure.is_some());
    let verbose = query.has("verbose") && health.check.is_none();
    let text = match (failed, verbose) {
        (false, false) => "ok".to_owned(),
        (true, false) if health.check.is_some() => {
            "internal server error: ".to_owned() + &words(&checks)
        }
        _ => listed(&checks, &health.endpoint, failed),
    };
    let mut response = Response::new(Body::from(text));
    if failed {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    Ok(response)
}

fn checks(cluster: &Cluster, endpoint: &str) -> Vec<Check> {
    let store = cluster
        .store
        .failure()
        .map(|failure| format!("the store cannot be written: {failure}"));
    let mut checks = vec![("ping", None), ("store", store)];
    if endpoint == "readyz" {
        let stopping = *cluster.stopping.borrow();
        checks.push((
            "shutdown",
            stopping.then(|| "the server is stopping".to_owned()),
        ));
    }
    checks
}

fn words(checks: &[Check]) -> String {
    let failures = checks.iter().filter_map(|(_, failure)| failure.as_deref());
    failures.collect::<Vec<_>>().join(", ")
}

fn listed(checks: &[Check], endpoint: &str, failed: bool) -> String {
    let mut text = String::new();
    for (name, failure) in checks {
        text.push_str(&match failure {
            None => format!("[+]{name} ok\n"),
            Some(failure) => format!("[-]{name} failed: {failure}\n"),
        });
    }
    let outcome = if failed { "failed" } else { "passed" };
    text + &format!("{endpoint} check {outcome}\n")
}
