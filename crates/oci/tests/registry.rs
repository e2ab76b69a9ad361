//! The registry by its protocol: what the distribution specification says, request by request.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use axum::body::Body;
use base64::Engine as _;
use bytes::Bytes;
use common::{Server, blob};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use oci::manifest::Document;
use oci::{Access, Digest, Permission, Registry, RegistryError};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Fixture {
    registry: Registry,
    dir: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path(), Access::anyone()).unwrap();
    Fixture { registry, dir }
}

impl Fixture {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.registry.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.send(
            Request::builder()
                .method(method)
                .uri(path)
                .body(body.into())
                .unwrap(),
        )
        .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, Body::empty()).await
    }

    async fn with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn push_blob(&self, repository: &str, content: &Bytes) -> Digest {
        let digest = Digest::of(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let answer = self.ask(Method::POST, &path, content.clone()).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        digest
    }

    async fn put_manifest(&self, repository: &str, version: &str, manifest: &Value) -> Answer {
        let media_type = manifest["mediaType"].as_str().unwrap();
        let path = format!("/v2/{repository}/manifests/{version}");
        self.with(
            Method::PUT,
            &path,
            &[("content-type", media_type)],
            manifest.to_string(),
        )
        .await
    }
}

fn manifest(config: &Bytes, layers: &[&Bytes]) -> Value {
    let descriptor = |media_type: &str, content: &Bytes| json!({ "mediaType": media_type, "digest": Digest::of(content), "size": content.len() });
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer)).collect::<Vec<_>>(),
    })
}

#[tokio::test]
async fn it_speaks_the_protocol() {
    let f = fixture();
    let answer = f.get("/v2/").await;
    assert_eq!(
        (
            answer.status,
            answer.header("docker-distribution-api-version")
        ),
        (200, "registry/2.0")
    );
    let cases = [
        (Method::GET, "/", 404, "UNSUPPORTED"),
        (Method::POST, "/v2/", 405, "UNSUPPORTED"),
        (Method::GET, "/v2/UPPER/tags/list", 400, "NAME_INVALID"),
        (Method::GET, "/v2/a/blobs/sha256:0", 400, "DIGEST_INVALID"),
        (
            Method::GET,
            "/v2/a/../../etc/manifests/x",
            400,
            "NAME_INVALID",
        ),
        (Method::GET, "/v2/a/manifests/none", 404, "MANIFEST_UNKNOWN"),
        (Method::GET, "/v2/a/tags/list", 404, "NAME_UNKNOWN"),
        (
            Method::PATCH,
            "/v2/a/blobs/uploads/none",
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (
            Method::PATCH,
            "/v2/a/blobs/uploads/..%2f..",
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (
            Method::DELETE,
            "/v2/a/manifests/none",
            404,
            "MANIFEST_UNKNOWN",
        ),
    ];
    for (method, path, status, code) in cases {
        let answer = f.ask(method, path, Body::empty()).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path}"
        );
    }
}

#[tokio::test]
async fn users_may_do_what_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let access =
        Access::nobody()
            .user("node", "n", Permission::Pull)
            .user("builder", "b", Permission::Push);
    let f = Fixture {
        registry: Registry::open(dir.path(), access).unwrap(),
        dir,
    };
    let basic = |text: &str| {
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(text)
        )
    };
    let cases = [
        (None, Method::GET, 401),
        (Some("node:wrong"), Method::GET, 401),
        (Some("node:n"), Method::GET, 200),
        (Some("builder:b"), Method::GET, 200),
    ];
    for (user, method, status) in cases {
        let authorization = user.map(basic);
        let headers: Vec<_> = authorization
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        let answer = f.with(method, "/v2/", &headers, Body::empty()).await;
        assert_eq!(answer.status, status, "{user:?}");
        assert_eq!(
            answer
                .header("www-authenticate")
                .starts_with("Basic realm="),
            status == 401
        );
    }
    for (user, status) in [("node:n", 403), ("builder:b", 202)] {
        let headers = [("authorization", &*basic(user))];
        let answer = f
            .with(
                Method::POST,
                "/v2/a/blobs/uploads/",
                &headers,
                Body::empty(),
            )
            .await;
        assert_eq!(answer.status, status, "{user}");
    }
}

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
            .args(["--exact", "child_pushes_for_ever", "--nocapture"])
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

fn gzip(content: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap().into()
}

/// Needs skopeo: a client by somebody else.
#[tokio::test]
async fn privileged_skopeo_copies_to_and_from() {
    if std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_none() {
        eprintln!("skipped: set CAPROCK_TEST_PRIVILEGED=1");
        return;
    }
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skipped: skopeo is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let access = Access::nobody().user("builder", "secret", Permission::Push);
    let registry = Registry::open(dir.path().join("registry"), access).unwrap();
    let server = Server::tls(registry.router()).await;
    let certificates = dir.path().join("certs");
    std::fs::create_dir(&certificates).unwrap();
    std::fs::write(certificates.join("ca.crt"), server.ca.as_ref().unwrap()).unwrap();

    // An image of one layer, as an OCI layout.
    let layout = dir.path().join("layout");
    let blobs = oci::BlobStore::open(&layout).unwrap();
    let content = blob(9, 3_000_000);
    let layer = gzip(&content);
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&content)] },
    });
    let config = Bytes::from(config.to_string());
    let mut image = manifest(&config, &[&layer]);
    image["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip".into();
    let image = image.to_string();
    for content in [&layer[..], &config[..], image.as_bytes()] {
        blobs.put(content).unwrap();
    }
    let entry = json!({ "mediaType": MANIFEST, "digest": Digest::of(image.as_bytes()), "size": image.len() });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        layout.join("oci-layout"),
        "{\"imageLayoutVersion\":\"1.0.0\"}",
    )
    .unwrap();

    let skopeo = async |args: Vec<String>| {
        let certificates = certificates.display().to_string();
        let mut command = tokio::process::Command::new("skopeo");
        command.arg("--insecure-policy").arg(&args[0]);
        for side in if args[0] == "copy" {
            vec!["src-", "dest-"]
        } else {
            vec![""]
        } {
            command.args([
                format!("--{side}creds=builder:secret"),
                format!("--{side}cert-dir={certificates}"),
            ]);
        }
        let output = command.args(&args[1..]).output().await.unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    let there = format!("docker://{}/os/base:1", server.address);
    let copy = format!("docker://{}/os/copy:1", server.address);
    let back = dir.path().join("back");
    skopeo(vec![
        "copy".into(),
        format!("oci:{}", layout.display()),
        there.clone(),
    ])
    .await;
    skopeo(vec!["copy".into(), there.clone(), copy.clone()]).await;
    skopeo(vec![
        "copy".into(),
        copy.clone(),
        format!("oci:{}", back.display()),
    ])
    .await;
    let raw = skopeo(vec!["inspect".into(), "--raw".into(), copy]).await;
    assert_eq!(String::from_utf8(raw).unwrap(), image);
    let digest = Digest::of(&layer);
    assert_eq!(
        std::fs::read(back.join("blobs/sha256").join(digest.hex())).unwrap(),
        layer
    );
    skopeo(vec!["delete".into(), there]).await;
}
