//! The running server: opening, serving, stopping.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::cluster::Cluster;
use crate::config::{Config, Token};
use crate::resources::create::create;
use crate::resources::update::{Proposal, update};
use crate::resources::{Part, Target, WriteOptions};
use crate::status::ApiError;
use crate::{collector, http as api, store};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request.
const HEADERS: Duration = Duration::from_secs(30);
/// Requests, watches above all, that one connection may have open.
const MAX_STREAMS: u32 = 1000;
/// How often a quiet connection is asked whether its client still lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long requests in flight may go on once the server stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be accepted, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be made.
    #[error("cannot create the data directory `{path}`")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// An object that must exist at start was refused, for example a malformed CRD.
    #[error("cannot install {kind} `{name}`: {message}")]
    Install {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Why.
        message: String,
    },
}

/// An embedded Kubernetes-compatible API server. Clones share one server; the store closes with the last.
#[derive(Debug, Clone)]
pub struct ApiServer {
    cluster: Arc<Cluster>,
}

impl ApiServer {
    /// Opens the store and installs the configured namespaces and CRDs.
    ///
    /// Must be called in a Tokio runtime: it starts the garbage collector, which ends with the server. It blocks
    /// while the store is read, for well under a second.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        std::fs::create_dir_all(&config.data_dir).map_err(|source| OpenError::DataDir {
            path: config.data_dir.clone(),
            source,
        })?;
        let path = config.data_dir.join("store.redb");
        let cluster = Arc::new(Cluster::open(&path, &config)?);
        for name in &config.namespaces {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            });
            install(&cluster, namespace)?;
        }
        for definition in &config.crds {
            install(&cluster, definition.clone())?;
        }
        tokio::spawn(collector::run(Arc::downgrade(&cluster)));
        Ok(Self { cluster })
    }

    /// The API as a service, for use in process.
    ///
    /// Every request needs a bearer token. [`ApiServer::router_as`] adds one, so that tests need no socket:
    ///
    /// ```
    /// fn client(server: &apiserver::ApiServer) -> kube::Client {
    ///     kube::Client::new(server.router_as("secret"), "default")
    /// }
    /// ```
    pub fn router(&self) -> Router {
        let cluster = self.cluster.clone();
        Router::new().fallback(move |request: Request<Body>| api::answer(cluster.clone(), request))
    }

    /// The API as a service in which every request carries `token`.
    pub fn router_as(&self, token: &str) -> Router {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).ok();
        self.router().layer(axum::middleware::map_request(
            move |mut request: Request<Body>| {
                let value = value.clone();
                async move {
                    if let Some(value) = value {
                        request.headers_mut().insert(header::AUTHORIZATION, value);
                    }
                    request
                }
            },
        ))
    }

    /// Lets exactly these tokens in from now on. Watches that are open stay open until they end by themselves.
    pub fn set_tokens(&self, tokens: Vec<Token>) {
        self.cluster.auth.set(tokens);
    }

    /// Serves HTTP/2 and HTTP/1.1 over TLS until `shutdown` completes, then ends watches and waits shortly
    /// for what is in flight. `tls` should offer `h2` and `http/1.1` by ALPN.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let graceful = GracefulShutdown::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            let acceptor = acceptor.clone();
            let router = self.router();
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "TLS handshake failed");
                        return;
                    }
                    Err(_) => {
                        tracing::debug!("TLS handshake timed out");
                        return;
                    }
                };
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder
                    .http1()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS);
                builder
                    .http2()
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_STREAMS)
                    .keep_alive_interval(KEEP_ALIVE);
                let service = TowerToHyperService::new(router);
                let connection = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
        drop(listener);
        self.cluster.stopping.send_replace(true);
        if tokio::time::timeout(DRAIN, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("requests were still running when the server stopped");
        }
        Ok(())
    }
}

/// Creates an object, or brings the existing one to what is given.
fn install(cluster: &Cluster, object: Value) -> Result<(), OpenError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    // The store's own thread does the work, so blocking here needs no runtime.
    futures::executor::block_on(try_install(cluster, &name, object)).map_err(|error| {
        OpenError::Install {
            kind,
            name,
            message: error.message,
        }
    })
}

async fn try_install(cluster: &Cluster, name: &str, object: Value) -> Result<(), ApiError> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    let resource = cluster
        .registry()
        .by_kind(api_version, kind)
        .filter(|resource| !resource.namespaced)
        .ok_or_else(ApiError::no_such_resource)?;
    let version = resource.storage_version().name.clone();
    let target = Target::new(resource, &version, None, Some(name.into()));
    let options = WriteOptions::internal();
    if cluster.store.get(&target.key()).is_none() {
        create(cluster, &target, object, &[], &options).await?;
        return Ok(());
    }
    update(cluster, &target, Part::Main, &options, |old| {
        let mut proposed = old.clone();
        if let Some(spec) = object.get("spec") {
            proposed["spec"] = spec.clone();
        }
        for field in ["labels", "annotations"] {
            for (key, value) in object["metadata"][field].as_object().into_iter().flatten() {
                proposed["metadata"][field][key] = value.clone();
            }
        }
        Ok(Proposal {
            object: proposed,
            duplicates: Vec::new(),
        })
    })
    .await?;
    Ok(())
}
