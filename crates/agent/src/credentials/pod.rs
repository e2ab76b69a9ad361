//! The credential of an agent that a cluster runs in a pod. The pod's own account can do one thing: have a token for the
//! account of the node that it runs on, which the controllers make when a pool has the node. That token is the
//! agent's credential.

use camino::Utf8Path;
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use model::keys;

use super::{Answer, CredentialError};

/// Where a pod finds its credential and the authority of the API.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a token is good for; the policy `caprock-agent-token` allows no more.
const SECONDS: i64 = 3600;

/// The pod that an agent runs in.
#[derive(Clone)]
pub struct Pod {
    client: Client,
    server: String,
    authorities: String,
}

impl std::fmt::Debug for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pod")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Pod {
    /// The pod that this process is in, if it is in one whose account's token is there.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn found() -> Result<Option<Self>, CredentialError> {
        let dir = Utf8Path::new(SERVICE_ACCOUNT);
        if !dir.join("token").exists() {
            return Ok(None);
        }
        let unusable = |problem: String| CredentialError::Pod { problem };
        let config = Config::incluster().map_err(|error| unusable(error.to_string()))?;
        let path = dir.join("ca.crt");
        let authorities = std::fs::read_to_string(&path)
            .map_err(|error| unusable(format!("failed to read `{path}`: {error}")))?;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| unusable(error.to_string()))?;
        Ok(Some(Self::new(client, &server, &authorities)))
    }

    /// A pod whose account is asked for with `client`; the API is at `server` and trusted by `authorities`, PEM.
    #[must_use]
    pub fn new(client: Client, server: &str, authorities: &str) -> Self {
        Self {
            client,
            server: server.to_owned(),
            authorities: authorities.to_owned(),
        }
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// A token for the node's account.
    pub(super) async fn ask(&self, node: &str) -> Result<(String, Answer), CredentialError> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.client.clone(), keys::NODE_SECRET_NAMESPACE);
        let given = accounts
            .create_token_request(node, &PostParams::default(), &request)
            .await;
        let refused = |status: StatusCode, why: String| CredentialError::Refused {
            node: node.to_owned(),
            status,
            why,
        };
        let given = match given {
            Ok(given) => given.status,
            Err(kube::Error::Api(status)) => {
                let code = StatusCode::from_u16(status.code).unwrap_or_default();
                return Err(refused(code, status.message.chars().take(500).collect()));
            }
            Err(error) => return Err(CredentialError::Unreachable(Box::new(error))),
        };
        let given =
            given.ok_or_else(|| refused(StatusCode::OK, "the answer has no token".to_owned()))?;
        Ok((
            given.token,
            Answer {
                expires: Some(given.expiration_timestamp.0),
                pool: None,
                certificate_authority: self.authorities.clone(),
            },
        ))
    }
}

/// Whether a credential from a pod was made so long ago that another may be asked for because it was refused: clients
/// read a new one a minute late.
pub(super) fn may_be_replaced(made: Timestamp, now: Timestamp) -> bool {
    now < made || now.duration_since(made) >= jiff::SignedDuration::from_mins(2)
}
