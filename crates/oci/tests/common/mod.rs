//! A registry behind TLS on the loopback interface, with faults on demand.

#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod layers;
pub(crate) mod proxy;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{Method, StatusCode};
use oci::{ClientConfig, DockerConfig, Reference, Retry};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A server that lives as long as this value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The authority that signed its certificate, as PEM; none for plain HTTP.
    pub(crate) ca: Option<String>,
    pub(crate) faults: Faults,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn tls(router: Router) -> Server {
        Server::tls_with(|_| router).await
    }

    /// The router may depend on the server's `host:port`.
    pub(crate) async fn tls_with(router: impl FnOnce(String) -> Router) -> Server {
        let (ca, acceptor) = certificate();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Faults::default();
        let app = faults.wrap(router(address.to_string()));
        let task = tokio::spawn(async move {
            axum::serve(TlsListener { listener, acceptor }, app)
                .await
                .unwrap();
        });
        Server {
            address,
            ca: Some(ca),
            faults,
            task,
        }
    }

    pub(crate) async fn plain(router: Router) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Faults::default();
        let app = faults.wrap(router);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Server {
            address,
            ca: None,
            faults,
            task,
        }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    /// A configuration that trusts this server and gives up soon.
    pub(crate) fn config(&self, user: Option<(&str, &str)>) -> ClientConfig {
        let cas = self
            .ca
            .iter()
            .map(|ca| (self.host(), ca.clone().into_bytes()));
        ClientConfig {
            auth: user.map_or_else(DockerConfig::default, |(name, password)| {
                DockerConfig::basic(&self.host(), name, password)
            }),
            cas: cas.collect::<BTreeMap<_, _>>(),
            retry: patience(Duration::from_secs(20)),
            ..ClientConfig::default()
        }
    }
}

/// Quick repetition within a deadline that is not reached when things go well.
pub(crate) fn patience(deadline: Duration) -> Retry {
    Retry {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(5),
        deadline,
    }
}

fn certificate() -> (String, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::new(Vec::new()).unwrap();
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca_params, ca_key);
    let key = KeyPair::generate().unwrap();
    let params =
        CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (ca.pem(), TlsAcceptor::from(Arc::new(config)))
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // A client that does not trust us breaks off here.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status instead of an answer.
    Status(u16),
    /// The body of the answer ends, with the connection, after so many bytes.
    Cut(usize),
    /// Another body under the same headers.
    Body(Bytes),
    /// A header of the answer is replaced, or removed.
    Header(&'static str, Option<String>),
}

type Pending = (Method, String, Fault);

/// Faults to come, and the requests that were seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    pending: Arc<Mutex<Vec<Pending>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Faults {
    /// The next request with this method whose path contains `part` goes wrong.
    pub(crate) fn add(&self, method: Method, part: &str, fault: Fault) {
        self.pending
            .lock()
            .unwrap()
            .push((method, part.to_owned(), fault));
    }

    pub(crate) fn none_left(&self) -> bool {
        self.pending.lock().unwrap().is_empty()
    }

    /// `METHOD path [range]` of each request since the last call.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn wrap(&self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.clone(), inject))
    }
}

async fn inject(State(faults): State<Faults>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let range = request
        .headers()
        .get("range")
        .map(|range| format!(" {}", range.to_str().unwrap()));
    faults.seen.lock().unwrap().push(format!(
        "{} {path}{}",
        request.method(),
        range.unwrap_or_default()
    ));
    let fault = {
        let mut pending = faults.pending.lock().unwrap();
        let found = pending
            .iter()
            .position(|(method, part, _)| method == request.method() && path.contains(part));
        found.map(|found| pending.remove(found).2)
    };
    match fault {
        None => next.run(request).await,
        Some(Fault::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Header(name, value)) => {
            let mut response = next.run(request).await;
            match value {
                Some(value) => drop(response.headers_mut().insert(name, value.parse().unwrap())),
                None => drop(response.headers_mut().remove(name)),
            }
            response
        }
        Some(Fault::Body(bytes)) => {
            let (mut parts, _) = next.run(request).await.into_parts();
            parts.headers.remove("content-length");
            Response::from_parts(parts, Body::from(bytes))
        }
        Some(Fault::Cut(length)) => {
            let (parts, body) = next.run(request).await.into_parts();
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let pieces = [Ok(bytes.slice(..length)), Err(io::Error::other("cut"))];
            // Let the first piece reach the client before the connection breaks.
            let stream = futures::stream::unfold(pieces.into_iter(), |mut pieces| async move {
                tokio::task::yield_now().await;
                pieces.next().map(|piece| (piece, pieces))
            });
            Response::from_parts(parts, Body::from_stream(stream))
        }
    }
}

/// A blob of pseudo-random bytes that compress badly, the same for the same seed.
pub(crate) fn blob(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.flatten().take(length).collect()
}
