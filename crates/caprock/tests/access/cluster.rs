//! The cluster that is asked.

use std::time::{Duration, Instant};

use apiserver::{ApiServer, Config, Token};
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use model::keys;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::deploy;

pub(crate) const SYSTEM: &str = "caprock-system";
const ADMIN: &str = "a token that only tests know";
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    /// An administrator.
    pub(crate) client: Client,
    how: How,
    controllers: Option<JoinHandle<Result<(), controllers::Error>>>,
}

enum How {
    Embedded {
        server: ApiServer,
        _dir: tempfile::TempDir,
    },
    Given(Box<kube::Config>),
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(controllers) = &self.controllers {
            controllers.abort();
        }
    }
}

/// An answer: its code, and the message of a `Status`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Cluster {
    pub(crate) async fn connect() -> Self {
        let mut cluster = match std::env::var_os("CAPROCK_TEST_KUBECONFIG") {
            Some(path) => {
                rustls::crypto::ring::default_provider()
                    .install_default()
                    .ok();
                let kubeconfig = Kubeconfig::read_from(path).unwrap();
                let options = KubeConfigOptions::default();
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options);
                let config = config.await.unwrap();
                Self {
                    client: Client::try_from(config.clone()).unwrap(),
                    how: How::Given(Box::new(config)),
                    controllers: None,
                }
            }
            None => {
                let dir = tempfile::tempdir().unwrap();
                let mut config = Config::new(dir.path().join("api"));
                config.tokens = vec![Token::new("admin", &["system:masters"], ADMIN)];
                config.crds = model::api::crds()
                    .iter()
                    .map(|crd| serde_json::to_value(crd).unwrap())
                    .collect();
                let server = ApiServer::open(config).unwrap();
                Self {
                    client: Client::new(server.router_as(ADMIN), "default"),
                    how: How::Embedded { server, _dir: dir },
                    controllers: None,
                }
            }
        };
        deploy::install(&cluster.client).await;
        if matches!(cluster.how, How::Embedded { .. }) {
            let token = deploy::token(&cluster.client, SYSTEM, "caprock-controller", None).await;
            let options = controllers::Options {
                client: cluster.client_as(&token),
                builder: None,
                controllers: Some(controllers::Controllers::Alone),
                telemetry: Default::default(),
            };
            let running = controllers::run(options, Default::default());
            cluster.controllers = Some(tokio::spawn(running));
        }
        cluster
    }

    pub(crate) fn client_as(&self, token: &str) -> Client {
        match &self.how {
            How::Embedded { server, .. } => Client::new(server.router_as(token), "default"),
            How::Given(config) => {
                let mut config = (**config).clone();
                config.auth_info = kube::config::AuthInfo {
                    token: Some(token.to_owned().into()),
                    ..Default::default()
                };
                Client::try_from(config).unwrap()
            }
        }
    }

    /// As the administrator; it must succeed.
    pub(crate) async fn make(&self, path: &str, object: &Value) {
        let answer = send(&self.client, "POST", path, object).await;
        assert!(
            matches!(answer.code, 201 | 409),
            "{path}: {}",
            answer.message()
        );
    }

    /// A node of a pool, on which a kubelet runs, with a pod of the agents' DaemonSet.
    pub(crate) async fn node(&self, name: &str, role: &str) {
        let label = format!("{}{role}", keys::NODE_ROLE_PREFIX);
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {label: ""}},
        });
        self.make("/api/v1/nodes", &node).await;
        let status = json!({"status": {"nodeInfo": {
            "kubeletVersion": "v1.35.0", "architecture": "", "bootID": "", "containerRuntimeVersion": "",
            "kernelVersion": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
            "systemUUID": "",
        }}});
        let path = format!("/api/v1/nodes/{name}/status");
        let answer = send(&self.client, "PATCH", &path, &status).await;
        assert_eq!(answer.code, 200, "{}", answer.message());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("agent-{name}")},
            "spec": {
                "nodeName": name, "serviceAccountName": "caprock-agent",
                "containers": [{"name": "agent", "image": "registry.test/caprock:1"}],
            },
        });
        let pods = format!("/api/v1/namespaces/{SYSTEM}/pods");
        self.make(&pods, &pod).await;
    }

    /// Waits until the controllers have made a path.
    pub(crate) async fn until_there(&self, path: &str) {
        let began = Instant::now();
        loop {
            let answer = send(&self.client, "GET", path, &Value::Null).await;
            if answer.code == 200 {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "the controllers did not make `{path}`: {}",
                answer.message()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Sends a request; a change is a merge patch, or what its first word says.
pub(crate) async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Answer {
    let (method, kind) = match method {
        "PATCH" => ("PATCH", "application/merge-patch+json"),
        "JSON-PATCH" => ("PATCH", "application/json-patch+json"),
        "APPLY" => ("PATCH", "application/apply-patch+yaml"),
        other => (other, "application/json"),
    };
    let body = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(path)
        .header("content-type", kind)
        .body(Body::from(body))
        .unwrap();
    let response = client.send(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        code: head.status.as_u16(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}
