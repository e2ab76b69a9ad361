//! Registry credentials as Kubernetes secrets and container tools keep them: `dockerconfigjson`, the older
//! `dockercfg`, and `auth.json` of the same form. Secrets never show in `Debug` output or errors.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Largest file that is read; a Kubernetes secret cannot be larger.
const MAX_CONFIG: usize = 1 << 20;

/// Credentials by registry, or by repository prefix within one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DockerConfig {
    /// Normalised `host[:port][/path]` → credentials.
    entries: BTreeMap<String, Credentials>,
}

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User name and password.
    Basic {
        /// The user name.
        username: String,
        /// The password or a token that stands for one.
        password: String,
    },
    /// A refresh token, exchanged for access tokens at the registry's token service.
    IdentityToken(String),
}

/// From when to when a token says that it is good, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLife {
    /// When it was made, if it says so.
    pub from: Option<i64>,
    /// When it ends.
    pub until: i64,
}

impl Credentials {
    /// The life of a password or identity token that is a JSON web token (RFC 7519) with an end, as those of service
    /// accounts and clouds are. Its signature is not looked at: whoever knows it may be told about it.
    pub fn life(&self) -> Option<TokenLife> {
        #[derive(Deserialize)]
        struct Claims {
            exp: f64,
            #[serde(default)]
            iat: Option<f64>,
        }
        let (Credentials::Basic {
            password: token, ..
        }
        | Credentials::IdentityToken(token)) = self;
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        Some(TokenLife {
            from: claims.iat.map(|iat| iat as i64),
            until: claims.exp as i64,
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Basic { username, .. } => f
                .debug_struct("Basic")
                .field("username", username)
                .finish_non_exhaustive(),
            Credentials::IdentityToken(_) => f.write_str("IdentityToken(..)"),
        }
    }
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.entries).finish()
    }
}

/// Why a file of credentials cannot be used. Messages never quote values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not JSON of the expected form.
    #[error(
        "registry credentials are not valid JSON of the form {{\"auths\": {{HOST: {{\"auth\": …}}}}}} (line {line}, column {column})"
    )]
    Json {
        /// Line of the first problem, from 1.
        line: usize,
        /// Its column, from 1.
        column: usize,
    },
    /// Larger than any Kubernetes secret.
    #[error("registry credentials are longer than {MAX_CONFIG} bytes")]
    TooLong,
    /// The `auth` field is not base64 of `user:password`.
    #[error("registry credentials for `{0}`: `auth` is not base64 of `user:password`")]
    Auth(String),
    /// A key that names no registry.
    #[error(
        "registry credentials have the key `{0}`, which is not a registry or a repository in one"
    )]
    Key(String),
}

#[derive(Deserialize)]
struct File {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(alias = "identityToken")]
    identitytoken: Option<String>,
}

impl DockerConfig {
    /// Reads `{"auths": {HOST: {…}}}` or the older `{HOST: {…}}`. Entries without any secret (as credential
    /// helpers leave them) are left out.
    pub fn parse(bytes: &[u8]) -> Result<DockerConfig, AuthError> {
        if bytes.len() > MAX_CONFIG {
            return Err(AuthError::TooLong);
        }
        let json = |error: serde_json::Error| AuthError::Json {
            line: error.line(),
            column: error.column(),
        };
        let top: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(bytes).map_err(json)?;
        let auths = match top.contains_key("auths") {
            true => serde_json::from_slice::<File>(bytes).map_err(json)?.auths,
            // A `config.json` without credentials has other settings, none of them named like a registry.
            false if !top.is_empty() && !top.keys().any(|key| is_registry(key)) => BTreeMap::new(),
            false => serde_json::from_slice(bytes).map_err(json)?,
        };
        let mut entries = BTreeMap::new();
        for (key, entry) in auths {
            let place = place_of(&key).ok_or_else(|| AuthError::Key(key.clone()))?;
            if let Some(credentials) = entry.credentials(&key)? {
                entries.insert(place, credentials);
            }
        }
        Ok(DockerConfig { entries })
    }

    /// One user for one registry (`host[:port]`), or for a repository prefix in it.
    pub fn basic(place: &str, username: &str, password: &str) -> DockerConfig {
        let credentials = Credentials::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        };
        let place = place_of(place).unwrap_or_else(|| place.to_owned());
        DockerConfig {
            entries: BTreeMap::from([(place, credentials)]),
        }
    }

    /// Adds the entries of `other`; where both have one, `other` wins.
    pub fn merge(mut self, other: DockerConfig) -> DockerConfig {
        self.entries.extend(other.entries);
        self
    }

    /// The same as [`DockerConfig::parse`] reads it.
    pub fn to_json(&self) -> String {
        let auths: serde_json::Map<String, serde_json::Value> = self
            .entries
            .iter()
            .map(|(place, credentials)| {
                let entry = match credentials {
                    Credentials::Basic { username, password } => {
                        serde_json::json!({"auth": STANDARD.encode(format!("{username}:{password}"))})
                    }
                    Credentials::IdentityToken(token) => {
                        serde_json::json!({"identitytoken": token})
                    }
                };
                (place.clone(), entry)
            })
            .collect();
        serde_json::json!({"auths": auths}).to_string()
    }

    /// Whether there are no credentials at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The credentials of the longest entry that covers `repository` at `host`. An entry's host may have `*`
    /// for a whole label, as Kubernetes has it; an exact host is preferred.
    pub fn credentials_for(&self, host: &str, repository: &str) -> Option<&Credentials> {
        let host = host.to_ascii_lowercase();
        self.entries
            .iter()
            .filter_map(|(place, credentials)| {
                let (entry_host, path) = place.split_once('/').unwrap_or((place, ""));
                let exact = entry_host == host;
                let covers =
                    (exact || matches_glob(entry_host, &host)) && is_prefix(path, repository);
                covers.then_some(((exact, path.len()), credentials))
            })
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, credentials)| credentials)
    }
}

impl Entry {
    fn credentials(self, key: &str) -> Result<Option<Credentials>, AuthError> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = some(self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(token)));
        }
        if let Some(auth) = some(self.auth) {
            let invalid = || AuthError::Auth(key.to_owned());
            let auth = auth.trim();
            let decoded = STANDARD
                .decode(auth)
                .or_else(|_| STANDARD_NO_PAD.decode(auth))
                .map_err(|_| invalid())?;
            let text = String::from_utf8(decoded).map_err(|_| invalid())?;
            let (username, password) = text.split_once(':').ok_or_else(invalid)?;
            // Docker pads passwords with NUL characters.
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credentials::Basic {
                username: username.to_owned(),
                password: password.to_owned(),
            }));
        }
        match (some(self.username), some(self.password)) {
            (Some(username), Some(password)) => Ok(Some(Credentials::Basic { username, password })),
            _ => Ok(None),
        }
    }
}

/// The registry, or the repositories of one, that a key of such a file names: `docker.io` for
/// `https://index.docker.io/v1/`. None for what names no registry.
pub fn place_of(key: &str) -> Option<String> {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = match path {
        "v1" | "v2" => "",
        path => path,
    };
    let host = match host.to_ascii_lowercase().as_str() {
        "" => return None,
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    };
    if host.contains(char::is_whitespace) {
        return None;
    }
    Some(match path {
        "" => host,
        path => format!("{host}/{path}"),
    })
}

/// Whether a key can only be a registry's: settings of docker have plain words.
fn is_registry(key: &str) -> bool {
    key.contains(['.', ':', '/']) || key == "localhost"
}

fn is_prefix(path: &str, repository: &str) -> bool {
    match repository.strip_prefix(path) {
        Some(rest) => path.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

fn matches_glob(pattern: &str, host: &str) -> bool {
    let port = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
    let name = |host: &str| {
        host.rsplit_once(':')
            .map_or(host.to_owned(), |(name, _)| name.to_owned())
    };
    let (pattern_name, host_name) = (name(pattern), name(host));
    pattern.contains('*')
        && port(pattern) == port(host)
        && pattern_name.split('.').count() == host_name.split('.').count()
        && pattern_name
            .split('.')
            .zip(host_name.split('.'))
            .all(|(pattern, label)| pattern == "*" || pattern == label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn user(config: &DockerConfig, host: &str, repository: &str) -> Option<String> {
        config
            .credentials_for(host, repository)
            .map(|credentials| match credentials {
                Credentials::Basic { username, password } => format!("{username}:{password}"),
                Credentials::IdentityToken(token) => format!("token {token}"),
            })
    }

    fn auth(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn a_token_tells_its_end() {
        let life = |password: &str| {
            let config = DockerConfig::basic("r.example", "serviceaccount", password);
            config.credentials_for("r.example", "a").unwrap().life()
        };
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let told = |from, until| Some(TokenLife { from, until });
        let full = token(r#"{"iat": 1700000000, "exp": 1700003600, "sub": "x"}"#);
        assert_eq!(life(&full), told(Some(1_700_000_000), 1_700_003_600));
        assert_eq!(life(&token(r#"{"exp": 1.7e9}"#)), told(None, 1_700_000_000));
        // A time beyond all time is no reason to fail.
        assert_eq!(life(&token(r#"{"exp": 1e300}"#)), told(None, i64::MAX));
        for none in [
            "secret".to_owned(),
            "a.b.c".to_owned(),
            "a.b.c.d".to_owned(),
            token("{}"),
            token(r#"{"exp": "soon"}"#),
            token("[]"),
        ] {
            assert_eq!(life(&none), None, "{none}");
        }
    }

    #[test]
    fn reads_every_form_that_is_about() {
        let both = format!(
            "{{\"quay.io\": {{\"auth\": \"{}\", \"email\": \"a@b\"}}}}",
            auth("u:p:q")
        );
        for text in [
            both.clone(),
            format!("{{\"auths\": {both}, \"HttpHeaders\": {{}}}}"),
        ] {
            let config = DockerConfig::parse(text.as_bytes()).unwrap();
            assert_eq!(user(&config, "quay.io", "a/b").as_deref(), Some("u:p:q"));
            assert_eq!(user(&config, "quay.io:443", "a/b"), None);
        }
        let config = DockerConfig::parse(
            br#"{"auths": {"a.example": {"username": "u", "password": "p"}, "b.example": {"identitytoken": "t", "auth": "dTpw"},
                "c.example": {}, "d.example": {"auth": ""}, "e.example": {"username": "u"}}}"#,
        )
        .unwrap();
        assert_eq!(user(&config, "a.example", "x").as_deref(), Some("u:p"));
        assert_eq!(user(&config, "b.example", "x").as_deref(), Some("token t"));
        for host in ["c.example", "d.example", "e.example"] {
            assert_eq!(user(&config, host, "x"), None);
        }
        assert!(
            DockerConfig::parse(b"{\"credsStore\": \"desktop\"}")
                .unwrap()
                .is_empty()
        );
        assert!(DockerConfig::parse(b"{}").unwrap().is_empty());
    }

    #[test]
    fn the_longest_entry_that_covers_the_repository_wins() {
        let entry = |key: &str, user: &str| {
            format!(
                "\"{key}\": {{\"auth\": \"{}\"}}",
                auth(&format!("{user}:p"))
            )
        };
        let entries = [
            entry("https://index.docker.io/v1/", "hub"),
            entry("quay.io", "quay"),
            entry("quay.io/team", "team"),
            entry("quay.io/team/app", "app"),
            entry("http://LOCALHOST:5000/", "local"),
            entry("*.example.com", "glob"),
            entry("exact.example.com", "exact"),
            entry("[::1]:5000", "six"),
        ];
        let config =
            DockerConfig::parse(format!("{{\"auths\": {{{}}}}}", entries.join(",")).as_bytes())
                .unwrap();
        let cases = [
            ("docker.io", "library/debian", Some("hub")),
            ("quay.io", "other/app", Some("quay")),
            ("quay.io", "team", Some("team")),
            ("quay.io", "team/app", Some("app")),
            ("quay.io", "team/app/sub", Some("app")),
            ("quay.io", "team/apple", Some("team")),
            ("quay.io", "teams", Some("quay")),
            ("localhost:5000", "x", Some("local")),
            ("localhost", "x", None),
            ("a.example.com", "x", Some("glob")),
            ("exact.example.com", "x", Some("exact")),
            ("a.b.example.com", "x", None),
            ("example.com", "x", None),
            ("a.example.com:443", "x", None),
            ("[::1]:5000", "x", Some("six")),
            ("evilquay.io", "x", None),
        ];
        for (host, repository, expected) in cases {
            let found = user(&config, host, repository);
            assert_eq!(
                found,
                expected.map(|user| format!("{user}:p")),
                "{host}/{repository}"
            );
        }
        let merged = config.merge(DockerConfig::basic("quay.io", "new", "p"));
        assert_eq!(user(&merged, "quay.io", "x").as_deref(), Some("new:p"));
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        let config = DockerConfig::parse(
            format!("{{\"auths\": {{\"a\": {{\"auth\": \"{}\"}}, \"b\": {{\"identitytoken\": \"s3cret\"}}}}}}", auth("u:s3cret"))
                .as_bytes(),
        )
        .unwrap();
        let text = format!("{config:?}");
        assert!(
            text.contains("\"u\"") && !text.contains("s3cret") && !text.contains(&auth("u:s3cret")),
            "{text}"
        );
        for broken in [
            r#"{"auths": {"a": {"auth": "s3cret"}}}"#,
            r#"{"auths": {"a": {"auth": ["s3cret"]}}}"#,
            r#"{"auths": "s3cret"}"#,
            r#"{"auths": {"a": "s3cret"}}"#,
            r#""s3cret""#,
            "s3cret",
            r#"{"auths": {"": {"auth": "dTpw"}}}"#,
        ] {
            let error = DockerConfig::parse(broken.as_bytes()).unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        assert_eq!(
            DockerConfig::parse(&vec![b' '; MAX_CONFIG + 1]),
            Err(AuthError::TooLong)
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = DockerConfig::basic("a.example:5000/team", "u", "p:q").merge(
            DockerConfig::parse(br#"{"auths": {"b.example": {"identitytoken": "t"}}}"#).unwrap(),
        );
        let json = config.to_json();
        assert!(DockerConfig::parse(json.as_bytes()).unwrap() == config);
    }
}
