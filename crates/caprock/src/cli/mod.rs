//! The command line: commands, flags, and the help people read first.

mod build;
mod install;
mod look;
mod node;
mod parts;
mod serve;
mod simulate;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand};

pub(crate) use build::{Build, BuildCache, Copy, Lint, ProgressStyle, RegistryAccess};
pub(crate) use install::{Addition, BuilderMode, Install, Uninstall};
pub(crate) use look::{
    Crds, Diff, Explain, FileFrom, Logs, MachineConfigFrom, Plan, Render, Status, UnitFrom,
};
pub(crate) use node::{Agent, JoinFormat, Node, NodeImport, NodeKubeconfig, NodeRevoke, NodeToken};
pub(crate) use parts::{Builder, Controller, Registry, Takeover, Webhook};
pub(crate) use serve::{Backup, Certs, CertsRotate, CertsUser, Part, Restore, Serve, ServerData};
pub(crate) use simulate::{Simulate, SimulateNodes};

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
    #[command(name = "machineconfig")]
    MachineConfig(MachineConfigFrom),
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
    Registry(Registry),
    Install(Install),
    Uninstall(Uninstall),
    #[command(subcommand)]
    Simulate(Simulate),
    Takeover(Takeover),
    Backup(Backup),
    Restore(Restore),
    Completions(Completions),
}

/// Which Kubernetes API to talk to.
#[derive(Debug, Args, Clone)]
pub(crate) struct Cluster {
    /// Kubeconfig file; default: $KUBECONFIG, ~/.kube/config, then the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<Utf8PathBuf>,
}

/// An object named as `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InNamespace {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl std::str::FromStr for InNamespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("expected NAMESPACE/NAME".to_owned()),
        }
    }
}

impl InNamespace {
    /// The DNS names that pods know a Service by, whatever the cluster's domain is; and the one of most clusters.
    pub(crate) fn service_names(&self) -> Vec<String> {
        let name = format!("{}.{}.svc", self.name, self.namespace);
        vec![name.clone(), format!("{name}.cluster.local")]
    }
}

/// Where a long-running part shows how it is doing.
#[derive(Debug, Args, Clone)]
pub(crate) struct Monitoring {
    /// Address to show `/metrics`, `/healthz` and `/readyz` on, without TLS and for everybody who reaches it; default:
    /// nowhere.
    #[arg(long, value_name = "ADDR", env = "CAPROCK_METRICS_LISTEN")]
    pub(crate) metrics_listen: Option<std::net::SocketAddr>,
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
