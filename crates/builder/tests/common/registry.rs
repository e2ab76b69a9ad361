//! A registry, and engines that reach it.

use std::collections::BTreeSet;

use builder::{Engine, EngineConfig, Event, Request};
use oci::{Access, Client, ClientConfig, Reference, Registry, Retry};

use super::Lab;

/// A registry in memory of this process.
pub struct Server {
    pub host: String,
    _dir: tempfile::TempDir,
}

pub async fn serve() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path(), Access::anyone()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, registry.router()).await });
    Server { host, _dir: dir }
}

impl Server {
    pub fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }
}

pub fn client(servers: &[&Server]) -> Client {
    let insecure_hosts: BTreeSet<String> =
        servers.iter().map(|server| server.host.clone()).collect();
    let retry = Retry {
        deadline: std::time::Duration::ZERO,
        ..Retry::default()
    };
    Client::new(ClientConfig {
        insecure_hosts,
        retry,
        ..ClientConfig::default()
    })
    .unwrap()
}

pub fn engine(lab: &Lab, name: &str, client: Client) -> Engine {
    let cache_dir = lab.dir.path().join(name);
    Engine::open(EngineConfig {
        cache_dir,
        runtime: None,
        cache_limit: None,
        client,
    })
    .unwrap()
}

pub fn request(containerfile: String) -> Request {
    Request {
        containerfile,
        file_name: "Containerfile".into(),
        ..Request::default()
    }
}

pub fn quiet(_: Event) {}
