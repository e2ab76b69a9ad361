//! What a URL path asks for.

/// A path of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    /// `/healthz`, `/livez`, `/readyz`, with or without a check's name.
    Health(Health),
    Version,
    /// `/metrics`.
    Metrics,
    /// `/backup`.
    Backup,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/{group}`.
    Group(String),
    /// `/api/v1` or `/apis/{group}/{version}`.
    Resources {
        group: String,
        version: String,
    },
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/api/v1` or `/openapi/v3/apis/{group}/{version}`.
    OpenApi {
        group: String,
        version: String,
    },
    Resource(ResourcePath),
    Unknown,
}

/// A question about the server's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// `healthz`, `livez` or `readyz`.
    pub(crate) endpoint: String,
    /// The one check that is asked for.
    pub(crate) check: Option<String>,
}

/// A collection, an object, or a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// The old `/watch/` prefix.
    pub(crate) watch: bool,
}

impl Path {
    pub(crate) fn parse(path: &str) -> Self {
        let mut segments = Vec::new();
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            match decode(segment) {
                Some(segment) => segments.push(segment),
                None => return Self::Unknown,
            }
        }
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [endpoint @ ("healthz" | "livez" | "readyz"), check @ ..] if check.len() < 2 => {
                Self::Health(Health {
                    endpoint: (*endpoint).into(),
                    check: check.first().map(|check| (*check).into()),
                })
            }
            ["version"] => Self::Version,
            ["metrics"] => Self::Metrics,
            ["backup"] => Self::Backup,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).into()),
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiIndex,
            ["openapi", "v3", "api", version] => Self::OpenApi {
                group: String::new(),
                version: (*version).into(),
            },
            ["openapi", "v3", "apis", group, version] => Self::OpenApi {
                group: (*group).into(),
                version: (*version).into(),
            },
            ["api", version, rest @ ..] => resource("", version, rest),
            ["apis", group, version, rest @ ..] => resource(group, version, rest),
            _ => Self::Unknown,
        }
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Path {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        // `/namespaces/{name}` and its subresources are about the namespace itself.
        ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (resource, name, subresource) = match rest {
        [] => {
            return Path::Resources {
                group: group.into(),
                version: version.into(),
            };
        }
        [resource] => (resource, None, None),
        [resource, name] => (resource, Some(*name), None),
        [resource, name, subresource] => (resource, Some(*name), Some(*subresource)),
        _ => return Path::Unknown,
    };
    Path::Resource(ResourcePath {
        group: group.into(),
        version: version.into(),
        namespace: namespace.map(Into::into),
        resource: (*resource).into(),
        name: name.map(Into::into),
        subresource: subresource.map(Into::into),
        watch,
    })
}

/// Percent-decodes one segment. `None`: malformed, or it would smuggle in a separator.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = u8::try_from(digit()? * 16 + digit()?).ok()?;
        if value == b'/' || value == 0 {
            return None;
        }
        bytes.push(value);
    }
    match String::from_utf8(bytes).ok()? {
        dots if dots == "." || dots == ".." => None,
        text => Some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let shown = match Path::parse(path) {
            Path::Resource(p) => format!(
                "{}/{} {} {}/{}/{}{}",
                p.group,
                p.version,
                p.namespace.as_deref().unwrap_or("-"),
                p.resource,
                p.name.as_deref().unwrap_or("-"),
                p.subresource.as_deref().unwrap_or("-"),
                if p.watch { " watch" } else { "" },
            ),
            other => format!("{other:?}"),
        };
        assert_eq!(shown, expected, "{path}");
    }

    #[test]
    fn paths() {
        check(
            "/healthz",
            r#"Health(Health { endpoint: "healthz", check: None })"#,
        );
        check(
            "/readyz/ping",
            r#"Health(Health { endpoint: "readyz", check: Some("ping") })"#,
        );
        check("/readyz/ping/pong", "Unknown");
        check("/version/", "Version");
        check("/api", "CoreVersions");
        check("/apis/", "Groups");
        check("/apis/apps", "Group(\"apps\")");
        check("/api/v1", "Resources { group: \"\", version: \"v1\" }");
        check("/api/v1/nodes", "/v1 - nodes/-/-");
        check("/api/v1/nodes/a/status", "/v1 - nodes/a/status");
        check("/api/v1/namespaces", "/v1 - namespaces/-/-");
        check("/api/v1/namespaces/x", "/v1 - namespaces/x/-");
        check("/api/v1/namespaces/x/status", "/v1 - namespaces/x/status");
        check("/api/v1/namespaces/x/secrets", "/v1 x secrets/-/-");
        check("/api/v1/namespaces/x/secrets/s", "/v1 x secrets/s/-");
        check("/api/v1/watch/nodes", "/v1 - nodes/-/- watch");
        check("/apis/g.io/v1/things/a%3Ab", "g.io/v1 - things/a:b/-");
        check("/apis/g.io/v1/things/a%2Fb", "Unknown");
        check("/apis/g.io/v1/things/%2e%2e", "Unknown");
        check("/apis/g.io/v1/things/%zz", "Unknown");
        check("/apis/g.io/v1/a/b/c/d", "Unknown");
        check("/metrics", "Metrics");
        check("/nothing", "Unknown");
    }
}
