//! Lists of tags.

use reqwest::header::LINK;
use reqwest::{Method, Url};
use serde::Deserialize;

use super::pull::read_body;
use super::request::{Action, Call};
use super::retry::Backoff;
use super::{Client, ClientError};
use crate::reference::Reference;

/// Bounds of a list of tags, against registries that never end.
const MAX_TAGS_PAGE: u64 = 4 << 20;
const MAX_TAGS_PAGES: usize = 1000;

impl Client {
    /// The tags of the repository, sorted.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, ClientError> {
        let host = self.target(reference)?;
        let what = format!("{}/{}", reference.host(), reference.repository());
        let call = self.call(&host, reference, Action::Pull, what);
        let mut url = call.url("tags/list?n=1000").await?;
        let mut tags = Vec::new();
        for _ in 0..MAX_TAGS_PAGES {
            let (page, next) = self.tags_page(&call, &url).await?;
            tags.extend(page);
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    async fn tags_page(
        &self,
        call: &Call<'_>,
        url: &Url,
    ) -> Result<(Vec<String>, Option<Url>), ClientError> {
        let mut backoff = Backoff::new(self.retry());
        loop {
            let fetched = async {
                let response = self
                    .send_once(call, &call.host.http, Method::GET, url.clone(), Ok)
                    .await?;
                // A page of another host is not this registry's to give.
                let link = response
                    .headers()
                    .get(LINK)
                    .and_then(|link| link.to_str().ok())
                    .and_then(next_page);
                let next = link
                    .and_then(|link| url.join(&link).ok())
                    .filter(|next| next.origin() == url.origin());
                let body = read_body(call, response, MAX_TAGS_PAGE).await?;
                let list: TagList =
                    serde_json::from_slice(&body).map_err(|error| ClientError::Corrupt {
                        what: format!("list of tags of {}", call.what),
                        reason: error.to_string(),
                    })?;
                Ok((list.tags.unwrap_or_default(), next))
            };
            match fetched.await {
                Err(error) => backoff.wait_after(error).await?,
                fetched => return fetched,
            }
        }
    }
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

/// The target of `<…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let rel = parameters
        .split(';')
        .map(|parameter| parameter.trim().replace('"', ""));
    rel.into_iter()
        .any(|parameter| parameter == "rel=next")
        .then(|| target.to_owned())
}
