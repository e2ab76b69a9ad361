//! Base images: looked up in their registry, or in the cache when a digest says which they are.

use oci::manifest::{Document, MAX_CONFIG, MAX_MANIFEST, Manifest, Platform, digest_of};
use oci::{BlobStore, Client, ClientError, Digest, Image, Reference};

use crate::cache::Cache;
use crate::error::BuildError;

/// Looks an image up. What a digest names needs no registry when it was looked up before; a tag is asked for.
pub(crate) async fn image(
    cache: &Cache,
    client: &Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<Image, BuildError> {
    let failed = BuildError::base(reference);
    let digest = match reference.digest() {
        Some(digest) => digest,
        None => client.resolve(reference).await.map_err(&failed)?.0,
    };
    let pinned = reference.with_digest(digest);
    if let Some(image) = known(cache.blobs(), &pinned, digest, platform) {
        return Ok(image);
    }
    let image = client.image(&pinned, platform).await.map_err(&failed)?;
    keep(cache.blobs(), client, &pinned, &image)
        .await
        .map_err(&failed)?;
    Ok(image)
}

/// The image, when the store has its manifest and configuration.
fn known(
    blobs: &BlobStore,
    pinned: &Reference,
    digest: Digest,
    platform: &Platform,
) -> Option<Image> {
    let manifest = match read(blobs, digest)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) => match read(blobs, digest_of(index.select(platform)?).ok()?)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => return None,
        },
    };
    let config_digest = digest_of(manifest.config()).ok()?;
    let config_bytes = blobs.read(&config_digest, MAX_CONFIG).ok()?;
    // Nothing was synced for this alone, so a power cut may have torn it.
    if Digest::of(&config_bytes) != config_digest {
        return None;
    }
    let config: oci::manifest::ImageConfig = serde_json::from_slice(&config_bytes).ok()?;
    let fits = (config.os(), config.architecture()) == (platform.os(), platform.architecture());
    fits.then(|| Image {
        reference: pinned.with_digest(manifest.digest()),
        manifest,
        config_bytes: config_bytes.into(),
        config,
    })
}

fn read(blobs: &BlobStore, digest: Digest) -> Option<Document> {
    let bytes = blobs.read(&digest, MAX_MANIFEST).ok()?;
    if Digest::of(&bytes) != digest {
        return None;
    }
    Document::parse(bytes::Bytes::from(bytes), None).ok()
}

/// Keeps what was looked up, and the index that led to it.
async fn keep(
    blobs: &BlobStore,
    client: &Client,
    pinned: &Reference,
    image: &Image,
) -> Result<(), ClientError> {
    let manifest: &Manifest = &image.manifest;
    if pinned.digest() != Some(manifest.digest()) {
        blobs.put(&client.manifest(pinned).await?.bytes)?;
    }
    blobs.put(manifest.bytes())?;
    blobs.put(&image.config_bytes)?;
    Ok(())
}
