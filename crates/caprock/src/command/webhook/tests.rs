//! The webhook against an API that keeps Secrets and CRDs, and asks as an API server does.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Method, Request, Response};
use http_body_util::BodyExt;
use jiff::SignedDuration;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::serve::pki;

/// Objects by path, with optimistic concurrency; what the webhook needs of an API.
#[derive(Default)]
struct Objects(Mutex<HashMap<String, Value>>);

impl Objects {
    fn get(&self, path: &str) -> Value {
        self.0.lock().unwrap()[path].clone()
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let status = |code: u16| {
            let reason = if code == 404 { "NotFound" } else { "Conflict" };
            (
                code,
                json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason}),
            )
        };
        let mut objects = self.0.lock().unwrap();
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let name = sent["metadata"]["name"].as_str().unwrap_or_default();
        let path = match *method {
            Method::POST => format!("{path}/{name}"),
            _ => path.to_owned(),
        };
        let present = objects.get(&path).cloned();
        match (method, present) {
            (&Method::GET, Some(object)) => (200, object),
            (&Method::GET | &Method::PUT, None) => status(404),
            (&Method::POST, Some(_)) => status(409),
            (_, present) => {
                let version = |object: &Value| {
                    let text = object["metadata"]["resourceVersion"].as_str();
                    text.map_or(0, |text| text.parse::<u64>().unwrap())
                };
                let before = present.as_ref().map_or(0, version);
                if before != version(&sent) {
                    return status(409);
                }
                let mut object = sent;
                object["metadata"]["resourceVersion"] = json!((before + 1).to_string());
                objects.insert(path, object.clone());
                (200, object)
            }
        }
    }
}

const SECRET: &str = "/api/v1/namespaces/ns/secrets/authority";

fn crd_path(name: &str) -> String {
    format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
}

/// An API with our CRDs as `caprock crds` prints them.
fn api() -> (Arc<Objects>, Client) {
    let objects = Arc::new(Objects::default());
    for crd in model::api::crds() {
        let mut object = serde_json::to_value(&crd).unwrap();
        object["metadata"]["resourceVersion"] = json!("1");
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        objects.0.lock().unwrap().insert(crd_path(&name), object);
    }
    let kept = objects.clone();
    let router = Router::new().fallback(move |request: Request<Body>| {
        let kept = kept.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let (code, answer) = kept.answer(&parts.method, parts.uri.path(), &body);
            Response::builder()
                .status(code)
                .header("content-type", "application/json")
                .body(Body::from(answer.to_string()))
                .unwrap()
        }
    });
    (objects, Client::new(router, "default"))
}

fn named(text: &str) -> InNamespace {
    text.parse().unwrap()
}

fn webhook(client: &Client, url: &str) -> Webhook {
    Webhook {
        client: client.clone(),
        authority: Shared::new(client.clone(), &named("ns/authority"), AUTHORITY),
        reached: Reached::by_url(url).unwrap(),
        upkeep: Upkeep::default(),
    }
}

/// Asks as the API server would: whom to ask and whom to trust stand in the CRD.
async fn ask(crd: &Value, body: &Value) -> (String, Value) {
    let config = &crd["spec"]["conversion"]["webhook"]["clientConfig"];
    let bundle = config["caBundle"].as_str().unwrap();
    let bundle =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, bundle).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for authority in pki::certificates(&String::from_utf8(bundle).unwrap()).unwrap() {
        roots.add(authority).unwrap();
    }
    let tls = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url: axum::http::Uri = config["url"].as_str().unwrap().parse().unwrap();
    let stream = tokio::net::TcpStream::connect(url.authority().unwrap().as_str())
        .await
        .unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect(
            ServerName::try_from(url.host().unwrap().to_owned()).unwrap(),
            stream,
        )
        .await
        .unwrap();
    let body = body.to_string();
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        url.path(),
        url.host().unwrap(),
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.to_owned(),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

fn install_provider() {
    // Another test may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_finds_trusts_and_asks_the_webhook() {
    install_provider();
    let (objects, client) = api();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let running = tokio::spawn(webhook(&client, &url).run(listener, stop.clone()));
    let path = crd_path(v1alpha1_crd());
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while objects.get(&path)["spec"]["conversion"]["strategy"] != "Webhook" {
        assert!(std::time::Instant::now() < deadline && !running.is_finished());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let crd = objects.get(&path);
    let versions = crd["spec"]["versions"].as_array().unwrap();
    assert!(
        versions.iter().all(|version| version["served"] == true),
        "{versions:?}"
    );
    assert_eq!(
        versions
            .iter()
            .filter(|version| version["storage"] == true)
            .count(),
        1
    );

    let object = json!({
        "apiVersion": "machineconfiguration.openshift.io/v1alpha1", "kind": "MachineOSConfig",
        "metadata": {"name": "worker"},
        "spec": {
            "machineConfigPool": {"name": "worker"},
            "buildInputs": {"renderedImagePushspec": "registry.example.com/os:1"},
        },
    });
    let review = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "request": {
            "uid": "u-1", "desiredAPIVersion": "machineconfiguration.openshift.io/v1",
            "objects": [object],
        },
    });
    let (head, answer) = ask(&crd, &review).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(answer["response"]["uid"], "u-1");
    assert_eq!(
        answer["response"]["result"]["status"], "Success",
        "{answer}"
    );
    let converted = &answer["response"]["convertedObjects"][0];
    assert_eq!(
        converted["spec"]["renderedImagePushSpec"],
        "registry.example.com/os:1"
    );
    let (head, _) = ask(&crd, &json!({"kind": "ConversionReview"})).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");

    stop.cancel();
    running.await.unwrap().unwrap();
}

fn v1alpha1_crd() -> &'static str {
    model::api::v1alpha1::CRDS[0]
}

/// Two replicas go through ten years, each at its own pace: what one shows, the API trusts at any time.
#[tokio::test]
async fn the_authority_is_shared_and_replaced_without_a_gap() {
    install_provider();
    let (objects, client) = api();
    let replicas = [
        webhook(&client, "https://convert.example.com"),
        webhook(&client, "https://convert.example.com"),
    ];
    let start = Timestamp::from_second(1_700_000_000).unwrap();
    let mut held = Vec::new();
    for replica in &replicas {
        held.push(replica.presented(start).await.unwrap());
    }
    assert!(held[0].authority().signs_like(held[1].authority()));
    let first = objects.get(SECRET);
    let path = crd_path(v1alpha1_crd());
    for half_days in (2 * 365 * 9 - 2..).take(20) {
        let now = start
            .checked_add(SignedDuration::from_hours(12 * half_days))
            .unwrap();
        for (replica, presented) in replicas.iter().zip(&mut held) {
            replica.turn(presented, now).await.unwrap();
            let config = &objects.get(&path)["spec"]["conversion"]["webhook"]["clientConfig"];
            let trusted = config["caBundle"].as_str().unwrap();
            let trusted =
                base64::Engine::decode(&base64::engine::general_purpose::STANDARD, trusted);
            let trusted = String::from_utf8(trusted.unwrap()).unwrap();
            assert!(
                trusted.contains(&signer(presented.authority())),
                "at half day {half_days}"
            );
        }
    }
    assert_ne!(first["data"], objects.get(SECRET)["data"]);
    let end = replicas[0]
        .authority(
            start
                .checked_add(SignedDuration::from_hours(24 * 365 * 9 + 24 * 9))
                .unwrap(),
        )
        .await
        .unwrap();
    assert!(end.progress().is_none());
}

/// The certificate that an authority signs with.
fn signer(authority: &Authority) -> String {
    let pem = authority.bundle();
    let end = pem.find("-----END CERTIFICATE-----").unwrap();
    pem[..end].to_owned()
}

#[test]
fn how_it_is_reached() {
    let by = |url: &str| {
        let subject = Reached::by_url(url).map(|reached| reached.subject);
        subject.map(|subject| (subject.names, subject.addresses))
    };
    assert_eq!(
        by("https://a.example:8443").unwrap(),
        (vec!["a.example".to_owned()], vec![])
    );
    assert_eq!(
        by("https://[::1]:1/").unwrap(),
        (vec![], vec!["::1".parse().unwrap()])
    );
    for wrong in ["http://a", "https://a/path", "a:443", "https://a?x=y"] {
        assert!(by(wrong).is_err(), "{wrong}");
    }
    let service = Reached::by_service(&named("ns/hook"), 443);
    assert_eq!(service.subject.names[0], "hook.ns.svc");
    assert_eq!(
        service.config.service.unwrap().path.as_deref(),
        Some("/convert")
    );
    assert!("hook".parse::<InNamespace>().is_err());
}
