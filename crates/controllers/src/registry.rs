//! How registries are reached: whom to trust and with which credentials, read from objects of the cluster.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use model::condition::BuildReason;
use model::keys;
use oci::{Client, ClientConfig, ClientError, DockerConfig, Reference, Retry};

use crate::cache::Cache;
use crate::error::chain;

/// For how long a failing request is repeated before the failure is shown on the object; the loops go on trying.
const TOLD_AFTER: Duration = Duration::from_secs(10);

/// Something that keeps an image from being pulled, built or pushed, told in the words of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Kind of failure.
    pub reason: BuildReason,
    /// Object, field, what is wrong and what to do.
    pub message: String,
    /// Whether the same inputs may succeed later: a registry comes back, somebody mends a Secret.
    pub may_pass: bool,
}

/// Which of a MachineOSConfig's secrets is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Pull,
    Push,
}

impl Purpose {
    fn field(self) -> &'static str {
        match self {
            Purpose::Pull => "spec.baseImagePullSecret.name",
            Purpose::Push => "spec.renderedImagePushSecret.name",
        }
    }
}

/// Credentials and trust for one purpose. `secret` is the one that the MachineOSConfig names; without it the cluster's
/// pull secret is used, and without that no credentials.
pub(crate) fn access(
    cache: &Cache,
    purpose: Purpose,
    secret: Option<&str>,
) -> Result<ClientConfig, Failure> {
    let auth = match secret {
        Some(name) => credentials(cache, name)?.ok_or_else(|| Failure {
            reason: BuildReason::InvalidSecret,
            message: format!(
                "`{}`: there is no Secret `{name}` in namespace `{}`; create it or name another",
                purpose.field(),
                keys::NAMESPACE
            ),
            may_pass: true,
        })?,
        None => credentials(cache, keys::GLOBAL_PULL_SECRET)?.unwrap_or_default(),
    };
    Ok(with(cache, auth))
}

/// These credentials, with the trust that the cluster has.
pub(crate) fn with(cache: &Cache, auth: DockerConfig) -> ClientConfig {
    ClientConfig {
        auth,
        cas: trust(cache),
        retry: Retry {
            deadline: TOLD_AFTER,
            ..Retry::default()
        },
        ..ClientConfig::default()
    }
}

/// The credentials in a Secret; none when there is no such Secret.
pub(crate) fn credentials(cache: &Cache, name: &str) -> Result<Option<DockerConfig>, Failure> {
    let Some(secret) = cache.secret(name) else {
        return Ok(None);
    };
    let invalid = |what: String| Failure {
        reason: BuildReason::InvalidSecret,
        message: format!("Secret `{name}` in namespace `{}`: {what}", keys::NAMESPACE),
        may_pass: true,
    };
    // A bare `.dockercfg` is the older form of the same file.
    let data = secret.data.as_ref();
    let bytes = [keys::DOCKER_CONFIG_KEY, ".dockercfg"]
        .iter()
        .find_map(|key| data?.get(*key))
        .ok_or_else(|| {
            invalid(format!(
                "has no key `{}`; expected a Secret of type `{}`",
                keys::DOCKER_CONFIG_KEY,
                keys::DOCKER_CONFIG_TYPE
            ))
        })?;
    DockerConfig::parse(&bytes.0)
        .map(Some)
        .map_err(|error| invalid(error.to_string()))
}

impl Failure {
    /// Names the Secret whose credentials were refused, when that is the failure.
    pub(crate) fn with_secret(mut self, secret: Option<&str>) -> Self {
        if self.reason == BuildReason::Unauthorized {
            let name = secret.unwrap_or(keys::GLOBAL_PULL_SECRET);
            self.message.push_str(&format!(
                " (Secret `{name}` in namespace `{}`, key `{}`)",
                keys::NAMESPACE,
                keys::DOCKER_CONFIG_KEY
            ));
        }
        self
    }
}

/// Certificate authorities by registry.
pub(crate) fn trust(cache: &Cache) -> BTreeMap<String, Vec<u8>> {
    let Some(map) = cache.config_map(keys::REGISTRY_CERTS) else {
        return BTreeMap::new();
    };
    map.data
        .iter()
        .flatten()
        .map(|(host, pem)| (host.replace("..", ":"), pem.clone().into_bytes()))
        .collect()
}

/// What a registry says to a question about images that moves none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It lets us.
    Yes,
    /// It lets us in, and has no such image or repository.
    Absent(Failure),
    /// It does not let us, until somebody mends something.
    No(Failure),
    /// It said nothing that tells: it is away, or has trouble of its own.
    Silence(Failure),
}

/// Asks registries.
pub(crate) trait Resolve: Send + Sync + 'static {
    /// The digest, as `sha256:<hex>`, that `reference` stands for now.
    fn digest(
        &self,
        reference: &str,
        access: ClientConfig,
    ) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Removes the image that `reference` names by digest. One that is not there counts as removed.
    fn remove(
        &self,
        reference: &str,
        access: ClientConfig,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether the image can be pulled.
    fn can_pull(
        &self,
        reference: &str,
        access: ClientConfig,
    ) -> impl Future<Output = Answer> + Send;

    /// Whether images can be pushed to the repository of `reference`.
    fn can_push(
        &self,
        reference: &str,
        access: ClientConfig,
    ) -> impl Future<Output = Answer> + Send;
}

/// Real registries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registries;

impl Resolve for Registries {
    async fn digest(&self, reference: &str, access: ClientConfig) -> Result<String, Failure> {
        let parsed = parse("base image", reference)?;
        let found = async { Client::new(access)?.resolve(&parsed).await }.await;
        found
            .map(|(digest, _)| digest.to_string())
            .map_err(|error| failure("base image", &error))
    }

    async fn remove(&self, reference: &str, access: ClientConfig) -> Result<(), Failure> {
        let parsed = parse("layered image", reference)?;
        let removed = async { Client::new(access)?.delete_manifest(&parsed).await }.await;
        removed.map_err(|error| failure("layered image", &error))
    }

    async fn can_pull(&self, reference: &str, access: ClientConfig) -> Answer {
        let asked = async |parsed| Client::new(access)?.resolve(&parsed).await.map(drop);
        answer(reference, asked).await
    }

    async fn can_push(&self, reference: &str, access: ClientConfig) -> Answer {
        let asked = async |parsed| Client::new(access)?.check_push(&parsed).await;
        answer(reference, asked).await
    }
}

fn parse(what: &str, reference: &str) -> Result<Reference, Failure> {
    reference
        .parse()
        .map_err(|error: oci::ReferenceError| Failure {
            reason: BuildReason::BaseImageUnavailable,
            message: format!("{what}: {error}"),
            may_pass: false,
        })
}

async fn answer(
    reference: &str,
    ask: impl AsyncFnOnce(Reference) -> Result<(), ClientError>,
) -> Answer {
    let parsed = match parse("image", reference) {
        Ok(parsed) => parsed,
        Err(failure) => return Answer::No(failure),
    };
    match ask(parsed).await {
        Ok(()) => Answer::Yes,
        Err(error) => {
            let told = failure(&format!("image `{reference}`"), &error);
            match error {
                ClientError::NotFound(_) => Answer::Absent(told),
                error if error.is_transient() => Answer::Silence(told),
                _ => Answer::No(told),
            }
        }
    }
}

/// Tells a registry's failure in the words of a condition. Nearly all may pass: the build's inputs say nothing of
/// credentials, trust or what a registry holds, so correcting those makes no new build.
pub(crate) fn failure(what: &str, error: &ClientError) -> Failure {
    let (reason, remedy, may_pass) = match error {
        ClientError::NoCredentials { .. }
        | ClientError::Unauthorized { .. }
        | ClientError::Forbidden { .. } => (BuildReason::Unauthorized, "", true),
        ClientError::NotFound(_) => (
            BuildReason::BaseImageUnavailable,
            "; push it there, or name another in `spec.osImageURL` of a MachineConfig",
            true,
        ),
        ClientError::Unreachable { .. }
        | ClientError::RateLimited { .. }
        | ClientError::Server { .. } => (BuildReason::RegistryUnavailable, "", true),
        ClientError::Redirect { .. } => (BuildReason::RegistryUnavailable, "", true),
        ClientError::Tls { .. } => (
            BuildReason::RegistryUnavailable,
            "; add the registry's authority to ConfigMap `registry-certs`",
            true,
        ),
        ClientError::AfterMirrors { last, .. } => {
            let last = failure(what, last);
            (last.reason, "", last.may_pass || error.is_transient())
        }
        ClientError::Blocked(_) => (BuildReason::BaseImageUnavailable, "", true),
        ClientError::Store(_) | ClientError::Keychain { .. } | ClientError::Config(_) => {
            (BuildReason::Failed, "", true)
        }
        ClientError::Corrupt { .. }
        | ClientError::NoPlatform { .. }
        | ClientError::Manifest { .. }
        | ClientError::Refused { .. } => (BuildReason::BaseImageUnavailable, "", false),
    };
    Failure {
        reason,
        message: format!("{what}: {}{remedy}", chain(error)),
        may_pass,
    }
}
