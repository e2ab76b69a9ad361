//! A node that is nothing but directories, so that another process can go on with it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use model::api::MachineConfigSpec;
use model::update::{Action, Version};
use oci::{Client, Digest};
use serde_json::{Value, json};

use crate::host::Host;
use crate::os::{
    Deployment, DeploymentId, Deployments, KernelArguments, Os, OsError, PackageChanges,
    ProgressSink, Role, SoftReboot,
};
use crate::state::State;
use crate::systemd::{Ended, Job, Systemd, SystemdError, UnitState};

/// The unit whose text may say that it cannot run.
pub(super) const FRAGILE: &str = "fragile.service";
const SERVICE: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

/// Deployments below `deploy`, their boot order in `order`, the booted one in `booted`.
#[derive(Debug, Clone)]
pub(super) struct Plain(pub(super) Utf8PathBuf);

impl Plain {
    /// A node that never had a config.
    pub(super) fn new(dir: &Utf8Path) -> Self {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let node = Plain(dir.to_owned());
        let id = DeploymentId {
            checksum: Digest::of(b"base").hex(),
            serial: 0,
        };
        let root = node.place(&id);
        for (path, text) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\nwheel:x:10:\n"),
            ("etc/shadow", "root:*:1::::::\n"),
            ("etc/.pwd.lock", ""),
            ("etc/hand.conf", "by hand"),
            ("etc/vendor.conf", "vendor"),
            ("usr/etc/vendor.conf", "vendor"),
            ("etc/full/theirs", "theirs"),
            ("usr/lib/systemd/system/image.service", SERVICE),
            ("usr/lib/systemd/system-preset/99-off.preset", "disable *\n"),
        ] {
            let place = root.join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        for path in ["etc/systemd/system", "var/home", "var/usrlocal"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        symlink("var/home", root.join("home")).unwrap();
        symlink("../var/usrlocal", root.join("usr/local")).unwrap();
        fs::set_permissions(root.join("etc/full"), fs::Permissions::from_mode(0o711)).unwrap();
        node.write("order", &format!("{id}\n"));
        node.write("booted", &id.to_string());
        node
    }

    pub(super) fn host(&self) -> Host {
        let state = State::open(&self.0.join("state")).unwrap();
        let own = || Arc::new(self.clone());
        Host::new(own(), own(), state, &self.root(), &self.0.join("run"))
    }

    /// The running root.
    pub(super) fn root(&self) -> Utf8PathBuf {
        self.place(&self.read("booted").parse().unwrap())
    }

    /// Roots in boot order.
    pub(super) fn roots(&self) -> Vec<Utf8PathBuf> {
        self.order().iter().map(|id| self.place(id)).collect()
    }

    /// Boots the first deployment: `/var` goes with it, what does not survive goes.
    pub(super) fn boot(&self) {
        let (from, to) = (self.root(), self.roots()[0].clone());
        if from != to {
            fs::remove_dir_all(to.join("var")).unwrap();
            fs::rename(from.join("var"), to.join("var")).unwrap();
            fs::create_dir(from.join("var")).unwrap();
        }
        self.write("booted", to.file_name().unwrap());
        fs::remove_dir_all(self.0.join("run")).unwrap();
    }

    fn place(&self, id: &DeploymentId) -> Utf8PathBuf {
        self.0.join("deploy").join(id.to_string())
    }

    fn order(&self) -> Vec<DeploymentId> {
        let text = self.read("order");
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        let (new, place) = (self.0.join(format!("{name}.new")), self.0.join(name));
        fs::create_dir_all(&self.0).unwrap();
        fs::write(&new, text).unwrap();
        fs::rename(new, place).unwrap();
    }

    fn set_order(&self, order: &[DeploymentId]) {
        let lines: Vec<String> = order.iter().map(|id| format!("{id}\n")).collect();
        self.write("order", &lines.concat());
    }

    fn is_broken(&self, unit: &str) -> bool {
        let place = self.root().join("etc/systemd/system").join(unit);
        unit == FRAGILE && fs::read_to_string(place).is_ok_and(|text| text.contains("bad"))
    }
}

impl Os for Plain {
    fn status(&self) -> Result<Deployments, OsError> {
        let booted = self.read("booted").parse().unwrap();
        let mut role = Role::Pending;
        let deployment = |id: DeploymentId| {
            let own = match id == booted {
                true => Role::Booted,
                false => role,
            };
            if own == Role::Booted {
                role = Role::Rollback;
            }
            let image = format!("sha256:{}", id.checksum).parse().ok();
            Deployment {
                os: "plain".to_owned(),
                role: own,
                image,
                named: None,
                id,
            }
        };
        Ok(Deployments(
            self.order().into_iter().map(deployment).collect(),
        ))
    }

    fn has(&self, _: &Digest) -> Result<bool, OsError> {
        Ok(true)
    }

    fn pull(&self, _: &str, _: &Client, _: ProgressSink<'_>) -> Result<Digest, OsError> {
        Err(OsError::Unexpected("this node has every image".to_owned()))
    }

    fn soft_reboot(&self) -> Result<Option<SoftReboot>, OsError> {
        Ok(None)
    }

    fn discard(&self, deployment: &DeploymentId) -> Result<(), OsError> {
        if self.status()?.is_next(deployment) {
            self.set_order(&self.order()[1..]);
        }
        Ok(())
    }

    fn deploy(
        &self,
        image: &Digest,
        _: Option<&str>,
        _: &KernelArguments,
        _: &PackageChanges,
    ) -> Result<Deployment, OsError> {
        let known = self.order();
        for entry in self.0.join("deploy").read_dir_utf8().unwrap().flatten() {
            if known.iter().all(|id| id.to_string() != entry.file_name()) {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        let checksum = image.hex();
        let taken = |serial: u32| {
            known
                .iter()
                .any(|id| id.checksum == checksum && id.serial == serial)
        };
        let serial = (0..).find(|serial| !taken(*serial)).unwrap();
        let id = DeploymentId { checksum, serial };
        copy(&self.root(), &self.place(&id));
        fs::remove_dir_all(self.place(&id).join("var")).unwrap();
        fs::create_dir(self.place(&id).join("var")).unwrap();
        self.set_order(&[id, self.read("booted").parse().unwrap()]);
        Ok(self.status()?.0.swap_remove(0))
    }

    fn kernel_arguments(&self) -> Result<Vec<String>, OsError> {
        Ok(Vec::new())
    }

    fn root_of(&self, deployment: &Deployment) -> Utf8PathBuf {
        self.place(&deployment.id)
    }

    fn rollback(&self) -> Result<(), OsError> {
        let mut order = self.order();
        order.rotate_left(1);
        self.set_order(&order);
        Ok(())
    }

    fn cleanup(&self, _: &[Digest]) -> Result<(), OsError> {
        Ok(())
    }
}

impl Systemd for Plain {
    fn daemon_reload(&self) -> Result<(), SystemdError> {
        Ok(())
    }

    fn run(&self, job: Job, unit: &str) -> Result<(), SystemdError> {
        if job != Job::Stop && self.is_broken(unit) {
            return Err(SystemdError::Job {
                action: format!("{job} `{unit}`"),
                unit: unit.to_owned(),
                result: "failed".to_owned(),
                said: ": last words".to_owned(),
            });
        }
        Ok(())
    }

    fn unit(&self, name: &str) -> Result<UnitState, SystemdError> {
        Ok(UnitState {
            id: name.to_owned(),
            load: "loaded".into(),
            active: "active".into(),
            ..UnitState::default()
        })
    }

    fn start_missing(&self) -> Result<(), SystemdError> {
        Ok(())
    }

    fn command(&self, _: &[String], _: Duration) -> Result<Ended, SystemdError> {
        Ok(Ended {
            status: Some(0),
            said: String::new(),
        })
    }

    fn started(&self) -> Result<String, SystemdError> {
        Ok("once".to_owned())
    }

    fn soft_reboot(&self) -> Result<(), SystemdError> {
        self.reboot()
    }

    fn reboot(&self) -> Result<(), SystemdError> {
        Ok(())
    }
}

pub(super) fn copy(from: &Utf8Path, to: &Utf8Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let args = ["-a", from.as_str(), to.as_str()];
    let status = std::process::Command::new("cp").args(args).status();
    assert!(status.unwrap().success());
}

/// Configs that differ in everything that can be changed on a running node.
pub(super) fn versions(host: &Host) -> [Version; 3] {
    let file = |path: &str, text: &str| json!({"path": path, "contents": {"source": format!("data:,{text}")}});
    let key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Q1F5v8bq3J4m8eV8y5vJ7l3aYt0fQm2Zb1n9kXo7e someone";
    let one = json!({
        "storage": {"files": [file("/etc/hand.conf", "one"), file("/var/lib/one", "one")]},
        "systemd": {"units": [{"name": FRAGILE, "enabled": true, "contents": SERVICE}]},
    });
    let mut two = json!({
        "storage": {
            "files": [file("/etc/vendor.conf", "two"), file("/usr/local/bin/two", "two")],
            "directories": [{"path": "/etc/full", "mode": 0o700}],
            "links": [{"path": "/etc/new/link", "target": "x"}],
        },
        "systemd": {"units": [
            {"name": FRAGILE, "enabled": true, "contents": format!("# better\n{SERVICE}")},
            {"name": "image.service", "enabled": true},
        ]},
        "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": [key], "passwordHash": "$6$x"}]},
    });
    let good = two.clone();
    two["systemd"]["units"][0]["contents"] = format!("# bad\n{SERVICE}").into();
    [("one", one), ("two", good), ("bad", two)].map(|(name, config)| keep(host, name, config))
}

/// Reads a config and keeps it, as the agent does with what it is told.
pub(super) fn keep(host: &Host, name: &str, mut config: Value) -> Version {
    config["ignition"] = json!({"version": "3.4.0"});
    let spec: MachineConfigSpec = serde_json::from_value(json!({"config": config})).unwrap();
    host.state().keep_config(name, &spec).unwrap();
    Version::new(name, &spec, None).unwrap()
}

/// What a change of the fragile unit asks for.
pub(super) fn actions() -> Vec<Action> {
    vec![
        Action::DaemonReload {
            reasons: Vec::new(),
        },
        Action::Restart {
            unit: FRAGILE.to_owned(),
            reasons: Vec::new(),
        },
    ]
}
