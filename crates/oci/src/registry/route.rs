//! Reads request paths. Repository names have slashes, so paths are read from their end.

use crate::digest::Digest;
use crate::reference::{check_repository, check_tag};

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`: does this speak the protocol?
    Root,
    /// `/v2/NAME/blobs/DIGEST`.
    Blob { repository: String, digest: Digest },
    /// `/v2/NAME/blobs/uploads/`.
    Uploads { repository: String },
    /// `/v2/NAME/blobs/uploads/ID`.
    Upload { repository: String, id: String },
    /// `/v2/NAME/manifests/VERSION`.
    Manifest {
        repository: String,
        version: Version,
    },
    /// `/v2/NAME/tags/list`.
    Tags { repository: String },
    /// `/v2/NAME/referrers/DIGEST`.
    Referrers { repository: String, digest: Digest },
}

/// How a manifest is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Version {
    Tag(String),
    Digest(Digest),
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Version::Tag(tag) => f.write_str(tag),
            Version::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RouteError {
    /// No such kind of path.
    Unknown,
    Name(String),
    Digest(String),
    Tag(String),
}

pub(super) fn parse(path: &str) -> Result<Route, RouteError> {
    // The one character of valid paths that some clients escape is the colon of digests.
    let path = path.replace("%3A", ":").replace("%3a", ":");
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Route::Root),
        Some(rest) => rest.strip_prefix('/').ok_or(RouteError::Unknown)?,
        None => return Err(RouteError::Unknown),
    };
    let digest = |text: &str| {
        text.parse::<Digest>()
            .map_err(|_| RouteError::Digest(text.to_owned()))
    };
    let (before, last) = rest.rsplit_once('/').ok_or(RouteError::Unknown)?;
    if let Some(name) = before.strip_suffix("/blobs/uploads") {
        let repository = repository(name)?;
        return Ok(match last {
            "" => Route::Uploads { repository },
            id => Route::Upload {
                repository,
                id: id.to_owned(),
            },
        });
    }
    let (name, kind) = before.rsplit_once('/').ok_or(RouteError::Unknown)?;
    match (kind, last) {
        // Without the last slash, as some clients have it.
        ("blobs", "uploads") => Ok(Route::Uploads {
            repository: repository(name)?,
        }),
        ("blobs", last) => Ok(Route::Blob {
            repository: repository(name)?,
            digest: digest(last)?,
        }),
        ("manifests", last) => {
            let repository = repository(name)?;
            let version = match last.contains(':') {
                true => Version::Digest(digest(last)?),
                false => {
                    check_tag(last).map_err(|_| RouteError::Tag(last.to_owned()))?;
                    Version::Tag(last.to_owned())
                }
            };
            Ok(Route::Manifest {
                repository,
                version,
            })
        }
        ("tags", "list") => Ok(Route::Tags {
            repository: repository(name)?,
        }),
        ("referrers", last) => Ok(Route::Referrers {
            repository: repository(name)?,
            digest: digest(last)?,
        }),
        _ => Err(RouteError::Unknown),
    }
}

fn repository(name: &str) -> Result<String, RouteError> {
    match check_repository(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(_) => Err(RouteError::Name(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paths_from_their_end() {
        let digest = Digest::of(b"");
        let repository = |name: &str| name.to_owned();
        let cases = [
            ("/v2".to_owned(), Ok(Route::Root)),
            ("/v2/".to_owned(), Ok(Route::Root)),
            (
                format!("/v2/a/blobs/{digest}"),
                Ok(Route::Blob {
                    repository: repository("a"),
                    digest,
                }),
            ),
            (
                format!("/v2/a/b/blobs/{}", digest.to_string().replace(':', "%3A")),
                Ok(Route::Blob {
                    repository: repository("a/b"),
                    digest,
                }),
            ),
            (
                "/v2/a/blobs/uploads/".to_owned(),
                Ok(Route::Uploads {
                    repository: repository("a"),
                }),
            ),
            (
                "/v2/a/blobs/uploads".to_owned(),
                Ok(Route::Uploads {
                    repository: repository("a"),
                }),
            ),
            (
                "/v2/a/b/blobs/uploads/x1".to_owned(),
                Ok(Route::Upload {
                    repository: repository("a/b"),
                    id: "x1".to_owned(),
                }),
            ),
            (
                "/v2/blobs/manifests/manifests/latest".to_owned(),
                Ok(Route::Manifest {
                    repository: repository("blobs/manifests"),
                    version: Version::Tag("latest".to_owned()),
                }),
            ),
            (
                format!("/v2/a/manifests/{digest}"),
                Ok(Route::Manifest {
                    repository: repository("a"),
                    version: Version::Digest(digest),
                }),
            ),
            (
                "/v2/a/tags/list".to_owned(),
                Ok(Route::Tags {
                    repository: repository("a"),
                }),
            ),
            (
                format!("/v2/a/referrers/{digest}"),
                Ok(Route::Referrers {
                    repository: repository("a"),
                    digest,
                }),
            ),
            (
                "/v2/a/manifests/-x".to_owned(),
                Err(RouteError::Tag("-x".to_owned())),
            ),
            (
                "/v2/a/manifests/sha256:0".to_owned(),
                Err(RouteError::Digest("sha256:0".to_owned())),
            ),
            (
                "/v2/../manifests/x".to_owned(),
                Err(RouteError::Name("..".to_owned())),
            ),
            (
                "/v2/a/_b/manifests/x".to_owned(),
                Err(RouteError::Name("a/_b".to_owned())),
            ),
            (
                "/v2//manifests/x".to_owned(),
                Err(RouteError::Name(String::new())),
            ),
            ("/v2/a/b".to_owned(), Err(RouteError::Unknown)),
            ("/v2/a/tags/other".to_owned(), Err(RouteError::Unknown)),
            ("/v2x/".to_owned(), Err(RouteError::Unknown)),
            ("/".to_owned(), Err(RouteError::Unknown)),
        ];
        for (path, expected) in cases {
            assert_eq!(parse(&path), expected, "{path}");
        }
    }
}
