//! OCI artifacts as build contexts: files that a registry keeps as blobs of a manifest, each named by its title, as
//! `oras push` makes them (image specification, "Guidelines for Artifact Usage").

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use oci::manifest::{self, Descriptor, Document};
use oci::{Digest, Reference};

use crate::error::BuildError;
use crate::image::Layer;
use crate::session::Scratch;
use crate::work::Work;

/// Annotation of a blob: the path of its file.
const TITLE: &str = "org.opencontainers.image.title";
/// Most files of an artifact.
const MAX_FILES: usize = 1024;
/// Most bytes of an artifact's files together.
const MAX_BYTES: u64 = 4 << 30;

/// Fetches an artifact's files. They are removed when the value is dropped; their blobs stay in the cache.
pub(crate) fn fetch(work: &Work, name: &str) -> Result<Scratch, BuildError> {
    let invalid = |reason: String| BuildError::BaseInvalid {
        reference: name.to_owned(),
        reason,
    };
    let reference: Reference = name
        .parse()
        .map_err(|e: oci::ReferenceError| invalid(e.to_string()))?;
    let files = work.wait(blobs(work, &reference))?;
    let failed = || {
        BuildError::host::<std::io::Error>(format!("cannot write the files of artifact `{name}`"))
    };
    let scratch = work.cache().scratch().map_err(failed())?;
    for (path, digest) in files {
        let place = scratch.path.join(&path);
        let parent = place.parent().unwrap_or(&scratch.path);
        fs::create_dir_all(parent).map_err(failed())?;
        // Two blobs of one title, or a file where another one needs a directory.
        let mut file = File::create_new(&place).map_err(|error| {
            invalid(format!(
                "its file `{path}` is in the way of another: {error}"
            ))
        })?;
        let mut blob = work.engine.blobs().open_blob(&digest)?;
        std::io::copy(&mut blob, &mut file).map_err(failed())?;
        file.set_permissions(fs::Permissions::from_mode(0o644))
            .map_err(failed())?;
    }
    Ok(scratch)
}

/// Brings the blobs into the store; gives the path of each.
async fn blobs(work: &Work, reference: &Reference) -> Result<Vec<(String, Digest)>, BuildError> {
    let client = work.engine.client();
    let fetched = client.manifest(reference).await;
    let fetched = fetched.map_err(BuildError::base(reference))?;
    let pinned = reference.with_digest(fetched.digest);
    let files = fetched
        .parse()
        .map_err(|error| error.to_string())
        .and_then(|document| files(&document))
        .map_err(|reason| BuildError::BaseInvalid {
            reference: reference.to_string(),
            reason,
        })?;
    let mut found = Vec::new();
    for (path, descriptor, digest) in files {
        let blob = Layer {
            diff_id: digest,
            digest,
            size: descriptor.size(),
            media_type: descriptor.media_type().to_string(),
            from: Some(pinned.clone()),
        };
        work.fetch(&blob).await?;
        found.push((path, digest));
    }
    Ok(found)
}

/// The files that a manifest names.
fn files(document: &Document) -> Result<Vec<(String, Descriptor, Digest)>, String> {
    let Document::Manifest(manifest) = document else {
        return Err("it is an index, which has no files of its own".to_owned());
    };
    let mut files = Vec::new();
    let mut bytes = 0_u64;
    for descriptor in manifest.layers() {
        let title = descriptor
            .annotations()
            .as_ref()
            .and_then(|all| all.get(TITLE));
        let path = title.ok_or_else(|| {
            format!("its blob `{}` has no title (`{TITLE}`); an image is named as `docker-image://…`, in a cluster `image:…`", descriptor.digest())
        })?;
        let is_plain = |part| matches!(part, Component::Normal(_));
        if path.is_empty()
            || path.len() > 4096
            || path.contains('\0')
            || !Path::new(path).components().all(is_plain)
        {
            let shown: String = path.chars().take(120).collect();
            return Err(format!("its file {shown:?} is not below its root"));
        }
        bytes = bytes.saturating_add(descriptor.size());
        let digest = manifest::digest_of(descriptor).map_err(|error| error.to_string())?;
        files.push((path.clone(), descriptor.clone(), digest));
    }
    match (files.len(), bytes) {
        (0, _) => Err("it has no files".to_owned()),
        (MAX_FILES.., _) => Err(format!("it has more than {MAX_FILES} files")),
        (_, MAX_BYTES..) => Err(format!("its files have more than {} GiB", MAX_BYTES >> 30)),
        _ => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn of(titles: &[Option<&str>]) -> Result<Vec<String>, String> {
        let blob = |title: &Option<&str>| {
            let mut blob = json!({"mediaType": "text/plain", "digest": Digest::of(b"x").to_string(), "size": 1});
            if let Some(title) = title {
                blob["annotations"] = json!({TITLE: title});
            }
            blob
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest::OCI_MANIFEST,
            "artifactType": "application/x-files",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}").to_string(), "size": 2},
            "layers": titles.iter().map(blob).collect::<Vec<_>>(),
        });
        let bytes = bytes::Bytes::from(serde_json::to_vec(&manifest).unwrap());
        let found = files(&Document::parse(bytes, None).unwrap())?;
        Ok(found.into_iter().map(|(path, ..)| path).collect())
    }

    #[test]
    fn files_have_their_titles_as_paths() {
        assert_eq!(
            of(&[Some("a"), Some("etc/b.conf")]).unwrap(),
            ["a", "etc/b.conf"]
        );
    }

    #[test]
    fn what_leaves_the_root_or_has_no_name_is_refused() {
        for title in ["", "/etc/passwd", "../x", "a/../../x", ".", "a\0b"] {
            let refused = of(&[Some("ok"), Some(title)]).unwrap_err();
            assert!(
                refused.contains("is not below its root"),
                "{title:?}: {refused}"
            );
        }
        assert!(of(&[None]).unwrap_err().contains("has no title"));
        assert_eq!(of(&[]).unwrap_err(), "it has no files");
        let many = vec![Some("a"); MAX_FILES];
        assert!(of(&many).unwrap_err().contains("more than"));
    }
}
