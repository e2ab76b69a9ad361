//! A built image: what it is made of, a view of its files, and pushing it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use oci::manifest::{self, Descriptor};
use oci::{BlobSource, ClientError, Digest, Reference, StoreError};

use crate::config::ImageConfig;
use crate::engine::{Engine, Output};
use crate::error::BuildError;
use crate::event::{Event, Progress, Transfer};
use crate::evict::Hold;
use crate::pack::Uploads;
use crate::root_view::RootView;
use crate::shared_cache::Step;

/// An image whose own layers are in the engine's store. Nothing is pushed yet.
#[derive(Clone)]
pub struct Image {
    pub(crate) engine: Engine,
    pub(crate) manifest: Bytes,
    pub(crate) digest: Digest,
    pub(crate) config_bytes: Bytes,
    pub(crate) config: Arc<ImageConfig>,
    pub(crate) layers: Arc<Vec<Layer>>,
    pub(crate) uploads: Arc<Uploads>,
    /// What its steps gave, when the request asked to keep that.
    pub(crate) steps: Arc<Vec<Step>>,
    /// Keeps its layers in the cache.
    pub(crate) _hold: Arc<Hold>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layer {
    pub(crate) diff_id: Digest,
    /// The blob.
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
    /// The image that it comes from, for a layer that was not made here and may not be in the store.
    pub(crate) from: Option<Reference>,
}

impl Layer {
    pub(crate) fn descriptor(&self) -> Descriptor {
        manifest::descriptor(&self.media_type, self.size, self.digest)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("digest", &self.digest)
            .field("layers", &self.layers.len())
            .finish_non_exhaustive()
    }
}

impl Image {
    /// The digest of the manifest: what the image is known by.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The manifest, as it is pushed.
    pub fn manifest(&self) -> &Bytes {
        &self.manifest
    }

    /// The image configuration.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Bytes of all layers, compressed.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// A view of the image's files. Fetches and unpacks base layers that no step needed. Takes the superuser.
    pub async fn root(&self, progress: &Progress<'_>) -> Result<RootView, BuildError> {
        let layers = self.layers.clone();
        self.engine
            .in_background(
                progress,
                tokio_util::sync::CancellationToken::new(),
                Output::default(),
                move |work| {
                    let blobs = layers.iter().map(|layer| (layer.diff_id, Some(layer)));
                    let paths = work.unpacked(blobs)?;
                    RootView::mount(work.cache(), &paths, work.hold.clone())
                        .map_err(BuildError::host("cannot mount the image"))
                },
            )
            .await
    }
}

impl Engine {
    /// Pushes an image; what the repository has already is not sent again, and layers of the base image are taken
    /// from where it lies when that is the same registry. Returns the digest.
    pub async fn push(
        &self,
        image: &Image,
        to: &Reference,
        progress: &Progress<'_>,
    ) -> Result<Digest, BuildError> {
        let failed = BuildError::push(to);
        // Layers that are on their way need not be sent again.
        image.uploads.settle().await;
        let mut pushes = Vec::new();
        for layer in image.layers.iter() {
            pushes.push(self.push_layer(image, layer, to, progress));
        }
        // A few at a time: enough to hide latency, few enough to leave room for others.
        use futures::StreamExt as _;
        let mut pushes = futures::stream::iter(pushes).buffer_unordered(3);
        while let Some(pushed) = pushes.next().await {
            pushed?;
        }
        let config = manifest::descriptor(
            CONFIG,
            image.config_bytes.len() as u64,
            Digest::of(&image.config_bytes),
        );
        let source = BlobSource::Bytes(image.config_bytes.clone());
        self.client()
            .push_blob(to, &config, source, None, &|_| {})
            .await
            .map_err(&failed)?;
        self.client()
            .push_manifest(to, image.manifest.clone(), manifest::OCI_MANIFEST)
            .await
            .map_err(&failed)
    }

    async fn push_layer(
        &self,
        image: &Image,
        layer: &Layer,
        to: &Reference,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        let failed = BuildError::push(to);
        let descriptor = layer.descriptor();
        let sent = bytes_event(progress, Transfer::Push, layer);
        let push = || {
            self.client().push_blob(
                to,
                &descriptor,
                BlobSource::Store(self.blobs()),
                layer.from.as_ref(),
                &sent,
            )
        };
        match push().await {
            // Neither there nor to be mounted: it has to come here first, as the build got it.
            Err(ClientError::Store(StoreError::Missing(_))) => {
                image.engine.fetch_layer(layer, progress).await?;
                push().await.map_err(&failed)?;
            }
            other => drop(other.map_err(&failed)?),
        }
        Ok(())
    }

    /// Sees to it that the store has a layer.
    pub(crate) async fn fetch_layer(
        &self,
        layer: &Layer,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        let Some(from) = &layer.from else {
            return Ok(());
        };
        let received = bytes_event(progress, Transfer::Fetch, layer);
        let fetched = self
            .client()
            .fetch_blob(from, &layer.descriptor(), self.blobs(), &received)
            .await;
        fetched.map_err(BuildError::base(from))
    }
}

/// Media type of the layers made here.
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of an image configuration.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

pub(crate) fn bytes_event<'a>(
    progress: &'a Progress<'_>,
    transfer: Transfer,
    layer: &Layer,
) -> impl Fn(u64) + Sync + 'a {
    let (blob, total) = (layer.digest.to_string(), layer.size);
    move |done| {
        progress(Event::Bytes {
            transfer,
            blob: blob.clone(),
            done,
            total,
        })
    }
}
