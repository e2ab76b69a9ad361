//! Acting as somebody else: `kubectl --as`, for users who may `impersonate`.

use http::HeaderMap;

use super::{Action, Decision, User};
use crate::cluster::Cluster;
use crate::status::{ApiError, Subject};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user that a request of `user` is to be served as, if its headers name another one.
pub(crate) fn impersonate(
    cluster: &Cluster,
    user: &User,
    headers: &HeaderMap,
) -> Result<Option<User>, ApiError> {
    let text = |name: &str| {
        let value = headers.get(name).map(|value| value.to_str());
        value
            .transpose()
            .map_err(|_| ApiError::bad_request(format!("{name}: expected text")))
    };
    let extra: Vec<(&str, &str)> = headers
        .iter()
        .filter_map(|(name, value)| {
            let key = name.as_str().strip_prefix(EXTRA)?;
            Some((key, value.to_str().ok()?))
        })
        .collect();
    let groups: Vec<&str> = headers
        .get_all(GROUP)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let (name, uid) = (text(USER)?, text(UID)?);
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        if uid.is_some() || !groups.is_empty() || !extra.is_empty() {
            return Err(ApiError::bad_request(
                "groups, uid or extra are impersonated, but no user: expected the header Impersonate-User",
            ));
        }
        return Ok(None);
    };
    let mut wanted = Vec::new();
    let account = name
        .strip_prefix(SERVICE_ACCOUNT)
        .and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => wanted.push(("", "serviceaccounts", Some(namespace), name)),
        None => wanted.push(("", "users", None, name)),
    }
    wanted.extend(groups.iter().map(|group| ("", "groups", None, *group)));
    const AUTHENTICATION: &str = "authentication.k8s.io";
    wanted.extend(uid.map(|uid| (AUTHENTICATION, "uids", None, uid)));
    for (group, resource, namespace, name) in wanted {
        allow(cluster, user, (group, resource), None, namespace, name)?;
    }
    for (key, value) in &extra {
        let kind = (AUTHENTICATION, "userextras");
        allow(cluster, user, kind, Some(key), None, value)?;
    }
    let mut groups: Vec<String> = groups.into_iter().map(String::from).collect();
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups.push("system:serviceaccounts".into());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    let mut served = User::new(name.to_owned(), groups);
    served.uid = uid.map(String::from);
    for (key, value) in extra {
        let values = served.extra.entry(key.to_owned()).or_default();
        values.push(value.to_owned());
    }
    Ok(Some(served))
}

fn allow(
    cluster: &Cluster,
    user: &User,
    (group, resource): (&str, &str),
    subresource: Option<&str>,
    namespace: Option<&str>,
    name: &str,
) -> Result<(), ApiError> {
    let action = Action {
        verb: "impersonate",
        group,
        resource,
        subresource,
        namespace,
        name: Some(name),
    };
    match cluster.auth.authorize(user, action) {
        Decision::Allowed { .. } => Ok(()),
        Decision::AllowedForName(_) | Decision::Denied => {
            let subject = Subject {
                group: group.into(),
                kind: resource.into(),
                name: name.into(),
            };
            Err(ApiError::forbidden(&subject, &user.denial(action)))
        }
    }
}
