//! What the registry says of itself, and who may do what.

use crate::support::{Fixture, fixture};
use axum::body::Body;
use base64::Engine as _;
use http::Method;
use oci::{Access, Permission, Registry};

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
