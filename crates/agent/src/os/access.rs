//! May an image be used, and how do the host's own tools get at it: the signature policy, and credentials and
//! authorities in the places where those tools look for them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8Path;
use oci::{Client, Credentials, Demand, Policy, Reference};
use serde_json::{Map, Value, json};

use super::{OsError, io_error};

/// Where the tools look for credentials first.
const RUNTIME_AUTH: &str = "run/ostree/auth.json";
/// Where an administrator puts them.
const STATIC_AUTH: &str = "etc/ostree/auth.json";
/// Where the tools look for authorities, by registry.
const CERTIFICATES: &str = "etc/containers/certs.d";
/// Largest file of credentials that is read.
const MAX_AUTH: u64 = 1 << 20;

/// How a tool is to be told of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verified {
    /// The tool must see a policy that demands a signature.
    BySignature,
    /// The policy demands none, or not by default; the tool still follows it.
    AsPolicySays,
}

impl Verified {
    /// The image in the words of ostree's container tools.
    pub(super) fn image_reference(self, reference: &Reference) -> String {
        match self {
            Verified::BySignature => format!("ostree-image-signed:docker://{reference}"),
            Verified::AsPolicySays => format!("ostree-unverified-registry:{reference}"),
        }
    }
}

pub(super) fn reference(image: &str) -> Result<Reference, OsError> {
    let problem = |problem: String| OsError::Image {
        image: image.to_owned(),
        problem,
    };
    let reference: Reference = image
        .parse()
        .map_err(|error: oci::ReferenceError| problem(error.to_string()))?;
    Ok(reference)
}

fn demand(root: &Utf8Path, reference: &Reference) -> Result<(Demand, Demand), OsError> {
    let path = root.join(oci::policy::SYSTEM_POLICY.trim_start_matches('/'));
    let refused = |problem: String| OsError::Policy {
        image: reference.to_string(),
        problem,
    };
    let policy =
        Policy::load(path.as_std_path()).map_err(|error| refused(crate::error::chain(&error)))?;
    match policy.demand(reference) {
        Demand::Refused => Err(refused(format!(
            "`{path}` rejects it; permit its registry or repository there"
        ))),
        demand => Ok((demand, policy.default_demand())),
    }
}

/// Refuses what the policy of the host rejects, and what it wants signed: we verify no signatures.
pub(super) fn check_unsigned(root: &Utf8Path, reference: &Reference) -> Result<(), OsError> {
    match demand(root, reference)?.0 {
        Demand::Signature(kind) => Err(OsError::Policy {
            image: reference.to_string(),
            problem: format!(
                "the host's containers-policy.json demands a signature (`{kind}`), which the `ostree` backend cannot \
                 verify; use a host with bootc or rpm-ostree, or permit this repository there"
            ),
        }),
        Demand::Nothing | Demand::Refused => Ok(()),
    }
}

/// Refuses what the policy rejects, and says how a tool that verifies signatures is to be told of the rest.
pub(super) fn check(root: &Utf8Path, reference: &Reference) -> Result<Verified, OsError> {
    Ok(match demand(root, reference)? {
        // The tools refuse the word `signed` where the policy's default lets everything pass.
        (Demand::Signature(_), default) if default != Demand::Nothing => Verified::BySignature,
        _ => Verified::AsPolicySays,
    })
}

/// Puts the client's credentials and authorities for an image where the host's tools look for them. Credentials go to
/// `/run`, added to those that an administrator gave.
pub(super) fn grant(
    root: &Utf8Path,
    client: &Client,
    reference: &Reference,
) -> Result<(), OsError> {
    let mut pem = Vec::new();
    for authority in client.authorities(reference.host()) {
        pem.extend_from_slice(authority);
        pem.push(b'\n');
    }
    if !pem.is_empty() {
        let path = root
            .join(CERTIFICATES)
            .join(reference.host())
            .join("caprock.crt");
        if fs::read(&path).ok().as_ref() != Some(&pem) {
            replace(&path, &pem, 0o644)?;
        }
    }
    let Some(credentials) = client.credentials_for(reference) else {
        return Ok(());
    };
    let path = root.join(RUNTIME_AUTH);
    let mut auth = match read(&path)? {
        Some(auth) => auth,
        None => read(&root.join(STATIC_AUTH))?.unwrap_or_default(),
    };
    let entry = match credentials {
        Credentials::Basic { username, password } => {
            json!({"auth": STANDARD.encode(format!("{username}:{password}"))})
        }
        Credentials::IdentityToken(token) => json!({"identitytoken": token}),
    };
    let auths = auth
        .entry("auths")
        .or_insert_with(|| Value::Object(Map::new()));
    if !auths.is_object() {
        *auths = Value::Object(Map::new());
    }
    let key = format!("{}/{}", reference.host(), reference.repository());
    if auths[&key] == entry {
        return Ok(());
    }
    auths[&key] = entry;
    replace(&path, Value::Object(auth).to_string().as_bytes(), 0o600)
}

fn read(path: &Utf8Path) -> Result<Option<Map<String, Value>>, OsError> {
    use std::io::Read as _;
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io_error("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_AUTH)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    // The parser's message could quote a secret.
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| OsError::Io {
            action: "understand the credentials in",
            path: path.to_owned(),
            source: std::io::Error::other(format!("not JSON, line {}", error.line())),
        })
}

fn replace(path: &Utf8Path, bytes: &[u8], mode: u32) -> Result<(), OsError> {
    let dir = path.parent().expect("a file has a directory");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(io_error("make", dir))?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io_error("make a file in", dir))?;
    file.write_all(bytes)
        .and_then(|()| {
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(mode))
        })
        .map_err(io_error("write", path))?;
    file.persist(path)
        .map(drop)
        .map_err(|error| io_error("write", path)(error.error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use oci::{ClientConfig, DockerConfig};

    fn root() -> (tempfile::TempDir, camino::Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = camino::Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        fs::create_dir_all(root.join("etc/containers")).unwrap();
        (dir, root)
    }

    fn policy(root: &Utf8Path, default: &str, ours: &str) {
        let text = json!({
            "default": [{"type": default}],
            "transports": {"docker": {"r.example": [{"type": ours}]}},
        });
        fs::write(root.join("etc/containers/policy.json"), text.to_string()).unwrap();
    }

    #[test]
    fn the_policy_decides_and_how_a_tool_is_told() {
        let (_guard, root) = root();
        let image: Reference = "r.example/os/image:1".parse().unwrap();
        let told = |root: &Utf8Path| check(root, &image).unwrap().image_reference(&image);
        let unverified = "ostree-unverified-registry:r.example/os/image:1";
        assert_eq!(told(&root), unverified, "no policy");
        policy(&root, "reject", "insecureAcceptAnything");
        assert_eq!(told(&root), unverified);
        check_unsigned(&root, &image).unwrap();
        policy(&root, "reject", "sigstoreSigned");
        assert_eq!(
            told(&root),
            "ostree-image-signed:docker://r.example/os/image:1"
        );
        let error = check_unsigned(&root, &image).unwrap_err().to_string();
        assert!(error.contains("`sigstoreSigned`"), "{error}");
        policy(&root, "insecureAcceptAnything", "signedBy");
        assert_eq!(
            told(&root),
            unverified,
            "the tool follows the policy anyway"
        );
        policy(&root, "insecureAcceptAnything", "reject");
        let error = check(&root, &image).unwrap_err().to_string();
        assert!(error.contains("rejects it"), "{error}");
        fs::write(root.join("etc/containers/policy.json"), "{").unwrap();
        assert!(
            check(&root, &image).is_err(),
            "what is not understood permits nothing"
        );
    }

    #[test]
    fn credentials_are_added_to_those_of_the_administrator() {
        let (_guard, root) = root();
        fs::create_dir_all(root.join("etc/ostree")).unwrap();
        fs::write(
            root.join("etc/ostree/auth.json"),
            r#"{"auths": {"quay.io": {"auth": "YTpi"}}}"#,
        )
        .unwrap();
        let client = |password: &str| {
            Client::new(ClientConfig {
                auth: DockerConfig::basic("r.example", "node", password),
                ..ClientConfig::default()
            })
            .unwrap()
        };
        let image: Reference = "r.example/os/image:1".parse().unwrap();
        for password in ["old", "new"] {
            grant(&root, &client(password), &image).unwrap();
        }
        let path = root.join("run/ostree/auth.json");
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            written,
            json!({"auths": {"quay.io": {"auth": "YTpi"}, "r.example/os/image": {"auth": STANDARD.encode("node:new")}}})
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let untouched = fs::read_to_string(root.join("etc/ostree/auth.json")).unwrap();
        assert!(!untouched.contains("r.example"));
    }
}
