//! The registry against an API server of ours: what it tells the cluster opens it, at any time.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::{Api, DeleteParams, PostParams};
use model::keys;
use oci::{ClientConfig, ClientError, DockerConfig, Reference};
use serde_json::json;

use super::*;

const TOKEN: &str = "a token that only tests know";
const NAMESPACE: &str = "caprock-system";

struct World {
    dir: tempfile::TempDir,
    client: Client,
}

impl World {
    fn new() -> Self {
        // Another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().unwrap();
        let mut config = apiserver::Config::new(dir.path().join("api"));
        config.tokens = vec![apiserver::Token::new("admin", &["system:masters"], TOKEN)];
        config
            .namespaces
            .extend([keys::NAMESPACE, NAMESPACE].map(str::to_owned));
        let server = apiserver::ApiServer::open(config).unwrap();
        let client = Client::new(server.router_as(TOKEN), "default");
        Self { dir, client }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn registry(&self, hosts: &[String]) -> Registry {
        let secret = format!("{NAMESPACE}/caprock-registry").parse().unwrap();
        Registry {
            client: self.client.clone(),
            store: oci::Registry::open(self.dir.path().join("registry"), Access::nobody()).unwrap(),
            state: Shared::new(self.client.clone(), &secret, KEY),
            service: None,
            hosts: hosts.to_vec(),
            life: SignedDuration::from_hours(720),
            upkeep: Upkeep::default(),
        }
    }

    /// A registry client with what a Secret and the ConfigMap hold now.
    async fn user(&self, secret: &str) -> oci::Client {
        let secret = self
            .api::<Secret>(keys::NAMESPACE)
            .get(secret)
            .await
            .unwrap();
        let text = secret
            .data
            .unwrap()
            .remove(keys::DOCKER_CONFIG_KEY)
            .unwrap();
        let maps = self.api::<ConfigMap>(keys::NAMESPACE);
        let map = maps.get(keys::REGISTRY_CERTS).await.unwrap();
        let cas: BTreeMap<String, Vec<u8>> = map
            .data
            .unwrap()
            .into_iter()
            .map(|(host, pem)| (host.replace("..", ":"), pem.into_bytes()))
            .collect();
        oci::Client::new(ClientConfig {
            auth: DockerConfig::parse(&text.0).unwrap(),
            cas,
            ..ClientConfig::default()
        })
        .unwrap()
    }
}

/// Whether each of the two logins may push and pull, as `builder node`.
async fn rights(world: &World, host: &str) -> String {
    let reference: Reference = format!("{host}/os/test:1").parse().unwrap();
    let mut rights = Vec::new();
    for secret in [keys::GLOBAL_PULL_SECRET, keys::NODE_PULL_SECRET] {
        let user = world.user(secret).await;
        let push = match user.check_push(&reference).await {
            Ok(()) => "push",
            Err(ClientError::Forbidden { .. }) => "pull",
            Err(error) => panic!("{error}"),
        };
        // It is let in, and there is no such image.
        let absent = user.resolve(&reference).await.unwrap_err();
        assert!(matches!(absent, ClientError::NotFound(_)), "{absent}");
        rights.push(push);
    }
    rights.join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cluster_is_told_opens_the_registry() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let running = world
        .registry(std::slice::from_ref(&host))
        .run(listener, stop.clone());
    let running = tokio::spawn(running);
    let secrets = world.api::<Secret>(keys::NAMESPACE);
    let deadline = Instant::now() + Duration::from_secs(60);
    while secrets
        .get_opt(keys::NODE_PULL_SECRET)
        .await
        .unwrap()
        .is_none()
    {
        assert!(Instant::now() < deadline && !running.is_finished());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(rights(&world, &host).await, "push pull");
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Nobody is served here: each turn is made at a time of its own.
#[tokio::test]
async fn what_is_lost_is_made_anew_and_what_is_old_replaced() {
    let world = World::new();
    let host = "registry.example:5000".to_owned();
    let registry = world.registry(&[host]);
    let secrets = world.api::<Secret>(keys::NAMESPACE);
    let kept = world.api::<Secret>(NAMESPACE);
    let told = async |name: &str| {
        let secret = secrets.get(name).await.unwrap();
        String::from_utf8(
            secret
                .data
                .unwrap()
                .remove(keys::DOCKER_CONFIG_KEY)
                .unwrap()
                .0,
        )
        .unwrap()
    };
    let at = |hours: i64| Timestamp::from_second(1_700_000_000 + 3600 * hours).unwrap();

    let (first, _) = registry.tell(at(0)).await.unwrap();
    let builder = told(keys::GLOBAL_PULL_SECRET).await;
    let version = secrets
        .get(keys::GLOBAL_PULL_SECRET)
        .await
        .unwrap()
        .metadata
        .resource_version;
    registry.tell(at(1)).await.unwrap();
    let again = secrets
        .get(keys::GLOBAL_PULL_SECRET)
        .await
        .unwrap()
        .metadata
        .resource_version;
    assert_eq!(version, again, "nothing is written without need");

    // Somebody removes what was delivered.
    secrets
        .delete(keys::GLOBAL_PULL_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    registry.tell(at(2)).await.unwrap();
    assert_eq!(told(keys::GLOBAL_PULL_SECRET).await, builder);

    // Time passes.
    registry.tell(at(721)).await.unwrap();
    let renewed = told(keys::GLOBAL_PULL_SECRET).await;
    assert_ne!(renewed, builder);

    // Somebody removes the Secret that all comes from.
    kept.delete("caprock-registry", &DeleteParams::default())
        .await
        .unwrap();
    let (second, _) = registry.tell(at(722)).await.unwrap();
    assert!(!second.signs_like(&first));
    assert_ne!(told(keys::GLOBAL_PULL_SECRET).await, renewed);
    let trusted = world
        .api::<ConfigMap>(keys::NAMESPACE)
        .get(keys::REGISTRY_CERTS)
        .await
        .unwrap();
    assert_eq!(
        trusted.data.unwrap()["registry.example..5000"],
        second.bundle()
    );
}

#[tokio::test]
async fn the_service_is_waited_for() {
    let world = World::new();
    let mut registry = world.registry(&[]);
    registry.service = Some(format!("{NAMESPACE}/caprock-registry").parse().unwrap());
    let now = Timestamp::now();
    let error = format!("{:#}", registry.tell(now).await.err().unwrap());
    assert!(
        error.contains("Service `caprock-system/caprock-registry`"),
        "{error}"
    );
    let service = json!({
        "metadata": {"name": "caprock-registry"},
        "spec": {"clusterIP": "10.96.0.50", "ports": [{"port": 5000}]},
    });
    let service: Service = serde_json::from_value(service).unwrap();
    let services = world.api::<Service>(NAMESPACE);
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    let (_, reached) = registry.tell(now).await.unwrap();
    assert_eq!(reached.hosts[0], "10.96.0.50:5000");
}
