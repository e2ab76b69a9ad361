//! The running server: opening, serving, stopping.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::auth::bootstrap_objects;
use crate::cluster::Cluster;
use crate::config::{Config, Token};
use crate::listener::serve_tls;
use crate::resources::create::create;
use crate::resources::update::{Proposal, update};
use crate::resources::{Part, Target, WriteOptions};
use crate::status::ApiError;
use crate::{collector, http as api, store};

/// How long requests in flight may go on once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory, or a file in it, cannot be made or read.
    #[error("cannot use `{path}`")]
    DataDir {
        /// The directory or file.
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
        let cluster = Arc::new(Cluster::open(&config.data_dir, &config)?);
        for name in &config.namespaces {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            });
            install(&cluster, namespace)?;
        }
        for definition in &config.crds {
            install(&cluster, definition.clone())?;
        }
        for object in bootstrap_objects() {
            install_if_missing(&cluster, object)?;
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
        self.cluster.auth.set_tokens(tokens);
    }

    /// What `/metrics` shows, as OpenMetrics text.
    pub fn metrics(&self) -> String {
        self.cluster.metrics_text()
    }

    /// Why the store cannot be written, when it cannot.
    pub fn failure(&self) -> Option<String> {
        let failure = self.cluster.store.failure()?;
        Some(format!("the store cannot be written: {failure}"))
    }

    /// Serves HTTP/2 and HTTP/1.1 over TLS until `shutdown` completes, then ends watches and waits shortly
    /// for what is in flight. `tls` should offer `h2` and `http/1.1` by ALPN.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let router = self.router();
        self.serve_within(router, listener, tls, shutdown).await
    }

    /// Serves as [`ApiServer::serve`] does, with a router that has [`ApiServer::router`] in it.
    pub async fn serve_within(
        self,
        router: Router,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let stopping = self.cluster.stopping.clone();
        let stop = async move {
            shutdown.await;
            // Watches would never end by themselves.
            stopping.send_replace(true);
        };
        serve_tls(listener, tls, router, stop, DRAIN).await
    }
}

/// Creates an object, or brings the existing one to what is given.
fn install(cluster: &Cluster, object: Value) -> Result<(), OpenError> {
    put(cluster, object, true)
}

/// Creates an object unless there is one: what people made of it stays.
fn install_if_missing(cluster: &Cluster, object: Value) -> Result<(), OpenError> {
    put(cluster, object, false)
}

fn put(cluster: &Cluster, object: Value, update: bool) -> Result<(), OpenError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    // The store's own thread does the work, so blocking here needs no runtime.
    futures::executor::block_on(try_put(cluster, &name, object, update)).map_err(|error| {
        OpenError::Install {
            kind,
            name,
            message: error.message,
        }
    })
}

async fn try_put(
    cluster: &Cluster,
    name: &str,
    object: Value,
    update_existing: bool,
) -> Result<(), ApiError> {
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
    if !update_existing {
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
