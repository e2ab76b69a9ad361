//! Reading: one object, or a page of a list.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Target;
use crate::cluster::Cluster;
use crate::http::query::Query;
use crate::selector::Selector;
use crate::status::{ApiError, Cause, Subject};
use crate::store::{Expired, Key, Object, Revision};

/// The current version of one object.
pub(crate) fn get(cluster: &Cluster, target: &Target) -> Result<Arc<Object>, ApiError> {
    cluster
        .store
        .get(&target.key())
        .ok_or_else(|| target.not_found())
}

/// A page of a list, ready to be encoded.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) revision: Revision,
    pub(crate) items: Vec<Arc<Object>>,
    pub(crate) next: Option<String>,
    /// Known only when nothing was filtered.
    pub(crate) remaining: Option<usize>,
}

/// Where the next page begins; opaque to clients.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: Revision,
    namespace: String,
    name: String,
}

const CONTINUE_VERSION: &str = "meta.k8s.io/v1";

/// Serves a list request.
pub(crate) fn list(
    cluster: &Cluster,
    target: &Target,
    selector: &Selector,
    query: &Query,
) -> Result<List, ApiError> {
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let current = cluster.store.revision();
    let requested = query.number("resourceVersion")?.unwrap_or(0);
    let exact = is_exact(query, limit.is_some())?;
    let (at, after) = match query.get("continue") {
        Some(_) if requested > 0 => {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Some(token) => {
            let token = decode(token)?;
            let after = Key::new(
                target.resource.storage.clone(),
                &token.namespace,
                &token.name,
            );
            // Whoever lost the moment of the first page goes on with the present.
            (Some(token.rv).filter(|rv| *rv > 0), Some(after))
        }
        None => (exact.then_some(requested), None),
    };
    if requested > current || at.is_some_and(|at| at > current) {
        return Err(ApiError::future_version(at.unwrap_or(requested), current));
    }
    let wanted = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let fetched = if selector.is_empty() {
        wanted
    } else {
        usize::MAX
    };
    let page = cluster
        .store
        .list(&target.scope(), at, after.as_ref(), fetched)
        .map_err(|expired: Expired| match &after {
            Some(after) => ApiError::expired_page(&encode(0, after)),
            None => expired.into(),
        })?;
    let mut items = page.items;
    let mut remaining = page.remaining;
    if !selector.is_empty() {
        items.retain(|object| selector.matches(object));
        remaining = items.len().saturating_sub(wanted);
        items.truncate(wanted);
    }
    let next = items
        .last()
        .filter(|_| remaining > 0)
        .map(|last| encode(page.revision, &last.key));
    Ok(List {
        revision: page.revision,
        items,
        remaining: (next.is_some() && selector.is_empty()).then_some(remaining),
        next,
    })
}

/// Whether the list must be of exactly the requested version.
fn is_exact(query: &Query, limited: bool) -> Result<bool, ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let version = query.get("resourceVersion");
    let rule = query.get(FIELD);
    let cause = match (rule, version) {
        _ if query.get("sendInitialEvents").is_some() => Cause::forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ),
        // As in Kubernetes: who pages from a version means that version.
        (None, version) => return Ok(limited && version.is_some_and(|version| version != "0")),
        (Some(_), _) if query.get("continue").is_some() => Cause::forbidden(
            FIELD,
            "resourceVersionMatch is forbidden when continue is provided",
        ),
        (Some(_), None) => Cause::forbidden(
            FIELD,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (Some("Exact"), Some("0")) => Cause::forbidden(
            FIELD,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (Some("Exact"), Some(_)) => return Ok(true),
        (Some("NotOlderThan"), Some(_)) => return Ok(false),
        (Some(other), Some(_)) => {
            let supported = ["Exact".to_owned(), "NotOlderThan".to_owned()];
            Cause::not_supported(FIELD, &other.into(), &supported)
        }
    };
    Err(ApiError::invalid(&Subject::list_options(), vec![cause]))
}

fn encode(revision: Revision, last: &Key) -> String {
    let token = Continue {
        v: CONTINUE_VERSION.into(),
        rv: revision,
        namespace: last.namespace().into(),
        name: last.name().into(),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token serialises"))
}

fn decode(text: &str) -> Result<Continue, ApiError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Continue>(&bytes).ok())
        .filter(|token| token.v == CONTINUE_VERSION)
        .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
}
