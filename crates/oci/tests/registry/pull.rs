//! Blobs, manifests and lists that are read.

use crate::common::blob;
use crate::support::{Fixture, INDEX, MANIFEST, fixture, manifest};
use axum::body::Body;
use bytes::Bytes;
use http::Method;
use oci::{Access, Digest, Registry};
use serde_json::json;

#[tokio::test]
async fn blobs_are_read_whole_and_in_parts() {
    let f = fixture();
    let content = blob(2, 1000);
    let digest = f.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    let head = f.ask(Method::HEAD, &path, Body::empty()).await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, "1000", 0)
    );
    let part = f
        .with(
            Method::GET,
            &path,
            &[("range", "bytes=990-")],
            Body::empty(),
        )
        .await;
    assert_eq!(
        (part.status, part.header("content-range")),
        (206, "bytes 990-999/1000")
    );
    assert_eq!(part.body, content.slice(990..));
    let part = f
        .with(
            Method::GET,
            &path,
            &[("range", "bytes=10-19")],
            Body::empty(),
        )
        .await;
    assert_eq!(part.body, content.slice(10..20));
    let beyond = f
        .with(
            Method::GET,
            &path,
            &[("range", "bytes=1000-")],
            Body::empty(),
        )
        .await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, "bytes */1000")
    );
    assert_eq!(
        f.ask(Method::DELETE, &path, Body::empty()).await.status,
        202
    );
    assert_eq!(
        f.ask(Method::DELETE, &path, Body::empty()).await.status,
        404
    );
    assert_eq!(f.get(&path).await.code(), "BLOB_UNKNOWN");
}

#[tokio::test]
async fn manifests_are_found_by_tag_and_digest() {
    let f = fixture();
    let config = Bytes::from_static(b"{}");
    f.push_blob("a/b", &config).await;
    let image = manifest(&config, &[]);
    let digest = Digest::of(image.to_string().as_bytes());
    let put = f.put_manifest("a/b", "v1", &image).await;
    assert_eq!(
        put.header("location"),
        format!("/v2/a/b/manifests/{digest}")
    );
    f.put_manifest("a/b", "v2", &image).await;
    for version in ["v1", "v2", &digest.to_string()] {
        let path = format!("/v2/a/b/manifests/{version}");
        let got = f.get(&path).await;
        assert_eq!(
            (got.status, got.header("content-type"), &got.body[..]),
            (200, MANIFEST, image.to_string().as_bytes())
        );
        assert_eq!(got.header("docker-content-digest"), digest.to_string());
    }
    // All of it survives a restart.
    drop(f.registry);
    let f = Fixture {
        registry: Registry::open(f.dir.path(), Access::anyone()).unwrap(),
        dir: f.dir,
    };
    assert_eq!(
        f.get("/v2/a/b/tags/list").await.json(),
        json!({ "name": "a/b", "tags": ["v1", "v2"] })
    );
    let page = f.get("/v2/a/b/tags/list?n=1").await;
    assert_eq!(page.json()["tags"], json!(["v1"]));
    assert_eq!(
        page.header("link"),
        "</v2/a/b/tags/list?n=1&last=v1>; rel=\"next\""
    );
    let page = f.get("/v2/a/b/tags/list?n=1&last=v1").await;
    assert_eq!(
        (page.json()["tags"].clone(), page.header("link")),
        (json!(["v2"]), "")
    );
    assert_eq!(
        f.get("/v2/a/b/tags/list?n=0").await.json()["tags"],
        json!([])
    );

    assert_eq!(
        f.ask(Method::DELETE, "/v2/a/b/manifests/v1", Body::empty())
            .await
            .status,
        202
    );
    assert_eq!(f.get("/v2/a/b/manifests/v1").await.status, 404);
    assert_eq!(f.get("/v2/a/b/manifests/v2").await.status, 200);
    assert_eq!(
        f.ask(
            Method::DELETE,
            &format!("/v2/a/b/manifests/{digest}"),
            Body::empty()
        )
        .await
        .status,
        202
    );
    assert_eq!(f.get("/v2/a/b/manifests/v2").await.status, 404);
    assert_eq!(f.get("/v2/a/b/tags/list").await.json()["tags"], json!([]));
}

#[tokio::test]
async fn referrers_are_listed_for_their_subject() {
    let f = fixture();
    let config = Bytes::from_static(b"{}");
    f.push_blob("a", &config).await;
    let image = manifest(&config, &[]);
    let digest = Digest::of(image.to_string().as_bytes());
    let path = format!("/v2/a/referrers/{digest}");
    assert_eq!(f.get(&path).await.json()["manifests"], json!([]));
    let mut signature = image.clone();
    // The subject need not be there yet.
    signature["subject"] = json!({ "mediaType": MANIFEST, "digest": digest, "size": 1 });
    signature["artifactType"] = "application/x-signature".into();
    signature["annotations"] = json!({ "by": "us" });
    let signed = Digest::of(signature.to_string().as_bytes());
    let put = f.put_manifest("a", &signed.to_string(), &signature).await;
    assert_eq!(put.header("oci-subject"), digest.to_string());
    f.put_manifest("a", "1", &image).await;
    let answer = f.get(&path).await;
    assert_eq!(answer.header("content-type"), INDEX);
    let expected = json!([{
        "mediaType": MANIFEST,
        "digest": signed,
        "size": signature.to_string().len(),
        "artifactType": "application/x-signature",
        "annotations": { "by": "us" },
    }]);
    assert_eq!(answer.json()["manifests"], expected);
    let filtered = f
        .get(&format!("{path}?artifactType=application%2Fx-signature"))
        .await;
    assert_eq!(
        (
            filtered.json()["manifests"].clone(),
            filtered.header("oci-filters-applied")
        ),
        (expected, "artifactType")
    );
    assert_eq!(
        f.get(&format!("{path}?artifactType=other")).await.json()["manifests"],
        json!([])
    );
    f.ask(
        Method::DELETE,
        &format!("/v2/a/manifests/{signed}"),
        Body::empty(),
    )
    .await;
    assert_eq!(f.get(&path).await.json()["manifests"], json!([]));
}
