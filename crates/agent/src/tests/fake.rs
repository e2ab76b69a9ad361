//! A machine that can be killed: deployments are directories, systemd is a list, and every call is a place to die.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8PathBuf;
use oci::{Client, Digest};

use super::kill::{Kill, Life, Place};
use crate::os::{
    Deployment, DeploymentId, Deployments, KernelArguments, Os, OsError, PackageChanges,
    ProgressSink, Role, SoftReboot,
};
use crate::state::State;
use crate::systemd::{Ended, Job, Systemd, SystemdError, UnitState};

/// Files of an image, by path.
pub(crate) type Image = BTreeMap<&'static str, &'static str>;

/// What survives the agent, and what survives a reboot.
#[derive(Debug)]
pub(crate) struct Machine {
    dir: Utf8PathBuf,
    state: Mutex<Disk>,
    stages: AtomicBool,
    skips_finalize: AtomicBool,
    pub(crate) kill: Kill,
    /// How far the machine comes with a soft reboot.
    pub(crate) soft: Mutex<Soft>,
    /// Told when a reboot was asked for.
    pub(crate) reboot: tokio::sync::Notify,
}

/// Another name of `ssh.service`, as on Debian.
pub(crate) const ALIAS: &str = "sshd.service";

/// How far a machine comes with a soft reboot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Soft {
    /// Its tools know of none.
    #[default]
    Unknown,
    /// They know, and this deployment takes another kernel.
    Unprepared,
    /// systemd refuses.
    Refused,
    /// To the end.
    Done,
}

#[derive(Debug, Default)]
struct Disk {
    /// What a registry would have.
    registry: BTreeMap<Digest, Image>,
    pulled: BTreeSet<Digest>,
    /// In boot order.
    deployments: Vec<(DeploymentId, Digest, Vec<String>)>,
    booted: Option<DeploymentId>,
    /// The first deployment is made at shutdown.
    staged: bool,
    rebooting: bool,
    /// Without a new kernel.
    softly: bool,
    /// Starts of everything but the kernel.
    boots: u32,
    soft_boots: u32,
    /// What was asked of systemd, since the last boot.
    jobs: Vec<String>,
    /// Units that fail when they run in this image.
    broken: BTreeSet<&'static str>,
    pulls: u32,
    /// Digests of lists that images were chosen from, by image.
    lists: BTreeMap<Digest, Digest>,
}

impl Machine {
    /// A machine booted from `image`.
    pub(crate) fn new(dir: Utf8PathBuf, image: Image) -> Arc<Self> {
        let machine = Arc::new(Machine {
            dir,
            state: Mutex::default(),
            stages: AtomicBool::new(false),
            skips_finalize: AtomicBool::new(false),
            soft: Mutex::default(),
            kill: Kill::default(),
            reboot: tokio::sync::Notify::new(),
        });
        let digest = machine.publish(image);
        machine.state.lock().unwrap().pulled.insert(digest);
        machine.install(digest, Vec::new());
        machine.boot();
        machine
    }

    /// Puts an image into the registry.
    pub(crate) fn publish(&self, image: Image) -> Digest {
        let digest = Digest::of(format!("{image:?}").as_bytes());
        self.state.lock().unwrap().registry.insert(digest, image);
        digest
    }

    /// Lets the host tell that an image was asked for by the digest of a list.
    pub(crate) fn name_by_list(&self, image: Digest, list: Digest) {
        self.state.lock().unwrap().lists.insert(image, list);
    }

    pub(crate) fn break_unit(&self, unit: &'static str) {
        self.state.lock().unwrap().broken.insert(unit);
    }

    fn install(&self, digest: Digest, arguments: Vec<String>) -> DeploymentId {
        let mut disk = self.state.lock().unwrap();
        let checksum = digest.hex();
        let taken = |serial: &u32| {
            let id = DeploymentId {
                checksum: checksum.clone(),
                serial: *serial,
            };
            self.place(&id).exists()
        };
        let serial = (0..).find(|serial| !taken(serial)).unwrap();
        let id = DeploymentId { checksum, serial };
        let root = self.place(&id);
        for dir in ["etc/systemd/system", "usr/etc", "var"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (path, text) in &disk.registry[&digest] {
            let place = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        if self.stages.load(Ordering::SeqCst) {
            fs::rename(root.join("etc"), root.join("new-etc")).unwrap();
            disk.staged = true;
        } else if let Some(booted) = &disk.booted {
            self.merge_etc(booted, &id);
        }
        let booted = disk.booted.clone();
        disk.deployments
            .retain(|(id, ..)| Some(id) == booted.as_ref() || booted.is_none());
        disk.deployments.insert(0, (id.clone(), digest, arguments));
        id
    }

    /// Where a deployment is: as in a real sysroot.
    fn place(&self, id: &DeploymentId) -> Utf8PathBuf {
        crate::os::deployment_root(&self.dir, "fake", id)
    }

    /// The running system's `/etc` over that of the new deployment.
    fn merge_etc(&self, booted: &DeploymentId, new: &DeploymentId) {
        let status = std::process::Command::new("cp")
            .args(["-a", self.place(booted).join("etc/.").as_str()])
            .arg(self.place(new).join("etc"))
            .status();
        assert!(status.unwrap().success());
    }

    /// From now on new deployments are staged, and made at shutdown.
    pub(crate) fn stage(&self) {
        self.stages.store(true, Ordering::SeqCst);
    }

    /// Does not come to our own unit the next time it shuts down.
    pub(crate) fn skip_finalize(&self) {
        self.skips_finalize.store(true, Ordering::SeqCst);
    }

    /// What happens to a staged deployment at shutdown.
    fn shut_down(&self) {
        let mut disk = self.state.lock().unwrap();
        if !std::mem::take(&mut disk.staged) {
            return;
        }
        let new = disk.deployments[0].0.clone();
        let booted = disk.booted.clone().unwrap();
        let root = self.place(&new);
        fs::rename(root.join("new-etc"), root.join("etc")).unwrap();
        self.merge_etc(&booted, &new);
        drop(disk);
        if !self.skips_finalize.swap(false, Ordering::SeqCst) {
            let state = State::open(&self.state_dir()).unwrap();
            crate::host::finalize(&state, &self.dir).unwrap();
        }
    }

    /// Boots the first deployment.
    pub(crate) fn boot(&self) {
        self.shut_down();
        let mut disk = self.state.lock().unwrap();
        let first = disk.deployments[0].0.clone();
        if let Some(before) = disk.booted.replace(first.clone())
            && before != first
        {
            let place = |id: &DeploymentId| self.place(id).join("var");
            fs::remove_dir_all(place(&first)).unwrap();
            fs::rename(place(&before), place(&first)).unwrap();
            fs::create_dir(place(&before)).unwrap();
        }
        disk.rebooting = false;
        disk.boots += 1;
        disk.jobs.clear();
        let run = self.dir.join("run");
        if std::mem::take(&mut disk.softly) {
            disk.soft_boots += 1;
        } else if run.exists() {
            fs::remove_dir_all(run).unwrap();
        }
    }

    pub(crate) fn run_dir(&self) -> Utf8PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn state_dir(&self) -> Utf8PathBuf {
        self.dir.join("state")
    }

    /// The running root.
    pub(crate) fn root(&self) -> Utf8PathBuf {
        let disk = self.state.lock().unwrap();
        self.place(disk.booted.as_ref().unwrap())
    }

    /// Root of the deployment that a rollback would take.
    pub(crate) fn other_root(&self) -> Utf8PathBuf {
        let disk = self.state.lock().unwrap();
        let other = disk
            .deployments
            .iter()
            .find(|(id, ..)| Some(id) != disk.booted.as_ref())
            .unwrap();
        self.place(&other.0)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::read_to_string(path).unwrap_or_else(|error| error.kind().to_string())
    }

    /// Somebody changes a file, as an editor does: at no moment is it half written.
    pub(crate) fn edit(&self, path: &str, text: &str) {
        let place = self.root().join(path.trim_start_matches('/'));
        let new = self.root().join("edited");
        fs::write(&new, text).unwrap();
        if let Ok(before) = fs::metadata(&place) {
            fs::set_permissions(&new, before.permissions()).unwrap();
        }
        fs::rename(new, place).unwrap();
    }

    /// Times it was booted after the first.
    pub(crate) fn reboots(&self) -> u32 {
        self.state.lock().unwrap().boots - 1
    }

    /// How often it was booted with the kernel that ran.
    pub(crate) fn soft_reboots(&self) -> u32 {
        self.state.lock().unwrap().soft_boots
    }

    /// How many deployments there are.
    pub(crate) fn deployments(&self) -> usize {
        self.state.lock().unwrap().deployments.len()
    }

    pub(crate) fn pulls(&self) -> u32 {
        self.state.lock().unwrap().pulls
    }

    pub(crate) fn jobs(&self) -> Vec<String> {
        self.state.lock().unwrap().jobs.clone()
    }

    pub(crate) fn booted_image(&self) -> Digest {
        let disk = self.state.lock().unwrap();
        disk.deployments
            .iter()
            .find(|(id, ..)| Some(id) == disk.booted.as_ref())
            .unwrap()
            .1
    }

    /// The machine as nobody's agent sees it.
    pub(crate) fn host(self: &Arc<Self>) -> Fake {
        Fake {
            machine: self.clone(),
            life: Arc::default(),
        }
    }

    fn job(&self, job: String) {
        self.state.lock().unwrap().jobs.push(job);
    }
}

/// The machine as one run of the agent sees it.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) machine: Arc<Machine>,
    pub(crate) life: Arc<Life>,
}

impl Fake {
    fn point(&self, place: Place) {
        self.machine.kill.point(&self.life, place);
    }
}

impl Os for Fake {
    fn status(&self) -> Result<Deployments, OsError> {
        self.point(Place::Before("status"));
        let disk = self.machine.state.lock().unwrap();
        let at = disk
            .deployments
            .iter()
            .position(|(id, ..)| Some(id) == disk.booted.as_ref());
        let role = |place: usize| match at {
            Some(booted) if place == booted => Role::Booted,
            _ if place == 0 && disk.staged => Role::Staged,
            Some(booted) if place < booted => Role::Pending,
            _ => Role::Rollback,
        };
        let deployments = disk
            .deployments
            .iter()
            .enumerate()
            .map(|(place, (id, image, _))| Deployment {
                id: id.clone(),
                os: "fake".to_owned(),
                role: role(place),
                image: Some(*image),
                named: disk.lists.get(image).copied(),
            });
        Ok(Deployments(deployments.collect()))
    }

    fn has(&self, image: &Digest) -> Result<bool, OsError> {
        Ok(self.machine.state.lock().unwrap().pulled.contains(image))
    }

    fn pull(&self, image: &str, _: &Client, _: ProgressSink<'_>) -> Result<Digest, OsError> {
        self.point(Place::Before("pull"));
        let digest: Digest = image.rsplit_once('@').unwrap().1.parse().unwrap();
        {
            let mut disk = self.machine.state.lock().unwrap();
            disk.pulls += 1;
            if !disk.registry.contains_key(&digest) {
                let source = "connection refused".into();
                return Err(OsError::Pull {
                    image: image.to_owned(),
                    source,
                });
            }
            disk.pulled.insert(digest);
        }
        self.point(Place::After("pull"));
        Ok(digest)
    }

    fn deploy(
        &self,
        image: &Digest,
        _: Option<&str>,
        arguments: &KernelArguments,
        _: &PackageChanges,
    ) -> Result<Deployment, OsError> {
        self.point(Place::Before("deploy"));
        let mut kept = self.kernel_arguments()?;
        kept.retain(|argument| !arguments.remove.contains(argument));
        kept.extend(
            arguments
                .add
                .iter()
                .filter(|a| !kept.contains(a))
                .cloned()
                .collect::<Vec<_>>(),
        );
        let id = self.machine.install(*image, kept);
        self.point(Place::After("deploy"));
        let made = self.status()?.0.into_iter().find(|d| d.id == id);
        Ok(made.unwrap())
    }

    fn kernel_arguments(&self) -> Result<Vec<String>, OsError> {
        let disk = self.machine.state.lock().unwrap();
        let booted = disk
            .deployments
            .iter()
            .find(|(id, ..)| Some(id) == disk.booted.as_ref());
        Ok(booted
            .map(|(.., arguments)| arguments.clone())
            .unwrap_or_default())
    }

    fn root_of(&self, deployment: &Deployment) -> Utf8PathBuf {
        self.machine.place(&deployment.id)
    }

    fn soft_reboot(&self) -> Result<Option<SoftReboot>, OsError> {
        let known = |program: &str| SoftReboot {
            prepare: vec![program.to_owned()],
            reset: vec!["true".to_owned()],
        };
        Ok(match *self.machine.soft.lock().unwrap() {
            Soft::Unknown => None,
            Soft::Unprepared => Some(known("false")),
            Soft::Refused | Soft::Done => Some(known("true")),
        })
    }

    fn discard(&self, deployment: &DeploymentId) -> Result<(), OsError> {
        self.point(Place::Before("discard"));
        let next = self.status()?.is_next(deployment);
        {
            let mut disk = self.machine.state.lock().unwrap();
            if next {
                let (id, ..) = disk.deployments.remove(0);
                disk.staged = false;
                fs::remove_dir_all(self.machine.place(&id)).unwrap();
            }
        }
        self.point(Place::After("discard"));
        Ok(())
    }

    fn rollback(&self) -> Result<(), OsError> {
        self.point(Place::Before("rollback"));
        self.machine
            .state
            .lock()
            .unwrap()
            .deployments
            .rotate_left(1);
        self.point(Place::After("rollback"));
        Ok(())
    }

    fn cleanup(&self, keep: &[Digest]) -> Result<(), OsError> {
        self.point(Place::Before("cleanup"));
        let mut disk = self.machine.state.lock().unwrap();
        let deployed: Vec<Digest> = disk
            .deployments
            .iter()
            .map(|(_, image, _)| *image)
            .collect();
        disk.pulled
            .retain(|image| deployed.contains(image) || keep.contains(image));
        Ok(())
    }
}

impl Systemd for Fake {
    fn daemon_reload(&self) -> Result<(), SystemdError> {
        self.point(Place::Before("daemon-reload"));
        self.machine.job("daemon-reload".to_owned());
        Ok(())
    }

    fn run(&self, job: Job, unit: &str) -> Result<(), SystemdError> {
        self.point(Place::Before("job"));
        self.machine.job(format!("{job} {unit}"));
        self.point(Place::After("job"));
        Ok(())
    }

    fn unit(&self, name: &str) -> Result<UnitState, SystemdError> {
        self.point(Place::Before("unit"));
        let broken = self.machine.state.lock().unwrap().broken.contains(name);
        let active = if broken { "failed" } else { "active" };
        let id = match name {
            ALIAS => "ssh.service",
            name => name,
        };
        Ok(UnitState {
            id: id.into(),
            load: "loaded".into(),
            active: active.into(),
            result: "exit-code".into(),
            ..UnitState::default()
        })
    }

    fn start_missing(&self) -> Result<(), SystemdError> {
        self.machine.job("start default.target".to_owned());
        Ok(())
    }

    fn command(&self, argv: &[String], _: Duration) -> Result<Ended, SystemdError> {
        self.point(Place::Before("command"));
        let run = std::process::Command::new(&argv[0])
            .args(&argv[1..])
            .output()
            .unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        Ok(Ended {
            status: run.status.code(),
            said: said.trim().to_owned(),
        })
    }

    fn started(&self) -> Result<String, SystemdError> {
        Ok(self.machine.state.lock().unwrap().boots.to_string())
    }

    fn soft_reboot(&self) -> Result<(), SystemdError> {
        self.point(Place::Before("soft reboot"));
        if *self.machine.soft.lock().unwrap() == Soft::Refused {
            return Err(SystemdError::Deadline {
                action: "soft-reboot".to_owned(),
            });
        }
        self.machine.state.lock().unwrap().softly = true;
        self.reboot()
    }

    fn reboot(&self) -> Result<(), SystemdError> {
        self.point(Place::Before("reboot"));
        // systemd merges repeated requests into one job.
        let first = !std::mem::replace(&mut self.machine.state.lock().unwrap().rebooting, true);
        if first {
            self.machine.reboot.notify_one();
        }
        self.point(Place::After("reboot"));
        Ok(())
    }
}
