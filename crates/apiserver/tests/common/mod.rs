//! A server in a temporary directory and clients that talk to it in process.

#![allow(clippy::unwrap_used, dead_code)]

use apiserver::{ApiServer, Config, Token};
use serde_json::{Value, json};

pub const ADMIN: &str = "admin-token";

pub struct Fixture {
    pub server: ApiServer,
    pub directory: tempfile::TempDir,
}

pub fn config(directory: &tempfile::TempDir) -> Config {
    Config {
        tokens: vec![Token::new("admin", &["system:masters"], ADMIN)],
        crds: vec![widget_definition()],
        ..Config::new(directory.path())
    }
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&directory);
        change(&mut config);
        let server = ApiServer::open(config).unwrap();
        Self { server, directory }
    }

    pub fn client(&self) -> kube::Client {
        self.client_as(ADMIN)
    }

    pub fn client_as(&self, token: &str) -> kube::Client {
        kube::Client::new(self.server.router_as(token), "default")
    }
}

pub fn widget_definition() -> Value {
    serde_saphyr::from_str(include_str!("widgets.yaml")).unwrap()
}

pub fn widget(name: &str, size: i64) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"size": size},
    })
}
