//! Image references: `host/repository:tag@digest`, with the defaults that container tools share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::{Digest, DigestError};

/// The registry meant when a reference names none.
const DEFAULT_HOST: &str = "docker.io";
/// The tag meant when a reference has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Bound of host plus repository, from the distribution specification's implementation notes.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Where an image is: a registry, a repository in it and, optionally, a tag and a digest.
///
/// A name whose first part has no `.`, no `:` and is not `localhost` belongs to `docker.io`, and there a
/// name of one part belongs to `library/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry as `host` or `host:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository within the registry, without leading slash.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if the reference has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference has one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        check_tag(tag)?;
        Ok(Reference {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository at exactly `digest`, without a tag: what is recorded and rolled out.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// What a registry is asked for: the digest, else the tag, else `latest`.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing before the tag or digest, or an empty text.
    #[error("image reference is empty")]
    Empty,
    /// A scheme such as `https://` or `docker://` was given.
    #[error("image reference `{0}` has a scheme; leave it out")]
    Scheme(String),
    /// The registry is not a host name or address with an optional port.
    #[error("registry `{0}` is not a host name or address with an optional port")]
    Host(String),
    /// The repository does not follow the distribution specification.
    #[error(
        "repository `{0}` is not made of parts of lower-case letters and digits, separated inside by `.`, `_`, `__` or `-`"
    )]
    Repository(String),
    /// Host and repository are too long together.
    #[error("image name is longer than {MAX_NAME} characters")]
    TooLong,
    /// The tag does not follow the distribution specification.
    #[error("tag `{0}` is not up to {MAX_TAG} letters, digits, `_`, `.` or `-`")]
    Tag(String),
    /// The part after `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.contains("://") {
            return Err(ReferenceError::Scheme(shorten(text)));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; any before it starts a port.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].find(':') {
            Some(colon) => (
                &rest[..name_end + colon],
                Some(&rest[name_end + colon + 1..]),
            ),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (host, repository) = match name.split_once('/') {
            Some((host, repository)) if is_host(host) => (host, repository.to_owned()),
            Some(_) => (DEFAULT_HOST, name.to_owned()),
            None => (DEFAULT_HOST, format!("library/{name}")),
        };
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_HOST,
            host => host,
        };
        check_host(host)?;
        check_repository(&repository)?;
        Ok(Reference {
            host: host.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

fn is_host(part: &str) -> bool {
    part.contains(['.', ':'])
        || part == "localhost"
        || part.contains(|c: char| c.is_ascii_uppercase())
}

fn check_host(host: &str) -> Result<(), ReferenceError> {
    let invalid = || ReferenceError::Host(shorten(host));
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(invalid)?;
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(invalid());
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return Err(invalid()),
            }
        }
        None => match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        },
    };
    if let Some(port) = port
        && !(port.bytes().all(|c| c.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0))
    {
        return Err(invalid());
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    match name {
        Some(name) if !name.split('.').all(label) => Err(invalid()),
        _ => Ok(()),
    }
}

/// Checks a repository name against the grammar of the distribution specification. Registry paths are
/// made from such names, so nothing that passes can climb out of a directory.
pub(crate) fn check_repository(repository: &str) -> Result<(), ReferenceError> {
    let part = |part: &str| {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.split(alphanumeric).all(|separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|c| c == b'-')
            })
    };
    match repository.len() <= MAX_NAME && repository.split('/').all(part) {
        true => Ok(()),
        false => Err(ReferenceError::Repository(shorten(repository))),
    }
}

/// Checks a tag against the grammar of the distribution specification.
pub(crate) fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let valid = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-');
    match valid {
        true => Ok(()),
        false => Err(ReferenceError::Tag(shorten(tag))),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parses_what_container_tools_accept() {
        let digest = Digest::of(b"").to_string();
        let cases = [
            ("debian", "docker.io/library/debian"),
            ("debian:12", "docker.io/library/debian:12"),
            ("user/app", "docker.io/user/app"),
            ("index.docker.io/user/app", "docker.io/user/app"),
            ("localhost/x", "localhost/x"),
            ("localhost:5000/x", "localhost:5000/x"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("127.0.0.1:5000/os/base:1", "127.0.0.1:5000/os/base:1"),
            ("[::1]:5000/os/base", "[::1]:5000/os/base"),
            ("quay.io/a/b/c/d:v1.0_x-y", "quay.io/a/b/c/d:v1.0_x-y"),
            ("quay.io/a__b/c--d/e.f", "quay.io/a__b/c--d/e.f"),
            ("Registry/app", "Registry/app"),
        ];
        for (text, canonical) in cases {
            let parsed: Reference = text.parse().unwrap();
            assert_eq!(parsed.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse::<Reference>().unwrap(), parsed);
            let pinned: Reference = format!("{text}@{digest}").parse().unwrap();
            assert_eq!(pinned.to_string(), format!("{canonical}@{digest}"));
            assert_eq!(pinned.version(), digest);
        }
    }

    #[test]
    fn refuses_what_no_registry_can_hold() {
        for text in [
            "",
            ":1",
            "@",
            "debian@sha256:12",
            "docker://debian",
            "https://quay.io/a/b",
            "quay.io/",
            "quay.io/A/b",
            "quay.io/a//b",
            "quay.io/../b",
            "quay.io/a/..",
            "quay.io/a/.b",
            "quay.io/a/b_",
            "quay.io/a/b:",
            "quay.io/a/b:-x",
            "quay.io/a/b:x/y:z",
            "quay.io:/a",
            "quay.io:0/a",
            "quay.io:65536/a",
            "quay.io:+5/a",
            "-quay.io/a",
            "quay..io/a",
            "[::1/a",
            "[::x]:5/a",
            "user@quay.io/a",
            "quay.io/a b",
            "quay.io/a___b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!(
            format!("quay.io/{}", "a".repeat(256))
                .parse::<Reference>()
                .is_err()
        );
        assert!(
            format!("quay.io/a:{}", "a".repeat(129))
                .parse::<Reference>()
                .is_err()
        );
    }

    #[test]
    fn a_tag_and_a_digest_exclude_each_other_when_set() {
        let image: Reference = "quay.io/a/b:1".parse().unwrap();
        let digest = Digest::of(b"x");
        let pinned = image.with_digest(digest);
        assert_eq!(pinned.to_string(), format!("quay.io/a/b@{digest}"));
        assert_eq!(pinned.with_tag("2").unwrap().to_string(), "quay.io/a/b:2");
        assert!(image.with_tag("../x").is_err());
        assert_eq!(
            "quay.io/a/b".parse::<Reference>().unwrap().version(),
            "latest"
        );
    }
}
