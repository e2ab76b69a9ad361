//! Blobs and manifests that come in.

use crate::common::blob;
use crate::support::{Fixture, INDEX, MANIFEST, fixture, manifest};
use axum::body::Body;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use oci::manifest::Document;
use oci::{Access, Digest, Registry, RegistryError};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

#[tokio::test]
async fn a_blob_arrives_in_pieces() {
    let f = fixture();
    let content = blob(1, 100_000);
    let digest = Digest::of(&content);
    let started = f
        .ask(Method::POST, "/v2/a/b/blobs/uploads/", Body::empty())
        .await;
    assert_eq!((started.status, started.header("range")), (202, "0-0"));
    let place = started.header("location").to_owned();
    let answer = f
        .with(
            Method::PATCH,
            &place,
            &[("content-range", "0-39999")],
            content.slice(..40_000),
        )
        .await;
    assert_eq!((answer.status, answer.header("range")), (202, "0-39999"));
    let wrong = f
        .with(
            Method::PATCH,
            &place,
            &[("content-range", "50000-50001")],
            content.slice(..2),
        )
        .await;
    assert_eq!((wrong.status, wrong.header("range")), (416, "0-39999"));
    let status = f.get(&place).await;
    assert_eq!((status.status, status.header("range")), (204, "0-39999"));
    // Another repository has no part in it.
    let other = place.replace("/a/b/", "/other/");
    assert_eq!(f.get(&other).await.status, 404);
    let answer = f
        .ask(Method::PATCH, &place, content.slice(40_000..90_000))
        .await;
    assert_eq!(answer.status, 202);
    assert_eq!(f.get(&format!("/v2/a/b/blobs/{digest}")).await.status, 404);
    let done = f
        .ask(
            Method::PUT,
            &format!("{place}?digest={digest}"),
            content.slice(90_000..),
        )
        .await;
    assert_eq!(
        (done.status, done.header("docker-content-digest")),
        (201, digest.to_string().as_str())
    );
    assert_eq!(f.get(done.header("location")).await.body, content);
    assert_eq!(f.get(&place).await.code(), "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(
        f.get(&format!("/v2/other/blobs/{digest}")).await.status,
        404
    );
}

#[tokio::test]
async fn an_upload_can_fail_or_be_given_up() {
    let f = fixture();
    let start = async || {
        f.ask(Method::POST, "/v2/a/blobs/uploads/", Body::empty())
            .await
            .header("location")
            .to_owned()
    };
    let place = start().await;
    for query in ["", "?digest=", "?digest=sha256:0"] {
        let answer = f.ask(Method::PUT, &format!("{place}{query}"), "x").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "DIGEST_INVALID"),
            "{query}"
        );
    }
    let wrong = f
        .ask(
            Method::PUT,
            &format!("{place}?digest={}", Digest::of(b"y")),
            "x",
        )
        .await;
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (400, "DIGEST_INVALID")
    );
    assert_eq!(f.get(&place).await.status, 404);

    let place = start().await;
    assert_eq!(
        f.ask(Method::DELETE, &place, Body::empty()).await.status,
        204
    );
    assert_eq!(f.get(&place).await.status, 404);

    // A piece that is cut stays as far as it came.
    let place = start().await;
    let pieces = [
        Ok(Bytes::from_static(b"first")),
        Err(std::io::Error::other("cut")),
    ];
    let cut = f
        .ask(
            Method::PATCH,
            &place,
            Body::from_stream(futures::stream::iter(pieces)),
        )
        .await;
    assert_eq!(
        (cut.status, cut.code().as_str()),
        (400, "BLOB_UPLOAD_INVALID")
    );
    assert_eq!(f.get(&place).await.header("range"), "0-4");

    // A restart forgets uploads and cleans up after them.
    let incoming = f.dir.path().join("incoming");
    assert_eq!(std::fs::read_dir(&incoming).unwrap().count(), 1);
    drop(f.registry);
    let registry = Registry::open(f.dir.path(), Access::anyone()).unwrap();
    assert_eq!(std::fs::read_dir(&incoming).unwrap().count(), 0);
    let f = Fixture {
        registry,
        dir: f.dir,
    };
    assert_eq!(f.get(&place).await.code(), "BLOB_UPLOAD_UNKNOWN");
    // Nor may two have it open at once.
    let second = Registry::open(f.dir.path(), Access::anyone());
    assert!(matches!(second, Err(RegistryError::InUse(_))));
}

#[tokio::test]
async fn uploads_are_limited_in_number() {
    let f = fixture();
    for _ in 0..256 {
        assert_eq!(
            f.ask(Method::POST, "/v2/a/blobs/uploads/", Body::empty())
                .await
                .status,
            202
        );
    }
    let answer = f
        .ask(Method::POST, "/v2/a/blobs/uploads/", Body::empty())
        .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "TOOMANYREQUESTS")
    );
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_it_is() {
    let f = fixture();
    let digest = f.push_blob("a", &blob(3, 100)).await;
    let mounted = f
        .ask(
            Method::POST,
            &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"),
            Body::empty(),
        )
        .await;
    assert_eq!(
        (mounted.status, mounted.header("docker-content-digest")),
        (201, digest.to_string().as_str())
    );
    assert_eq!(f.get(&format!("/v2/b/blobs/{digest}")).await.status, 200);
    for from in ["&from=c", "", "&from=../a"] {
        let answer = f
            .ask(
                Method::POST,
                &format!("/v2/d/blobs/uploads/?mount={digest}{from}"),
                Body::empty(),
            )
            .await;
        assert_eq!(answer.status, 202, "{from}");
    }
}

#[tokio::test]
async fn a_manifest_needs_what_it_refers_to() {
    let f = fixture();
    let (config, layer) = (Bytes::from_static(b"{}"), blob(4, 100));
    let image = manifest(&config, &[&layer]);
    let code = async |image: &Value| {
        let answer = f.put_manifest("a", "1", image).await;
        (
            answer.status,
            if answer.status == 201 {
                String::new()
            } else {
                answer.code()
            },
        )
    };
    f.push_blob("a", &layer).await;
    f.push_blob("elsewhere", &config).await;
    assert_eq!(
        code(&image).await,
        (404, "MANIFEST_BLOB_UNKNOWN".to_owned())
    );
    f.push_blob("a", &config).await;
    let mut wrong = image.clone();
    wrong["layers"][0]["size"] = 99.into();
    assert_eq!(code(&wrong).await, (400, "MANIFEST_INVALID".to_owned()));
    let mut elsewhere = manifest(&config, &[&blob(5, 10)]);
    elsewhere["layers"][0]["urls"] = json!(["https://elsewhere.example/layer"]);
    assert_eq!(code(&elsewhere).await.0, 201);
    for broken in [
        json!({ "mediaType": MANIFEST }),
        json!({ "mediaType": "text/plain" }),
        json!({ "mediaType": INDEX, "schemaVersion": 1, "manifests": [] }),
    ] {
        assert_eq!(
            code(&broken).await,
            (400, "MANIFEST_INVALID".to_owned()),
            "{broken}"
        );
    }
    assert_eq!(code(&image).await.0, 201);
    let pinned = f
        .put_manifest("a", &Digest::of(b"other").to_string(), &image)
        .await;
    assert_eq!(
        (pinned.status, pinned.code().as_str()),
        (400, "DIGEST_INVALID")
    );
    let long = vec![b' '; (4 << 20) + 1];
    let answer = f
        .with(
            Method::PUT,
            "/v2/a/manifests/1",
            &[("content-type", MANIFEST)],
            long,
        )
        .await;
    assert_eq!(answer.status, 413);
    let mut index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    index["manifests"] = json!([{ "mediaType": MANIFEST, "digest": Digest::of(b"no"), "size": 2 }]);
    assert_eq!(
        code(&index).await,
        (404, "MANIFEST_BLOB_UNKNOWN".to_owned())
    );
    let text = image.to_string();
    index["manifests"] = json!([{ "mediaType": MANIFEST, "digest": Digest::of(text.as_bytes()), "size": text.len() }]);
    assert_eq!(code(&index).await.0, 201);
}

#[tokio::test]
async fn content_types_must_agree() {
    let f = fixture();
    let config = Bytes::from_static(b"{}");
    f.push_blob("a", &config).await;
    let image = manifest(&config, &[]).to_string();
    let put = async |headers: &[(&str, &str)]| {
        f.with(Method::PUT, "/v2/a/manifests/1", headers, image.clone())
            .await
    };
    assert_eq!(
        put(&[(header::CONTENT_TYPE.as_str(), INDEX)]).await.code(),
        "MANIFEST_INVALID"
    );
    assert_eq!(put(&[]).await.status, StatusCode::CREATED);
}

/// Pushes images until it is killed. Only of use as a child of the next test, which names the directory.
#[test]
fn child_pushes_for_ever() {
    let Some(dir) = std::env::var_os("OCI_TEST_REGISTRY") else {
        return;
    };
    let registry = Registry::open(dir, Access::anyone()).unwrap();
    for n in 0.. {
        let (config, layer) = (Bytes::from(format!("{{\"n\":{n}}}")), blob(n, 100_000));
        for content in [&config, &layer] {
            let digest = registry.blobs().put(content).unwrap();
            registry.link_blob("a/b", &digest).unwrap();
        }
        let image = manifest(&config, &[&layer]).to_string();
        let document = Document::parse(image, None).unwrap();
        registry
            .put_manifest("a/b", Some(&format!("v{n}")), &document)
            .unwrap();
        // Tells the parent that there is something to see.
        std::io::stderr().write_all(b".").unwrap();
    }
}

#[tokio::test]
async fn a_killed_registry_has_whole_images_only() {
    let kept = tempfile::tempdir().unwrap();
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "push::child_pushes_for_ever", "--nocapture"])
            .env("OCI_TEST_REGISTRY", kept.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It pushes what is there already first; it is killed in the middle of something.
        let mut dots = vec![0; 3 * round];
        child
            .stderr
            .as_mut()
            .unwrap()
            .read_exact(&mut dots)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let f = Fixture {
            registry: Registry::open(kept.path(), Access::anyone()).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        };
        let tags = f.get("/v2/a/b/tags/list").await.json();
        let tags = tags["tags"].as_array().unwrap();
        assert!(tags.len() >= 3 * round);
        for tag in tags {
            let image = f
                .get(&format!("/v2/a/b/manifests/{}", tag.as_str().unwrap()))
                .await;
            assert_eq!(image.status, 200);
            let (config, layers) = (&image.json()["config"], &image.json()["layers"]);
            for descriptor in std::iter::once(config).chain(layers.as_array().unwrap()) {
                let digest = descriptor["digest"].as_str().unwrap();
                let content = f.get(&format!("/v2/a/b/blobs/{digest}")).await.body;
                assert_eq!(Digest::of(&content).to_string(), digest);
            }
        }
        assert_eq!(
            std::fs::read_dir(kept.path().join("staging"))
                .unwrap()
                .count(),
            0
        );
    }
}

/// A file system of 4 MiB over a directory, gone with its value.
struct Small(std::path::PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.unwrap().success());
    }
}

#[tokio::test]
async fn privileged_a_blob_that_fills_the_disk_is_refused_and_leaves_nothing() {
    if std::env::var("CAPROCK_TEST_PRIVILEGED").as_deref() != Ok("1") {
        eprintln!("skipped: CAPROCK_TEST_PRIVILEGED is not 1");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "small"])
        .arg(dir.path())
        .status();
    assert!(mounted.unwrap().success());
    let registry = Registry::open(dir.path(), Access::anyone()).unwrap();
    let small = Small(dir.path().to_owned());
    let f = Fixture { registry, dir };
    let large = blob(1, 8 << 20);
    let digest = Digest::of(&large);
    for _ in 0..2 {
        let place = f
            .ask(Method::POST, "/v2/a/b/blobs/uploads/", Body::empty())
            .await
            .header("location")
            .to_owned();
        let put = format!("{place}?digest={digest}");
        let refused = f.ask(Method::PUT, &put, large.clone()).await;
        assert_eq!(refused.status, 507, "{:?}", refused.body);
        let said = refused.json()["errors"][0]["message"].to_string();
        assert!(said.contains("no room left"), "{said}");
        assert_eq!(f.get(&place).await.status, 404, "the upload is over");
    }
    // There is room again for what fits.
    f.push_blob("a/b", &blob(2, 2 << 20)).await;
    drop(small);
}
