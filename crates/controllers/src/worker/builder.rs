//! What the loop needs of a builder. The real one is [`engine`](super::engine); tests have one that fails on demand.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use builder::{NamedContext, Secrets, Transfer};
use model::image_check::ImageRoot;
use model::pull_spec::PullSpec;
use oci::ClientConfig;

use crate::registry::Failure;

/// One build to do.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The whole Containerfile.
    pub(crate) containerfile: String,
    /// How many lines of it are not the user's.
    pub(crate) preamble_lines: u32,
    /// Where `--from` finds files by name.
    pub(crate) named_contexts: BTreeMap<String, NamedContext>,
    /// What `RUN --mount=type=secret` gives to commands.
    pub(crate) secrets: Secrets,
    /// Whether steps may be taken from the cache.
    pub(crate) use_cache: bool,
    /// How the base image is pulled.
    pub(crate) pull: ClientConfig,
    /// Where the image goes. Layers may be sent there before it is complete.
    pub(crate) to: PullSpec,
    /// How the image is pushed.
    pub(crate) push: ClientConfig,
}

/// What a builder tells while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A step begins, or goes on with more to tell.
    Step {
        /// Counted from 1.
        step: u32,
        /// How many there are.
        steps: u32,
        /// The instruction.
        text: String,
    },
    /// The step's result is in the cache.
    Cached {
        /// The step.
        step: u32,
    },
    /// The steps are done and the image goes where it belongs.
    Pushing,
    /// A blob is on its way, or has arrived.
    Bytes {
        /// From or to a registry.
        transfer: Transfer,
        /// The blob's digest.
        blob: String,
        /// Bytes moved so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A line for the log.
    Line(String),
}

/// Called from any thread; must not block for long.
pub(crate) type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// Makes images and pushes them. Dropping a future stops the work.
pub(crate) trait Build: Send + Sync + 'static {
    /// A built image, its files readable.
    type Image: ImageRoot + Send + Sync + 'static;

    /// Builds an image.
    fn build(
        &self,
        request: Request,
        tell: Tell,
    ) -> impl Future<Output = Result<Self::Image, Failure>> + Send;

    /// Puts an image where its request says. Returns its digest, as `sha256:<hex>`.
    fn push(
        &self,
        image: Arc<Self::Image>,
        tell: Tell,
    ) -> impl Future<Output = Result<String, Failure>> + Send;
}
