//! The other parts that run on a cluster.

use camino::Utf8PathBuf;
use clap::Args;

use super::Cluster;

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
