//! Fetching an ordinary file by its URL, with the same trust as for registries.

use reqwest::Url;
use reqwest::header::CONTENT_LENGTH;

use super::retry::Backoff;
use super::{Client, ClientError, failure};
use crate::blob_store::{BlobStore, StoreError};
use crate::digest::Digest;
use crate::pump::{PumpError, blocking, pump};

impl Client {
    /// Fetches the file at an `http` or `https` URL, of at most `limit` bytes, into `store`, and returns its digest;
    /// with `expected`, anything else is refused. No credentials are sent.
    pub async fn download(
        &self,
        url: &str,
        expected: Option<&Digest>,
        store: &BlobStore,
        limit: u64,
    ) -> Result<Digest, ClientError> {
        let invalid = || ClientError::Config(format!("`{url}` is not an address of the web"));
        let parsed = Url::parse(url).map_err(|_| invalid())?;
        let name = match (parsed.host_str(), parsed.port(), parsed.scheme()) {
            (Some(host), Some(port), "http" | "https") => format!("{host}:{port}"),
            (Some(host), None, "http" | "https") => host.to_owned(),
            _ => return Err(invalid()),
        };
        let host = self.host(&name)?;
        let mut backoff = Backoff::new(self.retry());
        loop {
            let fetched = async {
                let transport = |error| failure::transport(&name, error);
                let response = host
                    .http
                    .get(parsed.clone())
                    .send()
                    .await
                    .map_err(transport)?;
                let status = response.status();
                if !status.is_success() {
                    let reason = format!("it answered {status}");
                    return Err(match status.is_server_error() {
                        true => ClientError::Unreachable {
                            host: name.clone(),
                            reason,
                        },
                        false => ClientError::Refused {
                            host: name.clone(),
                            action: "download",
                            what: url.to_owned(),
                            status: status.as_u16(),
                            message: reason,
                        },
                    });
                }
                let length = response
                    .headers()
                    .get(CONTENT_LENGTH)
                    .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                let writer = store.writer()?;
                let (writer, pumped) = pump(response.bytes_stream(), writer, limit, |_| {}).await;
                let unreachable = |reason: String| ClientError::Unreachable {
                    host: name.clone(),
                    reason,
                };
                match pumped {
                    Ok(()) => {}
                    Err(PumpError::TooLong) => {
                        return Err(ClientError::Corrupt {
                            what: url.to_owned(),
                            reason: format!("it is longer than {limit} bytes"),
                        });
                    }
                    Err(PumpError::Source(error)) => return Err(transport(error)),
                    Err(PumpError::Sink(error)) => return Err(writer.failed(error).into()),
                }
                if length.is_some_and(|length| length != writer.written()) {
                    return Err(unreachable("the transfer ended early".to_owned()));
                }
                let expected = expected.copied();
                match blocking(move || writer.commit(expected.as_ref())).await {
                    Err(StoreError::Mismatch { expected, found }) => {
                        Err(ClientError::mismatch(url.to_owned(), expected, found))
                    }
                    committed => Ok(committed?),
                }
            };
            match fetched.await {
                Err(error) => backoff.wait_after(error).await?,
                fetched => return fetched,
            }
        }
    }
}
