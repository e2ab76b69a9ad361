//! `caprock registry` as a cluster sees it: killed, started twice, given nonsense. The cluster is `caprock serve`.
#![allow(clippy::unwrap_used)]

mod served;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use oci::{BlobSource, ClientConfig, ClientError, Digest, DockerConfig, Reference, manifest};

use served::{DEADLINE, caprock, client, serve, start};

const NAMESPACE: &str = "openshift-machine-config-operator";
const KEY: &str = "openshift-machine-config-operator/caprock-registry-credentials";

/// A port that nobody has, below those that the system gives out by itself: it is taken again after a restart.
fn free_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..32_000).find(is_free).unwrap()
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A registry client with what a Secret and the ConfigMap hold now, once they have something for this registry.
async fn user(cluster: &Client, secret: &str, host: &str) -> Option<oci::Client> {
    let secrets: Api<Secret> = Api::namespaced(cluster.clone(), NAMESPACE);
    let secret = secrets.get_opt(secret).await.unwrap()?;
    let auth = DockerConfig::parse(&secret.data?.get(".dockerconfigjson")?.0).unwrap();
    auth.credentials_for(host, "os/test")?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.clone(), NAMESPACE);
    let map = maps.get_opt("registry-certs").await.unwrap()?;
    let cas: BTreeMap<String, Vec<u8>> = map
        .data?
        .into_iter()
        .map(|(host, pem)| (host.replace("..", ":"), pem.into_bytes()))
        .collect();
    let config = ClientConfig {
        auth,
        cas,
        ..ClientConfig::default()
    };
    Some(oci::Client::new(config).unwrap())
}

/// Pushes an image of one layer; returns its reference by digest.
async fn push(user: &oci::Client, image: &Reference) -> Result<Reference, ClientError> {
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let mut descriptors = Vec::new();
    for (kind, content) in [(CONFIG, "{}"), (LAYER, "a layer")] {
        let digest = Digest::of(content.as_bytes());
        let blob = manifest::descriptor(kind, content.len() as u64, digest);
        let source = BlobSource::Bytes(content.into());
        user.push_blob(image, &blob, source, None, &|_| {}).await?;
        descriptors.push(blob);
    }
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptors[0], "layers": [descriptors[1]],
    });
    let digest = user
        .push_manifest(image, text.to_string().into(), MANIFEST)
        .await?;
    Ok(image.with_digest(digest))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_killed_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let kubeconfig = path("data/kubeconfig");
    let _server = serve(dir.path(), &[]);
    let cluster = client(dir.path()).await;

    let host = format!("127.0.0.1:{}", free_port());
    let images = path("images");
    let args = [
        "registry",
        "--kubeconfig",
        &kubeconfig,
        "--data-dir",
        &images,
        "--listen",
        &host,
        "--host",
        &host,
        "--secret",
        KEY,
    ];
    let first = start(&args, &dir.path().join("first.log"));
    let builder = eventually("the builder is given a login", async || {
        user(&cluster, "global-pull-secret-copy", &host).await
    })
    .await;
    let image: Reference = format!("{host}/os/test:1").parse().unwrap();
    let pushed = push(&builder, &image).await.unwrap();
    let nodes = eventually("nodes are given a login", async || {
        user(&cluster, "node-pull-secret", &host).await
    })
    .await;
    nodes.resolve(&pushed).await.unwrap();
    let refused = push(&nodes, &image).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::Forbidden { .. }),
        "{refused}"
    );
    // The server's own registry is still in the same Secret.
    let secrets: Api<Secret> = Api::namespaced(cluster.clone(), NAMESPACE);
    let shared = secrets.get("global-pull-secret-copy").await.unwrap();
    let text = String::from_utf8(shared.data.unwrap()[".dockerconfigjson"].0.clone()).unwrap();
    assert_eq!(text.matches("\"auth\"").count(), 2);

    // A second one would write into the first one's data.
    let mut second = args;
    second[6] = "127.0.0.1:0";
    let output = caprock().args(second).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.contains("is in use; stop the other one first"),
        "{words}"
    );

    // In the middle of an upload, which nobody ends.
    builder.check_push(&image).await.unwrap();
    drop(first);
    let _again = start(&args, &dir.path().join("again.log"));
    eventually("what was given out opens it again", async || {
        nodes.resolve(&pushed).await.ok()
    })
    .await;
    assert_eq!(push(&builder, &image).await.unwrap(), pushed);
}

#[test]
fn nonsense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let words = |args: &[&str]| {
        let output = caprock()
            .args(["registry", "--data-dir", data])
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    for (args, code, expected) in [
        (vec![], 2, "--service"),
        (vec!["--service", "registry"], 2, "expected NAMESPACE/NAME"),
        (
            vec!["--host", "https://r.example"],
            1,
            "expected `HOST[:PORT]`",
        ),
        (
            vec!["--host", "r.example", "--credential-life=-1h"],
            2,
            "positive",
        ),
    ] {
        let (found, text) = words(&args);
        assert_eq!(found, Some(code), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}
