//! Pulling by way of mirrors, taking up what an earlier run began, and the bound of bandwidth.

#![allow(clippy::unwrap_used)]

mod common;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use common::{Fault, Server, blob, patience};
use http::Method;
use oci::manifest::{self, Descriptor, OCI_MANIFEST};
use oci::{
    Access, BlobSource, BlobStore, Client, ClientConfig, ClientError, Digest, Reference,
    Registries, Registry,
};
use serde_json::json;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A registry that anybody may use, its directory living as long as it.
async fn registry() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path().join("registry"), Access::anyone()).unwrap();
    (Server::tls(registry.router()).await, dir)
}

fn described(bytes: &Bytes) -> Descriptor {
    manifest::descriptor(LAYER, bytes.len() as u64, Digest::of(bytes))
}

async fn push(server: &Server, repository: &str, layer: &Bytes) -> Reference {
    let client = Client::new(server.config(None)).unwrap();
    let reference = server.reference(repository);
    let source = BlobSource::Bytes(layer.clone());
    client
        .push_blob(&reference, &described(layer), source, None, &|_| {})
        .await
        .unwrap();
    let image = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described(layer), "layers": [described(layer)]});
    let image = Bytes::from(image.to_string());
    client
        .push_manifest(&reference, image, OCI_MANIFEST)
        .await
        .unwrap();
    reference
}

/// A client that trusts both and knows `mirror` as the mirror of `origin`.
fn client(origin: &Server, mirror: &Server, more: &str) -> Client {
    let mut registries = Registries::default();
    let text = format!(
        "[[registry]]\nlocation = '{}'\n{more}\n[[registry.mirror]]\nlocation = '{}/copies'",
        origin.host(),
        mirror.host()
    );
    registries.add(Path::new("test.conf"), &text).unwrap();
    let mut config = origin.config(None);
    config.cas.extend(mirror.config(None).cas);
    Client::new(ClientConfig {
        registries,
        ..config
    })
    .unwrap()
}

#[tokio::test]
async fn a_mirror_serves_and_where_it_does_not_the_registry_does() {
    let ((origin, _one), (mirror, _two)) = (registry().await, registry().await);
    let (here, only_there) = (blob(1, 100_000), blob(2, 100_000));
    push(&mirror, "copies/os/base:1", &here).await;
    push(&origin, "os/base:1", &here).await;
    let other = push(&origin, "os/other:1", &only_there).await;
    let client = client(&origin, &mirror, "");
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    origin.faults.seen();
    let reference = origin.reference("os/base:1");
    client.resolve(&reference).await.unwrap();
    let image = client.manifest(&reference).await.unwrap();
    client
        .fetch_blob(&reference, &described(&here), &store, &|_| {})
        .await
        .unwrap();
    assert_eq!(
        origin.faults.seen(),
        Vec::<String>::new(),
        "the mirror was enough"
    );

    assert_ne!(client.manifest(&other).await.unwrap().digest, image.digest);
    client
        .fetch_blob(&other, &described(&only_there), &store, &|_| {})
        .await
        .unwrap();
    store.verify(&Digest::of(&only_there)).unwrap();
}

#[tokio::test]
async fn a_mirror_that_breaks_half_way_is_left_and_nothing_is_fetched_twice() {
    let ((origin, _one), (mirror, _two)) = (registry().await, registry().await);
    let layer = blob(3, 4_000_000);
    push(&mirror, "copies/os/base:1", &layer).await;
    let reference = push(&origin, "os/base:1", &layer).await;
    let client = client(&origin, &mirror, "");
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    mirror
        .faults
        .add(Method::GET, "/blobs/", Fault::Cut(2_500_000));
    origin.faults.seen();
    client
        .fetch_blob(&reference, &described(&layer), &store, &|_| {})
        .await
        .unwrap();
    store.verify(&Digest::of(&layer)).unwrap();
    let seen = origin.faults.seen();
    let ranged = seen.iter().any(|line| line.contains("bytes="));
    assert!(
        ranged && !seen.iter().any(|line| line.contains("bytes=0-")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn what_mirrors_said_is_told_when_nothing_helps() {
    let ((origin, _one), (mirror, _two)) = (registry().await, registry().await);
    let client = client(&origin, &mirror, "");
    let error = client
        .manifest(&origin.reference("os/base:1"))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("mirrors failed before"), "{text}");
    assert!(
        text.contains(&format!("{}/copies/os/base:1", mirror.host())),
        "{text}"
    );
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_blocked_registry_is_not_asked() {
    let ((origin, _one), (mirror, _two)) = (registry().await, registry().await);
    let reference = push(&origin, "os/base:1", &blob(4, 10)).await;
    let client = client(&origin, &mirror, "blocked = true");
    origin.faults.seen();
    let error = client.manifest(&reference).await.unwrap_err();
    assert!(matches!(error, ClientError::Blocked(_)), "{error}");
    assert!(origin.faults.seen().is_empty() && mirror.faults.seen().is_empty());
}

#[tokio::test]
async fn another_run_fetches_only_what_the_one_before_did_not() {
    let (origin, _one) = registry().await;
    let layer = blob(5, 4_000_000);
    let reference = push(&origin, "os/base:1", &layer).await;
    let dir = tempfile::tempdir().unwrap();
    let hasty = Client::new(ClientConfig {
        retry: patience(Duration::ZERO),
        ..origin.config(None)
    })
    .unwrap();
    origin
        .faults
        .add(Method::GET, "/blobs/", Fault::Cut(2_500_000));
    let store = BlobStore::open(dir.path()).unwrap();
    hasty
        .fetch_blob(&reference, &described(&layer), &store, &|_| {})
        .await
        .unwrap_err();
    drop(store);
    let store = BlobStore::open(dir.path()).unwrap();
    origin.faults.seen();
    let first = Mutex::new(None);
    Client::new(origin.config(None))
        .unwrap()
        .fetch_blob(&reference, &described(&layer), &store, &|bytes| {
            first.lock().unwrap().get_or_insert(bytes);
        })
        .await
        .unwrap();
    store.verify(&Digest::of(&layer)).unwrap();
    let mut seen = origin.faults.seen();
    seen.retain(|line| line.contains("/blobs/"));
    assert!(
        seen.iter()
            .all(|line| line.contains("bytes=") && !line.contains("bytes=0-")),
        "{seen:?}"
    );
    assert!(first.into_inner().unwrap().unwrap() > 1_000_000);
    let left = std::fs::read_dir(dir.path().join("partial"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_spoilt_beginning_is_thrown_away_not_kept_for_ever() {
    let (origin, _one) = registry().await;
    let layer = blob(6, 500_000);
    let reference = push(&origin, "os/base:1", &layer).await;
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let digest = Digest::of(&layer);
    let part = dir.path().join("partial").join(digest.hex());
    std::fs::write(&part, vec![0; 1000]).unwrap();
    let client = Client::new(origin.config(None)).unwrap();
    let wanted = described(&layer);
    let fetch = || client.fetch_blob(&reference, &wanted, &store, &|_| {});
    let error = fetch().await.unwrap_err();
    assert!(matches!(error, ClientError::Corrupt { .. }), "{error}");
    fetch().await.unwrap();
    store.verify(&digest).unwrap();
}

#[tokio::test]
async fn a_bounded_client_does_not_fetch_faster() {
    let (origin, _one) = registry().await;
    let layer = blob(7, 300_000);
    let reference = push(&origin, "os/base:1", &layer).await;
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let client = Client::new(ClientConfig {
        bytes_per_second: NonZeroU64::new(600_000),
        ..origin.config(None)
    })
    .unwrap();
    let started = std::time::Instant::now();
    client
        .fetch_blob(&reference, &described(&layer), &store, &|_| {})
        .await
        .unwrap();
    // A lower bound: however slow the machine, it cannot be quicker.
    assert!(started.elapsed() >= Duration::from_millis(450));
}
