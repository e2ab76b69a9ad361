//! What a build takes besides base image and Containerfile: ConfigMaps and images as named contexts, Secrets as secret
//! mounts. Annotations of the MachineOSConfig name them, because the API that users know has no field for it.

use std::fmt;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{BUILD_CONTEXT, BuildFile, CONFIGS_STAGE, LayeringError};
use crate::api::MachineOSConfig;
use crate::pull_spec::PullSpec;
use crate::render::hex;

/// Prefix of MachineOSConfig annotations that name a build context; the context's name follows.
pub const CONTEXT: &str = "build-context.caprock.dev/";
/// Prefix of MachineOSConfig annotations that name a secret for `RUN --mount=type=secret`; its id follows.
pub const SECRET: &str = "build-secret.caprock.dev/";
/// Most sources of one MachineOSConfig.
const MAX_SOURCES: usize = 32;

/// A source as a MachineOSConfig asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The annotation.
    pub annotation: String,
    /// Name of the context, or id of the secret.
    pub name: String,
    /// Where it comes from.
    pub from: From,
}

/// Where a source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The keys of a ConfigMap as files.
    ConfigMap {
        /// Its name.
        name: String,
    },
    /// An image, by digest.
    Image(PullSpec),
    /// An OCI artifact, by digest.
    Artifact(PullSpec),
    /// One key of a Secret.
    Secret {
        /// Name of the Secret.
        name: String,
        /// The key in it.
        key: String,
    },
}

/// A source with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name of the context, or id of the secret.
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// What a source holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Files of a context, each directly below its root.
    Files(Vec<BuildFile>),
    /// The image that is the context.
    Image(PullSpec),
    /// The OCI artifact whose files are the context.
    Artifact(PullSpec),
    /// A secret.
    Secret {
        /// Tells one state of the Secret from the next. Not made from the value, so that nobody can guess at it.
        version: String,
        /// The value.
        value: Hidden,
    },
}

/// Bytes that are shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub Vec<u8>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

impl Source {
    /// What of the source is part of a build's identity.
    pub(super) fn identity(&self) -> Value {
        match &self.content {
            Content::Files(files) => {
                let files: Vec<Value> = files
                    .iter()
                    .map(|file| json!([file.path, hex(&Sha256::digest(&file.contents))]))
                    .collect();
                json!([self.name, "files", files])
            }
            Content::Image(image) => json!([self.name, "image", image.digest()]),
            Content::Artifact(artifact) => json!([self.name, "artifact", artifact.digest()]),
            Content::Secret { version, .. } => json!([self.name, "secret", version]),
        }
    }
}

/// The sources that a MachineOSConfig asks for, by annotation.
///
/// # Errors
/// When one of its annotations cannot be understood.
pub fn asked(config: &MachineOSConfig) -> Result<Vec<Asked>, LayeringError> {
    let mut found = Vec::new();
    for (annotation, value) in config.metadata.annotations.iter().flatten() {
        let invalid = |reason: &str| LayeringError::Source {
            name: config.metadata.name.clone().unwrap_or_default(),
            annotation: annotation.clone(),
            reason: reason.to_owned(),
        };
        let (name, from) = if let Some(name) = annotation.strip_prefix(CONTEXT) {
            if [BUILD_CONTEXT, CONFIGS_STAGE].contains(&name) {
                return Err(invalid("this name is Caprock's own; choose another"));
            }
            (name, context(value).map_err(|reason| invalid(&reason))?)
        } else if let Some(name) = annotation.strip_prefix(SECRET) {
            let wrong = || invalid(&format!("expected `SECRET/KEY`, found `{}`", shown(value)));
            let (secret, key) = value.split_once('/').ok_or_else(wrong)?;
            if secret.is_empty() || key.is_empty() {
                return Err(wrong());
            }
            let (secret, key) = (secret.to_owned(), key.to_owned());
            (name, From::Secret { name: secret, key })
        } else {
            continue;
        };
        if !is_name(name) {
            return Err(invalid(
                "expected a name of letters, digits, `-`, `_` and `.` after the `/`",
            ));
        }
        found.push(Asked {
            annotation: annotation.clone(),
            name: name.to_owned(),
            from,
        });
        if found.len() > MAX_SOURCES {
            return Err(invalid(&format!(
                "a build has at most {MAX_SOURCES} sources; leave some out"
            )));
        }
    }
    Ok(found)
}

fn context(value: &str) -> Result<From, String> {
    if let Some(name) = value.strip_prefix("configmap:").filter(|n| !n.is_empty()) {
        return Ok(From::ConfigMap {
            name: name.to_owned(),
        });
    }
    let wrong = || {
        format!(
            "expected `configmap:NAME`, `image:PULLSPEC` or `artifact:PULLSPEC`, found `{}`",
            shown(value)
        )
    };
    match value.split_once(':').ok_or_else(wrong)? {
        ("image", image) => pinned("image", image).map(From::Image),
        ("artifact", artifact) => pinned("artifact", artifact).map(From::Artifact),
        _ => Err(wrong()),
    }
}

fn pinned(kind: &str, text: &str) -> Result<PullSpec, String> {
    let spec: PullSpec = text
        .parse()
        .map_err(|error| format!("expected `{kind}:HOST/PATH@sha256:DIGEST`: {error}"))?;
    match spec.digest() {
        Some(_) => Ok(spec),
        None => Err(format!(
            "`{spec}` has no digest, so nobody could tell what was built from it; name it as `@sha256:…`"
        )),
    }
}

/// Whether a Containerfile can name it, and a directory can be called so.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 63
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(annotations: &[(&str, &str)]) -> Result<Vec<Asked>, LayeringError> {
        let mut config = MachineOSConfig::new("edge", Default::default());
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        config.metadata.annotations = Some(annotations.collect());
        asked(&config)
    }

    const IMAGE: &str =
        "r.example/a/b@sha256:0b9ca241da2f41c03d2106c24ce9dee2370329771d7883508ddfc1d4712fc310";

    #[test]
    fn annotations_name_contexts_and_secrets() {
        let found = of(&[
            ("build-context.caprock.dev/certs", "configmap:site-certs"),
            ("build-context.caprock.dev/tools", &format!("image:{IMAGE}")),
            (
                "build-context.caprock.dev/web",
                &format!("artifact:{IMAGE}"),
            ),
            ("build-secret.caprock.dev/repo", "repo-login/password"),
            ("caprock.dev/other", "x"),
        ]);
        let found: Vec<(String, From)> = found
            .unwrap()
            .into_iter()
            .map(|asked| (asked.name, asked.from))
            .collect();
        let name = |name: &str| name.to_owned();
        let map = From::ConfigMap {
            name: name("site-certs"),
        };
        let secret = From::Secret {
            name: name("repo-login"),
            key: name("password"),
        };
        let image = From::Image(IMAGE.parse().unwrap());
        let artifact = From::Artifact(IMAGE.parse().unwrap());
        let expected = [
            ("certs", map),
            ("tools", image),
            ("web", artifact),
            ("repo", secret),
        ];
        assert_eq!(found, expected.map(|(key, from)| (name(key), from)));
    }

    #[test]
    fn what_cannot_be_understood_names_the_annotation_and_what_was_expected() {
        let cases = [
            (
                "build-context.caprock.dev/a",
                "site-certs",
                "expected `configmap:NAME`, `image:PULLSPEC` or",
            ),
            (
                "build-context.caprock.dev/a",
                "configmap:",
                "expected `configmap:NAME`, `image:PULLSPEC` or",
            ),
            (
                "build-context.caprock.dev/a",
                "image:r.example/a:1",
                "has no digest",
            ),
            (
                "build-context.caprock.dev/a",
                "image:",
                "expected `image:HOST/PATH@sha256:",
            ),
            (
                "build-context.caprock.dev/a",
                "artifact:r.example/a:1",
                "has no digest",
            ),
            (
                "build-context.caprock.dev/configs",
                "configmap:x",
                "is Caprock's own",
            ),
            (
                "build-context.caprock.dev/machineconfig",
                "configmap:x",
                "is Caprock's own",
            ),
            (
                "build-context.caprock.dev/..",
                "configmap:x",
                "expected a name of letters",
            ),
            (
                "build-secret.caprock.dev/a",
                "secret",
                "expected `SECRET/KEY`",
            ),
            (
                "build-secret.caprock.dev/a",
                "/key",
                "expected `SECRET/KEY`",
            ),
            (
                "build-secret.caprock.dev/",
                "a/b",
                "expected a name of letters",
            ),
        ];
        for (annotation, value, expected) in cases {
            let error = of(&[(annotation, value)]).unwrap_err().to_string();
            for part in ["MachineOSConfig `edge`", annotation, expected] {
                assert!(error.contains(part), "{part} in {error}");
            }
        }
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let source = Source {
            name: "repo".to_owned(),
            content: Content::Secret {
                version: "7".to_owned(),
                value: Hidden(b"s3cret".to_vec()),
            },
        };
        let text = format!("{source:?} {}", source.identity());
        assert!(!text.contains("s3cret") && !text.contains("115"), "{text}");
    }
}
