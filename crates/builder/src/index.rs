//! An image index: one image for each of several platforms, under one name.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci::manifest;
use oci::{Digest, Reference};
use serde::Serialize;

use crate::engine::Engine;
use crate::error::BuildError;
use crate::event::Progress;
use crate::image::Image;

/// Images for several platforms. Nothing is pushed yet.
#[derive(Debug, Clone)]
pub struct Index {
    images: Vec<Image>,
    bytes: Bytes,
    digest: Digest,
}

impl Index {
    /// An index of images, in the order given: clients that cannot choose take the first.
    pub fn new(
        images: Vec<Image>,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Index, BuildError> {
        let document = Document {
            schema_version: 2,
            media_type: manifest::OCI_INDEX,
            manifests: images.iter().map(Descriptor::of).collect(),
            annotations,
        };
        let bytes = serde_json::to_vec(&document).map_err(|error| BuildError::Host {
            action: "cannot write the image index".into(),
            source: error.into(),
        })?;
        Ok(Index {
            images,
            digest: Digest::of(&bytes),
            bytes: bytes.into(),
        })
    }

    /// The digest of the index: what all the images together are known by.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The index, as it is pushed.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The images.
    pub fn images(&self) -> &[Image] {
        &self.images
    }
}

impl Engine {
    /// Pushes the images by digest, then the index. Returns its digest.
    pub async fn push_index(
        &self,
        index: &Index,
        to: &Reference,
        progress: &Progress<'_>,
    ) -> Result<Digest, BuildError> {
        for image in &index.images {
            self.push(image, &to.with_digest(image.digest()), progress)
                .await?;
        }
        self.client()
            .push_manifest(to, index.bytes.clone(), manifest::OCI_INDEX)
            .await
            .map_err(BuildError::push(to))
    }
}

/// The index in a fixed order of fields, so that its digest depends on its content alone.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor<'a>>,
    #[serde(skip_serializing_if = "is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

fn is_empty(annotations: &&BTreeMap<String, String>) -> bool {
    annotations.is_empty()
}

/// An image as an index lists it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor<'a> {
    media_type: &'a str,
    digest: Digest,
    size: usize,
    platform: Platform<'a>,
}

#[derive(Serialize)]
struct Platform<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
}

impl Descriptor<'_> {
    pub(crate) fn of(image: &Image) -> Descriptor<'_> {
        let config = image.config();
        Descriptor {
            media_type: manifest::OCI_MANIFEST,
            digest: image.digest(),
            size: image.manifest().len(),
            platform: Platform {
                architecture: &config.architecture,
                os: &config.os,
                variant: config.variant(),
            },
        }
    }
}
