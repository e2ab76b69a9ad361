//! Nodes: how machines become one, and the agent that runs there.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand, ValueEnum};
use jiff::SignedDuration;

use super::serve::duration;
use super::{Cluster, Monitoring, RegistryAccess, ServerData};

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

/// Run the agent of one node.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  caprock agent --kubeconfig /etc/caprock/kubeconfig --register-node --node-labels node-role.kubernetes.io/worker="
)]
pub(crate) struct Agent {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[command(flatten)]
    pub(crate) monitoring: Monitoring,
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
