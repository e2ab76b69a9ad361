//! Writing images to disk: as an OCI image layout, and as one in a tar archive.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use oci::Digest;
use oci::manifest;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::error::BuildError;
use crate::event::Progress;
use crate::image::Image;
use crate::index::{Descriptor, Index};

/// The annotation that holds a tag.
const TAG: &str = "org.opencontainers.image.ref.name";
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// What a layout holds under one name.
struct Contents<'a> {
    /// How its index describes it.
    descriptor: Value,
    /// Manifests, configurations and indexes.
    documents: Vec<&'a [u8]>,
    images: &'a [Image],
}

impl<'a> Contents<'a> {
    fn image(image: &'a Image) -> Contents<'a> {
        Contents {
            descriptor: json!(Descriptor::of(image)),
            documents: vec![&image.manifest, &image.config_bytes],
            images: std::slice::from_ref(image),
        }
    }

    fn index(index: &'a Index) -> Contents<'a> {
        let mut documents: Vec<&[u8]> = vec![index.bytes()];
        for image in index.images() {
            documents.extend([&image.manifest[..], &image.config_bytes]);
        }
        Contents {
            descriptor: json!({
                "mediaType": manifest::OCI_INDEX,
                "digest": index.digest(),
                "size": index.bytes().len(),
            }),
            documents,
            images: index.images(),
        }
    }
}

impl Engine {
    /// Writes an image as an OCI image layout; with a tag, under that name. A layout that is there is added to.
    pub async fn write_layout(
        &self,
        image: &Image,
        dir: &Path,
        tag: Option<&str>,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        self.layout(&Contents::image(image), dir, tag, progress)
            .await
    }

    /// Writes an image as an OCI image layout in a tar archive, in place of what is at `file`. Equal images give equal
    /// archives.
    pub async fn write_archive(
        &self,
        image: &Image,
        file: &Path,
        tag: Option<&str>,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        self.archive(&Contents::image(image), file, tag, progress)
            .await
    }

    /// Writes an index with its images as [`Engine::write_layout`] does an image.
    pub async fn write_index_layout(
        &self,
        index: &Index,
        dir: &Path,
        tag: Option<&str>,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        self.layout(&Contents::index(index), dir, tag, progress)
            .await
    }

    /// Writes an index with its images as [`Engine::write_archive`] does an image.
    pub async fn write_index_archive(
        &self,
        index: &Index,
        file: &Path,
        tag: Option<&str>,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        self.archive(&Contents::index(index), file, tag, progress)
            .await
    }

    async fn layout(
        &self,
        contents: &Contents<'_>,
        dir: &Path,
        tag: Option<&str>,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        let layers = self.layer_files(contents, progress).await?;
        let failed = || failed(dir);
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed())?;
        for (digest, path) in layers {
            let place = blobs.join(digest.hex());
            if !place.exists() {
                let part = blobs.join(format!(".{}.part", digest.hex()));
                fs::copy(path, &part).map_err(failed())?;
                fs::rename(part, place).map_err(failed())?;
            }
        }
        for bytes in &contents.documents {
            fs::write(blobs.join(Digest::of(bytes).hex()), bytes).map_err(failed())?;
        }
        fs::write(dir.join("oci-layout"), MARKER).map_err(failed())?;
        let old = fs::read(dir.join("index.json")).ok();
        let index = index_with(old, &contents.descriptor, tag);
        let part = dir.join(".index.json.part");
        fs::write(&part, index).map_err(failed())?;
        fs::rename(part, dir.join("index.json")).map_err(failed())
    }

    async fn archive(
        &self,
        contents: &Contents<'_>,
        file: &Path,
        tag: Option<&str>,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        let layers = self.layer_files(contents, progress).await?;
        let write = || -> io::Result<()> {
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
            let part = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")))?;
            let mut tar = tar::Builder::new(io::BufWriter::new(part.as_file()));
            let index = index_with(None, &contents.descriptor, tag);
            let size = MARKER.len() as u64;
            append(&mut tar, "oci-layout", size, MARKER.as_bytes())?;
            append(&mut tar, "index.json", index.len() as u64, index.as_bytes())?;
            let mut written = BTreeSet::new();
            for bytes in &contents.documents {
                let digest = Digest::of(bytes);
                if written.insert(digest) {
                    append(&mut tar, &blob(&digest), bytes.len() as u64, *bytes)?;
                }
            }
            for (digest, path) in layers {
                if written.insert(digest) {
                    let layer = File::open(path)?;
                    let size = layer.metadata()?.len();
                    append(&mut tar, &blob(&digest), size, layer)?;
                }
            }
            tar.into_inner()?.flush()?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            part.as_file().set_permissions(mode)?;
            part.persist(file).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(failed(file))
    }

    /// The layers as files in the store, fetched if need be.
    async fn layer_files(
        &self,
        contents: &Contents<'_>,
        progress: &Progress<'_>,
    ) -> Result<Vec<(Digest, PathBuf)>, BuildError> {
        let mut files = Vec::new();
        for layer in contents.images.iter().flat_map(|image| image.layers.iter()) {
            self.fetch_layer(layer, progress).await?;
            files.push((layer.digest, self.blobs().path(&layer.digest)));
        }
        Ok(files)
    }
}

fn failed(place: &Path) -> impl FnOnce(io::Error) -> BuildError {
    BuildError::host(format!("cannot write the image to `{}`", place.display()))
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn append<W: io::Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content)
}

/// The index of a layout with something added, which takes a tag away from what had it.
fn index_with(old: Option<Vec<u8>>, added: &Value, tag: Option<&str>) -> String {
    let old: Option<Value> = old.and_then(|text| serde_json::from_slice(&text).ok());
    let mut manifests = old
        .and_then(|index| index["manifests"].as_array().cloned())
        .unwrap_or_default();
    let mut descriptor = added.clone();
    manifests.retain(|other| {
        let same_tag = tag.is_some_and(|tag| other["annotations"][TAG] == tag);
        !same_tag && (tag.is_some() || other["digest"] != descriptor["digest"])
    });
    if let Some(tag) = tag {
        descriptor["annotations"] = json!({ TAG: tag });
    }
    manifests.push(descriptor);
    json!({ "schemaVersion": 2, "mediaType": manifest::OCI_INDEX, "manifests": manifests })
        .to_string()
}
