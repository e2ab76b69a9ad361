//! The layers of a stage: stored, or unpacked on this machine and perhaps being packed.

use std::sync::Arc;

use oci::Digest;
use oci::manifest::chain_id;

use crate::cache::{Blob, CachedLayer};
use crate::error::BuildError;
use crate::image::Layer;
use crate::pack::Packing;
use crate::work::Work;

/// One layer.
#[derive(Debug, Clone)]
pub(super) struct StageLayer {
    pub(super) diff_id: Digest,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// A blob, here or in a registry.
    Stored(Layer),
    /// A blob here that is compressed in another way than this build does it, made by the step with this key.
    Otherwise {
        layer: Layer,
        blob: Blob,
        key: Digest,
    },
    /// A tree in the cache, made by the step with this key.
    Unpacked { key: Digest },
    /// A tree in the cache whose blob is on its way.
    Packing(Arc<Packing>),
}

impl From<Layer> for StageLayer {
    fn from(layer: Layer) -> Self {
        StageLayer {
            diff_id: layer.diff_id,
            form: Form::Stored(layer),
        }
    }
}

impl StageLayer {
    /// A layer that a step gave, now or earlier.
    pub(super) fn cached(work: &Work, layer: CachedLayer, key: Digest) -> StageLayer {
        let diff_id = layer.diff_id;
        match layer.blob {
            Some(blob) if blob.compression == work.compression => stored(diff_id, blob).into(),
            Some(blob) => StageLayer {
                diff_id,
                form: Form::Otherwise {
                    layer: stored(diff_id, blob),
                    blob,
                    key,
                },
            },
            None => StageLayer {
                diff_id,
                form: Form::Unpacked { key },
            },
        }
    }

    /// A layer that is being packed.
    pub(super) fn packing(diff_id: Digest, packing: Packing) -> StageLayer {
        StageLayer {
            diff_id,
            form: Form::Packing(Arc::new(packing)),
        }
    }

    fn blob(&self) -> Option<&Layer> {
        match &self.form {
            Form::Stored(layer) | Form::Otherwise { layer, .. } => Some(layer),
            Form::Unpacked { .. } | Form::Packing(_) => None,
        }
    }
}

/// What it takes to have layers unpacked: the blobs of those that have one.
pub(super) fn blobs_so_far(
    layers: &[StageLayer],
) -> impl Iterator<Item = (Digest, Option<&Layer>)> {
    layers.iter().map(|layer| (layer.diff_id, layer.blob()))
}

/// The blobs of layers that go into an image, waited for or packed now.
pub(super) fn blobs(work: &Work, layers: &[StageLayer]) -> Result<Vec<Layer>, BuildError> {
    let mut chain = None;
    let mut blobs = Vec::new();
    for layer in layers {
        let here = chain_id(chain, &layer.diff_id);
        chain = Some(here);
        let diff_id = layer.diff_id;
        blobs.push(match &layer.form {
            Form::Stored(layer) => layer.clone(),
            Form::Otherwise { blob, key, .. } => {
                let packing = Packing::again(work, *blob, diff_id, *key);
                stored(diff_id, packing.finish(work)?)
            }
            Form::Packing(packing) => stored(diff_id, packing.finish(work)?),
            Form::Unpacked { key } => {
                let tree = work.cache().layer(&here);
                let packing = Packing::start(work, tree, None, diff_id, *key);
                stored(diff_id, packing.finish(work)?)
            }
        });
    }
    Ok(blobs)
}

/// A layer that a step gave on a chain, with its blob.
pub(super) fn packed(
    work: &Work,
    layer: CachedLayer,
    key: Digest,
    below: Option<Digest>,
) -> Result<CachedLayer, BuildError> {
    if layer.blob.is_some() {
        return Ok(layer);
    }
    let tree = work.cache().layer(&chain_id(below, &layer.diff_id));
    let blob = Packing::start(work, tree, None, layer.diff_id, key).finish(work)?;
    Ok(CachedLayer {
        blob: Some(blob),
        ..layer
    })
}

/// The name of the stack of layers.
pub(super) fn chain(layers: &[StageLayer]) -> Option<Digest> {
    layers
        .iter()
        .fold(None, |chain, layer| Some(chain_id(chain, &layer.diff_id)))
}

fn stored(diff_id: Digest, blob: Blob) -> Layer {
    Layer {
        diff_id,
        digest: blob.digest,
        size: blob.size,
        media_type: blob.compression.media_type().into(),
        from: None,
    }
}
