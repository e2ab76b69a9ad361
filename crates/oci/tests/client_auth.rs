//! The client against a registry that wants tokens of a token service, and one that sends blobs from elsewhere.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{any, get};
use base64::Engine as _;
use bytes::Bytes;
use common::Server;
use http::{Method, StatusCode, header};
use oci::manifest::{self, Descriptor};
use oci::{
    Access, BlobSource, BlobStore, Client, ClientConfig, ClientError, Digest, DockerConfig, Pushed,
    Registry,
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Gives out numbered tokens and remembers what was asked.
#[derive(Clone, Default)]
struct TokenService {
    given: Arc<AtomicUsize>,
    /// Tokens before this one are no longer good.
    oldest: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn give(State(service): State<TokenService>, request: Request) -> Response {
    let basic = format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode("user:secret")
    );
    let authorization = request
        .headers()
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().unwrap().to_owned());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let body = axum::body::to_bytes(request.into_body(), 10_000)
        .await
        .unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    service
        .asked
        .lock()
        .unwrap()
        .push(format!("{method} {uri} {body}"));
    let refreshed = method == Method::POST && body.contains("refresh_token=t0ken%2F");
    if authorization != Some(basic) && !refreshed {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let token = service.given.fetch_add(1, Ordering::SeqCst);
    axum::Json(serde_json::json!({ "token": format!("t{token}"), "expires_in": 300 }))
        .into_response()
}

async fn want(
    State((service, host)): State<(TokenService, String)>,
    request: Request,
    next: Next,
) -> Response {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| {
            value
                .to_str()
                .unwrap()
                .strip_prefix("Bearer t")?
                .parse::<usize>()
                .ok()
        });
    match token {
        Some(token) if token >= service.oldest.load(Ordering::SeqCst) => next.run(request).await,
        _ => {
            let challenge =
                format!("Bearer realm=\"https://{host}/token\",service=\"here\",scope=\"ignored\"");
            (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, challenge)],
            )
                .into_response()
        }
    }
}

struct Fixture {
    server: Server,
    service: TokenService,
    _dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path(), Access::anyone()).unwrap();
    let service = TokenService::default();
    let server = Server::tls_with(|host| {
        let wants = middleware::from_fn_with_state((service.clone(), host), want);
        registry.router().layer(wants).merge(
            Router::new()
                .route("/token", any(give))
                .with_state(service.clone()),
        )
    });
    Fixture {
        server: server.await,
        service,
        _dir: dir,
    }
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    manifest::descriptor(LAYER, bytes.len() as u64, Digest::of(bytes))
}

async fn push(
    client: &Client,
    server: &Server,
    content: &'static [u8],
) -> Result<Pushed, ClientError> {
    let (reference, from) = (server.reference("a/b"), server.reference("c"));
    let source = BlobSource::Bytes(Bytes::from_static(content));
    client
        .push_blob(
            &reference,
            &descriptor(content),
            source,
            Some(&from),
            &|_| {},
        )
        .await
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_when_it_is_refused() {
    let f = fixture().await;
    let client = Client::new(f.server.config(Some(("user", "secret")))).unwrap();
    assert_eq!(
        push(&client, &f.server, b"one").await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(
        push(&client, &f.server, b"two").await.unwrap(),
        Pushed::Uploaded
    );
    let scope = "scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull&service=here";
    assert_eq!(
        *f.service.asked.lock().unwrap(),
        [format!("GET /token?{scope} ")]
    );
    f.service.oldest.store(1, Ordering::SeqCst);
    assert_eq!(
        push(&client, &f.server, b"three").await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(f.service.given.load(Ordering::SeqCst), 2);
    // Rights to pull are another matter.
    let error = client
        .resolve(&f.server.reference("a/b"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotFound(_)), "{error}");
    assert_eq!(f.service.given.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_refresh_token_is_exchanged() {
    let f = fixture().await;
    let config = format!(
        "{{\"auths\": {{\"{}\": {{\"identitytoken\": \"t0ken/\"}}}}}}",
        f.server.host()
    );
    let auth = DockerConfig::parse(config.as_bytes()).unwrap();
    let client = Client::new(ClientConfig {
        auth,
        ..f.server.config(None)
    })
    .unwrap();
    let error = client
        .resolve(&f.server.reference("a/b"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotFound(_)), "{error}");
    let asked = f.service.asked.lock().unwrap().join("\n");
    assert!(
        asked.starts_with("POST /token ") && asked.contains("grant_type=refresh_token"),
        "{asked}"
    );
}

#[tokio::test]
async fn refused_credentials_are_told_from_missing_ones() {
    let f = fixture().await;
    let reference = f.server.reference("a/b");
    for (user, missing) in [(None, true), (Some(("user", "wrong")), false)] {
        let client = Client::new(f.server.config(user)).unwrap();
        match client.resolve(&reference).await.unwrap_err() {
            ClientError::NoCredentials { .. } => assert!(missing),
            ClientError::Unauthorized { .. } => assert!(!missing),
            other => panic!("{other}"),
        }
    }
    // A registry that never stops asking.
    f.service.oldest.store(usize::MAX, Ordering::SeqCst);
    let client = Client::new(f.server.config(Some(("user", "secret")))).unwrap();
    let error = client.resolve(&reference).await.unwrap_err();
    assert!(matches!(error, ClientError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn a_blob_elsewhere_is_fetched_without_the_credentials() {
    let content: &[u8] = b"content from elsewhere";
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let elsewhere = Server::tls(Router::new().route(
        "/data",
        get(move |request: Request| async move {
            record
                .lock()
                .unwrap()
                .push(request.headers().contains_key(header::AUTHORIZATION));
            content
        }),
    ));
    let elsewhere = elsewhere.await;
    let registry = |target: String| {
        Router::new().fallback(move |request: Request| async move {
            match request.headers().contains_key(header::AUTHORIZATION) {
                true => Redirect::temporary(&target).into_response(),
                false => (
                    StatusCode::UNAUTHORIZED,
                    [(header::WWW_AUTHENTICATE, "Basic realm=\"x\"")],
                )
                    .into_response(),
            }
        })
    };
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let fetch = async |target: String| {
        let server = Server::tls(registry(target)).await;
        let mut config = server.config(Some(("user", "secret")));
        config.extra_roots = vec![elsewhere.ca.clone().unwrap().into_bytes()];
        let client = Client::new(config).unwrap();
        client
            .fetch_blob(
                &server.reference("a"),
                &descriptor(content),
                &store,
                &|_| {},
            )
            .await
    };
    fetch(format!("https://{}/data", elsewhere.address))
        .await
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), [false]);
    store.remove(&Digest::of(content)).unwrap();

    let error = fetch(format!("http://{}/data", elsewhere.address))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Redirect { .. }), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 1);
}
