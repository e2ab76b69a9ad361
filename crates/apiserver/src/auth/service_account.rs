//! Tokens of service accounts: signed claims that end by themselves, as `kubectl create token` gets them.
//!
//! A token is a JWT with one algorithm (ES256), so nothing in the token chooses how it is checked.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::User;

/// Who signs, and the audience of tokens that are for this API.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// The claims that are read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    sub: String,
    pub(crate) aud: Vec<String>,
    /// Seconds since 1970.
    pub(crate) exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Bindings,
}

/// What a token dies with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bindings {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) secret: Option<Reference>,
}

/// An object of a certain identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// The key of one data directory.
#[derive(Debug)]
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signer {
    /// Loads the key, or makes it on the first start. It never leaves the file (0600).
    pub(crate) fn load_or_create(path: &Path) -> io::Result<Self> {
        let random = SystemRandom::new();
        let broken = |_| {
            let message = format!("`{}` is not a signing key", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        let document = match std::fs::read(path) {
            Ok(document) => document,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .map_err(|_| io::Error::other("no random numbers from the system"))?;
                write_new(path, made.as_ref())?;
                made.as_ref().to_vec()
            }
            Err(error) => return Err(error),
        };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &random)
            .map_err(broken)?;
        Ok(Self { key, random })
    }

    /// A token for a service account. `None`: the system gives no random numbers.
    pub(crate) fn sign(
        &self,
        kubernetes: Bindings,
        audiences: Vec<String>,
        now: Timestamp,
        seconds: i64,
    ) -> Option<(String, Timestamp)> {
        let until = Timestamp::from_second(now.as_second().checked_add(seconds)?).ok()?;
        let claims = Claims {
            iss: ISSUER.into(),
            sub: username(&kubernetes.namespace, &kubernetes.serviceaccount.name),
            aud: audiences,
            exp: until.as_second(),
            iat: now.as_second(),
            nbf: now.as_second(),
            jti: crate::resources::names::uid().ok()?,
            kubernetes,
        };
        let header = json!({"alg": "ES256", "typ": "JWT"}).to_string();
        let body = serde_json::to_vec(&claims).ok()?;
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(body)
        );
        let signature = self.key.sign(&self.random, signed.as_bytes()).ok()?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        Some((token, until))
    }

    /// The claims of a token that this key signed and that holds now.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (_, body) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        let now = now.as_second();
        (claims.iss == ISSUER && claims.nbf <= now && now < claims.exp).then_some(claims)
    }
}

/// Another process that makes the key at the same time is an error: one of two keys would be lost.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn username(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

impl Claims {
    /// Whom the token stands for.
    pub(crate) fn user(&self) -> User {
        let account = &self.kubernetes.serviceaccount;
        let namespace = &self.kubernetes.namespace;
        let groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
        let mut user = User::new(username(namespace, &account.name), groups);
        user.uid = Some(account.uid.clone());
        let credential = format!("JTI={}", self.jti);
        let (pod, node) = (&self.kubernetes.pod, &self.kubernetes.node);
        let known = [
            ("credential-id", Some(credential)),
            ("pod-name", pod.as_ref().map(|pod| pod.name.clone())),
            ("pod-uid", pod.as_ref().map(|pod| pod.uid.clone())),
            ("node-name", node.as_ref().map(|node| node.name.clone())),
            ("node-uid", node.as_ref().map(|node| node.uid.clone())),
        ];
        let known = known
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.filter(|value| !value.is_empty())?)));
        for (key, value) in known {
            let key = format!("authentication.kubernetes.io/{key}");
            user.extra.insert(key, vec![value]);
        }
        user
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn signer() -> Signer {
        let directory = tempfile::tempdir().unwrap();
        Signer::load_or_create(&directory.path().join("key")).unwrap()
    }

    fn bindings() -> Bindings {
        Bindings {
            namespace: "default".into(),
            serviceaccount: Reference {
                name: "robot".into(),
                uid: "u".into(),
            },
            pod: None,
            node: None,
            secret: None,
        }
    }

    #[test]
    fn tokens_hold_until_they_end_and_only_for_their_key() {
        let (signer, other) = (signer(), signer());
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let audiences = vec![ISSUER.to_owned()];
        let (token, until) = signer.sign(bindings(), audiences, now, 600).unwrap();
        let claims = signer.verify(&token, now).unwrap();
        assert_eq!(claims.user().name, "system:serviceaccount:default:robot");
        assert_eq!(claims.kubernetes, bindings());
        assert_eq!(signer.verify(&token, until), None);
        assert_eq!(other.verify(&token, now), None);
        let early: Timestamp = "2025-12-31T23:59:59Z".parse().unwrap();
        assert_eq!(signer.verify(&token, early), None);
    }

    #[test]
    fn a_token_that_was_touched_is_refused() {
        let signer = signer();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (token, _) = signer.sign(bindings(), vec![], now, 600).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let body = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        let forged = URL_SAFE_NO_PAD.encode(body.replace("robot", "admin"));
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for attempt in [
            format!("{}.{forged}.{}", parts[0], parts[2]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{none}.{}.", parts[1]),
            format!("{}.{}", parts[0], parts[1]),
            String::new(),
        ] {
            assert_eq!(signer.verify(&attempt, now), None, "{attempt}");
        }
    }

    #[test]
    fn the_key_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = Signer::load_or_create(&path).unwrap();
        let (token, _) = first.sign(bindings(), vec![], now, 600).unwrap();
        let second = Signer::load_or_create(&path).unwrap();
        assert!(second.verify(&token, now).is_some());
    }
}
