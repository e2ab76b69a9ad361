//! The server under test and the two clients that talk to it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver::Config;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::common::{ADMIN, Fixture};

const OLDEST_MINOR: u64 = 32;

/// An authority that signs the server's certificate and those of clients.
pub(crate) struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

/// A server to test, and how to reach it.
pub(crate) struct Api {
    pub(crate) client: kube::Client,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) kubeconfig: PathBuf,
    /// What is known of a server that this test started.
    pub(crate) embedded: Option<Embedded>,
}

pub(crate) struct Embedded {
    _fixture: Fixture,
    pub(crate) authority: Authority,
    pub(crate) server: String,
    pub(crate) serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An answer: its code, headers and body.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate and its key, both PEM.
    pub(crate) fn client(&self, name: &str, group: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server_config(&self) -> rustls::ServerConfig {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        tls
    }
}

impl Api {
    pub(crate) async fn connect() -> Self {
        Self::with(|_| {}).await
    }

    /// `change` applies only to a server that this test starts.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let directory = tempfile::tempdir().unwrap();
        let (kubeconfig, embedded) = match std::env::var_os("CAPROCK_TEST_KUBECONFIG") {
            Some(path) => (std::path::absolute(path).unwrap(), None),
            None => {
                let embedded = Embedded::start(change).await;
                let path = directory.path().join("kubeconfig");
                let user = json!({"token": ADMIN});
                std::fs::write(&path, embedded.kubeconfig(&user)).unwrap();
                (path, Some(embedded))
            }
        };
        Self {
            client: client_of(&std::fs::read_to_string(&kubeconfig).unwrap()).await,
            directory,
            kubeconfig,
            embedded,
        }
    }

    /// A namespace that no other test uses, made by now.
    pub(crate) async fn namespace(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("contract-{}-{number}", std::process::id());
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let made = self.post("/api/v1/namespaces", &body).await;
        assert_eq!(made.code, 201, "{}", made.json());
        name
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), Vec::new()).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Request::get(path).header("accept", accept), Vec::new())
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.body(Method::POST, path, "application/json", body.to_string())
            .await
    }

    pub(crate) async fn body(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media_type);
        self.send(request, body.into()).await
    }

    pub(crate) async fn send(&self, request: http::request::Builder, body: Vec<u8>) -> Answer {
        send(&self.client, request, body).await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.directory.path())
            .env("KUBECACHEDIR", self.directory.path().join("cache"))
            .current_dir(self.directory.path());
        command
    }

    /// Runs `kubectl` with the words of `line`, and returns its exit status and both outputs together.
    pub(crate) async fn run(&self, line: &str, input: &str) -> (bool, String) {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let mut command = self.command(&arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // A client that fails early does not read.
            stdin.write_all(input.as_bytes()).ok();
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8(text).unwrap())
        })
        .await
        .unwrap()
    }

    pub(crate) async fn ok(&self, line: &str) -> String {
        self.ok_with(line, "").await
    }

    pub(crate) async fn ok_with(&self, line: &str, input: &str) -> String {
        let (success, output) = self.run(line, input).await;
        assert!(success, "kubectl {line}: {output}");
        output
    }

    pub(crate) async fn fails(&self, line: &str, input: &str, expected: &str) {
        let (success, output) = self.run(line, input).await;
        assert!(!success, "kubectl {line}: {output}");
        assert!(output.contains(expected), "kubectl {line}: {output}");
    }
}

impl Embedded {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let fixture = Fixture::with(change);
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let tls = Arc::new(authority.server_config());
        let serving = fixture
            .server
            .clone()
            .serve(listener, tls, std::future::pending());
        Self {
            serving: tokio::spawn(serving),
            _fixture: fixture,
            authority,
            server,
        }
    }

    /// A kubeconfig with these credentials.
    pub(crate) fn kubeconfig(&self, user: &Value) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": self.server,
                "certificate-authority-data": STANDARD.encode(self.authority.pem()),
            }}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string()
    }
}

pub(crate) async fn client_of(kubeconfig: &str) -> kube::Client {
    let parsed = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(parsed, &options)
        .await
        .unwrap();
    // What the server says is what is tested.
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

pub(crate) async fn send(
    client: &kube::Client,
    request: http::request::Builder,
    body: Vec<u8>,
) -> Answer {
    let response = client
        .send(request.body(Body::from(body)).unwrap())
        .await
        .unwrap();
    let (head, body) = response.into_parts();
    Answer {
        code: head.status.as_u16(),
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    }
}

/// Whether there is a `kubectl` that the server promises to work with.
pub(crate) fn kubectl_is_there() -> bool {
    let output = Command::new("kubectl")
        .args(["version", "--client", "-o", "json"])
        .output();
    let minor = output.ok().and_then(|output| {
        let version: Value = serde_json::from_slice(&output.stdout).ok()?;
        let minor = version["clientVersion"]["minor"].as_str()?;
        minor.trim_end_matches('+').parse::<u64>().ok()
    });
    let is_there = minor.is_some_and(|minor| minor >= OLDEST_MINOR);
    if !is_there {
        eprintln!("skipped: there is no kubectl of version 1.{OLDEST_MINOR} or newer");
    }
    is_there
}
