//! Credentials that somebody keeps outside of files, such as the helper programs of docker and podman.

use std::fmt;

use futures::future::BoxFuture;

use crate::auth::Credentials;

/// Keeps credentials by registry. Asked once for each registry that wants any, when it does.
pub trait Keychain: fmt::Debug + Send + Sync {
    /// What `host` (`host[:port]`, or `docker.io`) is shown; none when this keychain has nothing for it.
    ///
    /// # Errors
    /// When there may be something and it cannot be had. The text names who keeps it, and no secret.
    fn credentials<'a>(
        &'a self,
        host: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credentials>, KeychainError>>;
}

/// Why a keychain gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeychainError(pub String);
