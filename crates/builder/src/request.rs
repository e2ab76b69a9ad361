//! What to build.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use oci::Reference;
use oci::manifest::Platform;

use crate::compress::Compression;
use crate::ignore::Ignore;
use crate::pack::Destination;
use crate::secret::Secrets;

/// One build.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The text of the Containerfile.
    pub containerfile: String,
    /// What to call it in messages.
    pub file_name: String,
    /// The directory that `COPY` takes files from. Without one only other stages and images can be copied from.
    pub context: Option<PathBuf>,
    /// Further directories and images by name, for `FROM` and `--from`.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// Values of `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// The stage to build, by name or number; the last one when absent.
    pub target: Option<String>,
    /// Labels to set on the image, after those of the Containerfile.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Secrets for `RUN --mount=type=secret`.
    pub secrets: Secrets,
    /// Sockets of SSH agents for `RUN --mount=type=ssh`, by id.
    pub ssh_agents: BTreeMap<String, PathBuf>,
    /// What of the context is not seen, instead of what the ignore file in the context says.
    pub ignore: Option<Ignore>,
    /// Where the image will be pushed to: its layers are sent there while it is built.
    pub destinations: Vec<Destination>,
    /// Build caches in registries, for steps that the cache of this machine does not have.
    pub cache_from: Vec<Reference>,
    /// Keeps what every step gave, for [`Engine::export_cache`](crate::Engine::export_cache).
    pub keep_steps: bool,
    /// How the layers of steps are compressed. Layers of the base stay as they are.
    pub compression: Compression,
    /// Executes every step, whatever the cache has.
    pub no_cache: bool,
    /// What to build for; the platform of this machine when absent.
    pub platform: Option<Platform>,
    /// The time of the image and the latest time of any file that the build changes (`SOURCE_DATE_EPOCH`).
    ///
    /// When absent, the image has the time of its base image (1970 without one), and so have files that a step wrote;
    /// a file whose time was set on purpose keeps it. Either way the times in an image depend on what went into it and
    /// not on when it was built, and a layer from the cache has the same times as one made anew.
    pub created: Option<Timestamp>,
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory of this machine.
    Dir(PathBuf),
    /// An image, by reference.
    Image(String),
    /// The files of an OCI artifact, by reference.
    Artifact(String),
}
