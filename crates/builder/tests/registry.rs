//! Base images from a registry and pushes to it. Executing steps takes root, crun and busybox.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use builder::{
    BuildError, Destination, Engine, EngineConfig, Event, NamedContext, Request, Transfer,
};
use common::registry::{client, engine, quiet, request, serve};
use common::{Lab, privileged};
use oci::manifest::{OCI_MANIFEST, descriptor};
use oci::{BlobSource, Client, Digest, Reference};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_pushed_image_is_a_base_elsewhere() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (one, two) = (serve().await, serve().await);
    let client = client(&[&one, &two]);
    let base = lab.build("RUN mkdir /d && echo 1 > /d/f && rm /tmp -r\nLABEL from=base\nONBUILD RUN echo trigger > /t").await.unwrap();
    let place = one.reference("os/base:1");
    let pushed = lab
        .engine
        .with_client(client.clone())
        .push(&base, &place, &quiet)
        .await
        .unwrap();
    assert_eq!(pushed, base.digest());

    let other = engine(&lab, "other", client.clone());
    let steps = format!(
        "FROM {place}\nRUN test ! -e /tmp && cat /d/f /t && rm -r /d && mkdir /d && echo 2 > /d/g"
    );
    let image = other
        .build(request(steps.clone()), CancellationToken::new(), &quiet)
        .await
        .unwrap();
    assert_eq!(image.config().config.labels["from"], "base");
    assert!(image.config().config.on_build.is_empty());
    let root = image.root(&quiet).await.unwrap();
    assert!(root.exists("/d/g").unwrap() && !root.exists("/d/f").unwrap());
    let digest = image.digest();
    let manifest: serde_json::Value = serde_json::from_slice(image.manifest()).unwrap();
    assert_eq!(
        manifest["annotations"]["org.opencontainers.image.base.digest"],
        pushed.to_string()
    );

    // To the registry of the base, to another one, and again.
    for to in [one.reference("os/derived:1"), two.reference("derived:1")] {
        assert_eq!(other.push(&image, &to, &quiet).await.unwrap(), digest);
        assert_eq!(client.resolve(&to).await.unwrap().0, digest);
    }
    // Another machine gives the same image, and needs no base layer as long as it executes nothing.
    let fresh = engine(&lab, "fresh", client.clone());
    let only = fresh
        .build(
            request(format!("FROM {place}\nLABEL x=y")),
            CancellationToken::new(),
            &quiet,
        )
        .await;
    // The trigger has to run, so the base is fetched.
    assert!(only.is_ok(), "{only:?}");
    assert_eq!(
        fresh
            .build(request(steps), CancellationToken::new(), &quiet)
            .await
            .unwrap()
            .digest(),
        digest
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_base_layers_are_mounted_or_copied_without_unpacking() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (one, two) = (serve().await, serve().await);
    let client = client(&[&one, &two]);
    let base = lab.build("").await.unwrap();
    let place = one.reference("base:1");
    lab.engine
        .with_client(client.clone())
        .push(&base, &place, &quiet)
        .await
        .unwrap();
    let fresh = engine(&lab, "fresh", client.clone());
    let fetched = std::sync::Mutex::new(0u64);
    let count = |event: Event| {
        if let Event::Bytes {
            transfer: Transfer::Fetch,
            done,
            ..
        } = event
        {
            let mut most = fetched.lock().unwrap();
            *most = (*most).max(done);
        }
    };
    let image = fresh
        .build(
            request(format!("FROM {place}\nLABEL x=y")),
            CancellationToken::new(),
            &count,
        )
        .await
        .unwrap();
    fresh
        .push(&image, &one.reference("labelled:1"), &count)
        .await
        .unwrap();
    assert_eq!(
        *fetched.lock().unwrap(),
        0,
        "the registry took the layer from the base"
    );
    fresh
        .push(&image, &two.reference("labelled:1"), &count)
        .await
        .unwrap();
    assert!(*fetched.lock().unwrap() > 0);
    let boots = std::fs::read_dir(lab.dir.path().join("fresh/layers")).unwrap();
    let unpacked = boots.flat_map(|boot| std::fs::read_dir(boot.unwrap().path()).unwrap());
    assert_eq!(unpacked.count(), 0);
    client
        .image(
            &two.reference("labelled:1"),
            &oci::manifest::this_platform(),
        )
        .await
        .unwrap();

    let layout = lab.dir.path().join("layout");
    for tag in ["a", "b", "a"] {
        fresh
            .write_layout(&image, &layout, Some(tag), &quiet)
            .await
            .unwrap();
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(
        std::fs::read_dir(layout.join("blobs/sha256"))
            .unwrap()
            .count(),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_cannot_be_had_is_its_own_error() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve().await;
    let client = client(&[&server]);
    let cache_dir = dir.path().join("cache");
    let engine = Engine::open(EngineConfig {
        cache_dir,
        runtime: None,
        cache_limit: None,
        client,
    })
    .unwrap();
    let build = |from: String| {
        engine.build(
            request(format!("FROM {from}\nLABEL a=b")),
            CancellationToken::new(),
            &quiet,
        )
    };
    let missing = build(server.reference("none:1").to_string())
        .await
        .unwrap_err();
    assert!(matches!(missing, BuildError::Base { .. }), "{missing:?}");
    assert!(!missing.is_transient());
    let unreachable = build("127.0.0.1:1/x:1".into()).await.unwrap_err();
    assert!(
        matches!(unreachable, BuildError::Base { .. }),
        "{unreachable:?}"
    );
    assert!(unreachable.is_transient());
    let wrong = build("UPPER/Case".into()).await.unwrap_err();
    assert!(
        wrong
            .to_string()
            .starts_with("Containerfile:1:6: `UPPER/Case` is neither a stage nor an image"),
        "{wrong}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_labels_takes_neither_root_nor_registry() {
    let dir = tempfile::tempdir().unwrap();
    let client = client(&[]);
    let engine = Engine::open(EngineConfig {
        cache_dir: dir.path().join("cache"),
        runtime: None,
        cache_limit: None,
        client,
    })
    .unwrap();
    let mut request =
        request("ARG V=1\nFROM scratch\nARG V\nLABEL version=$V\nCMD [\"/x\"]".into());
    request.labels.insert("extra".into(), "yes".into());
    let image = engine
        .build(request.clone(), CancellationToken::new(), &quiet)
        .await
        .unwrap();
    assert_eq!(image.config().config.labels["version"], "1");
    assert_eq!(image.config().config.labels["extra"], "yes");
    assert_eq!(
        image.config().created.as_deref(),
        Some("1970-01-01T00:00:00Z")
    );
    let again = engine
        .build(request, CancellationToken::new(), &quiet)
        .await
        .unwrap();
    assert_eq!(image.digest(), again.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_layers_are_sent_while_the_image_is_built() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let server = serve().await;
    let client = client(&[&server]);
    let to = server.reference("early:1");
    let mut request = lab.request("RUN echo one > /one\nRUN echo two > /two");
    request.destinations = vec![Destination {
        reference: to.clone(),
        client: client.clone(),
    }];
    let image = lab
        .engine
        .build(request, CancellationToken::new(), &quiet)
        .await
        .unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(image.manifest()).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for layer in layers {
        let descriptor = serde_json::from_value(layer.clone()).unwrap();
        // Nothing was pushed yet; what was begun ends soon.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while client.blob_bytes(&to, &descriptor, 8 << 20).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "{layer}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    lab.engine
        .with_client(client.clone())
        .push(&image, &to, &quiet)
        .await
        .unwrap();
    assert_eq!(client.resolve(&to).await.unwrap().0, image.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_base_known_by_digest_takes_no_registry() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let server = serve().await;
    let client = client(&[&server]);
    let base = lab.build("").await.unwrap();
    let place = server.reference("base:1");
    lab.engine
        .with_client(client.clone())
        .push(&base, &place, &quiet)
        .await
        .unwrap();
    let pinned = place.with_digest(base.digest());
    let engine = engine(&lab, "other", client.clone());
    let build = |from: &Reference| {
        let steps = format!("FROM {from}\nRUN echo x > /x");
        engine.build(request(steps), CancellationToken::new(), &quiet)
    };
    let first = build(&pinned).await.unwrap();
    client.delete_manifest(&pinned).await.unwrap();
    assert_eq!(build(&pinned).await.unwrap().digest(), first.digest());
    let tagged = build(&place).await.unwrap_err();
    assert!(matches!(tagged, BuildError::Base { .. }), "{tagged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_holds_the_layout_and_is_always_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(EngineConfig {
        cache_dir: dir.path().join("cache"),
        runtime: None,
        cache_limit: None,
        client: client(&[]),
    })
    .unwrap();
    let image = engine
        .build(
            request("FROM scratch\nLABEL a=b".into()),
            CancellationToken::new(),
            &quiet,
        )
        .await
        .unwrap();
    let archives = ["one", "two"].map(|name| dir.path().join(name));
    for archive in &archives {
        engine
            .write_archive(&image, archive, Some("1"), &quiet)
            .await
            .unwrap();
    }
    let [one, two] = archives.map(|archive| std::fs::read(archive).unwrap());
    assert!(one == two);
    let mut names: Vec<String> = tar::Archive::new(&one[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names.len(), 4);
    assert!(names[0].starts_with("blobs/sha256/"));
    assert_eq!(names[2..], ["index.json", "oci-layout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_layers_are_compressed_as_asked_whatever_the_cache_has() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let steps = "RUN echo one > /one\nRUN seq 1 300000 > /two\n";
    let as_asked = |compression: &str| Request {
        compression: compression.parse().unwrap(),
        ..lab.request(steps)
    };
    let build = async |engine: &Engine, compression: &str| {
        engine
            .build(as_asked(compression), CancellationToken::new(), &quiet)
            .await
            .unwrap()
    };
    let types = |image: &builder::Image| -> BTreeSet<String> {
        let manifest: serde_json::Value = serde_json::from_slice(image.manifest()).unwrap();
        let layers = manifest["layers"].as_array().unwrap().clone();
        let types = layers.iter().map(|layer| layer["mediaType"].to_string());
        types.collect()
    };
    let gzip = build(&lab.engine, "gzip").await;
    let zstd = build(&lab.engine, "zstd").await;
    let layer = |kind: &str| format!("\"application/vnd.oci.image.layer.v1.tar+{kind}\"");
    assert_eq!(types(&gzip), [layer("gzip")].into());
    assert_eq!(types(&zstd), [layer("zstd")].into());
    assert_eq!(gzip.config().rootfs.diff_ids, zstd.config().rootfs.diff_ids);
    let again = build(&lab.engine, "gzip").await;
    assert_eq!(again.digest(), gzip.digest());
    let server = serve().await;
    let other = engine(&lab, "other", client(&[&server]));
    let elsewhere = build(&other, "zstd").await;
    assert_eq!(elsewhere.digest(), zstd.digest());
    let strong = build(&other, "zstd:12").await;
    assert_ne!(strong.digest(), zstd.digest());

    // Others build upon it, and its layers stay as they are.
    let base = server.reference("base:1");
    other.push(&elsewhere, &base, &quiet).await.unwrap();
    let third = engine(&lab, "third", client(&[&server]));
    let upon = request(format!(
        "FROM {base}\nRUN test \"$(wc -l < /two)\" = 300000 && echo 3 > /three\n"
    ));
    let image = third.build(upon, CancellationToken::new(), &quiet).await;
    assert_eq!(
        types(&image.unwrap()),
        [layer("gzip"), layer("zstd")].into()
    );
}

/// Pushes an artifact, as `oras push` does.
async fn push_artifact(client: &Client, to: &Reference, files: &[(&str, &str)]) {
    let blob = async |text: &str, media_type: &str| {
        let bytes = bytes::Bytes::from(text.to_owned());
        let blob = descriptor(media_type, bytes.len() as u64, Digest::of(&bytes));
        let source = BlobSource::Bytes(bytes);
        client
            .push_blob(to, &blob, source, None, &|_| {})
            .await
            .unwrap();
        serde_json::to_value(blob).unwrap()
    };
    let mut layers = Vec::new();
    for (title, text) in files {
        let mut layer = blob(text, "text/plain").await;
        layer["annotations"] = serde_json::json!({"org.opencontainers.image.title": title});
        layers.push(layer);
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/x-files",
        "config": blob("{}", "application/vnd.oci.empty.v1+json").await,
        "layers": layers,
    });
    let bytes = serde_json::to_vec(&manifest).unwrap().into();
    client.push_manifest(to, bytes, OCI_MANIFEST).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_files_are_copied_from_an_artifact() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let registry = serve().await;
    let client = client(&[&registry]);
    let place = registry.reference("files:1");
    let engine = engine(&lab, "one", client.clone());
    let build = async |from: &Reference| {
        let context = NamedContext::Artifact(from.to_string());
        let request = Request {
            named_contexts: [("web".to_owned(), context)].into(),
            ..request("FROM scratch\nCOPY --from=web . /srv/".to_owned())
        };
        engine
            .build(request, CancellationToken::new(), &quiet)
            .await
    };
    let text = async |image: builder::Image, path: &str| {
        let root = image.root(&quiet).await.unwrap();
        String::from_utf8(root.read(path, 100).unwrap().unwrap()).unwrap()
    };
    push_artifact(
        &client,
        &place,
        &[("index.html", "hello"), ("css/a.css", "x")],
    )
    .await;
    let image = build(&place).await.unwrap();
    let first = image.digest();
    assert_eq!(text(image.clone(), "/srv/index.html").await, "hello");
    assert_eq!(text(image, "/srv/css/a.css").await, "x");
    assert_eq!(build(&place).await.unwrap().digest(), first);

    push_artifact(
        &client,
        &place,
        &[("index.html", "other"), ("css/a.css", "x")],
    )
    .await;
    assert_ne!(build(&place).await.unwrap().digest(), first);

    push_artifact(&client, &place, &[("a", "1"), ("a", "2")]).await;
    let twice = build(&place).await.unwrap_err().to_string();
    assert!(twice.contains("in the way of another"), "{twice}");
    let image = registry.reference("os/image:1");
    let built = lab.build("RUN true").await.unwrap();
    let pushing = lab.engine.with_client(client.clone());
    pushing.push(&built, &image, &quiet).await.unwrap();
    let image = build(&image).await.unwrap_err().to_string();
    assert!(image.contains("has no title"), "{image}");
}
