//! A client by somebody else.

use crate::common::{Server, blob};
use crate::support::{INDEX, MANIFEST, manifest};
use bytes::Bytes;
use oci::{Access, Digest, Permission, Registry};
use serde_json::json;
use std::io::Write as _;
use std::process::Command;

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
