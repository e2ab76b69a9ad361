//! The other parts that run on a cluster.

use std::num::NonZeroU32;

use camino::Utf8PathBuf;
use clap::Args;
use jiff::SignedDuration;

use super::serve::duration;
use super::{BuildCache, Cluster, InNamespace, Monitoring};

/// Run the controllers against a Kubernetes API.
///
/// Of several that run one acts, elected by the Lease `caprock-controller`; another follows it when it stops, at once, or
/// dies, within 40 seconds.
#[derive(Debug, Args)]
pub(crate) struct Controller {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[command(flatten)]
    pub(crate) monitoring: Monitoring,
    /// Name to stand for election with; default: the host's name. No two controllers may share one.
    #[arg(long, value_name = "NAME", env = "CAPROCK_IDENTITY")]
    pub(crate) identity: Option<String>,
}

/// Run a builder that claims MachineOSBuilds of a Kubernetes API.
#[derive(Debug, Args)]
pub(crate) struct Builder {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[command(flatten)]
    pub(crate) monitoring: Monitoring,
    #[command(flatten)]
    pub(crate) cache: BuildCache,
    /// Name under which builds are claimed; default: the host's name. The same name takes its own claims up again.
    #[arg(long, value_name = "NAME")]
    pub(crate) identity: Option<String>,
    /// How many builds run at once; default: one for every four cores, and one at least. Steps of one build use all
    /// cores, but fetch and push, too.
    #[arg(long, value_name = "N")]
    pub(crate) parallel_builds: Option<NonZeroU32>,
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
    #[command(flatten)]
    pub(crate) monitoring: Monitoring,
    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9443")]
    pub(crate) listen: std::net::SocketAddr,
    /// The Service in front of this, by which the API reaches it.
    #[arg(long, value_name = "NAMESPACE/NAME", required_unless_present = "url")]
    pub(crate) service: Option<InNamespace>,
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
    pub(crate) secret: InNamespace,
}

/// Run a cluster's OCI registry.
///
/// Makes its own certificate and the logins of builders and nodes, renews them, and tells the cluster of them: Secrets
/// `global-pull-secret-copy` (builders, push) and `node-pull-secret` (nodes, pull only) and ConfigMap `registry-certs` in
/// namespace `openshift-machine-config-operator`. `caprock serve` has a registry of its own.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    caprock registry --data-dir /var/lib/caprock --service caprock-system/caprock-registry")]
pub(crate) struct Registry {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[command(flatten)]
    pub(crate) monitoring: Monitoring,
    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:5000")]
    pub(crate) listen: std::net::SocketAddr,
    /// Where images are kept, in `DIR/registry`. One process at a time may use it.
    #[arg(long, value_name = "DIR", env = "CAPROCK_DATA_DIR")]
    pub(crate) data_dir: Utf8PathBuf,
    /// The Service in front of this. Nodes are not in the cluster's DNS: images are named by its addresses.
    #[arg(long, value_name = "NAMESPACE/NAME", required_unless_present = "host")]
    pub(crate) service: Option<InNamespace>,
    /// Another name or address by which clients reach this, as in an image's reference; may be given more than once.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) host: Vec<String>,
    /// The Secret with the authority and the logins; deleted, it is made anew.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "caprock-system/caprock-registry-credentials"
    )]
    pub(crate) secret: InNamespace,
    /// How old logins become before new ones take their place. The former ones are good for a day more, or for half as
    /// long when that is less.
    #[arg(long, value_name = "DURATION", default_value = "720h", value_parser = duration)]
    pub(crate) credential_life: SignedDuration,
}

/// Let Caprock act on a cluster that has the Machine Config Operator (OpenShift, OKD).
///
/// Until then Caprock is read-only there: plan, status, explain, diff and render work on what is there. Checks first that
/// the other operator is stopped and every node is at rest, says what is missing, and changes nothing without `--confirm`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caprock takeover --confirm")]
pub(crate) struct Takeover {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Do it.
    #[arg(long, conflicts_with = "undo")]
    pub(crate) confirm: bool,
    /// Give the cluster back: Caprock stands by again.
    #[arg(long)]
    pub(crate) undo: bool,
}
