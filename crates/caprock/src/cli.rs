//! The command line: commands, flags, and the help people read first.

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;

use crate::output::Format;

/// Declarative, safe OS image layering for image-mode Linux nodes.
#[derive(Debug, Parser)]
#[command(name = "caprock", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Say more: once for debug logs and whole error chains, twice for dependencies too.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Serve),
    Build(Box<Build>),
    Lint(Lint),
    Render(Render),
    Plan(Plan),
    Diff(Diff),
    Status(Status),
    Explain(Explain),
    Logs(Logs),
    Crds(Crds),
    Copy(Copy),
    #[command(subcommand)]
    Node(Node),
    #[command(subcommand)]
    Certs(Certs),
    Agent(Agent),
    Controller(Controller),
    Builder(Builder),
    Webhook(Webhook),
    Backup(Backup),
    Restore(Restore),
    Completions(Completions),
}

/// Run everything on one machine: API server, registry, controllers and builder.
///
/// Writes DIR/kubeconfig when it is ready and stops cleanly on SIGTERM or Ctrl-C. Started again on the same data
/// directory it continues where it was, also in the middle of a build or a roll-out.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    caprock serve --data-dir ./caprock-data &\n  \
    export KUBECONFIG=./caprock-data/kubeconfig\n  \
    kubectl get machineconfigpools")]
pub(crate) struct Serve {
    /// Where everything is kept: objects, images, build cache, certificates, credentials.
    #[arg(long, value_name = "DIR", env = "CAPROCK_DATA_DIR")]
    pub(crate) data_dir: Utf8PathBuf,
    /// Address of the Kubernetes API.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6443")]
    pub(crate) listen: std::net::SocketAddr,
    /// Address of the OCI registry.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    pub(crate) registry_listen: std::net::SocketAddr,
    /// Where layers and unpacked bases are cached; default: DIR/builder. Several servers may share one.
    #[arg(long, value_name = "DIR", env = "CAPROCK_CACHE_DIR")]
    pub(crate) build_cache: Option<Utf8PathBuf>,
    /// Base OS image of pools whose MachineConfigs set no `osImageURL`.
    #[arg(long, value_name = "REF")]
    pub(crate) base_image: Option<String>,
    /// Append a line for every request to the API to this file, without bodies.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log: Option<Utf8PathBuf>,
    /// Authority whose client certificates are accepted beside those of the server's own, PEM: common name = user,
    /// organisations = groups.
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: Option<Utf8PathBuf>,
    /// How long a node's token is good for; its agent renews it in time.
    #[arg(long, value_name = "DURATION", default_value = "720h", value_parser = duration)]
    pub(crate) node_credential_life: SignedDuration,
}

/// Save objects, authority and credentials of a running server.
///
/// The archive holds secrets. Images are not in it: copy DIR/registry with any tool, before the backup.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock backup --data-dir ./caprock-data backup.tar")]
pub(crate) struct Backup {
    /// Data directory of the server.
    #[arg(long, value_name = "DIR", env = "CAPROCK_DATA_DIR")]
    pub(crate) data_dir: Utf8PathBuf,
    /// The archive to write.
    #[arg(value_name = "FILE")]
    pub(crate) file: Utf8PathBuf,
}

/// Make a data directory from a backup; `caprock serve` then starts with it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock restore --data-dir ./caprock-data backup.tar")]
pub(crate) struct Restore {
    /// Data directory to make.
    #[arg(long, value_name = "DIR", env = "CAPROCK_DATA_DIR")]
    pub(crate) data_dir: Utf8PathBuf,
    /// The archive to read.
    #[arg(value_name = "FILE")]
    pub(crate) file: Utf8PathBuf,
}

/// A positive length of time, such as `90m` or `24h`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    match text.parse::<SignedDuration>() {
        Ok(duration) if duration.is_negative() => {
            Err("expected a positive length of time".to_owned())
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("expected a length of time such as `24h`: {error}")),
    }
}

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
    /// Another context, for `FROM` and `--from=NAME`: a directory, or `docker-image://REF`.
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
    /// Where layers and unpacked bases are cached.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/cache/caprock",
        env = "CAPROCK_CACHE_DIR"
    )]
    pub(crate) cache_dir: Utf8PathBuf,
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

/// Find the problems of Containerfiles without building them.
///
/// Exits with 1 when there are errors. A comment `# lint ignore=ID` above an instruction silences a warning there, at
/// the top of the file everywhere.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock lint Containerfile")]
pub(crate) struct Lint {
    /// Containerfiles; `-` reads standard input.
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

/// Show the rendered MachineConfig of each pool, without a server.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock render -f examples/automount --pool worker-automount")]
pub(crate) struct Render {
    /// Manifest files or directories; `-` reads standard input.
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    pub(crate) filename: Vec<Utf8PathBuf>,
    /// Only this pool.
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    pub(crate) output: Format,
}

/// Show what would happen to each node, and why, before anything happens.
///
/// Without `-f` it is what the cluster is about to do; with it, what it would do if these manifests were applied. With
/// `--from` and `--to` no server is asked: the two are compared as one node would see them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock plan                                     # what the cluster is about to do\n  \
    caprock plan -f new-manifests/                   # what it would do with these applied\n  \
    caprock plan --from before.yaml --to after.yaml --policy policy.yaml -o json")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Manifest files or directories, as if they were applied; may be given several times; `-` reads standard input.
    #[arg(short, long = "filename", value_name = "PATH", conflicts_with = "from")]
    pub(crate) filename: Vec<Utf8PathBuf>,
    /// A MachineConfig, rendered or plain, or manifests that are rendered: what a node has.
    #[arg(long, value_name = "PATH", requires = "to")]
    pub(crate) from: Option<Utf8PathBuf>,
    /// The same: what the node is to have.
    #[arg(long, value_name = "PATH", requires = "from")]
    pub(crate) to: Option<Utf8PathBuf>,
    /// A MachineConfiguration whose node disruption policy holds between `--from` and `--to`; default: that among the
    /// manifests of `--to`, else the defaults.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub(crate) policy: Option<Utf8PathBuf>,
    /// Only this pool.
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Show how two configurations differ.
///
/// Contents are decoded and shown as a unified difference. Of secrets (files that only their owner may read, and known
/// places of keys and passwords) only that they differ is shown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock diff before.yaml after.yaml\n  \
    caprock diff manifests/ new-manifests/ --pool worker\n  \
    caprock diff rendered-worker-0123456789abcdef0123456789abcdef new-manifests/")]
pub(crate) struct Diff {
    /// A manifest file, a directory of manifests that are rendered, or the name of a MachineConfig on the server.
    #[arg(value_name = "A")]
    pub(crate) from: String,
    /// The same.
    #[arg(value_name = "B")]
    pub(crate) to: String,
    /// The pool to render, where manifests have several.
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// Show pools, builds and nodes, and what each waits for.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock status -o json")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Say what a node, a pool or a build is doing, what it waits for, and what you can do; or what a finding of `lint`
/// means.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock explain node/worker-1 --reboots")]
pub(crate) struct Explain {
    /// `node/NAME`, `pool/NAME` or `build/NAME`; kubectl's names of the kinds do too. `lint/ID` for a finding.
    #[arg(value_name = "OBJECT")]
    pub(crate) object: String,
    /// Also why the node rebooted, each time.
    #[arg(long)]
    pub(crate) reboots: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// Print the log of a build.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock logs -f worker-automount")]
pub(crate) struct Logs {
    /// A MachineOSBuild, or a MachineOSConfig: then its newest build.
    #[arg(value_name = "BUILD")]
    pub(crate) build: String,
    /// Go on until the build ends.
    #[arg(short, long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// Print the CustomResourceDefinitions.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock crds | kubectl apply -f -")]
pub(crate) struct Crds {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    pub(crate) output: Format,
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

/// Prepare nodes that no kubelet registers.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    Token(NodeToken),
    Tokens(NodeTokens),
    Revoke(NodeRevoke),
    Kubeconfig(NodeKubeconfig),
    Units(NodeUnits),
    Import(NodeImport),
}

/// Make a join token and print what a new machine is given to join a pool with.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock node token --pool worker --data-dir ./caprock-data > join.kubeconfig   # to /etc/caprock/kubeconfig of the machine\n  \
    caprock node token --pool worker --data-dir ./caprock-data -o ignition > worker.ign")]
pub(crate) struct NodeToken {
    /// The pool that machines join with it.
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: String,
    /// Only for this node, which may have joined before: what it had then ends.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// How long machines can join with it.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) ttl: SignedDuration,
    /// What to print: a kubeconfig for the agent, or an Ignition config that fetches the pool's.
    #[arg(short, long, value_enum, default_value_t = JoinFormat::Kubeconfig)]
    pub(crate) output: JoinFormat,
    #[command(flatten)]
    pub(crate) server: ServerData,
}

/// What a new machine reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum JoinFormat {
    Kubeconfig,
    Ignition,
}

/// List the join tokens that are still good.
#[derive(Debug, Args)]
pub(crate) struct NodeTokens {
    #[command(flatten)]
    pub(crate) server: ServerData,
}

/// Take back a node's credential, or a join token by its ID: it is refused at once.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock node revoke worker-1 --data-dir ./caprock-data")]
pub(crate) struct NodeRevoke {
    /// A node's name, or with `--token` the ID of a join token.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// NAME is the ID of a join token.
    #[arg(long)]
    pub(crate) token: bool,
    #[command(flatten)]
    pub(crate) server: ServerData,
}

/// The server whose data is meant.
#[derive(Debug, Args)]
pub(crate) struct ServerData {
    /// The data directory of `caprock serve`.
    #[arg(long, value_name = "DIR", env = "CAPROCK_DATA_DIR")]
    pub(crate) data_dir: Utf8PathBuf,
}

/// Look after the certificates of `caprock serve`.
#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    Status(CertsStatus),
    Rotate(CertsRotate),
    User(CertsUser),
}

/// Show the certificate authority, when it ends, and how far its replacement is.
#[derive(Debug, Args)]
pub(crate) struct CertsStatus {
    #[command(flatten)]
    pub(crate) server: ServerData,
}

/// Replace the certificate authority, without an interruption.
///
/// First everybody is told to trust the old and the new one; then the new one signs; last the old one is dropped. Each
/// phase lasts at least as long as given here, and until every node has followed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock certs rotate --data-dir ./caprock-data")]
pub(crate) struct CertsRotate {
    /// How long each phase lasts at least: copies of the kubeconfig must be replaced in the first.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) overlap: SignedDuration,
    #[command(flatten)]
    pub(crate) server: ServerData,
}

/// Print a kubeconfig for a person or a program, with a certificate of its own.
///
/// What it may do is said by RBAC: bind a role to the user or to its group. A certificate cannot be taken back;
/// it ends by itself, or with the authority that signed it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    caprock certs user jane --group devs --data-dir ./caprock-data > jane.kubeconfig\n  \
    kubectl create clusterrolebinding devs --clusterrole=view --group=devs")]
pub(crate) struct CertsUser {
    /// The user's name.
    #[arg(value_name = "USER")]
    pub(crate) user: String,
    /// The user's group; `system:masters` may do everything.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// How long the certificate is valid.
    #[arg(long, value_name = "DURATION", default_value = "720h", value_parser = duration)]
    pub(crate) life: SignedDuration,
    #[command(flatten)]
    pub(crate) server: ServerData,
}

/// Print a kubeconfig for one node's agent, with a credential of its own.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  caprock node kubeconfig worker-1 --data-dir ./caprock-data > worker-1.kubeconfig"
)]
pub(crate) struct NodeKubeconfig {
    /// The node's name.
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// The data directory of `caprock serve`.
    #[arg(long, value_name = "DIR", env = "CAPROCK_DATA_DIR")]
    pub(crate) data_dir: Utf8PathBuf,
}

/// Write the agent's systemd units into a directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock node units /etc/systemd/system")]
pub(crate) struct NodeUnits {
    /// Where to write them.
    #[arg(value_name = "DIR")]
    pub(crate) dir: Utf8PathBuf,
}

/// Import an OS image into an ostree sysroot and deploy it there: how a machine gets its first image.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock node import --sysroot ./sysroot oci:base:latest")]
pub(crate) struct NodeImport {
    /// The sysroot; it is initialised when it is empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) sysroot: Utf8PathBuf,
    /// Name of the operating system's state root.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) stateroot: String,
    /// A kernel argument of the deployment; may be given several times.
    #[arg(long, value_name = "ARG")]
    pub(crate) karg: Vec<String>,
    /// `oci:DIR[:TAG]` or an image reference.
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) registry: RegistryAccess,
}

/// Which Kubernetes API to talk to.
#[derive(Debug, Args, Clone)]
pub(crate) struct Cluster {
    /// Kubeconfig file; default: $KUBECONFIG, ~/.kube/config, then the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<Utf8PathBuf>,
}

/// Run the agent of one node.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  caprock agent --kubeconfig /etc/caprock/kubeconfig --register-node --node-labels node-role.kubernetes.io/worker="
)]
pub(crate) struct Agent {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Kubeconfig that the machine was given, with a join token or a node's credential: the agent exchanges it for a
    /// credential of its own, which it keeps and renews, and uses instead of `--kubeconfig`.
    #[arg(long, value_name = "FILE", conflicts_with = "kubeconfig")]
    pub(crate) bootstrap_kubeconfig: Option<Utf8PathBuf>,
    /// Bring a new machine into its pool's configuration and image, then exit: what the first-boot unit runs.
    #[arg(long, requires = "bootstrap_kubeconfig", conflicts_with_all = ["register_node", "node_labels"])]
    pub(crate) first_boot: bool,
    /// The node's name; default: the host's name.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// Create the Node object and keep it Ready, where no kubelet does.
    #[arg(long)]
    pub(crate) register_node: bool,
    /// Labels of the Node when it is created.
    #[arg(
        long,
        value_name = "K=V",
        value_delimiter = ',',
        requires = "register_node"
    )]
    pub(crate) node_labels: Vec<String>,
    /// Where the host's root is mounted, when the agent runs in a container of the host.
    #[arg(long, value_name = "DIR", requires = "node_name")]
    pub(crate) host_root: Option<Utf8PathBuf>,
    /// What updates this host: `bootc`, `rpm-ostree` or `ostree`; default: what fits it.
    #[arg(long, value_name = "BACKEND", env = "CAPROCK_HOST_BACKEND")]
    pub(crate) host_backend: Option<agent::os::BackendName>,
    /// Fetch images with at most this many bytes in a second.
    #[arg(long, value_name = "N")]
    pub(crate) pull_bytes_per_second: Option<std::num::NonZeroU64>,
    /// Write the configuration into the deployment that was made at shutdown, then exit: what the finalising unit runs.
    #[arg(long, conflicts_with_all = ["register_node", "node_labels", "complete_boot"])]
    pub(crate) finalize: bool,
    /// Finish what a deployment still needs, then exit: what the early-boot unit runs.
    #[arg(long, conflicts_with_all = ["register_node", "node_labels", "host_root"])]
    pub(crate) complete_boot: bool,
    /// Let the next boot take the deployment before the one on trial, then exit: what the watch runs. Exit status 1 when
    /// there is no way back.
    #[arg(long, value_name = "REASON", conflicts_with_all = ["register_node", "node_labels", "complete_boot"])]
    pub(crate) take_back: Option<String>,
}

/// Run the controllers against a Kubernetes API.
///
/// Of several that run one acts, elected by the Lease `caprock-controller`; another follows it when it stops, at once, or
/// dies, within 40 seconds.
#[derive(Debug, Args)]
pub(crate) struct Controller {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Name to stand for election with; default: the host's name. No two controllers may share one.
    #[arg(long, value_name = "NAME", env = "CAPROCK_IDENTITY")]
    pub(crate) identity: Option<String>,
}

/// Run a builder that claims MachineOSBuilds of a Kubernetes API.
#[derive(Debug, Args)]
pub(crate) struct Builder {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Where layers and unpacked bases are cached.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/cache/caprock",
        env = "CAPROCK_CACHE_DIR"
    )]
    pub(crate) cache_dir: Utf8PathBuf,
    /// Name under which builds are claimed; default: the host's name. The same name takes its own claims up again.
    #[arg(long, value_name = "NAME")]
    pub(crate) identity: Option<String>,
}

/// Convert between v1alpha1 and v1 for a Kubernetes API.
///
/// Makes its own certificate and renews it, keeps the authority behind it in a Secret that all replicas share, and tells
/// the API through the CustomResourceDefinitions whom to ask and whom to trust. `caprock serve` needs none of this.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    caprock webhook --listen 0.0.0.0:9443 --service openshift-machine-config-operator/caprock-webhook")]
pub(crate) struct Webhook {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9443")]
    pub(crate) listen: std::net::SocketAddr,
    /// The Service in front of this, by which the API reaches it.
    #[arg(long, value_name = "NAMESPACE/NAME", required_unless_present = "url")]
    pub(crate) service: Option<String>,
    /// Port of the Service.
    #[arg(long, value_name = "PORT", default_value_t = 443, requires = "service")]
    pub(crate) service_port: u16,
    /// The URL by which the API reaches this, if it is outside of the cluster: `https://HOST[:PORT]`.
    #[arg(long, value_name = "URL", conflicts_with = "service")]
    pub(crate) url: Option<String>,
    /// The Secret with the authority.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "openshift-machine-config-operator/caprock-webhook-authority"
    )]
    pub(crate) secret: String,
}

/// Print a shell's completions.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock completions bash > /etc/bash_completion.d/caprock")]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
