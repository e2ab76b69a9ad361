//! Where files come from: contexts, stages and images in registries.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use oci::manifest::{self, Platform};
use oci::{Digest, Reference};

use super::layers::{self, StageLayer};
use super::stage::Stage;
use super::{Build, Built};
use crate::base;
use crate::config::ImageConfig;
use crate::containerfile::{Position, Problem, Word};
use crate::error::BuildError;
use crate::ignore::Ignore;
use crate::image::{LAYER, Layer};
use crate::request::NamedContext;
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::stages::{self, Origin};

impl Build<'_> {
    /// What a `--from` means; without one, the build context.
    pub(super) fn origin(&self, stage: usize, from: Option<&Word>) -> Result<Origin, BuildError> {
        match from {
            None => Ok(Origin::BuildContext),
            Some(word) => stages::origin(&self.file, &self.inputs(), stage, word)
                .map_err(|problem| self.syntax(problem)),
        }
    }

    /// What is not seen of an origin.
    pub(super) fn ignore_of(&self, origin: &Origin) -> &Ignore {
        match origin {
            Origin::BuildContext => &self.ignore,
            _ => &self.nothing_ignored,
        }
    }

    /// The directory of an origin that is one on this machine, not layers.
    pub(super) fn directory(&self, origin: &Origin) -> Result<Option<PathBuf>, BuildError> {
        let named = match origin {
            Origin::BuildContext => {
                // Without a context, there is nothing to copy but here-documents.
                let none = || self.work.cache().empty(0);
                let dir = self.request.context.clone().map_or_else(none, Ok);
                return dir
                    .map(Some)
                    .map_err(BuildError::host("cannot prepare an empty build context"));
            }
            Origin::Context(name) => self.request.named_contexts.get(name),
            Origin::Scratch | Origin::Stage(_) | Origin::Image(_) => None,
        };
        Ok(match named {
            Some(NamedContext::Dir(dir)) => Some(dir.clone()),
            // Artifacts were fetched into directories before the first stage.
            Some(NamedContext::Image(_) | NamedContext::Artifact(_)) | None => None,
        })
    }

    /// The image or stage that an origin stands for.
    pub(super) fn resolve(
        &self,
        origin: &Origin,
        platform: &Platform,
        at: Position,
        stages: &BTreeMap<usize, Built>,
    ) -> Result<Built, BuildError> {
        match origin {
            Origin::BuildContext => {
                let message = "the build context is a directory, which no stage can start from";
                Err(self.syntax(Problem::new(at, message)))
            }
            Origin::Scratch => Ok(Built {
                config: ImageConfig::scratch(
                    &platform.os().to_string(),
                    &platform.architecture().to_string(),
                    platform.variant().as_deref(),
                ),
                layers: Vec::new(),
                base: None,
            }),
            Origin::Stage(index) => stages.get(index).cloned().ok_or_else(|| {
                self.syntax(Problem::new(
                    at,
                    format!("stage {index} is not built before it is used"),
                ))
            }),
            Origin::Context(name) => match self.request.named_contexts.get(name).cloned() {
                Some(NamedContext::Image(image)) => self.image(&image, platform, at),
                _ => {
                    let problem = Problem::new(
                        at,
                        format!("context `{name}` is a directory, which no stage can start from"),
                    );
                    Err(self.syntax(problem.hint(format!(
                        "use `COPY --from={name}` in a stage `FROM scratch`"
                    ))))
                }
            },
            Origin::Image(image) => self.image(image, platform, at),
        }
    }

    /// Looks an image up, once in a build.
    fn image(&self, name: &str, platform: &Platform, at: Position) -> Result<Built, BuildError> {
        let known = format!("{name} {}", manifest::platform_text(platform));
        let reference: Reference = name.parse().map_err(|error: oci::ReferenceError| {
            let shown: String = name.chars().take(120).collect();
            self.syntax(Problem::new(
                at,
                format!("`{shown}` is neither a stage nor an image: {error}"),
            ))
        })?;
        // Stages that run side by side often have the same base.
        let lock = self.work.engine.lock_on(&Digest::of(known.as_bytes()));
        let _alone = self.work.wait(async { Ok(lock.lock().await) })?;
        if let Some(built) = self.images().get(&known) {
            return Ok(built.clone());
        }
        let image = self.work.wait(base::image(
            self.work.cache(),
            self.work.engine.client(),
            &reference,
            platform,
        ))?;
        let invalid = |reason: String| BuildError::BaseInvalid {
            reference: reference.to_string(),
            reason,
        };
        let config: ImageConfig = serde_json::from_slice(&image.config_bytes)
            .map_err(|error| invalid(format!("its configuration is not valid: {error}")))?;
        let (descriptors, diff_ids) = (image.manifest.layers(), &config.rootfs.diff_ids);
        if descriptors.len() != diff_ids.len() {
            let reason = format!(
                "its manifest has {} layers, its configuration {}",
                descriptors.len(),
                diff_ids.len()
            );
            return Err(invalid(reason));
        }
        let mut layers: Vec<StageLayer> = Vec::new();
        for (descriptor, diff_id) in descriptors.iter().zip(diff_ids) {
            let layer = Layer {
                diff_id: *diff_id,
                digest: manifest::digest_of(descriptor)
                    .map_err(|error| invalid(error.to_string()))?,
                size: descriptor.size(),
                media_type: oci_layer_type(descriptor.media_type().as_ref()),
                from: Some(image.reference.clone()),
            };
            layers.push(layer.into());
        }
        let built = Built {
            config,
            layers,
            base: Some(image.reference),
        };
        self.images().insert(known, built.clone());
        Ok(built)
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<String, Built>> {
        self.images.lock().expect("nobody panics with this lock")
    }
}

impl Stage<'_, '_> {
    /// The directory that stands for an origin, mounted if need be.
    pub(super) fn tree(&mut self, origin: &Origin, at: Position) -> Result<PathBuf, BuildError> {
        if let Some(dir) = self.build.directory(origin)? {
            return Ok(dir);
        }
        if let Some(snapshot) = self.trees.get(origin) {
            return Ok(snapshot.root());
        }
        let build = self.build;
        let built = build.resolve(origin, &build.platform, at, self.needed)?;
        let paths = build.work.unpacked(layers::blobs_so_far(&built.layers))?;
        let snapshot = Snapshot::readonly(build.work.cache(), &paths)
            .map_err(BuildError::host("cannot mount an image to copy from"))?;
        let root = snapshot.root();
        self.trees.insert(origin.clone(), snapshot);
        Ok(root)
    }
}

/// Reads the ignore file of a context; `.containerignore` comes before `.dockerignore`.
pub(super) fn read_ignore(context: &Path) -> Result<Ignore, BuildError> {
    const MAX_IGNORE: u64 = 1 << 20;
    let failed = || {
        BuildError::host::<io::Error>(format!(
            "build context `{}` cannot be read",
            context.display()
        ))
    };
    let root = Root::open(context).map_err(failed())?;
    for name in [".containerignore", ".dockerignore"] {
        if let Some(content) = root.read(Path::new(name), MAX_IGNORE).map_err(failed())? {
            return Ok(Ignore::parse(&String::from_utf8_lossy(&content)));
        }
    }
    Ok(Ignore::default())
}

/// The OCI name of a Docker layer type: the blobs are the same, and an OCI manifest must not mix them.
fn oci_layer_type(media_type: &str) -> String {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => LAYER.into(),
        "application/vnd.docker.image.rootfs.diff.tar" => {
            "application/vnd.oci.image.layer.v1.tar".into()
        }
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd".into()
        }
        other => other.into(),
    }
}
