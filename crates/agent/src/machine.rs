//! What the loop needs of the machine that it runs on. [`crate::host::Host`] is a real one; [`crate::simulated`] has one
//! that keeps everything in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use camino::Utf8PathBuf;
use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use model::api::{MachineConfigSpec, RolloutPolicy};
use model::file_secret::Values;
use model::health::Check;
use model::ledger::{Cause, Reboot};
use model::node::Target;
use model::update::{Action, Failure, Policy, Version};
use oci::Digest;
use tokio::sync::Notify;

use crate::configure::Difference;
use crate::drift::{Drift, Known, Watch};
use crate::error::AgentError;
use crate::first_boot::FirstBoot;
use crate::host::{Health, HostError, Sight, TakenBack};
use crate::os::{OsError, Progress};
use crate::state::StateError;
use crate::trust::Wanted;

/// A machine: what is on it, and the steps that change it. Each step is safe to run again after a kill at any point.
pub(crate) trait Machine: Clone + Debug + Send + Sync + 'static {
    /// Runs a step that may block.
    fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Self) -> Result<T, HostError> + Send + 'static,
    ) -> impl Future<Output = Result<T, AgentError>> + Send;

    /// What it keeps across reboots.
    fn state(&self) -> &dyn Memory;

    /// What a kubelet would report of it.
    fn facts(&self) -> Facts;

    /// What is on it now.
    fn look(&self) -> Result<Sight, HostError>;

    /// Takes what another operator has configured for what it is, whatever it remembers of before.
    fn adopt(&self, sight: &Sight, version: &Version) -> Result<(), HostError>;

    /// Finishes what the boot needs.
    fn complete_boot(&self) -> Result<(), HostError>;

    /// Whether an image is on it, ready to deploy.
    fn has(&self, image: &Digest) -> Result<bool, OsError>;

    /// Brings an image onto it; `tell` is told often how far that is.
    fn pull(
        &self,
        image: String,
        registry: impl Future<Output = Result<oci::Client, AgentError>> + Send,
        tell: impl Fn(Progress) + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(), AgentError>> + Send;

    /// Whether it puts packages on top of images.
    fn adds_packages(&self) -> bool;

    /// Makes the deployment that the next boot takes.
    fn deploy(&self, sight: &Sight, to: &Version, image: Digest) -> Result<(), HostError>;

    /// Takes a deployment away that never booted.
    fn discard(&self, sight: &Sight, keep: &str) -> Result<(), HostError>;

    /// Reboots into the next boot's deployment.
    fn reboot(&self, sight: &Sight, target: &Target, cause: Cause) -> Result<(), HostError>;

    /// The same without a new kernel.
    fn soft_reboot(&self, sight: &Sight, target: &Target, cause: Cause) -> Result<(), HostError>;

    /// Whether it can do that.
    fn can_soft_reboot(&self) -> Result<bool, HostError>;

    /// Changes the running deployment.
    fn apply(&self, sight: &Sight, to: &Version, actions: &[Action]) -> Result<(), HostError>;

    /// Compares it with a version.
    fn check(&self, sight: &Sight, version: &Version, policy: &Policy)
    -> Result<Health, HostError>;

    /// Runs a policy's probes.
    fn probe(&self, probes: &[(String, Check)]) -> impl Future<Output = Health> + Send;

    /// Remembers that the running deployment is well.
    fn confirm(&self, sight: &Sight) -> Result<(), HostError>;

    /// Takes back what was never well.
    fn take_back(
        &self,
        sight: &Sight,
        reason: &str,
        policy: &Policy,
    ) -> Result<TakenBack, HostError>;

    /// Looks for drift from a version.
    fn drift(&self, version: &Version, known: Option<&Known>) -> Result<Drift, HostError>;

    /// Puts drift back.
    fn heal(
        &self,
        version: &Version,
        differences: &[Difference],
        policy: &Policy,
    ) -> Result<(), HostError>;

    /// Wakes `changed` when something at these paths changes; none where nobody changes anything.
    fn listen(
        &self,
        paths: &BTreeSet<Utf8PathBuf>,
        changed: Arc<Notify>,
    ) -> io::Result<Option<Watch>>;

    /// Brings what its programs trust in line; returns whether anything changed.
    fn follow_trust(
        &self,
        wanted: &Wanted,
        taken: &BTreeSet<Utf8PathBuf>,
    ) -> Result<bool, HostError>;

    /// Removes what nothing refers to any more.
    fn clean(&self, keep_images: &[Digest], keep_configs: &[&str]) -> Result<(), HostError>;
}

/// What a machine keeps across reboots, as far as the loop asks for it.
pub(crate) trait Memory {
    /// A rendered config that was kept.
    fn config(&self, name: &str) -> Result<Option<MachineConfigSpec>, StateError>;

    /// Keeps a rendered config.
    fn keep_config(&self, name: &str, spec: &MachineConfigSpec) -> Result<(), StateError>;

    /// Content from Secrets that was kept.
    fn values(&self) -> Result<Values, StateError>;

    /// Keeps the content from Secrets for the version that the node goes to.
    fn keep_values(&self, values: &Values) -> Result<(), StateError>;

    /// The pool's policy as it was kept.
    fn policy(&self) -> Result<Option<RolloutPolicy>, StateError>;

    /// Keeps the pool's policy.
    fn set_policy(&self, policy: Option<&RolloutPolicy>) -> Result<(), StateError>;

    /// Remembers what was taken back, or forgets it.
    fn set_failure(&self, failure: Option<&Failure>) -> Result<(), StateError>;

    /// Its reboots, the oldest first.
    fn reboots(&self) -> Result<Vec<Reboot>, StateError>;

    /// The take-over of the cluster that it has followed last.
    fn takeover(&self) -> Result<Option<String>, StateError>;

    /// Remembers the take-over that it has followed.
    fn set_takeover(&self, takeover: &str) -> Result<(), StateError>;

    /// How far a new machine is; none on a node.
    fn first_boot(&self) -> Result<Option<FirstBoot>, StateError>;

    /// The machine is a node now.
    fn forget_first_boot(&self) -> Result<(), StateError>;

    /// Whether the running deployment, or the next, is on trial.
    fn is_on_trial(&self) -> Result<bool, StateError>;

    /// Keeps why verification waits, for whoever may have to take the deployment back.
    fn say(&self, text: &str) -> Result<(), StateError>;
}

/// What a kubelet would report of a machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) capacity: BTreeMap<String, Quantity>,
    /// With the mark of this boot.
    pub(crate) info: NodeSystemInfo,
}
