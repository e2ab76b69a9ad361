//! How machines become nodes: `GET /config/POOL` gives a new node all it needs, as OpenShift's machine config server
//! does, but only to who has a join token of that pool or joined it; `POST /node-credentials` exchanges a join token, or
//! a node's token that is about to end, for a token of the node's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use apiserver::{ApiServer, Peer};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use camino::Utf8PathBuf;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt};
use model::api::{MachineConfig, MachineConfigPool};
use model::keys;
use model::provision::{self, MEDIA_TYPE, Provision, SpecVersion};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::credentials::{self, Asker, Labels, Owner, Secret};
use super::join::{self, JoinToken};
use super::limit::Limits;
use super::revocation::Admitted;
use super::{rules, valid_node_name};

/// Requests that are worked on at once; each holds a rendered config of up to some megabytes.
const MAX_AT_ONCE: usize = 8;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(20);
/// Largest body of a request.
const MAX_BODY: usize = 4096;
/// What a refused request costs: guessing is slow, joining is not.
const REFUSED: f64 = 20.0;

/// What the routes work with.
pub(crate) struct Provisioning {
    pub(crate) data_dir: Utf8PathBuf,
    pub(crate) api: ApiServer,
    pub(crate) admitted: Admitted,
    pub(crate) client: Client,
    /// URL of the API.
    pub(crate) server: String,
    /// How long a node's token is good for.
    pub(crate) node_life: SignedDuration,
}

struct Shared {
    provisioning: Provisioning,
    limits: Limits,
    turns: Semaphore,
}

/// The labels that make a Node a member of a pool.
fn labels_of(pool: &MachineConfigPool) -> Result<Labels, Refusal> {
    provision::labels(pool.spec.node_selector.as_ref()).ok_or_else(|| {
        let text = format!(
            "MachineConfigPool `{}`: `spec.nodeSelector`: no labels satisfy it",
            pool.name_any()
        );
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

/// Who asks.
enum Asking {
    Machine(JoinToken),
    Node { owner: Owner, name: String },
}

/// A refusal, in words for the person who looks at the console of the machine. Never with anything secret.
#[derive(Debug)]
struct Refusal(StatusCode, String);

/// What a node tells to get a token: only the hash of the one it made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    node: String,
    sha256: String,
}

/// What it is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Credential {
    node: String,
    expires: Option<Timestamp>,
    pool: Option<String>,
    certificate_authority: String,
}

impl Provisioning {
    /// The routes.
    pub(crate) fn routes(self) -> Router {
        let shared = Shared {
            provisioning: self,
            limits: Limits::default(),
            turns: Semaphore::new(MAX_AT_ONCE),
        };
        Router::new()
            .route("/config/{pool}", get(config))
            .route("/node-credentials", post(node_credentials))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(Arc::new(shared))
    }
}

async fn config(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(pool): Path<String>,
    headers: HeaderMap,
) -> Response {
    let answer = shared.limited(&peer, shared.config(&pool, &headers)).await;
    match answer {
        Ok(text) => ([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn node_credentials(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = shared
        .limited(&peer, shared.credential(&headers, &body))
        .await;
    match answer {
        Ok(credential) => axum::Json(credential).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

impl Shared {
    async fn limited<T>(
        &self,
        peer: &Peer,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let address = peer.address.ip();
        if !self.limits.allow(address, 1.0, Instant::now()) {
            let text = "too many requests from this address".to_owned();
            return Err(Refusal(StatusCode::TOO_MANY_REQUESTS, text));
        }
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN, self.turns.acquire()).await else {
            return Err(Refusal::not_now("too many machines ask at once"));
        };
        let done = work.await;
        if let Err(Refusal(status, why)) = &done {
            tracing::info!(client = %address, status = status.as_u16(), why, "a machine was refused");
            if status.is_client_error() {
                self.limits.allow(address, REFUSED, Instant::now());
            }
        }
        done
    }

    /// Who is behind the request's bearer token.
    async fn asking(&self, headers: &HeaderMap) -> Result<(Asking, String), Refusal> {
        let unknown = || {
            let text = "a join token is needed; `caprock node token` makes one".to_owned();
            Refusal(StatusCode::UNAUTHORIZED, text)
        };
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim().to_owned())
            .ok_or_else(unknown)?;
        let (data_dir, now, clear) = (
            self.provisioning.data_dir.clone(),
            Timestamp::now(),
            token.clone(),
        );
        let found = blocking(move || {
            if let Some(found) = join::find(&data_dir, &clear, now)? {
                return Ok(Some(Asking::Machine(found)));
            }
            let owner = credentials::find(&data_dir, &clear, now)?;
            Ok(owner.and_then(|owner| {
                let name = owner.node()?.to_owned();
                Some(Asking::Node { owner, name })
            }))
        });
        Ok((found.await?.ok_or_else(unknown)?, token))
    }

    async fn credential(&self, headers: &HeaderMap, body: &[u8]) -> Result<Credential, Refusal> {
        let (asking, _) = self.asking(headers).await?;
        let Request { node, sha256 } = serde_json::from_slice(body)
            .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("request: {error}")))?;
        if !valid_node_name(&node) || credentials::unhex(&sha256).is_err() {
            let text = "`node`: expected a node's name; `sha256`: expected 64 hexadecimal digits";
            return Err(Refusal(StatusCode::BAD_REQUEST, text.to_owned()));
        }
        let only = match &asking {
            Asking::Machine(token) => token.node.as_ref(),
            Asking::Node { name, .. } => Some(name),
        };
        if let Some(only) = only.filter(|only| **only != node) {
            let text = format!("this token is for node `{only}` alone, not for `{node}`");
            return Err(Refusal(StatusCode::FORBIDDEN, text));
        }
        let labels = match &asking {
            Asking::Machine(token) => labels_of(&self.pool(&token.pool).await?)?,
            Asking::Node { .. } => Labels::new(),
        };
        let provisioning = &self.provisioning;
        let (data_dir, life, name) = (
            provisioning.data_dir.clone(),
            provisioning.node_life,
            node.clone(),
        );
        let admitted = blocking(move || {
            let asker = match &asking {
                Asking::Machine(JoinToken { pool, node, .. }) => match node {
                    Some(_) => Asker::Replacement {
                        pool,
                        labels: &labels,
                    },
                    None => Asker::Join {
                        pool,
                        labels: &labels,
                    },
                },
                Asking::Node { owner, .. } => Asker::Renewal {
                    sha256: &owner.sha256,
                },
            };
            let now = Timestamp::now();
            let owner = credentials::admit(&data_dir, &name, &sha256, asker, life, now)?;
            Ok(owner.map(|owner| (owner, rules::tokens(&data_dir, now))))
        });
        let Some((owner, tokens)) = admitted.await? else {
            let text = format!(
                "node `{node}` has a credential already; take it back with `caprock node revoke {node}`, \
                 or make a token for it with `caprock node token --node {node}`"
            );
            return Err(Refusal(StatusCode::CONFLICT, text));
        };
        let tokens = tokens.map_err(Refusal::internal)?;
        provisioning.admitted.set(&tokens);
        provisioning.api.set_tokens(tokens);
        tracing::info!(node, pool = owner.pool, "a node got a token");
        Ok(Credential {
            node,
            expires: owner.expires,
            pool: owner.pool,
            certificate_authority: self.api_ca().await?,
        })
    }

    async fn config(&self, pool: &str, headers: &HeaderMap) -> Result<String, Refusal> {
        let (asking, token) = self.asking(headers).await?;
        let (own_pool, kubeconfig) = match &asking {
            Asking::Machine(JoinToken { pool, .. }) => (Some(pool), true),
            Asking::Node { owner, .. } => (owner.pool.as_ref(), false),
        };
        if own_pool.is_none_or(|own| own != pool) {
            let text = format!("this token is not for pool `{pool}`");
            return Err(Refusal(StatusCode::FORBIDDEN, text));
        }
        let accept = headers.get(header::ACCEPT).map(|value| value.to_str());
        let accept = accept
            .transpose()
            .map_err(|_| Refusal(StatusCode::BAD_REQUEST, "`Accept` is not text".to_owned()))?;
        let version = provision::negotiate(accept)
            .map_err(|unsupported| Refusal(StatusCode::BAD_REQUEST, unsupported.to_string()))?;
        let mut given = self.provision(pool).await?;
        if kubeconfig {
            let server = &self.provisioning.server;
            given.kubeconfig = Some(credentials::kubeconfig(
                server,
                &given.api_ca,
                "join",
                Secret::Token(&token),
            ));
        }
        serve(&given, version)
    }

    /// A pool, read anew each time: a stale copy would give a machine an image that is gone.
    async fn pool(&self, name: &str) -> Result<MachineConfigPool, Refusal> {
        let pools = Api::<MachineConfigPool>::all(self.provisioning.client.clone());
        let found = pools.get_opt(name).await.map_err(Refusal::internal)?;
        // What the peer answers; Ignition goes on trying.
        found.ok_or_else(|| {
            let text = format!("there is no MachineConfigPool `{name}`");
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
        })
    }

    /// What a new node of a pool is given, without a credential.
    async fn provision(&self, pool: &str) -> Result<Provision, Refusal> {
        let client = &self.provisioning.client;
        let object = self.pool(pool).await?;
        let target = provision::target_of(&object).ok_or_else(|| {
            Refusal::not_now(&format!(
                "pool `{pool}` has nothing yet that a new node could boot into"
            ))
        })?;
        let rendered = Api::<MachineConfig>::all(client.clone())
            .get(&target.config)
            .await
            .map_err(Refusal::internal)?;
        let registry_auth = controllers::registry_auth(client, pool, target.image.as_deref())
            .await
            .map_err(Refusal::internal)?;
        let (values, missing) = controllers::file_values(client, &rendered.spec)
            .await
            .map_err(Refusal::internal)?;
        if let [first, ..] = &missing[..] {
            return Err(Refusal::not_now(&format!(
                "rendered config `{}` takes a file's content from {first}",
                target.config
            )));
        }
        Ok(Provision {
            values,
            target,
            spec: rendered.spec,
            labels: labels_of(&object)?,
            registry_auth: Some(registry_auth),
            registry_cas: self.registry_cas().await?,
            api_ca: self.api_ca().await?,
            kubeconfig: None,
            units: agent::units()
                .into_iter()
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .collect(),
        })
    }

    async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let maps: Api<ConfigMap> =
            Api::namespaced(self.provisioning.client.clone(), keys::NAMESPACE);
        let map = maps.get_opt(name).await.map_err(Refusal::internal)?;
        Ok(map.and_then(|map| map.data).unwrap_or_default())
    }

    async fn api_ca(&self) -> Result<String, Refusal> {
        let found = self
            .config_map(keys::API_CA)
            .await?
            .remove(keys::API_CA_KEY);
        found.ok_or_else(|| Refusal::not_now("the server is starting"))
    }

    async fn registry_cas(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let map = self.config_map(keys::REGISTRY_CERTS).await?;
        Ok(map
            .into_iter()
            .map(|(host, pem)| (host.replace("..", ":"), pem))
            .collect())
    }
}

fn serve(given: &Provision, version: SpecVersion) -> Result<String, Refusal> {
    let config = provision::served(given, version).map_err(|problems| {
        let text = format!(
            "rendered config `{}`: {}",
            given.target.config,
            model::problem::summary(&problems)
        );
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    Ok(config.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .context("cut short")
        .and_then(|done| done)
        .map_err(Refusal::internal)
}

impl Refusal {
    fn not_now(text: &str) -> Self {
        Refusal(StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
    }

    /// The reason is for the log; a stranger learns nothing from it.
    fn internal(error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        tracing::warn!("a machine could not be served: {error:#}");
        let text = "the server's log says why".to_owned();
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refusal(status, text) = self;
        let mut headers: Vec<(HeaderName, &str)> =
            vec![(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        match status {
            StatusCode::UNAUTHORIZED => headers.push((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.push((header::RETRY_AFTER, "10"));
            }
            _ => {}
        }
        let headers: HeaderMap = headers
            .into_iter()
            .map(|(name, value)| {
                (
                    name,
                    header::HeaderValue::from_str(value).expect("plain text"),
                )
            })
            .collect();
        (status, headers, format!("{text}\n")).into_response()
    }
}
