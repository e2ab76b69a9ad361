//! The client against the embedded registry, over TLS, with faults injected between them.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use common::{Fault, Server, blob, patience};
use http::Method;
use oci::manifest::{self, Descriptor, MAX_MANIFEST, OCI_MANIFEST};
use oci::{
    Access, BlobSource, BlobStore, Client, ClientConfig, ClientError, Digest, Permission, Pushed,
    Reference, Registry,
};
use serde_json::json;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

struct Fixture {
    server: Server,
    client: Client,
    store: BlobStore,
    dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let access = Access::nobody()
        .user("builder", "b-secret", Permission::Push)
        .user("node", "n-secret", Permission::Pull);
    let registry = Registry::open(dir.path().join("registry"), access).unwrap();
    let server = Server::tls(registry.router()).await;
    let client = Client::new(server.config(Some(("builder", "b-secret")))).unwrap();
    let store = BlobStore::open(dir.path().join("store")).unwrap();
    Fixture {
        server,
        client,
        store,
        dir,
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    manifest::descriptor(media_type, bytes.len() as u64, Digest::of(bytes))
}

fn platform(architecture: &str) -> manifest::Platform {
    let mut platform = manifest::Platform::default();
    platform.set_os("linux".into());
    platform.set_architecture(architecture.into());
    platform
}

fn nothing(_: u64) {}

impl Fixture {
    async fn push(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<Pushed, ClientError> {
        let source = BlobSource::Bytes(bytes.clone());
        self.client
            .push_blob(
                reference,
                &descriptor(media_type, bytes),
                source,
                None,
                &nothing,
            )
            .await
    }

    /// Pushes an image of one layer and gives the manifest's bytes.
    async fn push_image(&self, reference: &Reference, layer: &Bytes, architecture: &str) -> Bytes {
        let config = json!({
            "os": "linux",
            "architecture": architecture,
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"diff")] },
        });
        let config = Bytes::from(config.to_string());
        self.push(reference, CONFIG, &config).await.unwrap();
        self.push(reference, LAYER, layer).await.unwrap();
        let image = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, layer)],
            "x-unknown": "kept",
        });
        let image = Bytes::from(image.to_string());
        self.client
            .push_manifest(reference, image.clone(), OCI_MANIFEST)
            .await
            .unwrap();
        image
    }

    fn as_user(&self, user: Option<(&str, &str)>) -> Client {
        Client::new(self.server.config(user)).unwrap()
    }
}

#[tokio::test]
async fn an_image_comes_back_as_it_was_pushed() {
    let f = fixture().await;
    let reference = f.server.reference("os/base:1");
    let layer = blob(1, 3_000_000);
    let pushed = f.push_image(&reference, &layer, "amd64").await;

    let (digest, media_type) = f.client.resolve(&reference).await.unwrap();
    assert_eq!(
        (digest, media_type.as_str()),
        (Digest::of(&pushed), OCI_MANIFEST)
    );
    let image = f
        .client
        .image(&reference, &platform("amd64"))
        .await
        .unwrap();
    assert_eq!(image.manifest.bytes(), &pushed);
    assert_eq!(image.reference, reference.with_digest(digest));
    assert_eq!(
        Digest::of(&image.config_bytes).to_string(),
        image.manifest.config().digest().to_string()
    );

    let told = Mutex::new(Vec::new());
    let progress = |bytes| told.lock().unwrap().push(bytes);
    f.client
        .fetch_blob(
            &image.reference,
            &image.manifest.layers()[0],
            &f.store,
            &progress,
        )
        .await
        .unwrap();
    assert_eq!(
        f.store.read(&Digest::of(&layer), u64::MAX - 1).unwrap(),
        layer
    );
    let told = told.into_inner().unwrap();
    assert!(
        told.is_sorted() && told.last() == Some(&3_000_000),
        "{told:?}"
    );

    f.server.faults.seen();
    f.client
        .fetch_blob(
            &image.reference,
            &image.manifest.layers()[0],
            &f.store,
            &nothing,
        )
        .await
        .unwrap();
    assert!(
        f.server.faults.seen().is_empty(),
        "what is there is not fetched again"
    );
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_the_platform() {
    let f = fixture().await;
    let tagged = f.server.reference("os/multi:1");
    let layer = blob(2, 1000);
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let image = f.push_image(&tagged, &layer, architecture).await;
        let mut entry = serde_json::to_value(descriptor(OCI_MANIFEST, &image)).unwrap();
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        manifests.push(entry);
    }
    let index =
        json!({ "schemaVersion": 2, "mediaType": manifest::OCI_INDEX, "manifests": manifests });
    f.client
        .push_manifest(&tagged, index.to_string().into(), manifest::OCI_INDEX)
        .await
        .unwrap();

    let image = f.client.image(&tagged, &platform("arm64")).await.unwrap();
    assert_eq!(image.manifest.digest().to_string(), manifests[1]["digest"]);
    let error = f
        .client
        .image(&tagged, &platform("s390x"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("has no image for `linux/s390x`, only for linux/amd64, linux/arm64"),
        "{error}"
    );
    let single = tagged.with_digest(image.manifest.digest());
    let error = f
        .client
        .image(&single, &platform("amd64"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NoPlatform { .. }), "{error}");
}

#[tokio::test]
async fn blobs_are_sent_only_when_they_must_be() {
    let f = fixture().await;
    let layer = blob(3, 100_000);
    let (first, second) = (f.server.reference("a/one"), f.server.reference("b/two"));
    assert_eq!(
        f.push(&first, LAYER, &layer).await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(
        f.push(&first, LAYER, &layer).await.unwrap(),
        Pushed::Present
    );
    let (described, source) = (descriptor(LAYER, &layer), || {
        BlobSource::Bytes(layer.clone())
    });
    let mounted = f
        .client
        .push_blob(&second, &described, source(), Some(&first), &nothing)
        .await
        .unwrap();
    assert_eq!(mounted, Pushed::Mounted);
    let third = f.server.reference("c/three");
    let elsewhere = f.server.reference("nowhere");
    let sent = f
        .client
        .push_blob(&third, &described, source(), Some(&elsewhere), &nothing)
        .await
        .unwrap();
    assert_eq!(sent, Pushed::Uploaded);
    // From a store, and nothing at all.
    let digest = f.store.put(b"stored").unwrap();
    let stored = manifest::descriptor(LAYER, 6, digest);
    let source = BlobSource::Store(&f.store);
    assert_eq!(
        f.client
            .push_blob(&third, &stored, source, None, &nothing)
            .await
            .unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(
        f.push(&third, LAYER, &Bytes::new()).await.unwrap(),
        Pushed::Uploaded
    );
    f.client
        .fetch_blob(&third, &descriptor(LAYER, b""), &f.store, &nothing)
        .await
        .unwrap();
    assert_eq!(
        f.client.blob_bytes(&third, &stored, 100).await.unwrap(),
        "stored"
    );
    assert!(matches!(
        f.client.blob_bytes(&third, &stored, 5).await,
        Err(ClientError::Corrupt { .. })
    ));
}

#[tokio::test]
async fn failures_that_pass_are_survived() {
    let f = fixture().await;
    let reference = f.server.reference("os/base:1");
    let layer = blob(4, 2_500_000);
    let faults = &f.server.faults;
    faults.add(Method::HEAD, "/blobs/", Fault::Status(502));
    faults.add(Method::POST, "/blobs/uploads/", Fault::Status(500));
    faults.add(Method::PUT, "/blobs/uploads/", Fault::Status(503));
    faults.add(Method::PUT, "/manifests/", Fault::Status(429));
    let pushed = f.push_image(&reference, &layer, "amd64").await;
    faults.add(Method::GET, "/manifests/", Fault::Cut(20));
    faults.add(Method::GET, "/manifests/", Fault::Status(500));
    assert_eq!(f.client.manifest(&reference).await.unwrap().bytes, pushed);
    assert!(faults.none_left());
}

#[tokio::test]
async fn a_cut_transfer_continues_where_it_stopped() {
    let f = fixture().await;
    let reference = f.server.reference("os/base:1");
    let layer = blob(5, 4_000_000);
    f.push(&reference, LAYER, &layer).await.unwrap();
    let faults = &f.server.faults;
    faults.seen();
    faults.add(Method::GET, "/blobs/", Fault::Cut(2_500_000));
    f.client
        .fetch_blob(&reference, &descriptor(LAYER, &layer), &f.store, &nothing)
        .await
        .unwrap();
    assert_eq!(f.store.read(&Digest::of(&layer), 1 << 30).unwrap(), layer);
    let seen = faults.seen();
    assert!(
        seen.last().unwrap().contains("bytes=") && !seen.last().unwrap().contains("bytes=0-"),
        "{seen:?}"
    );

    // A registry that cannot continue sends everything again.
    let store = BlobStore::open(f.dir.path().join("other")).unwrap();
    faults.add(Method::GET, "/blobs/", Fault::Cut(1_500_000));
    faults.add(Method::GET, "/blobs/", Fault::Status(416));
    f.client
        .fetch_blob(&reference, &descriptor(LAYER, &layer), &store, &nothing)
        .await
        .unwrap();
    store.verify(&Digest::of(&layer)).unwrap();
    assert!(faults.none_left());
}

#[tokio::test]
async fn what_is_not_what_was_asked_for_is_refused() {
    let f = fixture().await;
    let reference = f.server.reference("os/base:1");
    let layer = blob(6, 50_000);
    f.push_image(&reference, &layer, "amd64").await;
    let faults = &f.server.faults;
    let described = descriptor(LAYER, &layer);
    let digest = Digest::of(&layer);

    for wrong in [blob(7, 50_000), blob(6, 50_001)] {
        faults.add(Method::GET, "/blobs/", Fault::Body(wrong));
        let error = f
            .client
            .fetch_blob(&reference, &described, &f.store, &nothing)
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Corrupt { .. }), "{error}");
        assert!(!f.store.has(&digest));
    }
    faults.add(
        Method::GET,
        "/manifests/",
        Fault::Body(Bytes::from_static(b"{}")),
    );
    let error = f.client.manifest(&reference).await.unwrap_err();
    assert!(matches!(error, ClientError::Corrupt { .. }), "{error}");
    faults.add(
        Method::GET,
        "/manifests/",
        Fault::Body(vec![b' '; MAX_MANIFEST as usize + 1].into()),
    );
    let error = f.client.manifest(&reference).await.unwrap_err();
    assert!(matches!(error, ClientError::Corrupt { .. }), "{error}");
    faults.add(
        Method::HEAD,
        "/manifests/",
        Fault::Header("docker-content-digest", Some(digest.to_string())),
    );
    let pinned = reference.with_digest(f.client.manifest(&reference).await.unwrap().digest);
    let error = f.client.resolve(&pinned).await.unwrap_err();
    assert!(matches!(error, ClientError::Corrupt { .. }), "{error}");
    // Without the header the manifest itself tells.
    faults.add(
        Method::HEAD,
        "/manifests/",
        Fault::Header("docker-content-digest", None),
    );
    assert_eq!(
        Some(f.client.resolve(&pinned).await.unwrap().0),
        pinned.digest()
    );
    assert!(faults.none_left());
}

#[tokio::test]
async fn errors_say_who_must_do_what() {
    let f = fixture().await;
    let host = f.server.host();
    let reference = f.server.reference("os/base:1");
    let error = f.as_user(None).resolve(&reference).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no credentials for `{host}`, which asks for them for `os/base`; add them to the pull or push secret"
        )
    );
    let error = f
        .as_user(Some(("builder", "wrong")))
        .resolve(&reference)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "credentials for `{host}` were refused for `os/base`; correct them in the pull or push secret"
        )
    );
    let node = f.as_user(Some(("node", "n-secret")));
    let manifest = Bytes::from_static(b"{}");
    let error = node
        .push_manifest(&reference, manifest, OCI_MANIFEST)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`{host}` does not permit the push of `os/base`: this user may only pull")
    );
    let error = node.resolve(&reference).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`{host}/os/base:1` does not exist")
    );

    let untrusting = Client::new(ClientConfig {
        cas: Default::default(),
        ..f.server.config(None)
    })
    .unwrap();
    let error = untrusting.resolve(&reference).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Tls { host: named, .. } if *named == host),
        "{error}"
    );

    assert!(!error.is_transient());
}

#[tokio::test]
async fn an_absent_or_failing_registry_is_transient() {
    let f = fixture().await;
    let reference = f.server.reference("os/base:1");
    let config = ClientConfig {
        retry: patience(Duration::ZERO),
        ..f.server.config(Some(("builder", "b-secret")))
    };
    let impatient = Client::new(config).unwrap();
    for status in [500, 502, 503, 504, 429] {
        // The first request asks which protocol is spoken.
        f.server
            .faults
            .add(Method::HEAD, "/manifests/", Fault::Status(status));
        let error = impatient.resolve(&reference).await.unwrap_err();
        assert!(error.is_transient(), "{status}: {error}");
    }
    // A port that nobody listens to.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone: Reference = format!("{}/x", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(listener);
    let error = impatient.resolve(&gone).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unreachable { .. }) && error.is_transient(),
        "{error}"
    );
}

#[tokio::test]
async fn plain_http_is_for_this_machine_alone() {
    let dir = tempfile::tempdir().unwrap();
    let access = Access::nobody().user("node", "n-secret", Permission::Push);
    let registry = Registry::open(dir.path(), access).unwrap();
    let server = Server::plain(registry.router()).await;
    let client = Client::new(server.config(Some(("node", "n-secret")))).unwrap();
    let error = client
        .resolve(&server.reference("os/base:1"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotFound(_)), "{error}");
    let data = Bytes::from_static(b"data");
    let pushed = client
        .push_blob(
            &server.reference("x"),
            &descriptor(LAYER, &data),
            BlobSource::Bytes(data),
            None,
            &nothing,
        )
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
}

#[tokio::test]
async fn an_insecure_host_is_not_verified() {
    let f = fixture().await;
    let mut config = ClientConfig {
        cas: Default::default(),
        ..f.server.config(Some(("node", "n-secret")))
    };
    config.insecure_hosts.insert(f.server.host());
    let error = Client::new(config)
        .unwrap()
        .resolve(&f.server.reference("a:1"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotFound(_)), "{error}");
    let broken = ClientConfig {
        extra_roots: vec![b"no certificate".to_vec()],
        ..ClientConfig::default()
    };
    assert!(matches!(Client::new(broken), Err(ClientError::Config(_))));
}

#[tokio::test]
async fn tags_are_listed_over_many_pages_and_deleted() {
    let f = fixture().await;
    let layer = blob(8, 10);
    let reference = f.server.reference("os/base:v0");
    let image = f.push_image(&reference, &layer, "amd64").await;
    // More than one page of them; going through the registry would sync each to disk.
    let tags = f.dir.path().join("registry/repositories/os/base/_tags");
    for n in 1..1200 {
        std::fs::copy(tags.join("v0"), tags.join(format!("v{n}"))).unwrap();
    }
    let tags = f.client.tags(&reference).await.unwrap();
    assert_eq!(tags.len(), 1200);
    f.client.delete_manifest(&reference).await.unwrap();
    f.client.delete_manifest(&reference).await.unwrap();
    assert_eq!(f.client.tags(&reference).await.unwrap().len(), 1199);
    let digest = Digest::of(&image);
    f.client
        .delete_manifest(&reference.with_digest(digest))
        .await
        .unwrap();
    assert_eq!(
        f.client.tags(&reference).await.unwrap(),
        Vec::<String>::new()
    );
    let error = f
        .client
        .resolve(&reference.with_digest(digest))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotFound(_)));
}

#[test]
fn the_client_can_be_used_from_any_thread() {
    fn is_send<T: Send>(_: T) {}
    let client = Client::new(ClientConfig::default()).unwrap();
    let reference: Reference = "localhost/x".parse().unwrap();
    let described = descriptor(LAYER, b"");
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    is_send(client.image(&reference, &manifest::this_platform()));
    is_send(client.fetch_blob(&reference, &described, &store, &nothing));
    is_send(client.push_blob(
        &reference,
        &described,
        BlobSource::Store(&store),
        None,
        &nothing,
    ));
    is_send(client.push_manifest(&reference, Bytes::new(), OCI_MANIFEST));
    is_send(client.tags(&reference));
}
