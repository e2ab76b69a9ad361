//! Caprock on a cluster: how it comes there, becomes another version, and goes.

use clap::{Args, ValueEnum};
use jiff::SignedDuration;

use super::Cluster;
use super::serve::duration;
use crate::output::Format;

/// Install Caprock on a cluster, or upgrade it.
///
/// Applies CustomResourceDefinitions, accounts and workloads, and waits until the parts are ready. Doing it again, also
/// with another version, changes what differs and disturbs no node. The same objects come as a Helm chart and as
/// kustomizations.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock install --image registry.example.com/caprock:0.1.0\n  \
    caprock install --image registry.example.com/caprock:0.1.0 --with monitoring --print > caprock.yaml")]
pub(crate) struct Install {
    /// Caprock's image.
    #[arg(long, value_name = "REF", env = "CAPROCK_IMAGE")]
    pub(crate) image: String,
    /// The builder's image; default: that of `--image` with `-builder` behind its name.
    #[arg(long, value_name = "REF")]
    pub(crate) builder_image: Option<String>,
    /// A Secret in `caprock-system` with credentials for these images; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub(crate) image_pull_secret: Vec<String>,
    /// How many builders there are; default: 1.
    #[arg(long, value_name = "N")]
    pub(crate) builders: Option<u32>,
    /// With which rights builders run.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = BuilderMode::Privileged)]
    pub(crate) builder_mode: BuilderMode,
    /// What is installed besides; may be given several times.
    #[arg(long, value_name = "OPTION", value_enum)]
    pub(crate) with: Vec<Addition>,
    /// Print the objects and ask no server; `-o json` for one list.
    #[arg(long)]
    pub(crate) print: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml, requires = "print")]
    pub(crate) output: Format,
    /// Do not wait until the parts are ready.
    #[arg(long, conflicts_with = "print")]
    pub(crate) no_wait: bool,
    /// How long to wait for them.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: SignedDuration,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// With which rights builders run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BuilderMode {
    /// As root of their nodes, in privileged containers.
    Privileged,
    /// As root of user namespaces of their own, nobody on the node; takes nodes that can do that (docs/install.md).
    UserNamespace,
}

/// What not every cluster wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Addition {
    /// A registry of the cluster's own.
    Registry,
    /// What the Prometheus operator scrapes, and alert rules.
    Monitoring,
}

/// Remove Caprock from a cluster. Nodes keep running what they run.
///
/// First pools are paused and updates under way are waited for, then cordons are given back, then the objects go.
/// CustomResourceDefinitions, and with them pools and configurations, stay unless asked for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock uninstall\n  \
    caprock uninstall --prepare && helm uninstall caprock --no-hooks")]
pub(crate) struct Uninstall {
    /// Only make ready for a removal: pause pools, wait for updates, give cordons back.
    #[arg(long, conflicts_with = "crds")]
    pub(crate) prepare: bool,
    /// Remove the CustomResourceDefinitions too, with every object of theirs.
    #[arg(long)]
    pub(crate) crds: bool,
    /// Do not wait for updates under way.
    #[arg(long)]
    pub(crate) force: bool,
    /// How long to wait, for updates and for objects to go.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(crate) timeout: SignedDuration,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}
