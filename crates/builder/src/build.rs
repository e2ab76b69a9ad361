//! One build: the stages in order, each step from the cache or executed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jiff::Timestamp;
use oci::manifest::{self, Platform};
use oci::{Digest, Reference};
use serde_json::json;

use crate::cache::{Entry, StoredLayer};
use crate::cache_key;
use crate::commit::{self, Times};
use crate::config::{History, ImageConfig, chain_id};
use crate::containerfile::{self, Containerfile, Instruction, Position, Problem, Word, expand};
use crate::error::{BuildError, StepStatus};
use crate::event::Event;
use crate::execute::copy::{self, Tree};
use crate::execute::run::{self, Outcome, Sources};
use crate::ignore::Ignore;
use crate::image::{CONFIG, Image, Layer};
use crate::request::{NamedContext, Request};
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::stages::{self, Inputs, Origin, Plan, Planned};
use crate::state::{Action, CopyAction, MountSource, RunAction, State};
use crate::work::{Work, require_root};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

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
    /// Finished stages, by index in the file.
    built: BTreeMap<usize, Built>,
    /// Images that were looked up.
    images: BTreeMap<String, Built>,
    /// Roots that files are copied from.
    trees: BTreeMap<Origin, Snapshot>,
    step: usize,
    steps: usize,
}

/// A stage or base image: its configuration and layers.
#[derive(Debug, Clone)]
struct Built {
    config: ImageConfig,
    layers: Vec<Layer>,
    /// The image in a registry that it was built on.
    base: Option<Reference>,
}

/// A stage while its steps are done.
#[derive(Debug)]
struct Stage {
    index: usize,
    state: State,
    layers: Vec<Layer>,
    base: Option<Reference>,
    /// The time of everything in the image.
    epoch: Timestamp,
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
        let ignore = match &request.context {
            Some(dir) => read_ignore(dir)?,
            None => Ignore::default(),
        };
        let mut build = Build {
            request,
            file,
            work,
            platform,
            globals: BTreeMap::new(),
            contexts,
            ignore,
            built: BTreeMap::new(),
            images: BTreeMap::new(),
            trees: BTreeMap::new(),
            step: 0,
            steps: 0,
        };
        build.globals = build.global_args()?;
        Ok(build)
    }

    pub(crate) fn run(mut self) -> Result<Image, BuildError> {
        let plan = self.plan()?;
        self.steps = plan
            .stages
            .iter()
            .map(|stage| 1 + self.file.stages[stage.index].instructions.len())
            .sum();
        let mut last = None;
        for planned in &plan.stages {
            let built = self.stage(planned)?;
            self.built.insert(planned.index, built.clone());
            last = Some(built);
        }
        let target = last.ok_or_else(|| {
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

    fn stage(&mut self, planned: &Planned) -> Result<Built, BuildError> {
        let from = self.file.stages[planned.index].clone();
        self.begin(&from.text);
        let platform = match &planned.platform {
            Some(text) => {
                let parsed = parse_platform(text);
                parsed.map_err(|message| self.syntax(Problem::new(from.at, message)))?
            }
            None => self.platform.clone(),
        };
        let base = self.resolve(&planned.base, &platform, from.image.at)?;
        self.work.tell(Event::StepDone { step: self.step });
        let epoch = self
            .request
            .created
            .unwrap_or_else(|| base.config.created());
        let mut stage = Stage {
            index: planned.index,
            state: State::new(
                base.config,
                &self.globals,
                &self.request.build_args,
                self.file.escape,
            ),
            layers: base.layers,
            base: base.base,
            epoch,
        };
        for trigger in stage.state.take_triggers() {
            let instructions = containerfile::parse_trigger(&trigger).map_err(|problems| {
                BuildError::BaseInvalid {
                    reference: from.image.raw.clone(),
                    reason: format!("its trigger `{trigger}` is not valid: {}", problems[0]),
                }
            })?;
            for instruction in instructions {
                self.steps += 1;
                self.step_of(
                    &mut stage,
                    &Instruction {
                        at: from.at,
                        ..instruction
                    },
                )?;
            }
        }
        for instruction in &from.instructions {
            self.step_of(&mut stage, instruction)?;
        }
        let mut config = stage.state.config;
        config.rootfs.diff_ids = stage.layers.iter().map(|layer| layer.diff_id).collect();
        Ok(Built {
            config,
            layers: stage.layers,
            base: stage.base,
        })
    }

    fn begin(&mut self, text: &str) {
        self.step += 1;
        self.work.tell(Event::StepStarted {
            step: self.step,
            steps: self.steps,
            text: text.to_string(),
        });
    }

    fn step_of(&mut self, stage: &mut Stage, instruction: &Instruction) -> Result<(), BuildError> {
        self.work.check_cancelled()?;
        self.begin(&instruction.text);
        let action = stage
            .state
            .apply(instruction)
            .map_err(|problem| self.syntax(problem))?;
        let layer = match &action {
            Action::None => None,
            action => self.layer_of(stage, action, instruction)?,
        };
        stage.state.config.history.push(History {
            created: Some(stage.epoch.to_string()),
            created_by: Some(instruction.text.clone()),
            empty_layer: layer.is_none(),
            ..History::default()
        });
        if let Some(layer) = layer {
            stage.layers.push(Layer {
                diff_id: layer.diff_id,
                digest: layer.digest,
                size: layer.size,
                media_type: LAYER.into(),
                from: None,
            });
        }
        self.work.tell(Event::StepDone { step: self.step });
        Ok(())
    }

    /// The layer that an action gives, from the cache or made now.
    fn layer_of(
        &mut self,
        stage: &Stage,
        action: &Action,
        instruction: &Instruction,
    ) -> Result<Option<StoredLayer>, BuildError> {
        let files = self.files_of(stage, action, instruction)?;
        let diff_ids: Vec<Digest> = stage.layers.iter().map(|layer| layer.diff_id).collect();
        let key = cache_key::key(&cache_key::Inputs {
            chain: chain_id(&diff_ids),
            platform: &manifest::platform_text(&self.platform),
            epoch: stage.epoch.as_second(),
            clamp: self.request.created.is_some(),
            action,
            files,
        });
        if !self.request.no_cache
            && let Some(entry) = self.work.cache().lookup(&key)
        {
            self.work.tell(Event::Cached { step: self.step });
            return Ok(entry.layer);
        }
        let layer = self.execute(stage, action, instruction)?;
        self.work
            .cache()
            .record(
                &key,
                &Entry {
                    layer: layer.clone(),
                },
            )
            .map_err(BuildError::host("cannot write the build cache"))?;
        Ok(layer)
    }

    /// Names the content that an action takes from elsewhere.
    fn files_of(
        &mut self,
        stage: &Stage,
        action: &Action,
        instruction: &Instruction,
    ) -> Result<Vec<Option<Digest>>, BuildError> {
        match action {
            Action::None | Action::Mkdir { .. } => Ok(Vec::new()),
            Action::Copy(copy) => Ok(vec![self.content(
                stage,
                copy.from.as_ref(),
                copy,
                instruction,
            )?]),
            Action::Run(run) => {
                let mut files = Vec::new();
                for mount in &run.mounts {
                    if let MountSource::Bind { from, source } = &mount.source {
                        files.push(self.content(
                            stage,
                            from.as_ref(),
                            &whole(source),
                            instruction,
                        )?);
                    }
                }
                Ok(files)
            }
        }
    }

    /// Names the content of a copy: by the chain of layers it comes from, or else by reading it.
    fn content(
        &mut self,
        stage: &Stage,
        from: Option<&Word>,
        copy: &CopyAction,
        instruction: &Instruction,
    ) -> Result<Option<Digest>, BuildError> {
        let origin = self.origin(stage.index, from)?;
        let platform = self.platform.clone();
        if let Some(dir) = self.directory(&origin, from)? {
            let ignore = self.ignore_of(&origin);
            let tree = Tree {
                path: &dir,
                ignore: &ignore,
            };
            let found =
                copy::find(copy, tree).map_err(|failure| self.copy_failed(failure, instruction))?;
            return copy::digest(&found)
                .map(Some)
                .map_err(BuildError::host("cannot read the build context"));
        }
        let built = self.resolve(
            &origin,
            &platform,
            from.map_or(instruction.at, |word| word.at),
        )?;
        let diff_ids: Vec<Digest> = built.layers.iter().map(|layer| layer.diff_id).collect();
        Ok(chain_id(&diff_ids))
    }

    fn execute(
        &mut self,
        stage: &Stage,
        action: &Action,
        instruction: &Instruction,
    ) -> Result<Option<StoredLayer>, BuildError> {
        require_root("execute steps that change files")?;
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs() as i64);
        let paths = self.work.unpacked(&stage.layers)?;
        let failed = || BuildError::host::<io::Error>("cannot mount the file system of a step");
        let mut snapshot = Snapshot::writable(self.work.cache(), &paths).map_err(failed())?;
        match action {
            Action::None => {}
            Action::Mkdir { path, user } => {
                self.make_directory(&snapshot, path, user, instruction)?
            }
            Action::Copy(copy) => self.copy(stage, copy, &snapshot, instruction)?,
            Action::Run(run) => self.command(stage, run, &snapshot, instruction)?,
        }
        snapshot.unmount().map_err(failed())?;
        let epoch = stage.epoch.as_second();
        let since = match self.request.created {
            Some(_) => epoch,
            // The clock that stamps files may lag a little behind.
            None => started - 2,
        };
        let mut lower = None;
        let mut below = || -> io::Result<Root> {
            if lower.is_none() {
                lower = Some(Snapshot::readonly(self.work.cache(), &paths)?);
            }
            Root::open(&lower.as_ref().map(Snapshot::root).unwrap_or_default())
        };
        let layer = commit::commit(
            self.work.cache(),
            &snapshot.upper(),
            Times { since, epoch },
            &mut below,
        )
        .map_err(BuildError::host("cannot write the layer of a step"))?;
        if let Some(layer) = &layer {
            let mut diff_ids: Vec<Digest> =
                stage.layers.iter().map(|layer| layer.diff_id).collect();
            diff_ids.push(layer.diff_id);
            if let Some(chain) = chain_id(&diff_ids) {
                self.work
                    .cache()
                    .publish(&snapshot.upper(), &chain)
                    .map_err(failed())?;
            }
        }
        Ok(layer)
    }

    fn make_directory(
        &self,
        snapshot: &Snapshot,
        path: &str,
        user: &str,
        instruction: &Instruction,
    ) -> Result<(), BuildError> {
        let failed = || BuildError::host::<io::Error>(format!("cannot create `{path}`"));
        let root = Root::open(&snapshot.root()).map_err(failed())?;
        let users = crate::execute::user::Users::read(&root).map_err(failed())?;
        let owner = users
            .user(user)
            .map_err(|reason| self.refused(instruction, reason))?
            .owner;
        match root.make_dirs(Path::new(path), owner) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(self.refused(instruction, format!("`{path}` is not a directory")))
            }
            Err(error) => Err(failed()(error)),
        }
    }

    fn copy(
        &mut self,
        stage: &Stage,
        copy: &CopyAction,
        snapshot: &Snapshot,
        instruction: &Instruction,
    ) -> Result<(), BuildError> {
        let origin = self.origin(stage.index, copy.from.as_ref())?;
        let keep = !matches!(origin, Origin::Context(_)) && copy.from.is_some();
        let dir = self.tree(&origin, copy.from.as_ref(), instruction.at)?;
        let ignore = self.ignore_of(&origin);
        let found = copy::find(
            copy,
            Tree {
                path: &dir,
                ignore: &ignore,
            },
        );
        let root = Root::open(&snapshot.root())
            .map_err(BuildError::host("cannot open the root of a step"))?;
        found
            .and_then(|found| copy::apply(copy, &found, keep, &root))
            .map_err(|failure| self.copy_failed(failure, instruction))
    }

    fn command(
        &mut self,
        stage: &Stage,
        run: &RunAction,
        snapshot: &Snapshot,
        instruction: &Instruction,
    ) -> Result<(), BuildError> {
        let step = self.step;
        let work = self.work;
        let secrets = self.request.secrets.clone();
        let mut tree = |from: Option<&Word>| {
            let origin = self.origin(stage.index, from)?;
            self.tree(&origin, from, instruction.at)
        };
        let mut sources = Sources {
            cache: work.cache(),
            secrets: &secrets,
            tree: &mut tree,
            cancel: &work.cancel,
        };
        let mut output = |line| work.tell(Event::Output { step, line });
        match run::run(
            run,
            snapshot,
            work.engine.runtime()?,
            &mut sources,
            &mut output,
        )? {
            Outcome::Succeeded => Ok(()),
            Outcome::Failed { status, tail } => Err(self.failed(instruction, status, tail)),
        }
    }

    fn refused(&self, instruction: &Instruction, reason: String) -> BuildError {
        self.failed(instruction, StepStatus::Refused(reason), Vec::new())
    }

    fn failed(
        &self,
        instruction: &Instruction,
        status: StepStatus,
        tail: Vec<String>,
    ) -> BuildError {
        let mut text: String = instruction.text.chars().take(200).collect();
        if text.len() < instruction.text.len() {
            text.push('…');
        }
        BuildError::Step {
            step: self.step,
            steps: self.steps,
            text,
            line: instruction.at.line,
            status,
            tail,
        }
    }

    fn copy_failed(&self, failure: copy::Failure, instruction: &Instruction) -> BuildError {
        match failure {
            copy::Failure::Refused(reason) => self.refused(instruction, reason),
            copy::Failure::Io(source) => BuildError::Host {
                action: format!("cannot do `{}`", instruction.text),
                source,
            },
        }
    }

    /// What a `--from` means; without one, the build context.
    fn origin(&self, stage: usize, from: Option<&Word>) -> Result<Origin, BuildError> {
        match from {
            // A named context cannot have an empty name, so this is the main one.
            None => Ok(Origin::Context(String::new())),
            Some(word) => stages::origin(&self.file, &self.inputs(), stage, word)
                .map_err(|problem| self.syntax(problem)),
        }
    }

    fn ignore_of(&self, origin: &Origin) -> Ignore {
        match origin {
            Origin::Context(name) if name.is_empty() => self.ignore.clone(),
            _ => Ignore::default(),
        }
    }

    /// The directory of a context that is one.
    fn directory(
        &self,
        origin: &Origin,
        from: Option<&Word>,
    ) -> Result<Option<PathBuf>, BuildError> {
        let Origin::Context(name) = origin else {
            return Ok(None);
        };
        if name.is_empty() {
            // Here-documents need no context.
            let none = self
                .work
                .cache()
                .empty()
                .map_err(BuildError::host("cannot prepare an empty context"))?;
            return Ok(Some(self.request.context.clone().unwrap_or(none)));
        }
        match self.request.named_contexts.get(name) {
            Some(NamedContext::Dir(dir)) => Ok(Some(dir.clone())),
            Some(NamedContext::Image(_)) => Ok(None),
            None => {
                let at = from.map(|word| word.at).unwrap_or_default();
                Err(self.syntax(Problem::new(at, format!("there is no context `{name}`"))))
            }
        }
    }

    /// The directory that stands for an origin, mounted if need be.
    fn tree(
        &mut self,
        origin: &Origin,
        from: Option<&Word>,
        at: Position,
    ) -> Result<PathBuf, BuildError> {
        if let Some(dir) = self.directory(origin, from)? {
            return Ok(dir);
        }
        if let Some(snapshot) = self.trees.get(origin) {
            return Ok(snapshot.root());
        }
        let platform = self.platform.clone();
        let built = self.resolve(origin, &platform, from.map_or(at, |word| word.at))?;
        let paths = self.work.unpacked(&built.layers)?;
        let snapshot = Snapshot::readonly(self.work.cache(), &paths)
            .map_err(BuildError::host("cannot mount an image to copy from"))?;
        let root = snapshot.root();
        self.trees.insert(origin.clone(), snapshot);
        Ok(root)
    }

    /// The image or stage that an origin stands for.
    fn resolve(
        &mut self,
        origin: &Origin,
        platform: &Platform,
        at: Position,
    ) -> Result<Built, BuildError> {
        match origin {
            Origin::Scratch => Ok(Built {
                config: ImageConfig::scratch(
                    &platform.os().to_string(),
                    &platform.architecture().to_string(),
                    platform.variant().as_deref(),
                ),
                layers: Vec::new(),
                base: None,
            }),
            Origin::Stage(index) => self.built.get(index).cloned().ok_or_else(|| {
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

    /// Looks an image up in its registry, once in a build.
    fn image(
        &mut self,
        name: &str,
        platform: &Platform,
        at: Position,
    ) -> Result<Built, BuildError> {
        let known = format!("{name} {}", manifest::platform_text(platform));
        if let Some(built) = self.images.get(&known) {
            return Ok(built.clone());
        }
        let reference: Reference = name.parse().map_err(|error: oci::ReferenceError| {
            let shown: String = name.chars().take(120).collect();
            self.syntax(Problem::new(
                at,
                format!("`{shown}` is neither a stage nor an image: {error}"),
            ))
        })?;
        let image = self.work.wait(async {
            let fetched = self.work.engine.client().image(&reference, platform).await;
            fetched.map_err(|source| BuildError::Base {
                reference: reference.to_string(),
                source,
            })
        })?;
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
        let mut layers = Vec::new();
        for (descriptor, diff_id) in descriptors.iter().zip(diff_ids) {
            layers.push(Layer {
                diff_id: *diff_id,
                digest: manifest::digest_of(descriptor)
                    .map_err(|error| invalid(error.to_string()))?,
                size: descriptor.size(),
                media_type: oci_layer_type(&descriptor.media_type().to_string()),
                from: Some(image.reference.clone()),
            });
        }
        let built = Built {
            config,
            layers,
            base: Some(image.reference),
        };
        self.images.insert(known, built.clone());
        Ok(built)
    }

    /// Writes configuration and manifest of the finished image.
    fn finish(self, target: Built) -> Result<Image, BuildError> {
        let Built {
            mut config,
            layers,
            base,
        } = target;
        let created = self.request.created.unwrap_or_else(|| config.created());
        config.created = Some(created.to_string());
        config.config.labels.extend(self.request.labels.clone());
        let config_bytes =
            Bytes::from(
                serde_json::to_vec(&config).map_err(|error| BuildError::Host {
                    action: "cannot write the image configuration".into(),
                    source: error.into(),
                })?,
            );
        let mut annotations = self.request.annotations.clone();
        if let Some(digest) = base.as_ref().and_then(Reference::digest) {
            annotations
                .entry("org.opencontainers.image.base.digest".into())
                .or_insert(digest.to_string());
        }
        let mut document = json!({
            "schemaVersion": 2,
            "mediaType": manifest::OCI_MANIFEST,
            "config": { "mediaType": CONFIG, "digest": Digest::of(&config_bytes), "size": config_bytes.len() },
            "layers": layers
                .iter()
                .map(|layer| json!({ "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size }))
                .collect::<Vec<_>>(),
        });
        if !annotations.is_empty() {
            document["annotations"] = json!(annotations);
        }
        let manifest = Bytes::from(document.to_string());
        Ok(Image {
            engine: self.work.engine.clone(),
            digest: Digest::of(&manifest),
            manifest,
            config_bytes,
            config: Arc::new(config),
            layers: Arc::new(layers),
        })
    }
}

/// A copy of everything at a path, to name the content of a bind mount.
fn whole(source: &str) -> CopyAction {
    CopyAction {
        unpack: false,
        from: None,
        sources: vec![crate::state::CopySource::Path(source.to_string())],
        dest: "/".into(),
        chown: None,
        chmod: None,
        exclude: Vec::new(),
        parents: false,
    }
}

/// Reads the ignore file of a context; `.containerignore` comes before `.dockerignore`.
fn read_ignore(context: &Path) -> Result<Ignore, BuildError> {
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

/// `os/architecture[/variant]`.
fn parse_platform(text: &str) -> Result<Platform, String> {
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
