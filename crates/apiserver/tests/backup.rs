//! Backup and restore, audit, storage migration and defaults: what outlives a server.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use apiserver::{ApiServer, Config, RestoreError, Token, restore};
use axum::body::Body;
use common::{ADMIN, Fixture, widget};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";

async fn call(server: &ApiServer, method: Method, path: &str, body: &str) -> (u16, Vec<u8>) {
    let media_type = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media_type)
        .body(Body::from(body.to_owned()))
        .unwrap();
    let response = server.router_as(ADMIN).oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, body.to_vec())
}

async fn get(server: &ApiServer, path: &str) -> Value {
    let (_, body) = call(server, Method::GET, path, "").await;
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_restored_server_goes_on() {
    let fixture = Fixture::new();
    let server = &fixture.server;
    for (name, size) in [("a", 1), ("b", 2)] {
        let body = widget(name, size).to_string();
        assert_eq!(call(server, Method::POST, WIDGETS, &body).await.0, 201);
    }
    let before = get(server, &format!("{WIDGETS}/a")).await;
    let (code, backup) = call(server, Method::GET, "/backup", "").await;
    assert_eq!(code, 200);
    // What comes later is not in it.
    let body = widget("late", 3).to_string();
    call(server, Method::POST, WIDGETS, &body).await;
    let seen = get(server, WIDGETS).await["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();

    let directory = tempfile::tempdir().unwrap();
    restore(directory.path(), backup.as_slice(), |_| {}).unwrap();
    let again = restore(directory.path(), backup.as_slice(), |_| {});
    assert!(matches!(again, Err(RestoreError::Exists { .. })));
    let config = Config {
        tokens: vec![Token::new("admin", &["system:masters"], ADMIN)],
        ..Config::new(directory.path())
    };
    let restored = ApiServer::open(config).unwrap();
    let list = get(&restored, WIDGETS).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(get(&restored, &format!("{WIDGETS}/a")).await, before);
    // No version that anybody saw is given out again, and who watched starts anew.
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(version.parse::<u64>().unwrap() > seen.parse::<u64>().unwrap());
    let old = format!("{WIDGETS}?watch=1&resourceVersion={seen}");
    let (_, line) = call(&restored, Method::GET, &old, "").await;
    assert!(String::from_utf8(line).unwrap().contains("\"code\":410"));
}

#[tokio::test]
async fn a_damaged_backup_is_refused() {
    let fixture = Fixture::new();
    let body = widget("a", 1).to_string();
    call(&fixture.server, Method::POST, WIDGETS, &body).await;
    let (_, backup) = call(&fixture.server, Method::GET, "/backup", "").await;
    let text = String::from_utf8(backup).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut: String = text
        .lines()
        .take(3)
        .map(|line| format!("{line}\n"))
        .collect();
    for damaged in [
        text.replace("\"size\":1", "\"size\":9"),
        cut,
        String::new(),
        "{}\n".to_owned(),
    ] {
        let refused = restore(directory.path(), damaged.as_bytes(), |_| {});
        assert!(
            matches!(refused, Err(RestoreError::Malformed { .. })),
            "{refused:?}"
        );
        assert!(!directory.path().join("store.redb").exists());
    }
}

#[tokio::test]
async fn a_damaged_store_is_told_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let open = || ApiServer::open(Config::new(directory.path()));
    drop(open().unwrap());
    let path = directory.path().join("store.redb");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 10, whole.len() / 2] {
        let damaged = [&whole[..length], &[0x5a; 64]].concat();
        std::fs::write(&path, &damaged).unwrap();
        let refused = open().unwrap_err().to_string();
        assert!(refused.contains("store.redb"), "{length}: {refused}");
    }
    std::fs::write(&path, &whole).unwrap();
    open().unwrap();
}

#[tokio::test]
async fn the_audit_log_says_who_did_what() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let fixture = Fixture::with(|config| config.audit_log = Some(path.clone()));
    let body = widget("a", 1).to_string();
    call(&fixture.server, Method::POST, WIDGETS, &body).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let line: Value = loop {
        let text = std::fs::read_to_string(&path).unwrap();
        if let Some(line) = text.lines().next() {
            break serde_json::from_str(line).unwrap();
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "nothing was written"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(line["verb"], "create");
    assert_eq!(line["user"]["username"], "admin");
    assert_eq!(line["objectRef"]["resource"], "widgets");
    assert_eq!(line["responseStatus"]["code"], 201);
}

#[tokio::test]
async fn objects_follow_the_storage_version() {
    let fixture = Fixture::new();
    let server = &fixture.server;
    let body = widget("a", 1).to_string();
    call(server, Method::POST, WIDGETS, &body).await;
    let mut definition = get(server, DEFINITION).await;
    let versions = definition["spec"]["versions"].as_array_mut().unwrap();
    let mut next = versions[0].clone();
    next["name"] = json!("v2");
    let spec = &mut next["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["later"] = json!({"type": "string", "default": "given"});
    versions[0]["storage"] = json!(false);
    versions.push(next);
    let (code, body) = call(server, Method::PUT, DEFINITION, &definition.to_string()).await;
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
    let newer = WIDGETS.replace("/v1/", "/v2/");
    let shown = get(server, &format!("{newer}/a")).await;
    assert_eq!(shown["spec"]["later"], "given", "{shown}");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let stored = get(server, DEFINITION).await["status"]["storedVersions"].clone();
        if stored == json!(["v2"]) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{stored}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        get(server, &format!("{newer}/a")).await["spec"]["later"],
        "given"
    );
}
