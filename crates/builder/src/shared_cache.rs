//! The build cache in a registry: what steps gave, by their keys, as an artifact that other machines read.
//!
//! Its configuration lists the steps; its layers are theirs. Keys are made of content alone, so what one machine
//! did another need not do again. Whoever may write the artifact decides what those builds are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use oci::layer::Limits;
use oci::manifest::{self, Document, Manifest, digest_of};
use oci::{BlobSource, ClientError, Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::cache::{Blob, CachedLayer, Entry};
use crate::engine::Engine;
use crate::error::BuildError;
use crate::event::{Event, Progress, Transfer};
use crate::image::{Image, Layer, bytes_event};
use crate::work::Work;

/// Media type of the list of steps.
const STEPS: &str = "application/vnd.caprock.build-cache.steps.v1+json";
/// Enough for any build; each step takes some 300 bytes of the list.
const MAX_STEPS: usize = 10_000;
const MAX_LIST: u64 = 4 << 20;

/// What a step gave, with the name of the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) key: Digest,
    pub(crate) layer: Option<CachedLayer>,
}

/// Steps that others did.
#[derive(Debug, Default)]
pub(crate) struct Imported {
    steps: BTreeMap<Digest, (Option<CachedLayer>, Reference)>,
}

impl Imported {
    /// Reads the lists of steps. One that is not there, or cannot be used, only costs time, so it is told and left out.
    pub(crate) fn read(work: &Work, from: &[Reference]) -> Result<Imported, BuildError> {
        let mut steps = BTreeMap::new();
        for reference in from {
            let listed = work.wait(async { Ok(list(&work.engine, reference).await) })?;
            match listed {
                Ok((listed, pinned)) => {
                    let of_this = listed
                        .into_iter()
                        .map(|step| (step.key, (step.layer, pinned.clone())));
                    steps.extend(of_this);
                }
                Err(ClientError::NotFound(_)) => {
                    work.tell(Event::Note(format!(
                        "there is no build cache `{reference}` yet"
                    )));
                }
                Err(error) => work.tell(Event::Note(format!(
                    "build cache `{reference}` is left out: {}",
                    crate::error::chain(&error)
                ))),
            }
        }
        Ok(Imported { steps })
    }

    /// What a step gave elsewhere; its layer is then in the store, verified. Recorded like one of our own.
    pub(crate) fn take(&self, work: &Work, key: &Digest) -> Result<Option<Entry>, BuildError> {
        let Some((layer, from)) = self.steps.get(key) else {
            return Ok(None);
        };
        let entry = Entry {
            layer: layer.clone(),
        };
        if let Some(CachedLayer {
            diff_id,
            blob: Some(blob),
        }) = layer
        {
            match fetch(work, *diff_id, *blob, from) {
                Ok(()) => {}
                Err(BuildError::Cancelled) => return Err(BuildError::Cancelled),
                Err(error) => {
                    work.tell(Event::Note(format!(
                        "a layer of build cache `{from}` is left out: {}",
                        crate::error::chain(&error)
                    )));
                    return Ok(None);
                }
            }
        }
        work.cache()
            .record(key, &entry)
            .map_err(BuildError::host("cannot write the build cache"))?;
        Ok(Some(entry))
    }
}

/// The steps of a cache, and the reference by which it stays the same.
async fn list(engine: &Engine, from: &Reference) -> Result<(Vec<Step>, Reference), ClientError> {
    let corrupt = |reason: &str| ClientError::Corrupt {
        what: format!("build cache {from}"),
        reason: reason.to_owned(),
    };
    let fetched = engine.client().manifest(from).await?;
    let Ok(Document::Manifest(document)) = fetched.parse() else {
        return Err(corrupt("it is not an artifact"));
    };
    if document.config().media_type().as_ref() != STEPS {
        return Err(corrupt(
            "it is another kind of artifact, or of another version",
        ));
    }
    let pinned = from.with_digest(document.digest());
    let bytes = engine
        .client()
        .blob_bytes(&pinned, document.config(), MAX_LIST)
        .await?;
    let steps: Vec<Step> = serde_json::from_slice(&bytes)
        .map_err(|error| corrupt(&format!("its list of steps is not valid: {error}")))?;
    let blobs = sizes(&document);
    let listed = |step: &Step| match &step.layer {
        None => true,
        Some(layer) => layer
            .blob
            .is_some_and(|blob| blobs.get(&blob.digest) == Some(&blob.size)),
    };
    if steps.len() > MAX_STEPS || !steps.iter().all(listed) {
        return Err(corrupt("its list of steps does not fit its layers"));
    }
    Ok((steps, pinned))
}

fn sizes(manifest: &Manifest) -> BTreeMap<Digest, u64> {
    let layers = manifest.layers().iter();
    layers
        .filter_map(|layer| Some((digest_of(layer).ok()?, layer.size())))
        .collect()
}

/// Fetches a layer, and looks whether it is the one that was said.
fn fetch(work: &Work, diff_id: Digest, blob: Blob, from: &Reference) -> Result<(), BuildError> {
    let layer = Layer {
        diff_id,
        digest: blob.digest,
        size: blob.size,
        media_type: blob.compression.media_type().into(),
        from: Some(from.clone()),
    };
    work.wait(work.fetch(&layer))?;
    let failed = || BuildError::host::<io::Error>("cannot read a layer of the build cache");
    let packed = work.engine.blobs().open_blob(&blob.digest)?;
    let limit = Limits::default().bytes;
    let plain = blob.compression.decoder(packed).map_err(failed())?;
    let mut plain = io::Read::take(plain, limit);
    let mut digester = oci::digest::Digester::new();
    io::copy(&mut plain, &mut digester).map_err(failed())?;
    let found = digester.finish();
    if found == diff_id {
        return Ok(());
    }
    Err(BuildError::BaseInvalid {
        reference: from.to_string(),
        reason: format!(
            "layer `{}` unpacks to `{found}`, expected `{diff_id}`",
            blob.digest
        ),
    })
}

impl Engine {
    /// Puts what the steps of images gave under a name, in place of what was there. The images must have been built
    /// with [`Request::keep_steps`](crate::Request::keep_steps).
    pub async fn export_cache(
        &self,
        images: &[&Image],
        to: &Reference,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        let failed = BuildError::push(to);
        let all = images.iter().flat_map(|image| image.steps.iter());
        let steps: BTreeMap<Digest, &Step> = all.map(|step| (step.key, step)).collect();
        let steps: Vec<&Step> = steps.into_values().collect();
        let mut layers = Vec::new();
        let mut seen = BTreeSet::new();
        for step in &steps {
            let Some(CachedLayer {
                diff_id,
                blob: Some(blob),
            }) = &step.layer
            else {
                continue;
            };
            if !seen.insert(blob.digest) {
                continue;
            }
            let layer = Layer {
                diff_id: *diff_id,
                digest: blob.digest,
                size: blob.size,
                media_type: blob.compression.media_type().into(),
                from: None,
            };
            let sent = bytes_event(progress, Transfer::Push, &layer);
            let source = BlobSource::Store(self.blobs());
            self.client()
                .push_blob(to, &layer.descriptor(), source, None, &sent)
                .await
                .map_err(&failed)?;
            layers.push(layer.descriptor());
        }
        let json = |value: serde_json::Result<Vec<u8>>| {
            value.map(Bytes::from).map_err(|error| BuildError::Host {
                action: "cannot write the build cache".into(),
                source: error.into(),
            })
        };
        let list = json(serde_json::to_vec(&steps))?;
        let config = manifest::descriptor(STEPS, list.len() as u64, Digest::of(&list));
        let source = BlobSource::Bytes(list);
        self.client()
            .push_blob(to, &config, source, None, &|_| {})
            .await
            .map_err(&failed)?;
        let document = json(serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": manifest::OCI_MANIFEST,
            "artifactType": STEPS,
            "config": config,
            "layers": layers,
        })))?;
        self.client()
            .push_manifest(to, document, manifest::OCI_MANIFEST)
            .await
            .map_err(&failed)?;
        Ok(())
    }
}
