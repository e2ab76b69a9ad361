//! Writing manifests to registries, and taking them away.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::pull::CONTENT_DIGEST;
use super::request::Action;
use super::{Client, ClientError};
use crate::digest::Digest;
use crate::reference::Reference;

impl Client {
    /// Puts a manifest or index under the reference's tag, or under its digest when it has none. What it refers to
    /// must be there already.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        bytes: Bytes,
        media_type: &str,
    ) -> Result<Digest, ClientError> {
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest()
            && expected != digest
        {
            return Err(ClientError::mismatch(
                reference.to_string(),
                expected,
                digest,
            ));
        }
        let host = self.target(reference)?;
        let call = self.call(&host, reference, Action::Push, reference.to_string());
        let version = reference
            .tag()
            .map_or_else(|| digest.to_string(), str::to_owned);
        let response = self
            .send(
                &call,
                Method::PUT,
                &format!("manifests/{version}"),
                self.retry(),
                |request| request.header(CONTENT_TYPE, media_type).body(bytes.clone()),
            )
            .await?;
        let told = response
            .headers()
            .get(CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        match told {
            Some(told) if told != digest => Err(ClientError::mismatch(call.what, digest, told)),
            _ => Ok(digest),
        }
    }

    /// Deletes the manifest that the reference names by digest, or just its tag. One that is not there is no error.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<(), ClientError> {
        let host = self.target(reference)?;
        let call = self.call(&host, reference, Action::Delete, reference.to_string());
        let path = format!("manifests/{}", reference.version());
        match self
            .send(&call, Method::DELETE, &path, self.retry(), |request| {
                request
            })
            .await
        {
            Ok(_) | Err(ClientError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
