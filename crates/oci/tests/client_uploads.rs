//! Uploads over connections that break: continued where the registry has what came, started again where it has not.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use common::proxy::Proxy;
use common::{Fault, Server, blob};
use http::Method;
use oci::manifest::{self, Descriptor};
use oci::{
    Access, BlobSource, BlobStore, Client, ClientConfig, ClientError, Digest, DockerConfig,
    Permission, Pushed, Reference, Registry,
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const SIZE: usize = 6_000_000;

struct Fixture {
    server: Server,
    proxy: Proxy,
    client: Client,
    reference: Reference,
    dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let access = Access::nobody().user("builder", "b-secret", Permission::Push);
    let registry = Registry::open(dir.path().join("registry"), access).unwrap();
    let server = Server::tls(registry.router()).await;
    let proxy = Proxy::to(server.address).await;
    let host = proxy.address.to_string();
    let ca = server.ca.clone().unwrap().into_bytes();
    let config = ClientConfig {
        auth: DockerConfig::basic(&host, "builder", "b-secret"),
        cas: [(host.clone(), ca)].into(),
        ..server.config(None)
    };
    Fixture {
        reference: format!("{host}/os/base:1").parse().unwrap(),
        client: Client::new(config).unwrap(),
        server,
        proxy,
        dir,
    }
}

fn descriptor(bytes: &Bytes) -> Descriptor {
    manifest::descriptor(LAYER, bytes.len() as u64, Digest::of(bytes))
}

impl Fixture {
    async fn push(&self, bytes: &Bytes, source: BlobSource<'_>) -> Result<Pushed, ClientError> {
        let told = Mutex::new(Vec::new());
        let progress = |bytes| told.lock().unwrap().push(bytes);
        let pushed = self
            .client
            .push_blob(&self.reference, &descriptor(bytes), source, None, &progress)
            .await;
        if pushed.is_ok() {
            assert_eq!(
                told.into_inner().unwrap().last(),
                Some(&(bytes.len() as u64))
            );
        }
        pushed
    }

    async fn is_there(&self, bytes: &Bytes) {
        let got = self
            .client
            .blob_bytes(&self.reference, &descriptor(bytes), u64::MAX >> 1)
            .await
            .unwrap();
        assert!(got == *bytes);
    }
}

#[tokio::test]
async fn an_upload_goes_on_where_the_connection_broke() {
    let f = fixture().await;
    let layer = blob(1, SIZE);
    // A request or two before the upload share its connection.
    f.client.tags(&f.reference).await.unwrap_err();
    f.server.faults.seen();
    f.proxy.cut(&[2_500_000, 2_000_000]);
    let pushed = f.push(&layer, BlobSource::Bytes(layer.clone())).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert!(f.proxy.none_left());
    let seen = f.server.faults.seen();
    let count = |what: &str| seen.iter().filter(|line| line.starts_with(what)).count();
    assert_eq!(count("POST "), 1, "one upload, continued: {seen:?}");
    assert_eq!((count("PUT "), count("GET ")), (3, 2), "{seen:?}");
    let sent = f.proxy.sent.load(Ordering::Relaxed);
    assert!(
        sent < SIZE as u64 * 5 / 4,
        "{sent} bytes for a blob of {SIZE}: what had arrived was sent again"
    );
    f.is_there(&layer).await;
}

#[tokio::test]
async fn what_a_store_has_is_continued_as_well() {
    let f = fixture().await;
    let store = BlobStore::open(f.dir.path().join("store")).unwrap();
    let layer = blob(2, SIZE);
    store.put(&layer).unwrap();
    f.proxy.cut(&[3_000_000]);
    // The registry is not at once back in a state to tell.
    for status in [503, 500] {
        let fault = Fault::Status(status);
        f.server.faults.add(Method::GET, "/blobs/uploads/", fault);
    }
    let pushed = f.push(&layer, BlobSource::Store(&store)).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert!(f.proxy.none_left() && f.server.faults.none_left());
    let seen = f.server.faults.seen();
    let started = seen.iter().filter(|line| line.starts_with("POST ")).count();
    assert_eq!(started, 1, "{seen:?}");
    f.is_there(&layer).await;
}

#[tokio::test]
async fn a_registry_that_cannot_continue_gets_everything_again() {
    let f = fixture().await;
    let faults = &f.server.faults;
    // It forgot the upload; it does not answer such questions; it says nonsense.
    for (seed, fault) in [
        (3, Fault::Status(404)),
        (4, Fault::Status(405)),
        (5, Fault::Header("range", Some("0-99999999999".to_owned()))),
        (6, Fault::Header("range", Some("all of it".to_owned()))),
        // It has less than it says: the next piece is refused.
        (7, Fault::Header("range", Some("0-5".to_owned()))),
    ] {
        let layer = blob(seed, SIZE);
        faults.add(Method::GET, "/blobs/uploads/", fault);
        f.proxy.cut(&[2_000_000]);
        let pushed = f.push(&layer, BlobSource::Bytes(layer.clone())).await;
        assert_eq!(pushed.unwrap(), Pushed::Uploaded);
        assert!(f.proxy.none_left() && faults.none_left());
        f.is_there(&layer).await;
    }
}

#[tokio::test]
async fn an_upload_that_cannot_end_well_is_given_up_at_the_registry() {
    let f = fixture().await;
    let layer = blob(8, 1000);
    f.server
        .faults
        .add(Method::PUT, "/blobs/uploads/", Fault::Status(400));
    let error = f
        .push(&layer, BlobSource::Bytes(layer.clone()))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    let seen = f.server.faults.seen();
    assert!(
        seen.last().unwrap().starts_with("DELETE "),
        "its bytes are not kept for nobody: {seen:?}"
    );
}
