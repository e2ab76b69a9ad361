//! One build: the stages, and the image made of the last one.

mod layers;
mod schedule;
mod sources;
mod stage;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use oci::manifest::{self, Platform};
use oci::{Digest, Reference};
use serde::Serialize;

use crate::artifact;
use crate::config::ImageConfig;
use crate::containerfile::{Containerfile, Position, Problem, expand};
use crate::error::BuildError;
use crate::ignore::Ignore;
use crate::image::{CONFIG, Image};
use crate::request::{NamedContext, Request};
use crate::session::Scratch;
use crate::shared_cache::{Imported, Step};
use crate::stages::{self, Inputs, Plan};
use crate::work::Work;
use layers::StageLayer;
use stage::Stage;

/// A build in progress.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    request: Request,
    file: Containerfile,
    work: &'a Work,
    platform: Platform,
    globals: BTreeMap<String, String>,
    contexts: BTreeSet<String>,
    ignore: Ignore,
    nothing_ignored: Ignore,
    /// Images that were looked up.
    images: Mutex<BTreeMap<String, Built>>,
    imported: Imported,
    /// The files of artifacts, which named contexts point at.
    artifacts: Vec<Scratch>,
    /// The steps that were done, with the chains that they stood on.
    done: Mutex<BTreeMap<Digest, Option<Digest>>>,
    steps: usize,
}

/// A stage or base image: its configuration and layers.
#[derive(Debug, Clone)]
struct Built {
    config: ImageConfig,
    layers: Vec<StageLayer>,
    /// The image in a registry that it was built on.
    base: Option<Reference>,
}

impl<'a> Build<'a> {
    pub(crate) fn new(
        request: Request,
        file: Containerfile,
        work: &'a Work,
    ) -> Result<Self, BuildError> {
        let platform = request
            .platform
            .clone()
            .unwrap_or_else(manifest::this_platform);
        let contexts = request.named_contexts.keys().cloned().collect();
        let ignore = match (&request.ignore, &request.context) {
            (Some(ignore), _) => ignore.clone(),
            (None, Some(dir)) => sources::read_ignore(dir)?,
            (None, None) => Ignore::default(),
        };
        let mut build = Build {
            request,
            file,
            work,
            platform,
            globals: BTreeMap::new(),
            contexts,
            ignore,
            nothing_ignored: Ignore::default(),
            images: Mutex::default(),
            imported: Imported::default(),
            artifacts: Vec::new(),
            done: Mutex::default(),
            steps: 0,
        };
        build.globals = build.global_args()?;
        Ok(build)
    }

    pub(crate) fn run(mut self) -> Result<Image, BuildError> {
        let plan = self.plan()?;
        for context in self.request.named_contexts.values_mut() {
            if let NamedContext::Artifact(name) = context {
                let files = artifact::fetch(self.work, name)?;
                *context = NamedContext::Dir(files.path.clone());
                self.artifacts.push(files);
            }
        }
        if !self.request.no_cache {
            self.imported = Imported::read(self.work, &self.request.cache_from)?;
        }
        let mut first = BTreeMap::new();
        for planned in &plan.stages {
            first.insert(planned.index, self.steps + 1);
            self.steps += 1 + self.file.stages[planned.index].instructions.len();
        }
        let parallel = thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let mut built = schedule::run(
            &plan.stages,
            parallel,
            || self.work.cancel.cancel(),
            |planned, needed| {
                // Threads of our own do not know the runtime by themselves.
                let _runtime = self.work.handle.enter();
                Stage::start(&self, planned, first[&planned.index], needed)?.run()
            },
        )?;
        let (_, target) = built.pop_last().ok_or_else(|| {
            self.syntax(Problem::new(
                Position::default(),
                "there is no stage to build",
            ))
        })?;
        self.finish(target)
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            globals: &self.globals,
            contexts: &self.contexts,
            target: self.request.target.as_deref(),
        }
    }

    fn plan(&self) -> Result<Plan, BuildError> {
        let failed = |problems| BuildError::Syntax {
            file: self.request.file_name.clone(),
            problems,
        };
        stages::plan(&self.file, &self.inputs()).map_err(failed)
    }

    fn syntax(&self, problem: Problem) -> BuildError {
        BuildError::Syntax {
            file: self.request.file_name.clone(),
            problems: vec![problem],
        }
    }

    /// The values of `ARG`s before the first `FROM`, and of the platform.
    fn global_args(&self) -> Result<BTreeMap<String, String>, BuildError> {
        let mut values = BTreeMap::new();
        for (prefix, platform) in [
            ("TARGET", &self.platform),
            ("BUILD", &manifest::this_platform()),
        ] {
            values.insert(
                format!("{prefix}PLATFORM"),
                manifest::platform_text(platform),
            );
            values.insert(format!("{prefix}OS"), platform.os().to_string());
            values.insert(format!("{prefix}ARCH"), platform.architecture().to_string());
            values.insert(
                format!("{prefix}VARIANT"),
                platform.variant().clone().unwrap_or_default(),
            );
        }
        for arg in &self.file.args {
            let value =
                match (self.request.build_args.get(&arg.name), &arg.default) {
                    (Some(value), _) => Some(value.clone()),
                    (None, Some(word)) => {
                        let expanded = expand(
                            &word.raw,
                            &|name| values.get(name).cloned(),
                            self.file.escape,
                        );
                        Some(expanded.map_err(|error| {
                            self.syntax(Problem::new(word.at, error.to_string()))
                        })?)
                    }
                    (None, None) => None,
                };
            if let Some(value) = value {
                values.insert(arg.name.clone(), value);
            }
        }
        Ok(values)
    }

    /// What every step gave, packed, also those of stages that only files are copied from.
    fn packed_steps(&self) -> Result<Vec<Step>, BuildError> {
        let done = self.done.lock().expect("nobody panics with this lock");
        let mut steps = Vec::new();
        for (key, below) in done.iter() {
            // What somebody else removed meanwhile is not exported.
            let Some(entry) = self.work.cache().lookup(key, *below) else {
                continue;
            };
            let layer = entry
                .layer
                .map(|layer| layers::packed(self.work, layer, *key, *below))
                .transpose()?;
            steps.push(Step { key: *key, layer });
        }
        Ok(steps)
    }

    /// Writes configuration and manifest of the finished image.
    fn finish(self, target: Built) -> Result<Image, BuildError> {
        let Built {
            mut config,
            layers,
            base,
        } = target;
        let layers = layers::blobs(self.work, &layers)?;
        let steps = match self.request.keep_steps {
            true => self.packed_steps()?,
            false => Vec::new(),
        };
        let created = self.request.created.unwrap_or_else(|| config.created());
        config.created = Some(created.to_string());
        config.config.labels.extend(self.request.labels.clone());
        let config_bytes = Bytes::from(json(&config)?);
        let mut annotations = self.request.annotations.clone();
        if let Some(digest) = base.as_ref().and_then(Reference::digest) {
            annotations
                .entry("org.opencontainers.image.base.digest".into())
                .or_insert(digest.to_string());
        }
        let document = Manifest {
            schema_version: 2,
            media_type: manifest::OCI_MANIFEST,
            config: Descriptor {
                media_type: CONFIG,
                digest: Digest::of(&config_bytes),
                size: config_bytes.len() as u64,
            },
            layers: layers
                .iter()
                .map(|layer| Descriptor {
                    media_type: &layer.media_type,
                    digest: layer.digest,
                    size: layer.size,
                })
                .collect(),
            annotations,
        };
        let manifest = Bytes::from(json(&document)?);
        Ok(Image {
            engine: self.work.engine.clone(),
            digest: Digest::of(&manifest),
            manifest,
            config_bytes,
            config: Arc::new(config),
            layers: Arc::new(layers),
            uploads: self.work.uploads.clone(),
            steps: Arc::new(steps),
            _hold: self.work.hold.clone(),
        })
    }
}

/// The manifest in a fixed order of fields, so that its digest depends on its content alone.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: Digest,
    size: u64,
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, BuildError> {
    serde_json::to_vec(value).map_err(|error| BuildError::Host {
        action: "cannot write the image".into(),
        source: error.into(),
    })
}

/// Reads `os/architecture[/variant]`; the error is a message.
pub fn parse_platform(text: &str) -> Result<Platform, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let wrong = || format!("`--platform`: expected `os/architecture[/variant]`, found `{text}`");
    let mut platform = manifest::this_platform();
    match parts.as_slice() {
        [os, architecture, rest @ ..]
            if rest.len() < 2 && parts.iter().all(|part| !part.is_empty()) =>
        {
            platform.set_os((*os).into());
            platform.set_architecture((*architecture).into());
            platform.set_variant(rest.first().map(|variant| variant.to_string()));
            Ok(platform)
        }
        _ => Err(wrong()),
    }
}
