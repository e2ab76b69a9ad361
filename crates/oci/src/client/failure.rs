//! Turns what the HTTP layer reports into [`ClientError`]s.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Response, StatusCode, header};
use serde::Deserialize;

use super::ClientError;
use super::request::Call;

/// How long the body of an answer that is kept in memory may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Longest part of an error answer that is read.
const MAX_ANSWER: u64 = 16 << 10;
/// Longest text of a registry that is quoted in a message.
const MAX_QUOTE: usize = 300;
/// The reason given for a peer that answers TLS with something else.
pub(super) const NO_TLS: &str = "it does not speak TLS";
/// Longest wait a registry may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Sorts a failure to exchange messages at all.
pub(super) fn transport(host: &str, error: reqwest::Error) -> ClientError {
    let error = error.without_url();
    let host = host.to_owned();
    if let Some(tls) = find_tls(&error) {
        let reason = match tls {
            rustls::Error::InvalidMessage(_) => NO_TLS.to_owned(),
            tls => tls.to_string(),
        };
        return ClientError::Tls { host, reason };
    }
    if error.is_redirect() {
        let reason = innermost(&error);
        return ClientError::Redirect { host, reason };
    }
    let reason = match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => innermost(&error),
    };
    ClientError::Unreachable { host, reason }
}

/// The TLS error in a chain of causes. `io::Error` hides what it carries from `source`, so it is asked as well.
fn find_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        if let Some(inner) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            return find_tls(inner);
        }
        next = error.source();
    }
    None
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    quote(&last.to_string())
}

/// Lets answers below 400 pass and sorts the others.
pub(super) async fn check(call: &Call<'_>, response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.as_u16() < 400 {
        return Ok(response);
    }
    let host = call.host.name().to_owned();
    let retry_after = retry_after(&response);
    let message = message(&host, response).await;
    Err(match status {
        StatusCode::UNAUTHORIZED if call.has_credentials() => ClientError::Unauthorized {
            host,
            repository: call.repository.to_owned(),
        },
        StatusCode::UNAUTHORIZED => ClientError::NoCredentials {
            host,
            repository: call.repository.to_owned(),
        },
        StatusCode::FORBIDDEN => ClientError::Forbidden {
            host,
            repository: call.repository.to_owned(),
            action: call.action.verb(),
            message,
        },
        StatusCode::NOT_FOUND => ClientError::NotFound(call.what.clone()),
        StatusCode::TOO_MANY_REQUESTS => ClientError::RateLimited { host, retry_after },
        StatusCode::REQUEST_TIMEOUT => ClientError::Unreachable {
            host,
            reason: "it waited too long for us".to_owned(),
        },
        status if status.is_server_error() => ClientError::Server {
            host,
            status: status.as_u16(),
            message,
            retry_after,
        },
        status => refused(call, status, message),
    })
}

/// An answer that the distribution specification does not have here.
pub(super) fn refused(
    call: &Call<'_>,
    status: StatusCode,
    message: impl Into<String>,
) -> ClientError {
    ClientError::Refused {
        host: call.host.name().to_owned(),
        action: call.action.verb(),
        what: call.what.clone(),
        status: status.as_u16(),
        message: message.into(),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    // The form with a date is rare for registries; without it the ordinary back-off applies.
    let seconds: u64 = response
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

#[derive(Deserialize)]
struct Answer {
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What the registry says about its refusal, fit for one line.
async fn message(host: &str, response: Response) -> String {
    let reason = response
        .status()
        .canonical_reason()
        .unwrap_or("no reason given")
        .to_ascii_lowercase();
    // The status alone is still a fair message when the text cannot be had.
    let Ok(Some(body)) = read_limited(host, response, MAX_ANSWER).await else {
        return reason;
    };
    let text = match serde_json::from_slice::<Answer>(&body) {
        Ok(answer) => {
            let texts = answer
                .errors
                .iter()
                .map(|problem| match problem.message.as_str() {
                    "" => problem.code.clone(),
                    message => message.to_owned(),
                });
            texts.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::new(),
    };
    match text.trim() {
        "" => reason,
        text => quote(text),
    }
}

/// Shortens foreign text and takes out what could disturb a terminal or a log.
fn quote(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_QUOTE)
        .collect()
}

/// Reads a body of at most `limit` bytes that `host` sends; `None` when it is longer. One that trickles in is given up.
pub(super) async fn read_limited(
    host: &str,
    response: Response,
    limit: u64,
) -> Result<Option<Bytes>, ClientError> {
    match tokio::time::timeout(ANSWER_WITHIN, read(response, limit)).await {
        Ok(read) => read.map_err(|error| transport(host, error)),
        Err(_) => Err(ClientError::Unreachable {
            host: host.to_owned(),
            reason: "no answer in time".to_owned(),
        }),
    }
}

async fn read(mut response: Response, limit: u64) -> Result<Option<Bytes>, reqwest::Error> {
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Ok(None);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}
