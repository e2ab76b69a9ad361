//! What can go wrong in a build, by what somebody has to do about it.

use std::fmt;
use std::io;

use oci::layer::LayerError;
use oci::{ClientError, Reference};

use crate::containerfile::Problem;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Containerfile, or an argument given to it, must be changed.
    #[error("{}", list(file, problems))]
    Syntax {
        /// What the Containerfile is called.
        file: String,
        /// At least one, in order of position.
        problems: Vec<Problem>,
    },
    /// A step did not succeed; the author of the Containerfile has to look.
    #[error("step {step} of {steps}, line {line}: `{text}` {status}")]
    Step {
        /// Counted from 1 over all stages that are built.
        step: usize,
        /// How many steps there are.
        steps: usize,
        /// The instruction as written, shortened.
        text: String,
        /// Its line in the Containerfile.
        line: u32,
        /// What happened.
        status: StepStatus,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// A base image, or an image that files are copied from, could not be fetched.
    #[error("base image `{reference}` cannot be fetched: {source}")]
    Base {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// A base image was fetched but is not usable.
    #[error("base image `{reference}` cannot be used: {reason}")]
    BaseInvalid {
        /// The image.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image was built but not pushed.
    #[error("image cannot be pushed to `{reference}`: {source}")]
    Push {
        /// Where to.
        reference: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// The machine cannot build: something is missing, not permitted or full.
    #[error("{action}: {source}")]
    Host {
        /// What was tried.
        action: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepStatus {
    /// The command exited with a status that is not 0.
    Exit(i32),
    /// The command was killed by a signal.
    Signal(i32),
    /// The step could not be done, for this reason.
    Refused(String),
}

impl fmt::Display for StepStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepStatus::Exit(code) => write!(f, "exited with status {code}"),
            StepStatus::Signal(signal) => write!(f, "was killed by signal {signal}"),
            StepStatus::Refused(reason) => write!(f, "failed: {reason}"),
        }
    }
}

impl BuildError {
    /// Whether the same build may succeed later with nobody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            BuildError::Base { source, .. } | BuildError::Push { source, .. } => {
                source.is_transient()
            }
            BuildError::Syntax { .. }
            | BuildError::Step { .. }
            | BuildError::BaseInvalid { .. }
            | BuildError::Host { .. }
            | BuildError::Cancelled => false,
        }
    }

    /// What it means that an image cannot be fetched.
    pub(crate) fn base(reference: &Reference) -> impl Fn(ClientError) -> BuildError {
        move |source| BuildError::Base {
            reference: reference.to_string(),
            source,
        }
    }

    /// What it means that something cannot be pushed.
    pub(crate) fn push(to: &Reference) -> impl Fn(ClientError) -> BuildError {
        move |source| BuildError::Push {
            reference: to.to_string(),
            source,
        }
    }

    pub(crate) fn host<E: Into<io::Error>>(
        action: impl Into<String>,
    ) -> impl FnOnce(E) -> BuildError {
        let action = action.into();
        move |source| BuildError::Host {
            action,
            source: source.into(),
        }
    }

    pub(crate) fn layer(reference: &str, source: LayerError) -> BuildError {
        match source {
            LayerError::Write {
                action,
                path,
                source,
            } => BuildError::Host {
                action: format!("cannot {action} `{path}` of base image `{reference}`"),
                source,
            },
            other => BuildError::BaseInvalid {
                reference: reference.to_string(),
                reason: chain(&other),
            },
        }
    }
}

impl From<oci::StoreError> for BuildError {
    fn from(error: oci::StoreError) -> Self {
        let kind = match &error {
            oci::StoreError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        let action = "the layer cache failed".to_string();
        BuildError::Host {
            action,
            source: io::Error::new(kind, chain(&error)),
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn list(file: &str, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{file}:{problem}"))
        .collect();
    lines.join("\n")
}
