//! Node agent: observes the host, stages images, applies configuration, verifies, reports.
//!
//! A turn of the loop in [`agent`] reads the Node and the [`host`], lets `model::update` decide which steps are left, and
//! does the first of them. The host side is blocking, behind two traits ([`os::Os`], [`systemd::Systemd`]), and keeps its
//! journal in [`state`]; what it writes goes through [`configure`] and [`root`].

mod agent;
mod boot;
mod command;
mod configure;
pub mod credentials;
mod drift;
mod error;
mod first_boot;
mod host;
mod ledger;
mod machine;
mod notify;
pub mod os;
mod probe;
mod program;
mod progress;
mod register;
mod registry;
mod report;
mod root;
pub mod simulated;
mod state;
mod systemd;
mod telemetry;
#[cfg(test)]
mod tests;
mod trial;
mod trust;
mod units;
mod verify;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use kube::Client;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use agent::{Agent, Settings};
use credentials::Credentials;
use host::Host;
use model::health::DEFAULT_DEADLINE;
use notify::Notifier;
use os::ostree::{Ostree, Source};
use os::{BackendName, Os};
use register::Registration;
use state::State;

pub use error::AgentError;
pub use telemetry::Telemetry;
pub use units::units;

/// What is over sooner needs no write of its own.
const UNEVENTFUL: Duration = Duration::from_secs(2);

/// Where a node's agent finds things. [`Paths::default`] is right on every node.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The sysroot: `/` on the running host.
    pub sysroot: Utf8PathBuf,
    /// The running root.
    pub root: Utf8PathBuf,
    /// What the agent keeps between runs, on `/var`.
    pub state_dir: Utf8PathBuf,
    /// What does not survive a reboot.
    pub run_dir: Utf8PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            sysroot: "/".into(),
            root: "/".into(),
            state_dir: "/var/lib/caprock".into(),
            run_dir: "/run/caprock".into(),
        }
    }
}

/// How to run a node's agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Name of the Node.
    pub node_name: String,
    /// Labels of the Node when the agent is to create it and keep it Ready, where no kubelet does.
    pub register: Option<BTreeMap<String, String>>,
    /// A certificate authority, as PEM, that registries are trusted by besides the public ones: the kubeconfig's own.
    pub registry_ca: Option<Vec<u8>>,
    /// What updates the host; found out when absent.
    pub backend: Option<BackendName>,
    /// How many bytes of an image are fetched in a second at most, where our own client fetches it.
    pub bytes_per_second: Option<NonZeroU64>,
    /// The node's own credential, which the client was made with; none when it uses one that others look after.
    pub credentials: Option<Credentials>,
    /// Where things are.
    pub paths: Paths,
    /// What the agent tells of itself.
    pub telemetry: Telemetry,
    /// Who acts on this cluster. Where it is not Caprock, the agent finishes what the boot needs and nothing more; it acts
    /// everywhere when absent.
    pub ours: Option<watch::Receiver<Acts>>,
}

/// Who acts on the nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acts {
    /// Another operator, or it is not known yet who does.
    Other,
    /// Caprock.
    Caprock {
        /// Since which take-over, where another operator acted before. What agents remember from an earlier one says
        /// nothing of a node any more.
        takeover: Option<String>,
    },
}

/// Runs a node's agent until `stop`.
///
/// # Errors
/// When its state directory cannot be opened, or no backend fits the host. Everything else is reported on the Node and tried again.
pub async fn run(
    client: Client,
    config: AgentConfig,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let notifier = notifier();
    let (paths, backend) = (config.paths.clone(), config.backend);
    let host = blocking(move |runtime| {
        let chosen = os::choose(backend, &paths.sysroot, &paths.state_dir, runtime.clone())?;
        open(&paths, chosen.os, runtime)
    })
    .await?;
    let settings = Settings {
        node_name: config.node_name,
        register: config.register.map(Registration::new),
        exchange: None,
        registry_ca: config.registry_ca,
        credentials: config.credentials,
        verify_deadline: DEFAULT_DEADLINE,
        uneventful: UNEVENTFUL,
        notifier,
        bytes_per_second: config.bytes_per_second,
        telemetry: config.telemetry,
        ours: config.ours,
    };
    Agent::new(client, host, settings).run(stop).await;
    Ok(())
}

fn notifier() -> Notifier {
    Notifier::new(|name| std::env::var(name).ok()).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot reach the service manager");
        Notifier::default()
    })
}

/// Brings a new machine into its pool's version before it becomes a Node, which takes one reboot at most; does nothing on
/// a node. `given` is the kubeconfig that it was given, with a join token.
///
/// # Errors
/// When its state directory cannot be opened. Everything else is logged and tried again.
pub async fn first_boot(
    paths: Paths,
    credentials: Credentials,
    given: Utf8PathBuf,
) -> Result<(), AgentError> {
    let host = blocking(move |runtime| {
        let chosen = os::choose(None, &paths.sysroot, &paths.state_dir, runtime.clone())?;
        open(&paths, chosen.os, runtime)
    })
    .await?;
    first_boot::run(host, credentials, &given).await
}

/// Finishes what the booted deployment still needs: what the early-boot unit runs. Needs no network.
///
/// # Errors
/// When something cannot be read or written.
pub async fn complete_boot(paths: Paths) -> Result<(), AgentError> {
    blocking(move |runtime| {
        let host = open_early(&paths, runtime)?;
        let begun = host.begin_boot();
        host.complete_boot()?;
        // Told, and no reason to leave a boot incomplete.
        Ok(begun?)
    })
    .await
}

/// Configures the deployment that the host's tools have made at shutdown: what stopping the finalising unit runs.
///
/// # Errors
/// When something cannot be read or written.
pub async fn finalize(paths: Paths) -> Result<(), AgentError> {
    blocking(move |_| {
        let state = State::open(&paths.state_dir)?;
        if !state.all_staged()?.is_empty() {
            os::Sysroot(paths.sysroot.clone()).make_writable()?;
        }
        host::finalize(&state, &paths.sysroot)?;
        Ok(())
    })
    .await
}

/// Lets the next boot take the deployment that ran before the one on trial: what the watch does when the agent of a new
/// deployment does not come up. Returns whether there is such a deployment; the caller reboots. Needs no network.
///
/// # Errors
/// When the deployments cannot be read or put in order.
pub async fn take_back(paths: Paths, reason: String) -> Result<bool, AgentError> {
    blocking(move |runtime| {
        let host = open_early(&paths, runtime)?;
        let sight = host.look()?;
        Ok(host.choose_previous(&sight, &reason)?)
    })
    .await
}

/// Imports an image into a sysroot, made when missing, and deploys it there: how a machine gets its first image. Does
/// nothing when it is deployed already.
///
/// # Errors
/// When the image cannot be read or deployed.
pub async fn install(
    sysroot: Utf8PathBuf,
    stateroot: String,
    source: Source,
    kernel_arguments: Vec<String>,
) -> Result<(), AgentError> {
    blocking(move |runtime| {
        let scratch = tempfile::tempdir().map_err(|source| os::OsError::Io {
            action: "make a directory in",
            path: Utf8PathBuf::from("/tmp"),
            source,
        })?;
        let scratch = Utf8Path::from_path(scratch.path()).unwrap_or(Utf8Path::new("/tmp"));
        let ostree = Ostree::new(&sysroot, Some(stateroot), scratch, runtime);
        ostree.initialise()?;
        let image = ostree.import(&source)?;
        if !ostree
            .status()?
            .0
            .iter()
            .any(|deployment| deployment.image == Some(image))
        {
            ostree.deploy(
                &image,
                None,
                &os::KernelArguments {
                    remove: Vec::new(),
                    add: kernel_arguments,
                },
                &os::PackageChanges::default(),
            )?;
        }
        Ok(())
    })
    .await
}

/// Opens the host for what must work early in boot. Whatever updates it otherwise, its daemon is not up yet: `ostree` alone
/// can tell what booted, and the boot loader's entries are the same for all.
fn open_early(paths: &Paths, runtime: Handle) -> Result<Host, AgentError> {
    let ostree = Ostree::new(&paths.sysroot, None, &paths.state_dir, runtime.clone());
    open(paths, Arc::new(ostree), runtime)
}

fn open(paths: &Paths, os: Arc<dyn Os>, runtime: Handle) -> Result<Host, AgentError> {
    let systemd = systemd::Bus::new(runtime);
    let state = State::open(&paths.state_dir)?;
    Ok(
        Host::new(os, Arc::new(systemd), state, &paths.root, &paths.run_dir)
            .with_program("/proc/self/exe"),
    )
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce(Handle) -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || work(runtime))
        .await
        .map_err(AgentError::CutShort)?
}
