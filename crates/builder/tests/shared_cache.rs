//! The build cache in a registry. Executing steps takes root, crun and busybox.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;

use builder::{Engine, Event, Image, Request};
use bytes::Bytes;
use common::registry::{client, engine, quiet, serve};
use common::{Lab, privileged};
use oci::manifest::{Document, OCI_MANIFEST};
use oci::{BlobSource, Client, Digest, Reference};
use serde_json::Value;

const STEPS: &str = "FROM base AS tool\nRUN mkdir /t && echo made > /t/x\nFROM base AS final\nRUN echo one > /one\n\
                     COPY --from=tool /t /t\nRUN true\nRUN cat /t/x > /two";

struct Built {
    image: Image,
    cached: usize,
    executed: usize,
    notes: Vec<String>,
}

async fn build(engine: &Engine, request: Request) -> Built {
    let events = Mutex::new(Vec::new());
    let tell = |event| events.lock().unwrap().push(event);
    let image = engine.build(request, Default::default(), &tell).await;
    let events = events.into_inner().unwrap();
    let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    let cached = count(|event| matches!(event, Event::Cached { .. }));
    let started = count(
        |event| matches!(event, Event::StepStarted { text, .. } if !text.starts_with("FROM")),
    );
    let notes = events.into_iter().filter_map(|event| match event {
        Event::Note(text) => Some(text),
        _ => None,
    });
    Built {
        image: image.unwrap(),
        cached,
        executed: started - cached,
        notes: notes.collect(),
    }
}

fn from(lab: &Lab, cache: &Reference) -> Request {
    Request {
        cache_from: vec![cache.clone()],
        ..lab.request(STEPS)
    }
}

/// Builds, and puts what the steps gave into a cache.
async fn export(engine: &Engine, lab: &Lab, cache: &Reference) -> Built {
    let kept = Request {
        keep_steps: true,
        ..lab.request(STEPS)
    };
    let made = build(engine, kept).await;
    let exported = engine.export_cache(&[&made.image], cache, &quiet).await;
    exported.unwrap();
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_an_exported_cache_spares_others_every_step() {
    if !privileged() {
        return;
    }
    let server = serve().await;
    let cache = server.reference("team/cache:main");
    let lab = Lab::new();
    let first = engine(&lab, "first", client(&[&server]));
    let before = build(&first, from(&lab, &cache)).await;
    assert_eq!(
        before.notes,
        [format!("there is no build cache `{cache}` yet")]
    );
    export(&first, &lab, &cache).await;

    let second = engine(&lab, "second", client(&[&server]));
    let found = build(&second, from(&lab, &cache)).await;
    assert_eq!((found.executed, found.cached), (0, 6), "{:?}", found.notes);
    assert_eq!(found.image.digest(), before.image.digest());
    let root = found.image.root(&quiet).await.unwrap();
    assert_eq!(root.read("/two", 99).unwrap().unwrap(), b"made\n");
    // It is this machine's own by now.
    let again = build(&second, lab.request(STEPS)).await;
    assert_eq!(again.executed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_cache_that_lies_is_left_out() {
    if !privileged() {
        return;
    }
    let server = serve().await;
    let cache = server.reference("team/cache:main");
    let lab = Lab::new();
    let client = client(&[&server]);
    let first = engine(&lab, "first", client.clone());
    let made = export(&first, &lab, &cache).await;

    // Each layer's name is given to the layer of another step.
    rewrite(&client, &cache, |steps| {
        let mut blobs: Vec<Value> = steps
            .iter()
            .map(|step| step["layer"]["blob"].clone())
            .collect();
        blobs.retain(|blob| !blob.is_null());
        blobs.rotate_left(1);
        let with_layer = steps.iter_mut().filter(|step| !step["layer"].is_null());
        for (step, blob) in with_layer.zip(blobs) {
            step["layer"]["blob"] = blob;
        }
    })
    .await;
    let second = engine(&lab, "second", client.clone());
    let built = build(&second, from(&lab, &cache)).await;
    assert!(built.executed >= 4, "{}", built.executed);
    assert!(built.notes[0].contains("unpacks to"), "{:?}", built.notes);
    assert_eq!(built.image.digest(), made.image.digest());

    // A layer is listed that the artifact does not have.
    rewrite(&client, &cache, |steps| {
        for step in steps.iter_mut().filter(|step| !step["layer"].is_null()) {
            step["layer"]["blob"]["digest"] = Digest::of(b"other").to_string().into();
        }
    })
    .await;
    let third = engine(&lab, "third", client.clone());
    let built = build(&third, from(&lab, &cache)).await;
    assert!(
        built.notes[0].contains("does not fit its layers"),
        "{:?}",
        built.notes
    );
    assert_eq!(built.image.digest(), made.image.digest());
}

/// Pushes the artifact again with another list of steps.
async fn rewrite(client: &Client, cache: &Reference, change: impl FnOnce(&mut Vec<Value>)) {
    let fetched = client.manifest(cache).await.unwrap();
    let Document::Manifest(manifest) = fetched.parse().unwrap() else {
        panic!("an index");
    };
    let list = client
        .blob_bytes(cache, manifest.config(), 1 << 20)
        .await
        .unwrap();
    let mut steps: Vec<Value> = serde_json::from_slice(&list).unwrap();
    change(&mut steps);
    let list = Bytes::from(serde_json::to_vec(&steps).unwrap());
    let media_type = manifest.config().media_type().to_string();
    let config = oci::manifest::descriptor(&media_type, list.len() as u64, Digest::of(&list));
    client
        .push_blob(cache, &config, BlobSource::Bytes(list), None, &|_| {})
        .await
        .unwrap();
    let mut document: Value = serde_json::from_slice(manifest.bytes()).unwrap();
    document["config"] = serde_json::to_value(&config).unwrap();
    let bytes = Bytes::from(serde_json::to_vec(&document).unwrap());
    client
        .push_manifest(cache, bytes, OCI_MANIFEST)
        .await
        .unwrap();
}
