//! Garbage collection.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Method;
use oci::{Collected, Digest};

use crate::support::{Fixture, fixture, manifest};

const GRACE: Duration = Duration::from_secs(3600);

/// Makes everything older than the grace.
fn age(f: &Fixture) {
    let then = SystemTime::now() - 2 * GRACE;
    let mut todo = vec![f.dir.path().to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.set_modified(then).unwrap();
            }
        }
    }
}

async fn has(f: &Fixture, repository: &str, digest: &Digest) -> bool {
    let path = format!("/v2/{repository}/blobs/{digest}");
    f.get(&path).await.status == 200
}

#[tokio::test]
async fn what_a_manifest_needs_stays() {
    let f = fixture();
    let contents = ["{}", "layer", "lonely"].map(Bytes::from);
    let mut digests = Vec::new();
    for content in &contents {
        digests.push(f.push_blob("a/b", content).await);
    }
    f.push_blob("c", &contents[2]).await;
    // No tag: a node may still name it by digest.
    let image = manifest(&contents[0], &[&contents[1]]);
    let digest = Digest::of(image.to_string().as_bytes());
    f.put_manifest("a/b", &digest.to_string(), &image).await;
    f.put_manifest("a/b", "tag", &image).await;

    assert_eq!(
        f.registry.collect_garbage(GRACE).unwrap(),
        Collected::default()
    );
    age(&f);
    let collected = f.registry.collect_garbage(GRACE).unwrap();
    assert_eq!(
        (collected.unlinked, collected.blobs, collected.bytes),
        (2, 1, 6)
    );
    assert!(has(&f, "a/b", &digests[0]).await && has(&f, "a/b", &digests[1]).await);
    assert!(!has(&f, "a/b", &digests[2]).await);
    assert_eq!(
        f.get(&format!("/v2/a/b/manifests/{digest}")).await.status,
        200
    );
    f.ask(Method::DELETE, "/v2/a/b/manifests/tag", Bytes::new())
        .await;
    assert_eq!(
        f.registry.collect_garbage(GRACE).unwrap(),
        Collected::default()
    );

    f.ask(
        Method::DELETE,
        &format!("/v2/a/b/manifests/{digest}"),
        Bytes::new(),
    )
    .await;
    age(&f);
    let collected = f.registry.collect_garbage(GRACE).unwrap();
    // The manifest's own bytes too.
    assert_eq!((collected.unlinked, collected.blobs), (2, 3));
    assert_eq!(f.registry.blobs().list().unwrap(), []);
}

#[tokio::test]
async fn what_a_client_was_told_of_stays() {
    let f = fixture();
    let content = Bytes::from("about to be named");
    let digest = f.push_blob("a", &content).await;
    age(&f);
    let path = format!("/v2/a/blobs/{digest}");
    assert_eq!(f.ask(Method::HEAD, &path, Bytes::new()).await.status, 200);
    assert_eq!(
        f.registry.collect_garbage(GRACE).unwrap(),
        Collected::default()
    );
    // A blob that another repository needs may be mounted.
    age(&f);
    let mount = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    assert_eq!(f.ask(Method::POST, &mount, Bytes::new()).await.status, 201);
    f.registry.collect_garbage(GRACE).unwrap();
    assert!(has(&f, "b", &digest).await);
    assert!(!has(&f, "a", &digest).await);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_keeps_everything() {
    let f = fixture();
    let content = Bytes::from("{}");
    let digest = f.push_blob("a", &content).await;
    let image = manifest(&content, &[]);
    f.put_manifest("a", "x", &image).await;
    let lonely = f.push_blob("a", &Bytes::from("lonely")).await;
    f.registry
        .blobs()
        .remove(&Digest::of(image.to_string().as_bytes()))
        .unwrap();
    age(&f);
    assert!(f.registry.collect_garbage(GRACE).is_err());
    assert!(has(&f, "a", &digest).await && has(&f, "a", &lonely).await);
}

/// Clients name layers that have lain about unneeded for long, while all of those are collected: either the client hears
/// that the layer is gone and sends it, or it stays. No image that was taken is ever without a layer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn images_pushed_beside_collections_are_whole() {
    let f = std::sync::Arc::new(fixture());
    for round in 0..ROUNDS {
        for repository in ["r0", "r1"] {
            f.push_blob(repository, &layer_of(round)).await;
        }
    }
    age(&f);
    let push = |pusher: usize| {
        let f = f.clone();
        async move {
            for round in 0..ROUNDS {
                let config = Bytes::from(format!("{{\"round\": {round}}}"));
                let shared = layer_of(round);
                let image = manifest(&config, &[&shared]);
                let repository = format!("r{}", pusher % 2);
                for content in [&config, &shared] {
                    let digest = Digest::of(content);
                    if !has_head(&f, &repository, &digest).await {
                        f.push_blob(&repository, content).await;
                    }
                }
                let tag = format!("t{pusher}-{round}");
                let put = f.put_manifest(&repository, &tag, &image).await;
                assert_eq!(put.status, 201, "{:?}", put.body);
                // Half of them are taken back at once, by tag.
                if round % 2 == 0 {
                    let path = format!("/v2/{repository}/manifests/{tag}");
                    assert_eq!(f.ask(Method::DELETE, &path, "").await.status, 202);
                }
            }
        }
    };
    let collect = {
        let f = f.clone();
        tokio::task::spawn_blocking(move || {
            for _ in 0..40 {
                f.registry.collect_garbage(GRACE).unwrap();
            }
        })
    };
    let pushers: Vec<_> = (0..4).map(|pusher| tokio::spawn(push(pusher))).collect();
    for pusher in pushers {
        pusher.await.unwrap();
    }
    collect.await.unwrap();
    age(&f);
    f.registry.collect_garbage(GRACE).unwrap();
    for pusher in 0..4 {
        for round in (1..ROUNDS).step_by(2) {
            let repository = format!("r{}", pusher % 2);
            let found = f
                .get(&format!("/v2/{repository}/manifests/t{pusher}-{round}"))
                .await;
            assert_eq!(found.status, 200);
            let layer = Digest::of(&layer_of(round));
            assert!(has(&f, &repository, &layer).await, "{repository} {round}");
        }
    }
}

const ROUNDS: usize = 12;

fn layer_of(round: usize) -> Bytes {
    format!("layer of round {round}").into()
}

async fn has_head(f: &Fixture, repository: &str, digest: &Digest) -> bool {
    let path = format!("/v2/{repository}/blobs/{digest}");
    f.ask(Method::HEAD, &path, "").await.status == 200
}
