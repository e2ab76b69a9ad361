//! One request to a registry: credentials, the answer to a challenge, errors sorted.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::host::Host;
use super::retry::{Backoff, Retry};
use super::{Client, ClientError, failure};
use crate::auth::Credentials;

/// Longest answer of a token service that is read.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// How long a token holds when the service does not say, from the token specification.
const DEFAULT_VALIDITY: Duration = Duration::from_secs(60);
const LONGEST_VALIDITY: Duration = Duration::from_secs(3600);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    /// The word for messages.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "push",
            Action::Delete => "deletion",
        }
    }

    /// The rights to ask a token service for.
    fn rights(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "pull,push",
            Action::Delete => "pull,push,delete",
        }
    }
}

/// One operation on a repository, which may take several requests.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) host: &'a Host,
    pub(super) repository: &'a str,
    /// Another repository of the same registry that is read.
    pub(super) from: Option<&'a str>,
    pub(super) action: Action,
    /// What it is about, for messages.
    pub(super) what: String,
    pub(super) credentials: Option<&'a Credentials>,
}

impl Call<'_> {
    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some() || self.host.has_kept()
    }

    /// The URL of `path` in the repository.
    pub(super) async fn url(&self, path: &str) -> Result<Url, ClientError> {
        let base = self.host.base().await?;
        base.join(&format!("{}/{path}", self.repository))
            .map_err(|error| ClientError::Config(format!("`{}`: {error}", self.what)))
    }

    /// The scopes of this call as the token specification writes them, separated by spaces.
    fn scopes(&self) -> String {
        let own = format!("repository:{}:{}", self.repository, self.action.rights());
        match self.from {
            Some(from) => format!("{own} repository:{from}:pull"),
            None => own,
        }
    }
}

/// What `Authorization` is made of.
enum Shown {
    Nothing,
    Basic,
    Token,
}

impl Client {
    /// Sends a request, trying again what may pass.
    pub(super) async fn send(
        &self,
        call: &Call<'_>,
        method: Method,
        path: &str,
        retry: Retry,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let mut backoff = Backoff::new(retry);
        loop {
            let sent = async {
                let url = call.url(path).await?;
                self.send_once(call, &call.host.http, method.clone(), url, |request| {
                    Ok(prepare(request))
                })
                .await
            };
            match sent.await {
                Err(error) => backoff.wait_after(error).await?,
                sent => return sent,
            }
        }
    }

    /// Sends a request once, or twice when the first answer tells how to authenticate. `prepare` adds headers and body.
    pub(super) async fn send_once(
        &self,
        call: &Call<'_>,
        http: &reqwest::Client,
        method: Method,
        url: Url,
        prepare: impl Fn(RequestBuilder) -> Result<RequestBuilder, ClientError>,
    ) -> Result<Response, ClientError> {
        // A registry may send uploads elsewhere; what is for the registry's eyes stays with it.
        let at_home = url.origin() == call.host.base().await?.origin();
        let mut challenged = false;
        loop {
            let mut request = http.request(method.clone(), url.clone());
            let mut shown = Shown::Nothing;
            if at_home && let Some((value, kind)) = self.authorization(call).await? {
                request = request.header(AUTHORIZATION, value);
                shown = kind;
            }
            let sent = prepare(request)?.send().await;
            let response = sent.map_err(|error| failure::transport(call.host.name(), error))?;
            if response.status() == StatusCode::UNAUTHORIZED && at_home && !challenged {
                let values = response.headers().get_all(WWW_AUTHENTICATE).iter();
                let had_basic = matches!(shown, Shown::Basic);
                let challenge = challenge::choose(values.filter_map(|value| value.to_str().ok()));
                if let Some(challenge) = challenge
                    && call.host.challenged(challenge, &call.scopes(), had_basic)
                {
                    challenged = true;
                    continue;
                }
            }
            return failure::check(call, response).await;
        }
    }

    /// The credentials or token to show, once the registry has said which it wants.
    async fn authorization(
        &self,
        call: &Call<'_>,
    ) -> Result<Option<(HeaderValue, Shown)>, ClientError> {
        let Some(challenge) = call.host.challenge() else {
            return Ok(None);
        };
        match (challenge, self.credentials(call).await?) {
            (Challenge::Basic, Some(Credentials::Basic { username, password })) => {
                let text = format!(
                    "Basic {}",
                    STANDARD.encode(format!("{username}:{password}"))
                );
                Ok(Some((sensitive(&text, call)?, Shown::Basic)))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, .. }, credentials) => {
                let scopes = call.scopes();
                let token = match call.host.token(&scopes) {
                    Some(token) => token,
                    None => {
                        let (token, valid) = self
                            .fetch_token(call, credentials, &realm, service.as_deref(), &scopes)
                            .await?;
                        call.host.remember(scopes, token.clone(), valid);
                        token
                    }
                };
                Ok(Some((
                    sensitive(&format!("Bearer {token}"), call)?,
                    Shown::Token,
                )))
            }
        }
    }

    /// What the keychain has for the registry, or else what the configuration has.
    async fn credentials<'c>(
        &self,
        call: &Call<'c>,
    ) -> Result<Option<&'c Credentials>, ClientError> {
        let kept =
            match &self.shared.config.keychain {
                None => None,
                Some(keychain) => call.host.kept(keychain.as_ref()).await.map_err(|source| {
                    ClientError::Keychain {
                        host: call.host.name().to_owned(),
                        source,
                    }
                })?,
            };
        Ok(kept.or(call.credentials))
    }

    /// Asks the token service at `realm` for a token: with a refresh token by the OAuth 2 way, otherwise with user
    /// name and password or anonymously.
    async fn fetch_token(
        &self,
        call: &Call<'_>,
        credentials: Option<&Credentials>,
        realm: &str,
        service: Option<&str>,
        scopes: &str,
    ) -> Result<(String, Duration), ClientError> {
        let invalid = |reason: &str| {
            let message = format!("its token service `{realm}` {reason}");
            failure::refused(call, StatusCode::UNAUTHORIZED, message)
        };
        let mut url = Url::parse(realm).map_err(|_| invalid("has no valid address"))?;
        let name = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(invalid("has no valid address")),
        };
        let host = self.host(&name)?;
        if url.scheme() != "https" && !(url.scheme() == "http" && host.may_be_plain()) {
            return Err(invalid("does not use https"));
        }
        let mut parameters: Vec<(&str, &str)> =
            scopes.split(' ').map(|scope| ("scope", scope)).collect();
        parameters.extend(service.map(|service| ("service", service)));
        let request = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let scope = ("scope", scopes);
                parameters.retain(|(key, _)| *key != "scope");
                parameters.extend([
                    scope,
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token.as_str()),
                    ("client_id", "caprock"),
                ]);
                let mut form = Url::parse("form:").map_err(|_| invalid("has no valid address"))?;
                form.query_pairs_mut().extend_pairs(&parameters);
                let body = form.query().unwrap_or_default().to_owned();
                let content_type = "application/x-www-form-urlencoded";
                host.http
                    .post(url)
                    .header(reqwest::header::CONTENT_TYPE, content_type)
                    .body(body)
            }
            basic => {
                url.query_pairs_mut().extend_pairs(&parameters);
                let request = host.http.get(url);
                match basic {
                    Some(Credentials::Basic { username, password }) => {
                        request.basic_auth(username, Some(password))
                    }
                    _ => request,
                }
            }
        };
        let response = request
            .send()
            .await
            .map_err(|error| failure::transport(&name, error))?;
        let response = failure::check(call, response)
            .await
            .map_err(|error| match error {
                // Token services answer a wrong password with either status, and have no repositories to miss.
                ClientError::Forbidden {
                    host, repository, ..
                } if call.has_credentials() => ClientError::Unauthorized { host, repository },
                ClientError::NotFound(_) => invalid("does not exist"),
                error => error,
            })?;
        let answer = failure::read_limited(&name, response, MAX_TOKEN_ANSWER)
            .await?
            .ok_or_else(|| invalid("answered at too great a length"))?;
        let answer: TokenAnswer =
            serde_json::from_slice(&answer).map_err(|_| invalid("answered without a token"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty());
        let valid = answer
            .expires_in
            .map_or(DEFAULT_VALIDITY, Duration::from_secs)
            .min(LONGEST_VALIDITY);
        // Used for less than its life, so that it does not expire on the way.
        Ok((
            token.ok_or_else(|| invalid("answered without a token"))?,
            valid.mul_f32(0.8),
        ))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

fn sensitive(text: &str, call: &Call<'_>) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        ClientError::Config(format!(
            "credentials for `{}` have characters that HTTP cannot carry",
            call.host.name()
        ))
    })?;
    value.set_sensitive(true);
    Ok(value)
}
