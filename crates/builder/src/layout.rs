//! Writing images to disk: as an OCI image layout, and as one in a tar archive.

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

/// The annotation that holds a tag.
const TAG: &str = "org.opencontainers.image.ref.name";
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

impl Engine {
    /// Writes an image as an OCI image layout; with a tag, under that name. A layout that is there is added to.
    pub async fn write_layout(
        &self,
        image: &Image,
        dir: &Path,
        tag: Option<&str>,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        self.fetch_layers(image, progress).await?;
        let failed = || failed(dir);
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed())?;
        for (digest, path) in self.layer_files(image) {
            let place = blobs.join(digest.hex());
            if !place.exists() {
                let part = blobs.join(format!(".{}.part", digest.hex()));
                fs::copy(path, &part).map_err(failed())?;
                fs::rename(part, place).map_err(failed())?;
            }
        }
        for bytes in [&image.config_bytes, &image.manifest] {
            fs::write(blobs.join(Digest::of(bytes).hex()), bytes).map_err(failed())?;
        }
        fs::write(dir.join("oci-layout"), MARKER).map_err(failed())?;
        let index = index_with(fs::read(dir.join("index.json")).ok(), image, tag);
        let part = dir.join(".index.json.part");
        fs::write(&part, index).map_err(failed())?;
        fs::rename(part, dir.join("index.json")).map_err(failed())
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
        self.fetch_layers(image, progress).await?;
        let write = || -> io::Result<()> {
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
            let part = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")))?;
            let mut tar = tar::Builder::new(io::BufWriter::new(part.as_file()));
            let index = index_with(None, image, tag);
            append(
                &mut tar,
                "oci-layout",
                MARKER.len() as u64,
                MARKER.as_bytes(),
            )?;
            append(&mut tar, "index.json", index.len() as u64, index.as_bytes())?;
            for bytes in [&image.manifest, &image.config_bytes] {
                append(
                    &mut tar,
                    &blob(&Digest::of(bytes)),
                    bytes.len() as u64,
                    &bytes[..],
                )?;
            }
            let mut written = std::collections::BTreeSet::new();
            for (digest, path) in self.layer_files(image) {
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

    async fn fetch_layers(&self, image: &Image, progress: &Progress<'_>) -> Result<(), BuildError> {
        for layer in image.layers.iter() {
            self.fetch_layer(layer, progress).await?;
        }
        Ok(())
    }

    fn layer_files(&self, image: &Image) -> Vec<(Digest, PathBuf)> {
        let file = |digest: Digest| (digest, self.blobs().path(&digest));
        image
            .layers
            .iter()
            .map(|layer| file(layer.digest))
            .collect()
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

/// The index of a layout with an image added, which takes a tag away from the image that had it.
fn index_with(old: Option<Vec<u8>>, image: &Image, tag: Option<&str>) -> String {
    let old: Option<Value> = old.and_then(|text| serde_json::from_slice(&text).ok());
    let mut manifests = old
        .and_then(|index| index["manifests"].as_array().cloned())
        .unwrap_or_default();
    let mut descriptor = json!({
        "mediaType": manifest::OCI_MANIFEST,
        "digest": image.digest,
        "size": image.manifest.len(),
        "platform": { "os": image.config.os, "architecture": image.config.architecture },
    });
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
