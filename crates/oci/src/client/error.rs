//! What can go wrong between us and a registry, by what somebody has to do about it.

use std::time::Duration;

use crate::blob_store::StoreError;
use crate::digest::Digest;
use crate::keychain::KeychainError;
use crate::manifest::ManifestError;
use crate::registries::Blocked;

/// Why a registry could not be used. Messages name the host and the repository or reference.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The registry wants credentials and we have none for it.
    #[error(
        "no credentials for `{host}`, which asks for them for `{repository}`; add them to the pull or push secret"
    )]
    NoCredentials {
        /// The registry.
        host: String,
        /// The repository in it.
        repository: String,
    },
    /// The registry does not accept the credentials that we have.
    #[error(
        "credentials for `{host}` were refused for `{repository}`; correct them in the pull or push secret"
    )]
    Unauthorized {
        /// The registry.
        host: String,
        /// The repository in it.
        repository: String,
    },
    /// The registry knows us and does not let us do this.
    #[error("`{host}` does not permit the {action} of `{repository}`: {message}")]
    Forbidden {
        /// The registry.
        host: String,
        /// The repository in it.
        repository: String,
        /// `pull`, `push` or `deletion`.
        action: &'static str,
        /// What the registry said.
        message: String,
    },
    /// There is no such image, manifest or blob.
    #[error("`{0}` does not exist")]
    NotFound(String),
    /// No connection: name resolution, routing, a closed port, a time-out, a connection that broke.
    #[error("cannot reach `{host}`: {reason}")]
    Unreachable {
        /// The registry, or the token service it names.
        host: String,
        /// The innermost cause.
        reason: String,
    },
    /// The host's certificate is not trusted or does not fit.
    #[error(
        "TLS with `{host}` failed: {reason}; a certificate authority of its own belongs in the registry's trust configuration"
    )]
    Tls {
        /// The registry, or the token service it names.
        host: String,
        /// What the verification said.
        reason: String,
    },
    /// The host sends us on in a way that is not followed: in circles, or from TLS to plain HTTP.
    #[error("redirect by `{host}` is not followed: {reason}")]
    Redirect {
        /// The registry, or the token service it names.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What came is not what was asked for.
    #[error("`{what}` is corrupt: {reason}")]
    Corrupt {
        /// The manifest or blob.
        what: String,
        /// What differs.
        reason: String,
    },
    /// The image is fine, but has nothing for the wanted platform.
    #[error("`{reference}` has no image for `{platform}`, only for {available}")]
    NoPlatform {
        /// The image.
        reference: String,
        /// What was wanted.
        platform: String,
        /// What there is, for people.
        available: String,
    },
    /// A manifest that we cannot read.
    #[error("manifest of `{reference}` cannot be used")]
    Manifest {
        /// The image.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The registry asks to slow down.
    #[error("`{host}` limits the rate of requests")]
    RateLimited {
        /// The registry.
        host: String,
        /// How long it wants us to wait.
        retry_after: Option<Duration>,
    },
    /// The registry failed.
    #[error("`{host}` failed with status {status}: {message}")]
    Server {
        /// The registry.
        host: String,
        /// An HTTP status of 500 or more.
        status: u16,
        /// What it said, shortened.
        message: String,
        /// How long it wants us to wait.
        retry_after: Option<Duration>,
    },
    /// The registry refused, or answered what the distribution specification does not allow.
    #[error("`{host}` refused the {action} of `{what}` with status {status}: {message}")]
    Refused {
        /// The registry.
        host: String,
        /// What we did.
        action: &'static str,
        /// The manifest, blob or repository.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it said, shortened.
        message: String,
    },
    /// registries.conf forbids to pull it.
    #[error(transparent)]
    Blocked(Blocked),
    /// Neither the mirrors nor the registry itself could give it.
    #[error("{last}; mirrors failed before: {mirrors}")]
    AfterMirrors {
        /// What the mirrors said.
        mirrors: String,
        /// Whether one of them may do better later.
        passing: bool,
        /// What the registry itself said.
        last: Box<ClientError>,
    },
    /// The local blob store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The credentials are kept somewhere that does not give them.
    #[error("credentials for `{host}` cannot be had: {source}")]
    Keychain {
        /// The registry.
        host: String,
        /// Who keeps them, and what is wrong.
        source: KeychainError,
    },
    /// The client's own configuration cannot be used.
    #[error("registry client cannot be set up: {0}")]
    Config(String),
}

impl ClientError {
    /// Whether the same request may succeed later with nobody doing anything. Such errors were retried already
    /// until the client's deadline.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Unreachable { .. }
            | ClientError::RateLimited { .. }
            | ClientError::Server { .. } => true,
            ClientError::AfterMirrors { passing, last, .. } => *passing || last.is_transient(),
            ClientError::NoCredentials { .. }
            | ClientError::Unauthorized { .. }
            | ClientError::Forbidden { .. }
            | ClientError::NotFound(_)
            | ClientError::Tls { .. }
            | ClientError::Redirect { .. }
            | ClientError::Corrupt { .. }
            | ClientError::NoPlatform { .. }
            | ClientError::Manifest { .. }
            | ClientError::Refused { .. }
            | ClientError::Blocked(_)
            | ClientError::Store(_)
            | ClientError::Keychain { .. }
            | ClientError::Config(_) => false,
        }
    }

    pub(crate) fn mismatch(
        what: impl Into<String>,
        expected: Digest,
        found: Digest,
    ) -> ClientError {
        ClientError::Corrupt {
            what: what.into(),
            reason: format!("it has digest `{found}`, expected `{expected}`"),
        }
    }
}
