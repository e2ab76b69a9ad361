//! A real machine, as the loop sees it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use camino::Utf8PathBuf;
use model::api::{MachineConfigSpec, RolloutPolicy};
use model::file_secret::Values;
use model::health::Check;
use model::ledger::{Cause, Reboot};
use model::node::Target;
use model::update::{Action, Failure, Policy, Version};
use oci::Digest;
use tokio::sync::Notify;

use super::{Health, Host, HostError, Sight, TakenBack};
use crate::configure::Difference;
use crate::drift::{Drift, Known, Watch};
use crate::error::AgentError;
use crate::first_boot::FirstBoot;
use crate::machine::{Facts, Machine, Memory};
use crate::os::{OsError, Progress};
use crate::state::{State, StateError};
use crate::trust::Wanted;
use crate::{probe, register};

impl Machine for Host {
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Self) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, AgentError> {
        Host::run(self, step).await
    }

    fn state(&self) -> &dyn Memory {
        &*self.state
    }

    fn facts(&self) -> Facts {
        register::facts()
    }

    fn look(&self) -> Result<Sight, HostError> {
        Host::look(self)
    }

    fn adopt(&self, sight: &Sight, version: &Version) -> Result<(), HostError> {
        Host::adopt(self, sight, version)
    }

    fn complete_boot(&self) -> Result<(), HostError> {
        Host::complete_boot(self)
    }

    fn has(&self, image: &Digest) -> Result<bool, OsError> {
        self.os.has(image)
    }

    async fn pull(
        &self,
        image: String,
        registry: impl Future<Output = Result<oci::Client, AgentError>> + Send,
        tell: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<(), AgentError> {
        let client = registry.await?;
        let pulled = Host::run(self, move |host| {
            Ok(host.os.pull(&image, &client, &tell)?)
        });
        pulled.await.map(drop)
    }

    fn adds_packages(&self) -> bool {
        self.os.adds_packages()
    }

    fn deploy(&self, sight: &Sight, to: &Version, image: Digest) -> Result<(), HostError> {
        Host::deploy(self, sight, to, image)
    }

    fn discard(&self, sight: &Sight, keep: &str) -> Result<(), HostError> {
        Host::discard(self, sight, keep)
    }

    fn reboot(&self, sight: &Sight, target: &Target, cause: Cause) -> Result<(), HostError> {
        Host::reboot(self, sight, target, cause)
    }

    fn soft_reboot(&self, sight: &Sight, target: &Target, cause: Cause) -> Result<(), HostError> {
        Host::soft_reboot(self, sight, target, cause)
    }

    fn can_soft_reboot(&self) -> Result<bool, HostError> {
        Host::can_soft_reboot(self)
    }

    fn apply(&self, sight: &Sight, to: &Version, actions: &[Action]) -> Result<(), HostError> {
        Host::apply(self, sight, to, actions)
    }

    fn check(
        &self,
        sight: &Sight,
        version: &Version,
        policy: &Policy,
    ) -> Result<Health, HostError> {
        Host::check(self, sight, version, policy)
    }

    async fn probe(&self, probes: &[(String, Check)]) -> Health {
        probe::run(self, probes).await
    }

    fn confirm(&self, sight: &Sight) -> Result<(), HostError> {
        Host::confirm(self, sight)
    }

    fn take_back(
        &self,
        sight: &Sight,
        reason: &str,
        policy: &Policy,
    ) -> Result<TakenBack, HostError> {
        Host::take_back(self, sight, reason, policy)
    }

    fn drift(&self, version: &Version, known: Option<&Known>) -> Result<Drift, HostError> {
        Host::drift(self, version, known)
    }

    fn heal(
        &self,
        version: &Version,
        differences: &[Difference],
        policy: &Policy,
    ) -> Result<(), HostError> {
        Host::heal(self, version, differences, policy)
    }

    fn listen(
        &self,
        paths: &BTreeSet<Utf8PathBuf>,
        changed: Arc<Notify>,
    ) -> io::Result<Option<Watch>> {
        Watch::new(&self.root, paths, changed).map(Some)
    }

    fn follow_trust(
        &self,
        wanted: &Wanted,
        taken: &BTreeSet<Utf8PathBuf>,
    ) -> Result<bool, HostError> {
        Host::follow_trust(self, wanted, taken)
    }

    fn clean(&self, keep_images: &[Digest], keep_configs: &[&str]) -> Result<(), HostError> {
        Host::clean(self, keep_images, keep_configs)
    }
}

impl Memory for State {
    fn config(&self, name: &str) -> Result<Option<MachineConfigSpec>, StateError> {
        State::config(self, name)
    }

    fn keep_config(&self, name: &str, spec: &MachineConfigSpec) -> Result<(), StateError> {
        State::keep_config(self, name, spec)
    }

    fn values(&self) -> Result<Values, StateError> {
        self.values()
    }

    fn keep_values(&self, values: &Values) -> Result<(), StateError> {
        self.keep_values(values)
    }

    fn policy(&self) -> Result<Option<RolloutPolicy>, StateError> {
        State::policy(self)
    }

    fn set_policy(&self, policy: Option<&RolloutPolicy>) -> Result<(), StateError> {
        State::set_policy(self, policy)
    }

    fn set_failure(&self, failure: Option<&Failure>) -> Result<(), StateError> {
        State::set_failure(self, failure)
    }

    fn reboots(&self) -> Result<Vec<Reboot>, StateError> {
        State::reboots(self)
    }

    fn takeover(&self) -> Result<Option<String>, StateError> {
        State::takeover(self)
    }

    fn set_takeover(&self, takeover: &str) -> Result<(), StateError> {
        State::set_takeover(self, takeover)
    }

    fn first_boot(&self) -> Result<Option<FirstBoot>, StateError> {
        State::first_boot(self)
    }

    fn forget_first_boot(&self) -> Result<(), StateError> {
        State::forget_first_boot(self)
    }

    fn is_on_trial(&self) -> Result<bool, StateError> {
        Ok(State::trial(self)?.is_some())
    }

    fn say(&self, text: &str) -> Result<(), StateError> {
        State::say(self, text)
    }
}
