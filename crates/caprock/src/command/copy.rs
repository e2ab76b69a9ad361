//! `caprock copy`: an image, or an index with all its images, from an OCI layout or a registry to a registry, byte for
//! byte.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, anyhow};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use oci::manifest::{Descriptor, Document, MAX_MANIFEST, digest_of};
use oci::{BlobSource, BlobStore, Client, ClientError, Reference, StoreError};

use super::registry::{self, Layout, Place};
use crate::cli;
use crate::exit::{Failure, refused};
use crate::output;

/// Manifests and indexes of one copy: more than there are platforms, each with an attestation.
const MAX_IMAGES: usize = 256;
/// Indexes in each other.
const MAX_DEPTH: usize = 4;

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
        images: AtomicUsize::new(0),
    };
    copy.push(&document, &destination, 0).await?;
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
    /// Manifests and indexes so far.
    images: AtomicUsize,
}

impl Copy<'_> {
    /// A manifest or index that an index names.
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

    /// Puts a manifest or index to `place`, after everything that it refers to. An index may hold indexes, as those
    /// with attestations of several builds do.
    fn push<'c>(
        &'c self,
        document: &'c Document,
        place: &'c Reference,
        depth: usize,
    ) -> BoxFuture<'c, Result<(), Failure>> {
        async move {
            if depth > MAX_DEPTH || self.images.fetch_add(1, Ordering::Relaxed) >= MAX_IMAGES {
                return Err(refused(anyhow!(
                    "`{}` is more than {MAX_IMAGES} images, or more than {MAX_DEPTH} indexes in each other",
                    self.destination
                )));
            }
            match document {
                Document::Manifest(manifest) => {
                    for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
                        // What may be had elsewhere only is not kept in registries.
                        let elsewhere = blob.urls().as_ref().is_some_and(|urls| !urls.is_empty());
                        if !elsewhere {
                            self.blob(blob).await?;
                        }
                    }
                }
                Document::Index(index) => {
                    for descriptor in index.manifests() {
                        let below = self.document(descriptor).await?;
                        let place = self.destination.with_digest(below.digest());
                        self.push(&below, &place, depth + 1).await?;
                    }
                }
            }
            self.client
                .push_manifest(place, document.bytes().clone(), document.media_type())
                .await?;
            Ok(())
        }
        .boxed()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use oci::{Access, Digest, Registry};
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::RegistryAccess;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

    /// A registry on this machine that anybody may use.
    async fn serve(dir: &std::path::Path) -> (Registry, String) {
        let registry = Registry::open(dir, Access::anyone()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let router = registry.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (registry, host)
    }

    fn blob(registry: &Registry, media_type: &str, content: &[u8]) -> Value {
        let digest = registry.blobs().put(content).unwrap();
        registry.link_blob("from/os", &digest).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    /// Puts a manifest with spaces and fields that no type of ours knows, and describes it.
    fn put(registry: &Registry, tag: Option<&str>, mut content: Value) -> Value {
        content["schemaVersion"] = 2.into();
        content["x-unknown"] = json!({"kept": [1, 2.50, null]});
        let media_type = content["mediaType"].as_str().unwrap().to_owned();
        let text = serde_json::to_string_pretty(&content).unwrap() + "\n \n";
        let document = Document::parse(text.clone().into_bytes(), Some(&media_type)).unwrap();
        registry.put_manifest("from/os", tag, &document).unwrap();
        json!({"mediaType": media_type, "digest": Digest::of(text.as_bytes()), "size": text.len()})
    }

    #[tokio::test]
    async fn everything_is_copied_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (source, source_host) = serve(&dir.path().join("a")).await;
        let (target, target_host) = serve(&dir.path().join("b")).await;

        let config = blob(&source, "application/vnd.oci.image.config.v1+json", b"{}");
        let zstd = blob(
            &source,
            "application/vnd.oci.image.layer.v1.tar+zstd",
            b"layer",
        );
        let strange = blob(&source, "application/vnd.example.thing+weird", b"a thing");
        let elsewhere = json!({
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "size": 7,
            "digest": Digest::of(b"elsewhere"), "urls": ["https://elsewhere.example/layer"],
        });
        let image = put(
            &source,
            None,
            json!({
                "mediaType": MANIFEST, "config": config, "layers": [zstd, strange, elsewhere],
            }),
        );
        let docker_config = blob(
            &source,
            "application/vnd.docker.container.image.v1+json",
            b"{ }",
        );
        let docker_layer = blob(
            &source,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            b"old",
        );
        let old = put(
            &source,
            None,
            json!({
                "mediaType": DOCKER, "config": docker_config, "layers": [docker_layer],
            }),
        );
        let statement = blob(&source, "application/vnd.in-toto+json", b"{\"proof\": 1}");
        let attestation = put(
            &source,
            None,
            json!({
                "mediaType": MANIFEST, "config": config, "layers": [statement],
            }),
        );
        let mut attestation = attestation;
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let nested = put(
            &source,
            None,
            json!({
                "mediaType": INDEX, "manifests": [image, attestation],
            }),
        );
        let all = put(
            &source,
            Some("1"),
            json!({
                "mediaType": INDEX, "manifests": [old, nested],
            }),
        );

        let args = |from: &str, to: &str| cli::Copy {
            source: from.to_owned(),
            destination: to.to_owned(),
            registry: RegistryAccess {
                authfile: None,
                ca_file: None,
                tls_verify: true,
            },
        };
        let copy = |tag: &str| {
            args(
                &format!("{source_host}/from/os:{tag}"),
                &format!("{target_host}/to/os:1"),
            )
        };
        run(copy("1")).await.unwrap();
        for described in [
            &image,
            &old,
            &attestation,
            &nested,
            &all,
            &zstd,
            &strange,
            &statement,
        ] {
            let digest: Digest = described["digest"].as_str().unwrap().parse().unwrap();
            let bytes = target.blobs().read(&digest, 1 << 20).unwrap();
            assert_eq!(Digest::of(&bytes), digest);
        }
        assert!(!target.blobs().has(&Digest::of(b"elsewhere")));

        // Indexes in indexes without end are not followed.
        let mut deep = image;
        for _ in 0..6 {
            deep = put(
                &source,
                Some("deep"),
                json!({"mediaType": INDEX, "manifests": [deep]}),
            );
        }
        assert!(run(copy("deep")).await.is_err());
    }
}
