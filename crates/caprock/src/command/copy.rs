//! `caprock copy`: an image from an OCI layout or a registry to a registry, byte for byte.

use anyhow::anyhow;
use oci::manifest::{Descriptor, Document, Manifest};
use oci::{BlobSource, BlobStore, Client, Reference};

use super::registry::{self, Layout, Place};
use crate::cli;
use crate::exit::{Failure, refused};
use crate::output;

pub(crate) async fn run(args: cli::Copy) -> Result<(), Failure> {
    let destination = registry::reference(&args.destination)?;
    let source = Place::parse(&args.source)?;
    let digest = match source {
        Place::Layout { dir, tag } => {
            let client = registry::client(&args.registry, &[&destination])?;
            let layout = Layout::open(&dir, tag.as_deref())?;
            let manifest = one_image(layout.manifest, &args.source)?;
            push(&client, &manifest, &layout.blobs, None, &destination).await?
        }
        Place::Registry(source) => {
            let client = registry::client(&args.registry, &[&source, &destination])?;
            let image = client
                .image(&source, &oci::manifest::this_platform())
                .await?;
            let scratch = tempfile::tempdir()?;
            let blobs = BlobStore::open(scratch.path())?;
            for blob in blobs_of(&image.manifest) {
                client
                    .fetch_blob(&image.reference, blob, &blobs, &|_| {})
                    .await?;
            }
            push(
                &client,
                &image.manifest,
                &blobs,
                Some(&image.reference),
                &destination,
            )
            .await?
        }
    };
    Ok(output::result(&format!(
        "{}\n",
        destination.with_digest(digest)
    ))?)
}

fn one_image(document: Document, name: &str) -> Result<Manifest, Failure> {
    match document {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err(refused(anyhow!(
            "`{name}` is an index of several images; copying one is not supported yet"
        ))),
    }
}

fn blobs_of(manifest: &Manifest) -> impl Iterator<Item = &Descriptor> {
    std::iter::once(manifest.config()).chain(manifest.layers())
}

async fn push(
    client: &Client,
    manifest: &Manifest,
    blobs: &BlobStore,
    from: Option<&Reference>,
    destination: &Reference,
) -> Result<oci::Digest, Failure> {
    for blob in blobs_of(manifest) {
        let pushed = client
            .push_blob(destination, blob, BlobSource::Store(blobs), from, &|_| {})
            .await?;
        output::words(&format!("{} {pushed:?}\n", blob.digest()));
    }
    Ok(client
        .push_manifest(destination, manifest.bytes().clone(), manifest.media_type())
        .await?)
}
