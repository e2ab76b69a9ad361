//! A server in a temporary directory and clients that talk to it in process.

#![allow(clippy::unwrap_used, dead_code)]

use apiserver::{ApiServer, Config, Token};
use serde_json::{Value, json};

pub(crate) const ADMIN: &str = "admin-token";

pub(crate) struct Fixture {
    pub(crate) server: ApiServer,
    pub(crate) directory: tempfile::TempDir,
}

pub(crate) fn config(directory: &tempfile::TempDir) -> Config {
    Config {
        tokens: vec![Token::new("admin", &["system:masters"], ADMIN)],
        crds: vec![widget_definition()],
        ..Config::new(directory.path())
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&directory);
        change(&mut config);
        let server = ApiServer::open(config).unwrap();
        Self { server, directory }
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.client_as(ADMIN)
    }

    pub(crate) fn client_as(&self, token: &str) -> kube::Client {
        kube::Client::new(self.server.router_as(token), "default")
    }
}

pub(crate) fn widget_definition() -> Value {
    serde_saphyr::from_str(include_str!("widgets.yaml")).unwrap()
}

pub(crate) fn widget(name: &str, size: i64) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"size": size},
    })
}
