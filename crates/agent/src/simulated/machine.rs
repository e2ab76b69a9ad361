//! A machine that is not there: images, deployments and what survives a reboot are values. It does what it is asked at
//! once, and boots when its owner lets it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use camino::Utf8PathBuf;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use model::api::{MachineConfigSpec, RolloutPolicy};
use model::file_secret::{SecretVersions, Values};
use model::health::Check;
use model::ledger::{Cause, KEPT, Reboot};
use model::node::{AGENT_VERSION_PREFIX, Target};
use model::update::{Action, Failure, Policy, Version};
use oci::Digest;
use tokio::sync::Notify;

use crate::configure::Difference;
use crate::drift::{Drift, Known, Watch};
use crate::error::AgentError;
use crate::first_boot::FirstBoot;
use crate::host::{Health, HostError, Sight, TakenBack, digest_in};
use crate::machine::{Facts, Machine, Memory};
use crate::os::{Deployment, DeploymentId, Deployments, OsError, Progress, Role};
use crate::register::architecture;
use crate::state::{Record, StateError};
use crate::trust::Wanted;

/// Rendered configs that simulated machines keep, each once however many keep it.
#[derive(Debug, Default)]
pub(super) struct Configs(Mutex<HashMap<String, Weak<MachineConfigSpec>>>);

impl Configs {
    fn share(&self, name: &str, spec: &MachineConfigSpec) -> Arc<MachineConfigSpec> {
        let mut known = lock(&self.0);
        if let Some(spec) = known.get(name).and_then(Weak::upgrade) {
            return spec;
        }
        known.retain(|_, spec| spec.strong_count() > 0);
        let spec = Arc::new(spec.clone());
        known.insert(name.to_owned(), Arc::downgrade(&spec));
        spec
    }
}

/// What a simulated machine is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nature {
    /// How long an image takes to arrive.
    pub(super) pull: Duration,
    /// Whether it is never well after an update.
    pub(super) fails: bool,
}

/// The machine.
#[derive(Debug, Clone)]
pub(super) struct Simulated(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    nature: Nature,
    configs: Arc<Configs>,
    disk: Mutex<Disk>,
    /// Told when a reboot was asked for.
    reboot: Notify,
}

#[derive(Debug)]
struct Disk {
    booted: Root,
    /// What the next boot takes, when that is another.
    pending: Option<Root>,
    /// Where a way back goes.
    previous: Option<Root>,
    images: BTreeSet<Digest>,
    configs: BTreeMap<String, Arc<MachineConfigSpec>>,
    policy: Option<Arc<RolloutPolicy>>,
    failure: Option<Failure>,
    boots: u32,
    deployments: u32,
    reboots: Vec<Reboot>,
    next: Option<Cause>,
}

/// A deployment and what was configured in it.
#[derive(Debug, Clone)]
struct Root {
    id: DeploymentId,
    image: Digest,
    version: Option<Version>,
    arguments: Vec<String>,
    /// The boot in which it was found well.
    verified: Option<String>,
    /// Until it was found well once.
    on_trial: bool,
    /// What a live change replaced that was not found well yet.
    replaced: Option<Box<Version>>,
}

impl Root {
    fn record(&self) -> Option<Record> {
        let version = self.version.as_ref()?;
        Some(Record {
            verified: self.verified.clone(),
            ..Record::written(version)
        })
    }

    fn deployment(&self, role: Role) -> Deployment {
        Deployment {
            id: self.id.clone(),
            os: "simulated".to_owned(),
            role,
            // What a machine that nobody has configured has booted is what its Node says.
            image: self.version.as_ref().map(|_| self.image),
            named: None,
        }
    }
}

impl Simulated {
    /// A machine that has booted an image which nobody has configured yet.
    pub(super) fn new(name: String, nature: Nature, configs: Arc<Configs>) -> Self {
        let image = Digest::of(b"simulated");
        let booted = Root {
            id: DeploymentId {
                checksum: image.hex(),
                serial: 0,
            },
            image,
            version: None,
            arguments: Vec::new(),
            verified: None,
            on_trial: false,
            replaced: None,
        };
        Simulated(Arc::new(Inner {
            name,
            nature,
            configs,
            disk: Mutex::new(Disk {
                booted,
                pending: None,
                previous: None,
                images: BTreeSet::from([image]),
                configs: BTreeMap::new(),
                policy: None,
                failure: None,
                boots: 1,
                deployments: 1,
                reboots: Vec::new(),
                next: None,
            }),
            reboot: Notify::new(),
        }))
    }

    /// The rendered config that it runs.
    pub(super) fn config(&self) -> Option<String> {
        let disk = self.disk();
        let version = disk.booted.version.as_ref();
        version.map(|version| version.name.clone())
    }

    /// Whether it has taken an update back.
    pub(super) fn has_failed(&self) -> bool {
        self.disk().failure.is_some()
    }

    /// How often it was booted after the first time.
    pub(super) fn reboots(&self) -> u32 {
        self.disk().boots - 1
    }

    /// Waits until a reboot is asked for.
    pub(super) async fn goes_down(&self) {
        self.0.reboot.notified().await;
    }

    /// Boots what is next.
    pub(super) fn boot(&self) {
        let mut disk = self.disk();
        if let Some(next) = disk.pending.take() {
            let before = std::mem::replace(&mut disk.booted, next);
            disk.previous = Some(before);
        }
        disk.boots += 1;
        let reboot = Reboot {
            at: Timestamp::now(),
            deployment: disk.booted.id.to_string(),
            soft: false,
            cause: disk.next.take().unwrap_or(Cause::NotAsked),
        };
        disk.reboots.push(reboot);
        let over = disk.reboots.len().saturating_sub(KEPT);
        disk.reboots.drain(..over);
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.0.disk)
    }

    fn boot_id(&self, disk: &Disk) -> String {
        format!("{}-{}", self.0.name, disk.boots)
    }
}

impl Machine for Simulated {
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Self) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, AgentError> {
        // Nothing here blocks.
        Ok(step(self)?)
    }

    fn state(&self) -> &dyn Memory {
        self
    }

    fn facts(&self) -> Facts {
        let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
        Facts {
            capacity: BTreeMap::from([quantity("cpu", "4"), quantity("memory", "16Gi")]),
            info: NodeSystemInfo {
                architecture: architecture().to_owned(),
                boot_id: self.boot_id(&self.disk()),
                kernel_version: "simulated".to_owned(),
                kubelet_version: format!("{AGENT_VERSION_PREFIX}{}", env!("CARGO_PKG_VERSION")),
                machine_id: self.0.name.clone(),
                operating_system: "linux".to_owned(),
                os_image: "simulated by Caprock".to_owned(),
                system_uuid: self.0.name.clone(),
                ..NodeSystemInfo::default()
            },
        }
    }

    fn look(&self) -> Result<Sight, HostError> {
        let disk = self.disk();
        let (pending, previous) = (disk.pending.as_ref(), disk.previous.as_ref());
        let deployments = pending
            .map(|root| root.deployment(Role::Pending))
            .into_iter()
            .chain([disk.booted.deployment(Role::Booted)])
            .chain(previous.map(|root| root.deployment(Role::Rollback)));
        Ok(Sight {
            deployments: Deployments(deployments.collect()),
            record: disk.booted.record(),
            current: disk.booted.version.clone(),
            interrupted: None,
            pending: pending.and_then(Root::record),
            unbooted: pending.is_some(),
            kernel_arguments: disk.booted.arguments.clone(),
            failure: disk.failure.clone(),
            boot: self.boot_id(&disk),
        })
    }

    /// The machine is what its Node says.
    fn adopt(&self, _: &Sight, version: &Version) -> Result<(), HostError> {
        let mut disk = self.disk();
        let root = &mut disk.booted;
        root.image = version.image().and_then(digest_in).unwrap_or(root.image);
        root.arguments.clone_from(&version.kernel_arguments);
        root.version = Some(version.clone());
        root.verified = Some(String::new());
        let image = root.image;
        disk.images.insert(image);
        Ok(())
    }

    fn complete_boot(&self) -> Result<(), HostError> {
        Ok(())
    }

    fn has(&self, image: &Digest) -> Result<bool, OsError> {
        Ok(self.disk().images.contains(image))
    }

    async fn pull(
        &self,
        image: String,
        _registry: impl Future<Output = Result<oci::Client, AgentError>> + Send,
        _tell: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<(), AgentError> {
        tokio::time::sleep(self.0.nature.pull).await;
        let digest = digest_in(&image).ok_or_else(|| OsError::Image {
            image,
            problem: "it has no digest".to_owned(),
        })?;
        self.disk().images.insert(digest);
        Ok(())
    }

    fn adds_packages(&self) -> bool {
        false
    }

    fn deploy(&self, _: &Sight, to: &Version, image: Digest) -> Result<(), HostError> {
        let mut disk = self.disk();
        let mut arguments = disk.booted.arguments.clone();
        let before = disk.booted.version.as_ref();
        let gone = before.map(|version| version.kernel_arguments.clone());
        let gone = gone.unwrap_or_default();
        arguments.retain(|argument| !gone.contains(argument));
        for argument in &to.kernel_arguments {
            if !arguments.contains(argument) {
                arguments.push(argument.clone());
            }
        }
        let serial = disk.deployments;
        disk.deployments += 1;
        disk.pending = Some(Root {
            id: DeploymentId {
                checksum: image.hex(),
                serial,
            },
            image,
            version: Some(to.clone()),
            arguments,
            verified: None,
            on_trial: disk.booted.version.is_some(),
            replaced: None,
        });
        Ok(())
    }

    fn discard(&self, _: &Sight, _: &str) -> Result<(), HostError> {
        let mut disk = self.disk();
        disk.pending = None;
        disk.next = None;
        Ok(())
    }

    fn reboot(&self, _: &Sight, _: &Target, cause: Cause) -> Result<(), HostError> {
        self.disk().next = Some(cause);
        self.0.reboot.notify_one();
        Ok(())
    }

    fn soft_reboot(&self, sight: &Sight, target: &Target, cause: Cause) -> Result<(), HostError> {
        self.reboot(sight, target, cause)
    }

    fn can_soft_reboot(&self) -> Result<bool, HostError> {
        Ok(false)
    }

    fn apply(&self, _: &Sight, to: &Version, _: &[Action]) -> Result<(), HostError> {
        let mut disk = self.disk();
        disk.pending = None;
        let root = &mut disk.booted;
        let before = root.version.replace(to.clone());
        if root.replaced.is_none() {
            root.on_trial = before.is_some();
            root.replaced = before.map(Box::new);
        }
        root.verified = None;
        Ok(())
    }

    fn check(&self, _: &Sight, _: &Version, _: &Policy) -> Result<Health, HostError> {
        let disk = self.disk();
        Ok(match self.0.nature.fails && disk.booted.on_trial {
            true => Health::Unwell("the simulation lets updates of this node fail".to_owned()),
            false => Health::Well,
        })
    }

    async fn probe(&self, _: &[(String, Check)]) -> Health {
        Health::Well
    }

    fn confirm(&self, sight: &Sight) -> Result<(), HostError> {
        let root = &mut self.disk().booted;
        root.verified = Some(sight.boot.clone());
        root.on_trial = false;
        root.replaced = None;
        Ok(())
    }

    fn take_back(&self, _: &Sight, reason: &str, _: &Policy) -> Result<TakenBack, HostError> {
        let mut disk = self.disk();
        let target = disk.booted.version.as_ref().map(Version::target);
        let Some(target) = target.filter(|_| disk.booted.on_trial) else {
            return Ok(TakenBack::Nothing);
        };
        let failure = Failure {
            target: target.clone(),
            secrets: SecretVersions::new(),
            reason: reason.to_owned(),
        };
        if let Some(before) = disk.booted.replaced.take() {
            disk.booted.version = Some(*before);
            disk.booted.on_trial = false;
            disk.failure = Some(failure);
            return Ok(TakenBack::Live);
        }
        let Some(previous) = disk.previous.take() else {
            return Ok(TakenBack::Nothing);
        };
        disk.pending = Some(previous);
        disk.failure = Some(failure);
        disk.next = Some(Cause::way_back(target, reason));
        self.0.reboot.notify_one();
        Ok(TakenBack::Rebooting)
    }

    fn drift(&self, _: &Version, _: Option<&Known>) -> Result<Drift, HostError> {
        Ok(Drift::default())
    }

    fn heal(&self, _: &Version, _: &[Difference], _: &Policy) -> Result<(), HostError> {
        Ok(())
    }

    fn listen(&self, _: &BTreeSet<Utf8PathBuf>, _: Arc<Notify>) -> io::Result<Option<Watch>> {
        Ok(None)
    }

    fn follow_trust(&self, _: &Wanted, _: &BTreeSet<Utf8PathBuf>) -> Result<bool, HostError> {
        Ok(false)
    }

    fn clean(&self, keep_images: &[Digest], keep_configs: &[&str]) -> Result<(), HostError> {
        let mut disk = self.disk();
        let Disk {
            booted,
            pending,
            previous,
            images,
            configs,
            ..
        } = &mut *disk;
        let roots: Vec<&Root> = [Some(&*booted), pending.as_ref(), previous.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        images.retain(|image| {
            keep_images.contains(image) || roots.iter().any(|root| root.image == *image)
        });
        let runs = |root: &Root, name: &str| {
            let version = root.version.as_ref();
            version.is_some_and(|version| version.name == name)
        };
        configs.retain(|name, _| {
            keep_configs.contains(&name.as_str()) || roots.iter().any(|root| runs(root, name))
        });
        Ok(())
    }
}

impl Memory for Simulated {
    fn config(&self, name: &str) -> Result<Option<MachineConfigSpec>, StateError> {
        let kept = self.disk().configs.get(name).cloned();
        Ok(kept.map(|spec| MachineConfigSpec::clone(&spec)))
    }

    fn keep_config(&self, name: &str, spec: &MachineConfigSpec) -> Result<(), StateError> {
        let spec = self.0.configs.share(name, spec);
        self.disk().configs.insert(name.to_owned(), spec);
        Ok(())
    }

    /// Its deployments hold theirs.
    fn values(&self) -> Result<Values, StateError> {
        Ok(Values::new())
    }

    fn keep_values(&self, _: &Values) -> Result<(), StateError> {
        Ok(())
    }

    fn policy(&self) -> Result<Option<RolloutPolicy>, StateError> {
        let policy = self.disk().policy.clone();
        Ok(policy.map(|policy| RolloutPolicy::clone(&policy)))
    }

    fn set_policy(&self, policy: Option<&RolloutPolicy>) -> Result<(), StateError> {
        self.disk().policy = policy.cloned().map(Arc::new);
        Ok(())
    }

    fn set_failure(&self, failure: Option<&Failure>) -> Result<(), StateError> {
        self.disk().failure = failure.cloned();
        Ok(())
    }

    fn reboots(&self) -> Result<Vec<Reboot>, StateError> {
        Ok(self.disk().reboots.clone())
    }

    /// A simulation begins anew with each process.
    fn takeover(&self) -> Result<Option<String>, StateError> {
        Ok(None)
    }

    fn set_takeover(&self, _: &str) -> Result<(), StateError> {
        Ok(())
    }

    fn first_boot(&self) -> Result<Option<FirstBoot>, StateError> {
        Ok(None)
    }

    fn forget_first_boot(&self) -> Result<(), StateError> {
        Ok(())
    }

    fn is_on_trial(&self) -> Result<bool, StateError> {
        Ok(self.disk().booted.on_trial)
    }

    fn say(&self, _: &str) -> Result<(), StateError> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
