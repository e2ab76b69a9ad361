//! One registry, or a token service that one names: its connections, how it wants to be spoken to, and the tokens it
//! gave us.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{StatusCode, Url, redirect};
use tokio::sync::OnceCell;

use super::challenge::Challenge;
use super::{ClientConfig, ClientError, failure, tls};
use crate::auth::Credentials;
use crate::keychain::{Keychain, KeychainError};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longest silence of a peer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;

#[derive(Debug)]
pub(super) struct Host {
    name: String,
    /// For everything but uploads.
    pub(super) http: reqwest::Client,
    /// For uploads, where a long silence of the registry is ordinary while we send.
    pub(super) upload: reqwest::Client,
    may_be_plain: bool,
    base: OnceCell<Url>,
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<BTreeMap<String, Token>>,
    /// What the keychain has for this host, once it was asked.
    kept: OnceCell<Option<Credentials>>,
}

struct Token {
    text: String,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Host {
    pub(super) fn new<'r>(
        name: &str,
        insecure: bool,
        config: &ClientConfig,
        roots: impl FnOnce() -> Result<&'r rustls::RootCertStore, ClientError>,
    ) -> Result<Host, ClientError> {
        let tls = match insecure {
            true => tls::trusting()?,
            false => {
                let mut roots = roots()?.clone();
                if let Some(pem) = config.cas.get(name) {
                    tls::add_pem(&mut roots, pem, &format!("`{name}`"))?;
                }
                tls::verifying(roots)?
            }
        };
        let loopback = is_loopback(name);
        let builder = || {
            let builder = reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .user_agent(&config.user_agent)
                .redirect(redirects())
                .connect_timeout(CONNECT_WITHIN)
                .tcp_keepalive(ANSWER_WITHIN / 4)
                .tcp_user_timeout(ANSWER_WITHIN);
            match loopback {
                true => builder.no_proxy(),
                false => builder,
            }
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder
                .build()
                .map_err(|error| ClientError::Config(error.without_url().to_string()))
        };
        Ok(Host {
            name: name.to_owned(),
            http: build(builder().read_timeout(ANSWER_WITHIN))?,
            upload: build(builder())?,
            may_be_plain: loopback || insecure,
            base: OnceCell::new(),
            challenge: Mutex::default(),
            tokens: Mutex::default(),
            kept: OnceCell::new(),
        })
    }

    /// What the keychain has for this host; it is asked once.
    pub(super) async fn kept(
        &self,
        keychain: &dyn Keychain,
    ) -> Result<Option<&Credentials>, KeychainError> {
        let asked = async || keychain.credentials(&self.name).await;
        Ok(self.kept.get_or_try_init(asked).await?.as_ref())
    }

    /// Whether the keychain was asked and had something.
    pub(super) fn has_kept(&self) -> bool {
        self.kept.get().is_some_and(Option::is_some)
    }

    /// The name that references use, `host[:port]`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether this host may be spoken to without TLS.
    pub(super) fn may_be_plain(&self) -> bool {
        self.may_be_plain
    }

    /// The root of the registry's API. TLS, except that a host which may speak plain HTTP is asked which it speaks.
    pub(super) async fn base(&self) -> Result<&Url, ClientError> {
        self.base
            .get_or_try_init(async || {
                let authority = match self.name.as_str() {
                    "docker.io" => "registry-1.docker.io",
                    name => name,
                };
                let url = |scheme: &str| {
                    let url = Url::parse(&format!("{scheme}://{authority}/v2/"));
                    url.map_err(|error| {
                        ClientError::Config(format!("registry `{}`: {error}", self.name))
                    })
                };
                let (https, http) = (url("https")?, url("http")?);
                if !self.may_be_plain {
                    return Ok(https);
                }
                match self.http.get(https.clone()).send().await {
                    Ok(_) => Ok(https),
                    Err(error) => {
                        let error = failure::transport(&self.name, error);
                        // A certificate that does not verify is no reason to try without one.
                        let plain = match &error {
                            ClientError::Tls { reason, .. } => reason == failure::NO_TLS,
                            ClientError::Unreachable { .. } => true,
                            _ => false,
                        };
                        match plain && self.speaks_http(&http).await {
                            true => Ok(http),
                            false => Err(error),
                        }
                    }
                }
            })
            .await
    }

    /// Whether a registry answers there. Servers for TLS may answer plain requests too, to complain.
    async fn speaks_http(&self, base: &Url) -> bool {
        let answer = self.http.get(base.clone()).send().await;
        answer.is_ok_and(|answer| {
            matches!(answer.status(), StatusCode::OK | StatusCode::UNAUTHORIZED)
        })
    }

    pub(super) fn challenge(&self) -> Option<Challenge> {
        lock(&self.challenge).clone()
    }

    /// Takes note of how the registry wants to be shown credentials. The token it refused for `scope` is forgotten.
    /// Tells whether another attempt makes sense.
    pub(super) fn challenged(&self, challenge: Challenge, scope: &str, had_basic: bool) -> bool {
        lock(&self.tokens).remove(scope);
        let again = !(had_basic && challenge == Challenge::Basic);
        *lock(&self.challenge) = Some(challenge);
        again
    }

    pub(super) fn token(&self, scope: &str) -> Option<String> {
        let tokens = lock(&self.tokens);
        let token = tokens
            .get(scope)
            .filter(|token| token.until > Instant::now())?;
        Some(token.text.clone())
    }

    pub(super) fn remember(&self, scope: String, text: String, valid: Duration) {
        let now = Instant::now();
        let mut tokens = lock(&self.tokens);
        tokens.retain(|_, token| token.until > now);
        tokens.insert(
            scope,
            Token {
                text,
                until: now + valid,
            },
        );
    }
}

/// The values behind these locks are whole at any time, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows a few redirects, as registries send blobs from elsewhere, but never from TLS to plain HTTP.
fn redirects() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let secure_before = attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if secure_before && attempt.url().scheme() != "https" {
            attempt.error("redirect from https to http")
        } else {
            attempt.follow()
        }
    })
}

/// Whether `host[:port]` is this machine: an address of 127.0.0.0/8, `::1`, or `localhost`.
fn is_loopback(name: &str) -> bool {
    let host = match name.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => name.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_this_machine() {
        for name in [
            "localhost",
            "localhost:5000",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]",
            "[::1]:5000",
        ] {
            assert!(is_loopback(name), "{name}");
        }
        for name in [
            "quay.io",
            "localhost.example:5000",
            "128.0.0.1",
            "[::2]:5000",
            "127.0.0.1.example",
            "10.0.0.1:5000",
        ] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
