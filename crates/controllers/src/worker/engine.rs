//! The real builder: `builder::Engine`, its events and errors told in the loop's words.

use std::io;
use std::path::Path;
use std::sync::Arc;

use builder::{BuildError, Destination, EngineConfig, Event, Kind, RootView};
use camino::Utf8Path;
use model::condition::BuildReason;
use model::image_check::{Entry, ImageRoot};
use model::pull_spec::PullSpec;
use oci::{Client, ClientConfig};
use tokio_util::sync::CancellationToken;

use super::builder::{Build, Progress, Request, Tell};
use crate::error::{Error, Result, chain};
use crate::registry::{self, Failure};

/// Lines of a failed step's output that go into the build's condition.
const TAIL: usize = 20;

/// Builds with overlay file systems and an OCI runtime on this machine.
#[derive(Debug)]
pub(crate) struct Engine {
    engine: builder::Engine,
}

impl Engine {
    /// Opens the cache and cleans up after a builder that was killed.
    pub(crate) fn open(cache_dir: &Utf8Path) -> Result<Self> {
        // They are in nobody's way, so a builder can work without this.
        if let Err(error) = super::folder::remove_left_over() {
            tracing::warn!(%error, "cannot remove what builders left that were killed");
        }
        let client =
            Client::new(ClientConfig::default()).map_err(|error| Error::Builder(chain(&error)))?;
        let config = EngineConfig {
            cache_dir: cache_dir.as_std_path().to_owned(),
            runtime: None,
            cache_limit: None,
            client,
        };
        let engine =
            builder::Engine::open(config).map_err(|error| Error::Builder(chain(&error)))?;
        Ok(Engine { engine })
    }
}

fn client(access: ClientConfig) -> Result<Client, Failure> {
    Client::new(access).map_err(|error| registry::failure("registry access", &error))
}

/// A built image with its files mounted.
#[derive(Debug)]
pub(crate) struct Image {
    image: builder::Image,
    root: RootView,
    to: Destination,
}

impl Build for Engine {
    type Image = Image;

    async fn build(&self, request: Request, tell: Tell) -> Result<Image, Failure> {
        let preamble = request.preamble_lines;
        let engine = self.engine.with_client(client(request.pull)?);
        let to = destination(&request.to, request.push)?;
        let what = builder::Request {
            containerfile: request.containerfile,
            file_name: "Containerfile".to_owned(),
            named_contexts: request.named_contexts,
            secrets: request.secrets,
            no_cache: !request.use_cache,
            destinations: vec![to.clone()],
            ..builder::Request::default()
        };
        let show = shown(tell);
        // Dropping this future stops the build, so nothing else cancels it.
        let image = engine
            .build(what, CancellationToken::new(), &show)
            .await
            .map_err(|error| failure(error, preamble))?;
        let root = image
            .root(&show)
            .await
            .map_err(|error| failure(error, preamble))?;
        Ok(Image { image, root, to })
    }

    async fn push(&self, image: Arc<Image>, tell: Tell) -> Result<String, Failure> {
        let Destination { reference, client } = &image.to;
        let digest = self
            .engine
            .with_client(client.clone())
            .push(&image.image, reference, &shown(tell))
            .await
            .map_err(|error| failure(error, 0))?;
        Ok(digest.to_string())
    }
}

fn destination(to: &PullSpec, push: ClientConfig) -> Result<Destination, Failure> {
    let reference = to.to_string().parse();
    Ok(Destination {
        reference: reference.map_err(|error: oci::ReferenceError| Failure {
            reason: BuildReason::InvalidConfig,
            message: error.to_string(),
            may_pass: false,
        })?,
        client: client(push)?,
    })
}

/// What people see of events.
fn shown(tell: Tell) -> impl Fn(Event) + Send + Sync {
    move |event| match event {
        Event::StepStarted { step, steps, text } => tell(Progress::Step {
            step: number(step),
            steps: number(steps),
            text,
        }),
        Event::Cached { step } => tell(Progress::Cached { step: number(step) }),
        Event::Output { line, .. } => tell(Progress::Line(line)),
        Event::Note(text) => tell(Progress::Line(text)),
        Event::StepDone { .. } => {}
        Event::Bytes {
            transfer,
            blob,
            done,
            total,
        } => tell(Progress::Bytes {
            transfer,
            blob,
            done,
            total,
        }),
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Tells a build's failure in the words of a condition. Lines are counted in the user's text, which begins after
/// `preamble` lines.
fn failure(error: BuildError, preamble: u32) -> Failure {
    let of_user = |line: u32| line.saturating_sub(preamble);
    let (reason, message, may_pass) = match error {
        BuildError::Syntax { problems, .. } => {
            let lines: Vec<String> = problems
                .into_iter()
                .map(|mut problem| {
                    problem.at.line = of_user(problem.at.line);
                    format!("Containerfile:{problem}")
                })
                .collect();
            (BuildReason::InvalidContainerfile, lines.join("\n"), false)
        }
        BuildError::Step {
            step,
            steps,
            text,
            line,
            status,
            tail,
        } => {
            let line = of_user(line);
            let last = tail.len().saturating_sub(TAIL);
            let mut message = format!("step {step} of {steps}, line {line}: `{text}` {status}");
            for line in &tail[last..] {
                message.push('\n');
                message.push_str(line);
            }
            (BuildReason::StepFailed, message, false)
        }
        BuildError::Base { reference, source } => {
            return registry::failure(&about("base image", &reference, &source), &source);
        }
        BuildError::Push { reference, source } => {
            return registry::failure(&about("push to", &reference, &source), &source);
        }
        error @ BuildError::BaseInvalid { .. } => {
            (BuildReason::BaseImageUnavailable, chain(&error), false)
        }
        // The machine may be mended, or another builder have more room.
        error @ BuildError::Host { .. } => (BuildReason::Failed, chain(&error), true),
        error @ BuildError::Cancelled => (BuildReason::Interrupted, chain(&error), true),
    };
    Failure {
        reason,
        message,
        may_pass,
    }
}

/// Names the image, unless the registry's error does.
fn about(what: &str, reference: &str, error: &oci::ClientError) -> String {
    if error.to_string().contains(reference) {
        what.to_owned()
    } else {
        format!("{what} `{reference}`")
    }
}

impl ImageRoot for Image {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        if let Some(target) = self.root.read_link(path)? {
            return Ok(Some(Entry::Link(target.to_string_lossy().into_owned())));
        }
        Ok(self.root.kind(path)?.map(|kind| match kind {
            Kind::File => Entry::File,
            Kind::Directory => Entry::Directory,
            // Followed above; what is left is one that was made meanwhile.
            Kind::Symlink | Kind::Other => Entry::Other,
        }))
    }

    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        self.root.read(Path::new(path), limit as u64)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = self.root.list(path)?;
        let names = entries.into_iter().map(|(name, _)| name);
        // Names of units and accounts are UTF-8; others cannot be asked for.
        Ok(names.filter_map(|name| name.into_string().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder::StepStatus;
    use oci::ClientError;

    #[test]
    fn a_failed_step_is_told_with_its_line_status_and_last_output() {
        let told = failure(
            BuildError::Step {
                step: 2,
                steps: 3,
                text: "RUN dnf install -y autofs".to_owned(),
                line: 6,
                status: StepStatus::Exit(1),
                tail: (0..30).map(|n| format!("line {n}")).collect(),
            },
            4,
        );
        assert_eq!(told.reason, BuildReason::StepFailed);
        assert!(!told.may_pass);
        let lines: Vec<&str> = told.message.lines().collect();
        assert_eq!(
            lines[0],
            "step 2 of 3, line 2: `RUN dnf install -y autofs` exited with status 1"
        );
        assert_eq!(
            (lines.len(), lines[1], lines[20]),
            (21, "line 10", "line 29")
        );
    }

    #[test]
    fn lines_of_a_bad_containerfile_are_the_users() {
        let text = "FROM a AS configs\nLABEL a=b\nFROM configs\nRUNN true\n";
        let problems = builder::containerfile::parse(text).expect_err("not an instruction");
        let file = "Containerfile".to_owned();
        let told = failure(BuildError::Syntax { file, problems }, 2);
        assert_eq!(told.reason, BuildReason::InvalidContainerfile);
        assert!(!told.may_pass);
        assert!(
            told.message.starts_with("Containerfile:2:1: "),
            "{}",
            told.message
        );
        assert!(told.message.contains("RUNN"), "{}", told.message);
    }

    #[test]
    fn what_somebody_may_mend_elsewhere_is_tried_again() {
        let base = |source| {
            failure(
                BuildError::Base {
                    reference: "r/base".to_owned(),
                    source,
                },
                0,
            )
        };
        let away = base(ClientError::Unreachable {
            host: "r".to_owned(),
            reason: "connection refused".to_owned(),
        });
        assert_eq!(away.reason, BuildReason::RegistryUnavailable);
        assert!(away.may_pass && away.message.contains("connection refused"));
        let gone = base(ClientError::NotFound("r/base".to_owned()));
        assert_eq!(gone.reason, BuildReason::BaseImageUnavailable);
        assert!(gone.may_pass);
    }
}
