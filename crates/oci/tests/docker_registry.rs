//! The client against a registry by somebody else: docker's, of Debian's package `docker-registry`, where it is installed.
//! (The package starts a service on port 5000, so nothing here installs it.)

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::blob;
use common::proxy::Proxy;
use oci::manifest::{self, Descriptor, OCI_MANIFEST};
use oci::{BlobSource, Client, ClientConfig, Digest, Growth, Pushed, Reference, Retry};
use serde_json::json;
use tokio::sync::watch;

const PROGRAM: &str = "docker-registry";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

struct Registry {
    process: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn start() -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = json!({
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {
            "filesystem": {"rootdirectory": dir.path().join("data")},
            "delete": {"enabled": true},
        },
        "http": {"addr": address.to_string(), "secret": "of this test"},
    });
    // JSON is YAML.
    let path = dir.path().join("config.yml");
    std::fs::write(&path, config.to_string()).unwrap();
    let process = Command::new(PROGRAM)
        .arg("serve")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let since = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "it does not start"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Registry {
        process,
        address,
        _dir: dir,
    }
}

fn described(media_type: &str, bytes: &Bytes) -> Descriptor {
    manifest::descriptor(media_type, bytes.len() as u64, Digest::of(bytes))
}

#[tokio::test]
async fn privileged_dockers_registry_takes_what_we_send() {
    if std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_none() {
        eprintln!("skipped: set CAPROCK_TEST_PRIVILEGED=1");
        return;
    }
    if Command::new(PROGRAM).arg("--version").output().is_err() {
        eprintln!("skipped: {PROGRAM} is not installed");
        return;
    }
    let registry = start().await;
    let proxy = Proxy::to(registry.address).await;
    let config = ClientConfig {
        retry: Retry {
            first: Duration::from_millis(50),
            ..Retry::default()
        },
        ..ClientConfig::default()
    };
    let client = Client::new(config).unwrap();
    let reference =
        |rest: &str| -> Reference { format!("{}/{rest}", proxy.address).parse().unwrap() };
    let one = reference("team/os:1");
    let push = async |to: &Reference, media_type: &str, bytes: &Bytes, from: Option<&Reference>| {
        let source = BlobSource::Bytes(bytes.clone());
        let described = described(media_type, bytes);
        client
            .push_blob(to, &described, source, from, &|_| {})
            .await
            .unwrap()
    };

    // A connection that breaks twice.
    let layer = blob(1, 6_000_000);
    proxy.cut(&[2_500_000, 2_000_000]);
    assert_eq!(push(&one, LAYER, &layer, None).await, Pushed::Uploaded);
    assert!(proxy.none_left());
    assert_eq!(push(&one, LAYER, &layer, None).await, Pushed::Present);
    let two = reference("team/copy:1");
    assert_eq!(push(&two, LAYER, &layer, Some(&one)).await, Pushed::Mounted);

    // One that grows while it is sent.
    let grown = blob(2, 3_000_000);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let (growth, growing) = watch::channel(Growth::Written(0));
    let reader = file.reopen().unwrap();
    let sent = {
        let (client, one) = (client.clone(), one.clone());
        tokio::spawn(async move { client.push_growing(&one, reader, growing).await })
    };
    for (number, piece) in grown.chunks(1_000_000).enumerate() {
        file.write_all(piece).unwrap();
        growth.send_replace(Growth::Written((number as u64 + 1) * 1_000_000));
        tokio::task::yield_now().await;
    }
    growth.send_replace(Growth::Complete {
        size: 3_000_000,
        digest: Digest::of(&grown),
    });
    sent.await.unwrap().unwrap();
    assert_eq!(push(&one, LAYER, &grown, None).await, Pushed::Present);

    let settings = Bytes::from(
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}})
            .to_string(),
    );
    push(&one, CONFIG, &settings, None).await;
    let image = Bytes::from(
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": described(CONFIG, &settings),
            "layers": [described(LAYER, &layer), described(LAYER, &grown)],
        })
        .to_string(),
    );
    let digest = client
        .push_manifest(&one, image.clone(), OCI_MANIFEST)
        .await;
    assert_eq!(digest.unwrap(), Digest::of(&image));
    assert_eq!(client.manifest(&one).await.unwrap().bytes, image);
    let got = client
        .blob_bytes(&one, &described(LAYER, &layer), 1 << 30)
        .await
        .unwrap();
    assert!(got == layer);
    assert_eq!(client.tags(&one).await.unwrap(), ["1"]);
    let by_digest = one.with_digest(Digest::of(&image));
    client.delete_manifest(&by_digest).await.unwrap();
    assert!(client.resolve(&by_digest).await.is_err());
}
