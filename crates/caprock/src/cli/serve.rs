//! What runs on one machine or looks after its data: the server, its backups and certificates.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand, ValueEnum};
use jiff::SignedDuration;

use super::Monitoring;

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
    /// Leave a part to processes of its own, `caprock controller` or `caprock builder`; may be given several times.
    #[arg(long, value_name = "PART", value_enum)]
    pub(crate) without: Vec<Part>,
    #[command(flatten)]
    pub(crate) monitoring: Monitoring,
}

/// A part of the server that may run elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Controllers,
    Builder,
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

/// A positive length of time, such as `90m` or `24h`.
pub(super) fn duration(text: &str) -> Result<SignedDuration, String> {
    match text.parse::<SignedDuration>() {
        Ok(duration) if duration.is_negative() => {
            Err("expected a positive length of time".to_owned())
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("expected a length of time such as `24h`: {error}")),
    }
}
