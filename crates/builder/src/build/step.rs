//! One step: named by what goes into it, taken from the cache or executed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use oci::Digest;
use oci::manifest::chain_id;

use super::layers::{self, StageLayer, blobs_so_far};
use super::stage::Stage;
use crate::cache::{CachedLayer, Entry};
use crate::cache_key;
use crate::commit::{self, Lower, Times};
use crate::config::ImageConfig;
use crate::containerfile::{Instruction, Word};
use crate::error::{BuildError, StepStatus};
use crate::event::Event;
use crate::execute::copy::{self, Fetched, Found, Tree};
use crate::execute::foreign;
use crate::execute::run::{self, Outcome, Sources};
use crate::execute::user::Users;
use crate::ignore::Ignore;
use crate::pack::{Packing, pack_now};
use crate::remote;
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

impl Stage<'_, '_> {
    /// The layer that an action gives, from the cache or made now.
    pub(super) fn layer_of(
        &mut self,
        action: &Action,
        instruction: &Instruction,
    ) -> Result<Option<StageLayer>, BuildError> {
        let contents = self.contents(action, instruction)?;
        let config = &self.state.config;
        let below = layers::chain(&self.layers);
        let request = &self.build.request;
        let key = cache_key::key(&cache_key::Inputs {
            chain: below,
            platform: &platform_of(config),
            epoch: self.epoch.as_second(),
            clamp: request.created.is_some(),
            action,
            files: contents.iter().map(|content| content.digest).collect(),
        });
        let work = self.build.work;
        if request.keep_steps {
            self.build.note_done(key, below);
        }
        let lock = work.engine.lock_on(&key);
        let _alone = match request.no_cache {
            true => None,
            // Another build may be doing the same step; then its result is ours.
            false => Some(work.wait(async { Ok(lock.lock().await) })?),
        };
        let known = match request.no_cache {
            true => None,
            false => match work.cache().lookup(&key, below) {
                Some(entry) => Some(entry),
                None => self.build.imported.take(work, &key)?,
            },
        };
        if let Some(entry) = known {
            work.tell(Event::Cached { step: self.step });
            return Ok(entry
                .layer
                .map(|layer| StageLayer::cached(work, layer, key)));
        }
        let found = contents
            .into_iter()
            .next()
            .and_then(|content| content.found);
        self.execute(action, found, key, instruction)
    }

    /// What an action takes from elsewhere: for a copy its files, for a command its bind mounts.
    fn contents(
        &mut self,
        action: &Action,
        instruction: &Instruction,
    ) -> Result<Vec<Content>, BuildError> {
        match action {
            Action::None | Action::Mkdir { .. } => Ok(Vec::new()),
            Action::Copy(copy) => Ok(vec![self.content(copy.from.as_ref(), copy, instruction)?]),
            Action::Run(run) => {
                let mut contents = Vec::new();
                for mount in &run.mounts {
                    if let MountSource::Bind { from, source } = &mount.source {
                        let all = CopyAction::everything_at(source);
                        contents.push(self.content(from.as_ref(), &all, instruction)?);
                    }
                }
                Ok(contents)
            }
        }
    }

    /// Names the content of a copy: by the chain of layers it comes from, or else by reading it.
    fn content(
        &mut self,
        from: Option<&Word>,
        copy: &CopyAction,
        instruction: &Instruction,
    ) -> Result<Content, BuildError> {
        let origin = self.build.origin(self.index, from)?;
        let at = from.map_or(instruction.at, |word| word.at);
        let build = self.build;
        let Some(dir) = build.directory(&origin)? else {
            let built = build.resolve(&origin, &build.platform, at, self.needed)?;
            return Ok(Content {
                digest: layers::chain(&built.layers),
                found: None,
            });
        };
        let tree = Tree {
            path: &dir,
            ignore: build.ignore_of(&origin),
        };
        let found = self.find(copy, tree, instruction)?;
        let digest =
            copy::digest(&found).map_err(BuildError::host("cannot read the build context"))?;
        Ok(Content {
            digest: Some(digest),
            found: Some(found),
        })
    }

    /// Finds the sources of a copy, fetching those that are remote.
    fn find(
        &self,
        copy: &CopyAction,
        tree: Tree<'_>,
        instruction: &Instruction,
    ) -> Result<Vec<Found>, BuildError> {
        let work = self.build.work;
        let mut stopped = None;
        let found = copy::find(copy, tree, &mut |source| {
            let fetched = match source {
                CopySource::Url { url, checksum, .. } => {
                    remote::fetch(work, url, checksum.as_ref()).map(|digest| Fetched::File {
                        path: work.cache().blobs().path(&digest),
                        digest,
                    })
                }
                CopySource::Git(git) => {
                    remote::checkout(work, git).map(|path| Fetched::Tree { path })
                }
                CopySource::Path(_) | CopySource::Inline { .. } => Err(remote::Failure::Refused(
                    "a source on this machine is not fetched".into(),
                )),
            };
            fetched.map_err(|failure| match failure {
                remote::Failure::Refused(reason) => copy::Failure::Refused(reason),
                remote::Failure::Other(error) => {
                    stopped = Some(*error);
                    copy::Failure::Refused("stopped".into())
                }
            })
        });
        match (found, stopped) {
            (_, Some(error)) => Err(error),
            (found, None) => found.map_err(|failure| self.copy_failed(failure, instruction)),
        }
    }

    fn execute(
        &mut self,
        action: &Action,
        found: Option<Vec<Found>>,
        key: Digest,
        instruction: &Instruction,
    ) -> Result<Option<StageLayer>, BuildError> {
        require_root("execute steps that change files")?;
        let work = self.build.work;
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs() as i64);
        let paths = work.unpacked(blobs_so_far(&self.layers))?;
        let failed = || BuildError::host::<io::Error>("cannot mount the file system of a step");
        let mut snapshot = Snapshot::writable(work.cache(), &paths).map_err(failed())?;
        match action {
            Action::None => {}
            Action::Mkdir { path, user } => {
                self.make_directory(&snapshot, path, user, instruction)?
            }
            Action::Copy(copy) => self.copy(copy, found, &snapshot, instruction)?,
            Action::Run(run) => self.command(run, &snapshot, instruction)?,
        }
        snapshot.unmount().map_err(failed())?;
        let epoch = self.epoch.as_second();
        let since = match self.build.request.created {
            Some(_) => epoch,
            // The clock that stamps files may lag a little behind.
            None => started - 2,
        };
        self.commit(&snapshot, &paths, Times { since, epoch }, key)
    }

    /// Makes a layer of what a step changed, and keeps it.
    ///
    /// The next step only has to know its name; it is packed meanwhile. When nothing follows, naming and packing take
    /// one pass.
    fn commit(
        &self,
        snapshot: &Snapshot,
        lower: &[PathBuf],
        times: Times,
        key: Digest,
    ) -> Result<Option<StageLayer>, BuildError> {
        let work = self.build.work;
        let failed = || BuildError::host::<io::Error>("cannot write the layer of a step");
        let record = |layer: Option<CachedLayer>| {
            work.cache()
                .record(&key, &Entry { layer })
                .map_err(BuildError::host("cannot write the build cache"))
        };
        let upper = snapshot.upper();
        let changes = commit::settle(
            &upper,
            times,
            &Lower {
                layers: lower,
                marks: work.cache().superuser().marks(),
            },
        )
        .map_err(failed())?;
        if changes.is_empty() {
            record(None)?;
            return Ok(None);
        }
        let layer = match self.last {
            true => pack_now(work, &upper, &changes)?,
            false => CachedLayer {
                diff_id: commit::diff_id(&upper, &changes).map_err(failed())?,
                blob: None,
            },
        };
        let chain = chain_id(layers::chain(&self.layers), &layer.diff_id);
        work.cache().publish(&upper, &chain).map_err(failed())?;
        record(Some(layer.clone()))?;
        if self.exported && layer.blob.is_none() {
            let tree = work.cache().layer(&chain);
            let packing = Packing::start(work, tree, Some(changes), layer.diff_id, key);
            return Ok(Some(StageLayer::packing(layer.diff_id, packing)));
        }
        Ok(Some(StageLayer::cached(work, layer, key)))
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
                let origin = self.build.origin(self.index, copy.from.as_ref())?;
                let dir = self.tree(&origin, instruction.at)?;
                let ignore = Ignore::default();
                let tree = Tree {
                    path: &dir,
                    ignore: &ignore,
                };
                let found = self.find(copy, tree, instruction)?;
                copy::apply(copy, &found, true, &root)
            }
        };
        copied.map_err(|failure| self.copy_failed(failure, instruction))
    }

    fn command(
        &mut self,
        run: &RunAction,
        snapshot: &Snapshot,
        instruction: &Instruction,
    ) -> Result<(), BuildError> {
        let step = self.step;
        let (build, index) = (self.build, self.index);
        let work = build.work;
        let architecture = self.state.config.architecture.clone();
        let can_run = foreign::can_run(&architecture).map_err(BuildError::host(
            "cannot see which programs this machine runs",
        ))?;
        if !can_run {
            let reason = format!(
                "it takes an emulator for {architecture}, which this machine does not have: install qemu-user-static \
                 and register it with the kernel (binfmt_misc), or build on a machine of that architecture"
            );
            return Err(self.refused(instruction, reason));
        }
        let mut tree = |from: Option<&Word>| {
            let origin = build.origin(index, from)?;
            self.tree(&origin, from.map_or(instruction.at, |word| word.at))
        };
        let mut sources = Sources {
            cache: work.cache(),
            secrets: &build.request.secrets,
            tree: &mut tree,
            cancel: &work.cancel,
            agents: &build.request.ssh_agents,
        };
        let mut output = |line| work.tell(Event::Output { step, line });
        match run::run(
            run,
            snapshot,
            work.engine.runtime()?,
            &mut sources,
            &mut output,
        ) {
            Ok(Outcome::Succeeded) => Ok(()),
            Ok(Outcome::Failed { status, tail }) => Err(self.failed(instruction, status, tail)),
            Err(BuildError::Host { action, source }) => Err(BuildError::Host {
                action: format!(
                    "step {step} of {}: `{}`: {action}",
                    build.steps,
                    shortened(instruction)
                ),
                source,
            }),
            Err(other) => Err(other),
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
        BuildError::Step {
            step: self.step,
            steps: self.build.steps,
            text: shortened(instruction),
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

/// An instruction as written, at a length that a message can have.
fn shortened(instruction: &Instruction) -> String {
    let mut text: String = instruction.text.chars().take(200).collect();
    if text.len() < instruction.text.len() {
        text.push('…');
    }
    text
}

/// `os/architecture[/variant]`.
fn platform_of(config: &ImageConfig) -> String {
    let variant = config.variant().map(|variant| format!("/{variant}"));
    let variant = variant.unwrap_or_default();
    format!("{}/{}{variant}", config.os, config.architecture)
}
