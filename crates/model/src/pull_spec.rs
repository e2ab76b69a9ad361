//! Pull specs: where an image is, by tag or by digest.

use std::fmt;
use std::str::FromStr;

/// `host[:port]/path[:tag][@sha256:digest]`. The host is always there: nothing is looked up in a list of registries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullSpec {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is not a pull spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a pull spec: {reason}")]
pub struct PullSpecError {
    /// The text as it was given.
    pub text: String,
    /// What was expected.
    pub reason: &'static str,
}

/// Longest pull spec; the API takes no longer one.
const MAX_BYTES: usize = 447;
/// Longest tag that registries take.
const MAX_TAG_BYTES: usize = 128;

impl PullSpec {
    /// Registry with its port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Path of the repository on its registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and path.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// Tag, when the pull spec has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Digest as `sha256:<hex>`, when the pull spec has one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same repository at another tag, without digest.
    ///
    /// # Errors
    /// When registries would not take `tag`.
    pub fn with_tag(&self, tag: &str) -> Result<PullSpec, PullSpecError> {
        format!("{}:{tag}", self.repository()).parse()
    }

    /// The same repository at a digest, without tag.
    ///
    /// # Errors
    /// When `digest` is not `sha256:<64 hex>`.
    pub fn with_digest(&self, digest: &str) -> Result<PullSpec, PullSpecError> {
        format!("{}@{digest}", self.repository()).parse()
    }
}

impl fmt::Display for PullSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for PullSpec {
    type Err = PullSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| PullSpecError {
            text: text.to_owned(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<PullSpec, &'static str> {
    if text.len() > MAX_BYTES {
        return Err("expected at most 447 bytes");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    if !digest.is_none_or(is_digest) {
        return Err("expected `sha256:` and 64 lower-case hexadecimal digits after the `@`");
    }
    let Some((host, rest)) = name.split_once('/') else {
        return Err("expected `host[:port]/path`");
    };
    if !is_host(host) {
        return Err(
            "expected a registry before the first `/`, such as `quay.io` or `localhost:5000`",
        );
    }
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if !path.split('/').all(is_path_component) {
        return Err("expected a path of lower-case letters, digits and single separators");
    }
    if !tag.is_none_or(is_tag) {
        return Err("expected a tag of at most 128 letters, digits and `_.-`");
    }
    Ok(PullSpec {
        host: host.to_owned(),
        path: path.to_owned(),
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rfind(':') {
        Some(at) if !text.ends_with(']') => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    };
    let is_port =
        |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    if !port.is_none_or(is_port) {
        return false;
    }
    if let Some(address) = name.strip_prefix('[') {
        return address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter()
            .all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    // A bare word is a folder of somebody's default registry, not a host.
    let is_word = !name.contains('.') && port.is_none() && name != "localhost";
    !is_word && name.split('.').all(is_label)
}

/// Lower-case words, joined by one of `.`, `_`, `__` and any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().copied().is_some_and(is_word) || !bytes.last().copied().is_some_and(is_word) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=MAX_TAG_BYTES).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HEX: &str = "0b9ca241da2f41c03d2106c24ce9dee2370329771d7883508ddfc1d4712fc310";

    #[test]
    fn pull_specs() {
        for text in [
            "quay.io/org/os:latest".to_owned(),
            "image-registry.openshift-image-registry.svc:5000/openshift/os-image:worker".to_owned(),
            "localhost:5000/os".to_owned(),
            "localhost/os".to_owned(),
            "127.0.0.1:5000/a/b/c/d:v1".to_owned(),
            "[::1]:5000/os:v1".to_owned(),
            "registry:5000/os__x/a.b/c--d:V1.0_x".to_owned(),
            format!("quay.io/org/os@sha256:{HEX}"),
            format!("quay.io/org/os:tag@sha256:{HEX}"),
        ] {
            assert_eq!(text.parse::<PullSpec>().unwrap().to_string(), text);
        }
    }

    /// What the API takes and what is read later are the same, or builds would fail on what was admitted.
    #[test]
    fn the_rules_of_the_api_agree() {
        let mut crds = crate::api::crds();
        crds.retain(|crd| crd.spec.group == crate::api::GROUP);
        let crds = serde_json::to_string(&crds).unwrap();
        let rules: Vec<regex::Regex> = crds
            .split("self.matches('")
            .skip(1)
            .map(|rest| rest.split("')").next().unwrap())
            // Escaped once in JSON and once in CEL.
            .map(|rule| regex::Regex::new(&rule.replace(r"\\\\", r"\")).unwrap())
            .collect();
        assert!(rules.len() >= 4, "{rules:?}");
        let taken = |text: &str| rules.iter().any(|rule| rule.is_match(text));
        for name in [
            "quay.io/org/os",
            "localhost:5000/os",
            "localhost/os",
            "127.0.0.1:5000/a/b/c/d",
            "[::1]:5000/os",
            "registry:5000/os__x/a.b/c--d",
            "os",
            "org/os",
            "quay.io/Org/os",
            "quay.io/org//os",
            "quay.io:port/os",
            "quay.io/os-",
            "quay.io/a___b",
            "quay.io/a..b",
            "-x.io/os",
            "x_y.io/os",
        ] {
            let digested = format!("{name}@sha256:{HEX}");
            for text in [format!("{name}:v1.0_x"), format!("{name}:.x"), digested] {
                assert_eq!(taken(&text), text.parse::<PullSpec>().is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn others_are_refused() {
        let refused: Vec<String> = [
            "os",
            "org/os:latest",
            "quay.io/Org/os",
            "quay.io/org//os",
            "quay.io/org/os:",
            "quay.io/org/os:.x",
            "quay.io/org/os@sha256:abc",
            "quay.io/org/os@md5:abc",
            "quay.io:port/os",
            "https://quay.io/os",
            "quay.io/os\nRUN x",
            "-x.io/os",
            "",
        ]
        .into_iter()
        .map(|text| text.parse::<PullSpec>().unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(refused.join("\n"));
    }

    #[test]
    fn parts() {
        let spec: PullSpec = "localhost:5000/os/worker:v1".parse().unwrap();
        assert_eq!(
            (spec.host(), spec.path(), spec.tag()),
            ("localhost:5000", "os/worker", Some("v1"))
        );
        let digest = format!("sha256:{HEX}");
        assert_eq!(
            spec.with_digest(&digest).unwrap().to_string(),
            format!("localhost:5000/os/worker@{digest}")
        );
        assert_eq!(
            spec.with_tag("v2").unwrap().to_string(),
            "localhost:5000/os/worker:v2"
        );
        assert!(spec.with_tag(&"x".repeat(129)).is_err());
    }
}
