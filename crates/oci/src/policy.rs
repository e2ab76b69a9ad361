//! Which images may be used, by the signatures they must have: containers-policy.json(5), which container tools of a
//! host share. We verify no signatures ourselves, so what demands one is only said, for the caller to refuse or to leave
//! to a tool that can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::reference::Reference;

/// The file that container tools of a host share.
pub const SYSTEM_POLICY: &str = "/etc/containers/policy.json";
/// Largest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Why a policy.json cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not JSON of the expected form.
    #[error("`{path}` is not a valid containers-policy.json: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What is demanded of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// Nothing.
    Nothing,
    /// A signature, of the named kind (`signedBy`, `sigstoreSigned`, …).
    Signature(String),
    /// Something that no image can fulfil.
    Refused,
}

/// The demands for all images. The default demands nothing, as does a host without the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    default: Vec<Requirement>,
    /// Requirements for images in registries, by scope.
    docker: BTreeMap<String, Vec<Requirement>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct File {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

impl Policy {
    /// Reads a policy.json; the default one where there is none.
    ///
    /// # Errors
    /// When it cannot be read or is not valid.
    pub fn load(path: &Path) -> Result<Policy, PolicyError> {
        use std::io::Read as _;
        let failed = |source| PolicyError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Policy::default());
            }
            file => file.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Policy::parse(&bytes).map_err(|problem| PolicyError::Syntax {
            path: path.to_owned(),
            problem,
        })
    }

    /// Understands the text of a policy.json.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Policy, String> {
        let mut file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let docker = file.transports.remove("docker").unwrap_or_default();
        let empty = docker
            .iter()
            .map(|(scope, list)| (scope.as_str(), list))
            .chain([("default", &file.default)])
            .find(|(_, list)| list.is_empty());
        match empty {
            Some((scope, _)) => Err(format!(
                "`{scope}` has no requirements, which is not allowed"
            )),
            None => Ok(Policy {
                default: file.default,
                docker,
            }),
        }
    }

    /// What is demanded of an image in a registry. Of several requirements the hardest counts.
    #[must_use]
    pub fn demand(&self, reference: &Reference) -> Demand {
        demand(self.scope(reference).unwrap_or(&self.default))
    }

    /// What is demanded of images that no scope names.
    #[must_use]
    pub fn default_demand(&self) -> Demand {
        demand(&self.default)
    }

    /// Scopes from the narrowest to the widest: the image, its repository, the folders above that, the registry, its
    /// domains with `*.`, every registry.
    fn scope(&self, reference: &Reference) -> Option<&Vec<Requirement>> {
        let full = format!("{}/{}", reference.host(), reference.repository());
        let exact = match reference.digest() {
            Some(digest) => format!("{full}@{digest}"),
            None => format!("{full}:{}", reference.version()),
        };
        let mut scopes = vec![exact];
        let mut folder = Some(full.as_str());
        while let Some(name) = folder {
            scopes.push(name.to_owned());
            folder = name.rsplit_once('/').map(|(above, _)| above);
        }
        let mut domain = reference.host();
        while let Some((_, above)) = domain.split_once('.') {
            scopes.push(format!("*.{above}"));
            domain = above;
        }
        scopes.push(String::new());
        scopes.iter().find_map(|scope| self.docker.get(scope))
    }
}

fn demand(requirements: &[Requirement]) -> Demand {
    let hardest = requirements
        .iter()
        .map(|requirement| match requirement.kind.as_str() {
            "insecureAcceptAnything" => Demand::Nothing,
            "reject" => Demand::Refused,
            kind => Demand::Signature(kind.to_owned()),
        })
        .max_by_key(|demand| match demand {
            Demand::Nothing => 0,
            Demand::Signature(_) => 1,
            Demand::Refused => 2,
        });
    hardest.unwrap_or(Demand::Nothing)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const POLICY: &str = r#"{
        "default": [{"type": "reject"}],
        "transports": {
            "docker": {
                "": [{"type": "insecureAcceptAnything"}],
                "*.corp.example": [{"type": "reject"}],
                "quay.io": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
                "quay.io/open": [{"type": "insecureAcceptAnything"}],
                "quay.io/open/closed": [{"type": "insecureAcceptAnything"}, {"type": "sigstoreSigned", "keyPath": "/k"}],
                "quay.io/open/image:1": [{"type": "reject"}]
            },
            "docker-daemon": {"": [{"type": "insecureAcceptAnything"}]}
        }
    }"#;

    #[test]
    fn the_narrowest_scope_counts_and_in_it_the_hardest_requirement() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        let check = |reference: &str, expected: Demand| {
            assert_eq!(
                policy.demand(&reference.parse().unwrap()),
                expected,
                "{reference}"
            );
        };
        let signed = |kind: &str| Demand::Signature(kind.to_owned());
        check("r.example/a:1", Demand::Nothing);
        check("r.corp.example/a:1", Demand::Refused);
        check("quay.io/a/b:1", signed("signedBy"));
        check("quay.io/opened/b:1", signed("signedBy"));
        check("quay.io/open/b:1", Demand::Nothing);
        check("quay.io/open/closed/b:1", signed("sigstoreSigned"));
        check("quay.io/open/image:1", Demand::Refused);
        check("quay.io/open/image:2", Demand::Nothing);
        assert_eq!(policy.default_demand(), Demand::Refused);
    }

    #[test]
    fn without_a_file_nothing_is_demanded() {
        let dir = tempfile::tempdir().unwrap();
        let policy = Policy::load(&dir.path().join("policy.json")).unwrap();
        assert_eq!(
            policy.demand(&"a.example/b".parse().unwrap()),
            Demand::Nothing
        );
    }

    #[test]
    fn what_is_not_a_policy_is_refused() {
        assert!(Policy::parse(b"{}").is_err());
        assert!(
            Policy::parse(br#"{"default": []}"#)
                .unwrap_err()
                .contains("no requirements")
        );
        assert!(Policy::parse(br#"{"default": [{"kind": "x"}]}"#).is_err());
    }

    #[test]
    fn an_unknown_requirement_is_one_for_a_signature() {
        let policy = Policy::parse(br#"{"default": [{"type": "newSigned"}]}"#).unwrap();
        assert_eq!(
            policy.demand(&"a.example/b".parse().unwrap()),
            Demand::Signature("newSigned".to_owned())
        );
    }
}
