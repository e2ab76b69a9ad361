//! What shows something and changes nothing.

use std::str::FromStr;

use camino::Utf8PathBuf;
use clap::Args;

use super::Cluster;
use crate::output::Format;

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

/// Print a MachineConfig made from files and units, as `kubectl create configmap --from-file --dry-run` prints a ConfigMap.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    caprock machineconfig 99-worker-motd --pool worker --file /etc/motd=motd\n  \
    caprock machineconfig 99-edge-sssd --pool edge --file /etc/sssd/sssd.conf=sssd.conf:0600 --unit sssd.service\n  \
    caprock machineconfig 99-edge-hello --pool edge --unit hello.service=hello.service | kubectl apply -f -")]
pub(crate) struct MachineConfigFrom {
    /// Its name.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The pool that is to take it: its role label.
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: String,
    /// A file of the node, where its content comes from (`-` is standard input), and its mode, 0644 when none is said;
    /// may be given several times.
    #[arg(long, value_name = "PATH=SOURCE[:MODE]")]
    pub(crate) file: Vec<FileFrom>,
    /// A unit to enable, with the file that it is in, or without one when the image has it; may be given several times.
    #[arg(long, value_name = "NAME[=SOURCE]")]
    pub(crate) unit: Vec<UnitFrom>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    pub(crate) output: Format,
}

/// `PATH=SOURCE[:MODE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileFrom {
    pub(crate) path: String,
    pub(crate) source: Utf8PathBuf,
    pub(crate) mode: Option<u32>,
}

impl FromStr for FileFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected `PATH=SOURCE` or `PATH=SOURCE:MODE`, found `{text}`");
        let (path, rest) = text.split_once('=').ok_or_else(expected)?;
        let octal = |mode: &str| {
            let digits = matches!(mode.len(), 3 | 4);
            digits.then(|| u32::from_str_radix(mode, 8).ok()).flatten()
        };
        let with_mode = rest
            .rsplit_once(':')
            .and_then(|(source, mode)| Some((source, octal(mode)?)));
        let (source, mode) = match with_mode {
            Some((source, mode)) => (source, Some(mode)),
            None => (rest, None),
        };
        if path.is_empty() || source.is_empty() {
            return Err(expected());
        }
        Ok(FileFrom {
            path: path.to_owned(),
            source: source.into(),
            mode,
        })
    }
}

/// `NAME[=SOURCE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitFrom {
    pub(crate) name: String,
    pub(crate) source: Option<Utf8PathBuf>,
}

impl FromStr for UnitFrom {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, source) = match text.split_once('=') {
            Some((name, source)) => (name, Some(source.into())),
            None => (text, None),
        };
        Ok(UnitFrom {
            name: name.to_owned(),
            source,
        })
    }
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
    /// Go on until the build ends; of a MachineOSConfig that has no build yet, wait for it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_given_with_path_source_and_mode() {
        for (text, expected) in [
            ("/etc/a=b", Some(("/etc/a", "b", None))),
            ("/etc/a=b:0600", Some(("/etc/a", "b", Some(0o600)))),
            ("/etc/a=-:644", Some(("/etc/a", "-", Some(0o644)))),
            ("/etc/a=b:c", Some(("/etc/a", "b:c", None))),
            ("/etc/a=b:0999", Some(("/etc/a", "b:0999", None))),
            ("/etc/a", None),
            ("=b", None),
            ("/etc/a=:0600", None),
        ] {
            let expected = expected.map(|(path, source, mode)| FileFrom {
                path: path.to_owned(),
                source: source.into(),
                mode,
            });
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }
}
