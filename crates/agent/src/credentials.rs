//! The node's own credential: got with a join token, an administrator's kubeconfig or the token of a pod, renewed before
//! it ends.
//!
//! It is kept under the state directory, which deployments share: going back to an older deployment must not bring back
//! a token that has ended. Where `caprock serve` is asked, the node makes each token itself and tells the server only its hash; the token is on the disk
//! before it is told, so that a request that was cut off is repeated and not made anew.

mod pod;

use camino::{Utf8Path, Utf8PathBuf};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

use crate::root::{Found, Root, RootError};
use crate::state::mine;

pub use pod::Pod;

/// Largest answer that is read: a few certificates and some words.
const MAX_ANSWER: usize = 1 << 20;
const SECRET: u32 = 0o600;
/// What a credential from a pod's token is marked with, in the place of a kubeconfig's digest.
const FROM_POD: &str = "pod";

/// Why a credential could not be had or kept.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// A kubeconfig that cannot be used.
    #[error("`{path}` is not a usable kubeconfig: {problem}")]
    Kubeconfig {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// In a pod whose account cannot be used.
    #[error("the credential of this pod cannot be used: {problem}")]
    Pod {
        /// What is wrong with it.
        problem: String,
    },
    /// The server cannot be reached.
    #[error("cannot ask for a credential of the node")]
    Unreachable(#[source] Box<kube::Error>),
    /// The server said no.
    #[error("the server gives node `{node}` no credential ({status}): {why}")]
    Refused {
        /// Name of the node.
        node: String,
        /// Status of its answer.
        status: StatusCode,
        /// What it said.
        why: String,
    },
    /// Something is in the place of the credential.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The system has no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(String),
}

/// What the node knows of its credential besides the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    /// When it was made.
    made: Timestamp,
    /// When it ends; never when absent.
    expires: Option<Timestamp>,
    /// Digest of the kubeconfig that it was got with: another one is a new start.
    from: String,
}

/// What the server answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    expires: Option<Timestamp>,
    pool: Option<String>,
    certificate_authority: String,
}

/// How the node came by a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obtained {
    /// It had one.
    Had,
    /// It is new in this pool, by a join token.
    Joined {
        /// Name of the pool.
        pool: String,
    },
    /// It exchanged what an administrator gave it.
    Exchanged,
    /// The server knows no such credentials: what the node was given is what it uses.
    AsGiven,
}

/// The credential of one node.
#[derive(Debug, Clone)]
pub struct Credentials {
    dir: Utf8PathBuf,
    node: String,
    /// Who is asked for tokens instead of the server's own issuer.
    pod: Option<Pod>,
}

impl Credentials {
    /// The credential under a state directory.
    #[must_use]
    pub fn new(state_dir: &Utf8Path, node: &str) -> Self {
        Self {
            dir: state_dir.join("credentials"),
            node: node.to_owned(),
            pod: None,
        }
    }

    /// The credential under a state directory, of an agent in a pod.
    #[must_use]
    pub fn in_pod(state_dir: &Utf8Path, node: &str, pod: Pod) -> Self {
        Self {
            pod: Some(pod),
            ..Self::new(state_dir, node)
        }
    }

    /// The node's own kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> Utf8PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The authorities that the API is trusted by; read again by clients while they run.
    #[must_use]
    pub fn authorities(&self) -> Utf8PathBuf {
        self.dir.join("ca.crt")
    }

    /// Makes sure that the node has a credential of its own, with the kubeconfig it was given.
    ///
    /// # Errors
    /// When it has none, and the server gives it none.
    pub async fn obtain(
        &self,
        given: &Utf8Path,
        now: Timestamp,
    ) -> Result<Obtained, CredentialError> {
        let unusable = |problem: String| CredentialError::Kubeconfig {
            path: given.to_owned(),
            problem,
        };
        let facts = self.facts()?;
        let text = match std::fs::read_to_string(given) {
            Ok(text) => text,
            Err(error) => {
                return match facts {
                    Some(_) => Ok(Obtained::Had),
                    None => Err(unusable(error.to_string())),
                };
            }
        };
        let from = Digest::of(text.as_bytes()).to_string();
        let ended = |facts: &Facts| facts.expires.is_some_and(|end| end <= now);
        if facts
            .as_ref()
            .is_some_and(|facts| facts.from == from && !ended(facts))
        {
            return Ok(Obtained::Had);
        }
        let kubeconfig =
            Kubeconfig::from_yaml(&text).map_err(|error| unusable(error.to_string()))?;
        let server = kubeconfig
            .clusters
            .iter()
            .find_map(|named| named.cluster.as_ref()?.server.clone())
            .ok_or_else(|| unusable("it names no server".to_owned()))?;
        let options = KubeConfigOptions::default();
        let client = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| unusable(error.to_string()))
            .and_then(|config| {
                Client::try_from(config).map_err(|error| unusable(error.to_string()))
            })?;
        match self.ask(&client).await {
            Ok(Some((token, answer))) => {
                let pool = answer.pool.clone();
                self.keep(&token, answer, Some(&server), from, now)?;
                Ok(match pool {
                    Some(pool) => Obtained::Joined { pool },
                    None => Obtained::Exchanged,
                })
            }
            Ok(None) => Ok(Obtained::AsGiven),
            // What it was given is spent, perhaps with an older deployment; what it has is still good.
            Err(error) if facts.as_ref().is_some_and(|facts| !ended(facts)) => {
                tracing::warn!(
                    "{}; going on with the credential of its own",
                    crate::error::chain(&error)
                );
                Ok(Obtained::Had)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that an agent in a pod has a credential of its node. One that it has is good until it ends, so that a
    /// node whose server is away does what it was told before.
    ///
    /// # Errors
    /// When it has none, and is given none: before a pool has the node, there is no account.
    pub async fn exchange(&self, pod: &Pod, now: Timestamp) -> Result<(), CredentialError> {
        match pod.ask(&self.node).await {
            Ok((token, answer)) => {
                let from = FROM_POD.to_owned();
                self.keep(&token, answer, Some(pod.server()), from, now)
            }
            Err(error) => match self.facts()? {
                Some(facts) if facts.from == FROM_POD && facts.expires > Some(now) => {
                    tracing::warn!(
                        "{}; going on with the credential of before",
                        crate::error::chain(&error)
                    );
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Replaces a token that the server refused, where somebody else can be asked for one: its account was made anew, or
    /// the machine slept for longer than it held. Returns whether it did.
    ///
    /// # Errors
    /// When no other is given.
    pub async fn replace(&self, now: Timestamp) -> Result<bool, CredentialError> {
        let (Some(pod), Some(facts)) = (&self.pod, self.facts()?) else {
            return Ok(false);
        };
        let due = pod::may_be_replaced(facts.made, now);
        if due {
            let (token, answer) = pod.ask(&self.node).await?;
            self.keep(&token, answer, Some(pod.server()), facts.from, now)?;
        }
        Ok(due)
    }

    /// Renews the token when a third of its life is left. Returns when it ends, once it could not be renewed.
    ///
    /// # Errors
    /// When it is due and could not be renewed.
    pub async fn renew(&self, client: &Client, now: Timestamp) -> Result<(), CredentialError> {
        let Some(facts) = self.facts()?.filter(|facts| is_due(facts, now)) else {
            return Ok(());
        };
        if let Some((token, answer)) = self.ask(client).await? {
            self.keep(&token, answer, None, facts.from, now)?;
            tracing::info!(node = self.node, "the node's token was renewed");
        }
        Ok(())
    }

    /// When the token ends.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn expires(&self) -> Result<Option<Timestamp>, CredentialError> {
        Ok(self.facts()?.and_then(|facts| facts.expires))
    }

    /// Trusts these authorities, PEM, from now on. Returns whether they are others than before.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn trust(&self, authorities: &str) -> Result<bool, CredentialError> {
        if self.facts()?.is_none() {
            return Ok(false);
        }
        Ok(self
            .root()?
            .write("/ca.crt".into(), authorities.as_bytes(), mine(0o644))?)
    }

    /// Asks for a token to be let in. Nothing when the server knows no such thing.
    async fn ask(&self, client: &Client) -> Result<Option<(String, Answer)>, CredentialError> {
        if let Some(pod) = &self.pod {
            return pod.ask(&self.node).await.map(Some);
        }
        let token = self.next_token()?;
        let sha256 = Digest::of(token.as_bytes()).hex();
        let body = json!({"node": self.node, "sha256": sha256}).to_string();
        let request = Request::builder()
            .method(Method::POST)
            .uri("/node-credentials")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.into_bytes()))
            .expect("the request is well-formed");
        let response = client
            .send(request)
            .await
            .map_err(|error| CredentialError::Unreachable(Box::new(error)))?;
        let (head, body) = response.into_parts();
        let is_text = head
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| self.refused(head.status, error.to_string()))?
            .to_bytes();
        match head.status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map(|answer| Some((token, answer)))
                .map_err(|error| self.refused(head.status, error.to_string())),
            // Any other Kubernetes answers so, in its own form.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN if !is_text => Ok(None),
            status => {
                let why = String::from_utf8_lossy(&body);
                Err(self.refused(status, why.trim().chars().take(500).collect()))
            }
        }
    }

    fn refused(&self, status: StatusCode, why: String) -> CredentialError {
        CredentialError::Refused {
            node: self.node.clone(),
            status,
            why,
        }
    }

    /// The token to ask with: the one of a request that was cut off, or a new one.
    fn next_token(&self) -> Result<String, CredentialError> {
        let root = self.root()?;
        let path = Utf8Path::new("/token.next");
        if let Found::File { bytes, .. } = root.find(path)?
            && let Ok(token) = String::from_utf8(bytes)
            && token.len() == 64
        {
            return Ok(token);
        }
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| CredentialError::Random(error.to_string()))?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        root.write(path, token.as_bytes(), mine(SECRET))?;
        Ok(token)
    }

    /// Puts a token that was let in into place. `server` is written with the first one.
    fn keep(
        &self,
        token: &str,
        answer: Answer,
        server: Option<&str>,
        from: String,
        now: Timestamp,
    ) -> Result<(), CredentialError> {
        let root = self.root()?;
        root.write(
            "/ca.crt".into(),
            answer.certificate_authority.as_bytes(),
            mine(0o644),
        )?;
        root.write("/token".into(), token.as_bytes(), mine(SECRET))?;
        if let Some(server) = server {
            let text = self.text(server);
            root.write("/kubeconfig".into(), text.as_bytes(), mine(SECRET))?;
        }
        let facts = Facts {
            made: now,
            expires: answer.expires,
            from,
        };
        let facts = json!(facts).to_string();
        root.write("/facts.json".into(), facts.as_bytes(), mine(SECRET))?;
        root.remove("/token.next".into())?;
        Ok(())
    }

    /// Token and authorities are files of their own, which clients read again while they run.
    fn text(&self, server: &str) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "caprock",
            "clusters": [{"name": "caprock", "cluster": {
                "server": server,
                "certificate-authority": self.authorities(),
            }}],
            "users": [{"name": "node", "user": {"tokenFile": self.dir.join("token")}}],
            "contexts": [{"name": "caprock", "context": {"cluster": "caprock", "user": "node"}}],
        });
        format!("{config:#}\n")
    }

    fn facts(&self) -> Result<Option<Facts>, CredentialError> {
        match self.root()?.find("/facts.json".into())? {
            Found::File { bytes, .. } => Ok(serde_json::from_slice(&bytes).ok()),
            _ => Ok(None),
        }
    }

    fn root(&self) -> Result<Root, CredentialError> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir);
        if let Err(error) = made {
            tracing::debug!(%error, dir = %self.dir, "not made");
        }
        Ok(Root::open(&self.dir)?)
    }
}

/// A third of its life is left, or the clock was set back.
fn is_due(facts: &Facts, now: Timestamp) -> bool {
    facts.expires.is_some_and(|end| {
        let life = end.duration_since(facts.made);
        end.duration_since(now) <= life / 3 || now < facts.made
    })
}
