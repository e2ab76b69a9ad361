//! Building, linting and copying images.

use camino::Utf8PathBuf;
use clap::Args;

use crate::output::Format;

/// Build an image from a Containerfile.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock build -t registry.example.com/os/worker:1 --push .\n  \
    caprock build -f Containerfile --output oci:out:latest --build-arg VERSION=2 .")]
pub(crate) struct Build {
    /// Containerfile to build; default: CONTEXT/Containerfile, else CONTEXT/Dockerfile.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<Utf8PathBuf>,
    /// Name for the result; may be given several times.
    #[arg(short, long, value_name = "REF")]
    pub(crate) tag: Vec<String>,
    /// Build up to this stage.
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Value of an ARG.
    #[arg(long, value_name = "K=V")]
    pub(crate) build_arg: Vec<String>,
    /// Another context, for `FROM` and `--from=NAME`: a directory, `docker-image://REF` or
    /// `oci-artifact://REF`.
    #[arg(long, value_name = "NAME=DIR")]
    pub(crate) build_context: Vec<String>,
    /// A secret for `RUN --mount=type=secret`: from a file, or from an environment variable.
    #[arg(long, value_name = "id=ID[,src=FILE|,env=VAR]")]
    pub(crate) secret: Vec<String>,
    /// An SSH agent for `RUN --mount=type=ssh`; default: the one at $SSH_AUTH_SOCK.
    #[arg(long, value_name = "ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,
    /// A label of the image.
    #[arg(long, value_name = "K=V")]
    pub(crate) label: Vec<String>,
    /// An annotation of the image's manifest.
    #[arg(long, value_name = "K=V")]
    pub(crate) annotation: Vec<String>,
    /// What to build for, `os/architecture[/variant]`; default: this machine. Several, separated by commas, give an
    /// index with an image for each.
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// What of the context is not seen; default: FILE.dockerignore, else .containerignore or .dockerignore in CONTEXT.
    #[arg(long, value_name = "FILE")]
    pub(crate) ignorefile: Option<Utf8PathBuf>,
    /// How to tell of progress.
    #[arg(long, value_enum, default_value_t = ProgressStyle::Auto)]
    pub(crate) progress: ProgressStyle,
    /// Build every step again.
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Take steps that this machine did not do from a build cache in a registry; may be given several times.
    #[arg(long, value_name = "REF")]
    pub(crate) cache_from: Vec<String>,
    /// Put every step of this build into a build cache in a registry.
    #[arg(long, value_name = "REF")]
    pub(crate) cache_to: Option<String>,
    /// How layers are compressed: `gzip` or `zstd`, with a level perhaps (`zstd:9`).
    #[arg(long, value_name = "KIND[:LEVEL]", default_value_t)]
    pub(crate) compression: builder::Compression,
    /// Push the result to every name given with `--tag`.
    #[arg(long, requires = "tag")]
    pub(crate) push: bool,
    /// Write the result as an OCI image layout, `oci:DIR[:TAG]`, or as one in a tar archive, `oci-archive:FILE[:TAG]`.
    #[arg(long, value_name = "FORM:PATH[:TAG]")]
    pub(crate) output: Option<String>,
    /// Write the image's digest to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<Utf8PathBuf>,
    #[command(flatten)]
    pub(crate) cache: BuildCache,
    /// How much the cache may hold, in MiB; what was not used for longest goes first. Default: 20480.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    pub(crate) cache_limit: Option<u64>,
    #[command(flatten)]
    pub(crate) registry: RegistryAccess,
    /// Directory that COPY and ADD read from.
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: Utf8PathBuf,
}

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProgressStyle {
    /// `tty` on a terminal, otherwise `plain`.
    Auto,
    /// Lines.
    Plain,
    /// Lines, and bars for transfers.
    Tty,
    /// One JSON object a line.
    Json,
}

/// Find the problems of Containerfiles and manifests, before anything is built or applied.
///
/// Exits with 1 when there are errors. In a Containerfile a comment `# lint ignore=ID` above an instruction silences a
/// warning there, at the top of the file everywhere; in a manifest the object's annotation
/// `caprock.dev/lint-ignore: ID[,ID...]` does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock lint Containerfile\n  \
    caprock lint manifests/\n  \
    kubectl kustomize overlays/site | caprock lint -")]
pub(crate) struct Lint {
    /// Containerfiles, manifests, directories of manifests; `-` reads standard input. Manifests are looked at together.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) file: Vec<Utf8PathBuf>,
    /// Exit with 1 on warnings, too.
    #[arg(long)]
    pub(crate) strict: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// How registries are reached.
#[derive(Debug, Args)]
pub(crate) struct RegistryAccess {
    /// Credentials: a docker configuration file.
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE")]
    pub(crate) authfile: Option<Utf8PathBuf>,
    /// A certificate authority that registries may be signed by, PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<Utf8PathBuf>,
    /// `false`: accept any certificate, and plain HTTP, of the registries named here.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) tls_verify: bool,
}

/// Copy an image or an index from an OCI layout or a registry to a registry.
///
/// An index comes with the images of all its platforms, byte for byte.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    caprock copy oci:base:latest 127.0.0.1:5000/os/base:1 --authfile caprock-data/registry-auth.json --ca-file caprock-data/pki/ca.crt")]
pub(crate) struct Copy {
    /// `oci:DIR[:TAG]` or an image reference.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// An image reference.
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: String,
    #[command(flatten)]
    pub(crate) registry: RegistryAccess,
}

/// What builds keep for later ones.
#[derive(Debug, Args)]
pub(crate) struct BuildCache {
    /// Where layers and unpacked bases are cached.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/cache/caprock",
        env = "CAPROCK_CACHE_DIR"
    )]
    pub(crate) cache_dir: Utf8PathBuf,
}
