//! One step: named by what goes into it, taken from the cache or executed.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use oci::Digest;

use super::{Build, Stage};
use crate::cache::{Entry, StoredLayer};
use crate::cache_key;
use crate::commit::{self, Times};
use crate::config::chain_id;
use crate::containerfile::{Instruction, Word};
use crate::error::{BuildError, StepStatus};
use crate::event::Event;
use crate::execute::copy::{self, Found, Tree};
use crate::execute::run::{self, Outcome, Sources};
use crate::execute::user::Users;
use crate::ignore::Ignore;
use crate::image::Layer;
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::state::{Action, CopyAction, CopySource, MountSource, RunAction};
use crate::work::require_root;

/// Files that a step takes from elsewhere.
struct Content {
    digest: Option<Digest>,
    /// The files, when they had to be read for their digest.
    found: Option<Vec<Found>>,
}

impl Build<'_> {
    /// The layer that an action gives, from the cache or made now.
    pub(super) fn layer_of(
        &mut self,
        stage: &Stage,
        action: &Action,
        instruction: &Instruction,
    ) -> Result<Option<StoredLayer>, BuildError> {
        let contents = self.contents(stage, action, instruction)?;
        let config = &stage.state.config;
        let key = cache_key::key(&cache_key::Inputs {
            chain: chain_of(&stage.layers),
            platform: &format!("{}/{}", config.os, config.architecture),
            epoch: stage.epoch.as_second(),
            clamp: self.request.created.is_some(),
            action,
            files: contents.iter().map(|content| content.digest).collect(),
        });
        let cache = self.work.cache();
        let lock = self.work.engine.lock_on(&key);
        let _alone = match self.request.no_cache {
            true => None,
            // Another build may be doing the same step; then its result is ours.
            false => Some(self.work.wait(async { Ok(lock.lock().await) })?),
        };
        if !self.request.no_cache
            && let Some(entry) = cache.lookup(&key)
        {
            self.work.tell(Event::Cached { step: self.step });
            return Ok(entry.layer);
        }
        let found = contents
            .into_iter()
            .next()
            .and_then(|content| content.found);
        let layer = self.execute(stage, action, found, instruction)?;
        let entry = Entry { layer };
        cache
            .record(&key, &entry)
            .map_err(BuildError::host("cannot write the build cache"))?;
        Ok(entry.layer)
    }

    /// What an action takes from elsewhere: for a copy its files, for a command its bind mounts.
    fn contents(
        &mut self,
        stage: &Stage,
        action: &Action,
        instruction: &Instruction,
    ) -> Result<Vec<Content>, BuildError> {
        match action {
            Action::None | Action::Mkdir { .. } => Ok(Vec::new()),
            Action::Copy(copy) => Ok(vec![self.content(
                stage,
                copy.from.as_ref(),
                copy,
                instruction,
            )?]),
            Action::Run(run) => {
                let mut contents = Vec::new();
                for mount in &run.mounts {
                    if let MountSource::Bind { from, source } = &mount.source {
                        let all = everything_at(source);
                        contents.push(self.content(stage, from.as_ref(), &all, instruction)?);
                    }
                }
                Ok(contents)
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
    ) -> Result<Content, BuildError> {
        let origin = self.origin(stage.index, from)?;
        let at = from.map_or(instruction.at, |word| word.at);
        let Some(dir) = self.directory(&origin)? else {
            let platform = self.platform.clone();
            let built = self.resolve(&origin, &platform, at)?;
            return Ok(Content {
                digest: chain_of(&built.layers),
                found: None,
            });
        };
        let tree = Tree {
            path: &dir,
            ignore: self.ignore_of(&origin),
        };
        let found =
            copy::find(copy, tree).map_err(|failure| self.copy_failed(failure, instruction))?;
        let digest =
            copy::digest(&found).map_err(BuildError::host("cannot read the build context"))?;
        Ok(Content {
            digest: Some(digest),
            found: Some(found),
        })
    }

    fn execute(
        &mut self,
        stage: &Stage,
        action: &Action,
        found: Option<Vec<Found>>,
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
            Action::Copy(copy) => self.copy(stage, copy, found, &snapshot, instruction)?,
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
        let users = Users::read(&root).map_err(failed())?;
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
        found: Option<Vec<Found>>,
        snapshot: &Snapshot,
        instruction: &Instruction,
    ) -> Result<(), BuildError> {
        let root = Root::open(&snapshot.root())
            .map_err(BuildError::host("cannot open the root of a step"))?;
        let copied = match found {
            // The name of the result was made from these files, so they must be the ones that were copied.
            Some(found) => {
                copy::apply(copy, &found, false, &root).and_then(|()| copy::same(&found))
            }
            None => {
                let origin = self.origin(stage.index, copy.from.as_ref())?;
                let dir = self.tree(&origin, instruction.at)?;
                let ignore = Ignore::default();
                let tree = Tree {
                    path: &dir,
                    ignore: &ignore,
                };
                copy::find(copy, tree).and_then(|found| copy::apply(copy, &found, true, &root))
            }
        };
        copied.map_err(|failure| self.copy_failed(failure, instruction))
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
            self.tree(&origin, from.map_or(instruction.at, |word| word.at))
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
}

fn chain_of(layers: &[Layer]) -> Option<Digest> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    chain_id(&diff_ids)
}

/// A copy of everything at a path, to name the content of a bind mount.
fn everything_at(source: &str) -> CopyAction {
    CopyAction {
        unpack: false,
        from: None,
        sources: vec![CopySource::Path(source.to_string())],
        dest: "/".into(),
        chown: None,
        chmod: None,
        exclude: Vec::new(),
        parents: false,
    }
}
