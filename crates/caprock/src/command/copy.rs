//! `caprock copy`: an image, or an index with all its images, from an OCI layout or a registry to a registry, byte for
//! byte.

use anyhow::{Context as _, anyhow};
use oci::manifest::{Descriptor, Document, MAX_MANIFEST, Manifest, digest_of};
use oci::{BlobSource, BlobStore, Client, ClientError, Reference, StoreError};

use super::registry::{self, Layout, Place};
use crate::cli;
use crate::exit::{Failure, refused};
use crate::output;

/// Images of one index: more than there are platforms.
const MAX_IMAGES: usize = 256;

pub(crate) async fn run(args: cli::Copy) -> Result<(), Failure> {
    let destination = registry::reference(&args.destination)?;
    let source = Place::parse(&args.source)?;
    let scratch;
    let (client, document, blobs, from) = match source {
        Place::Layout { dir, tag } => {
            let client = registry::client(&args.registry, &[&destination])?;
            let layout = Layout::open(&dir, tag.as_deref())?;
            (client, layout.manifest, layout.blobs, None)
        }
        Place::Registry(source) => {
            let client = registry::client(&args.registry, &[&source, &destination])?;
            let document = client.manifest(&source).await?.parse()?;
            scratch = tempfile::tempdir()?;
            let blobs = BlobStore::open(scratch.path())?;
            (client, document, blobs, Some(source))
        }
    };
    let copy = Copy {
        client: &client,
        blobs: &blobs,
        from: from.as_ref(),
        destination: &destination,
    };
    match &document {
        Document::Manifest(manifest) => copy.image(manifest, &destination).await?,
        Document::Index(index) => {
            if index.manifests().len() > MAX_IMAGES {
                return Err(refused(anyhow!(
                    "`{}` is an index of more than {MAX_IMAGES} images",
                    args.source
                )));
            }
            for descriptor in index.manifests() {
                match copy.document(descriptor).await? {
                    Document::Manifest(manifest) => {
                        let place = destination.with_digest(manifest.digest());
                        copy.image(&manifest, &place).await?;
                    }
                    Document::Index(_) => {
                        return Err(refused(anyhow!(
                            "`{}` is an index of indexes, expected one of images",
                            args.source
                        )));
                    }
                }
            }
            client
                .push_manifest(&destination, index.bytes().clone(), index.media_type())
                .await?;
        }
    }
    Ok(output::result(&format!(
        "{}\n",
        destination.with_digest(document.digest())
    ))?)
}

/// Where things come from and go to.
struct Copy<'a> {
    client: &'a Client,
    /// The blobs of a layout, or those that were fetched.
    blobs: &'a BlobStore,
    /// The registry that blobs are fetched from when they are not there.
    from: Option<&'a Reference>,
    destination: &'a Reference,
}

impl Copy<'_> {
    /// One image of an index.
    async fn document(&self, descriptor: &Descriptor) -> Result<Document, Failure> {
        let digest = digest_of(descriptor)?;
        Ok(match self.from {
            Some(from) => self
                .client
                .manifest(&from.with_digest(digest))
                .await?
                .parse()?,
            None => {
                let bytes = self.blobs.read(&digest, MAX_MANIFEST)?;
                let media_type = descriptor.media_type().to_string();
                Document::parse(bytes, Some(&media_type))
                    .with_context(|| format!("`{digest}` of the index cannot be used"))?
            }
        })
    }

    async fn image(&self, manifest: &Manifest, place: &Reference) -> Result<(), Failure> {
        for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
            self.blob(blob).await?;
        }
        self.client
            .push_manifest(place, manifest.bytes().clone(), manifest.media_type())
            .await?;
        Ok(())
    }

    /// Sends a blob; one that the destination has or can take over from the source is not fetched.
    async fn blob(&self, blob: &Descriptor) -> Result<(), Failure> {
        let push = || {
            let source = BlobSource::Store(self.blobs);
            self.client
                .push_blob(self.destination, blob, source, self.from, &|_| {})
        };
        let pushed = match (push().await, self.from) {
            (Err(ClientError::Store(StoreError::Missing(_))), Some(from)) => {
                self.client
                    .fetch_blob(from, blob, self.blobs, &|_| {})
                    .await?;
                push().await?
            }
            (pushed, _) => pushed?,
        };
        output::words(&format!("{} {pushed:?}\n", blob.digest()));
        Ok(())
    }
}
