//! Which running services a change concerns: a fixed table of files, and rules for units.

use std::fmt;

use super::Disruption;
use super::change::Change;

/// What is done to a service whose file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// It reads its configuration again.
    Reload,
    /// It is restarted.
    Restart,
}

/// Files whose readers are known, as path prefixes; the first that fits counts. Only running services are touched. A
/// file that is not here is read by whoever opens it, when they open it.
const READERS: &[(&str, Service, &str)] = &[
    ("/etc/auto.", Service::Reload, "autofs.service"),
    ("/etc/autofs.conf", Service::Restart, "autofs.service"),
    ("/etc/chrony.conf", Service::Restart, "chronyd.service"),
    ("/etc/chrony/", Service::Restart, "chrony.service"),
    ("/etc/containers/", Service::Reload, "crio.service"),
    ("/etc/crio/", Service::Reload, "crio.service"),
    ("/etc/dbus-1/", Service::Reload, "dbus.service"),
    (
        "/etc/kubernetes/credential-providers/",
        Service::Restart,
        "kubelet.service",
    ),
    (
        "/etc/kubernetes/kubelet.conf",
        Service::Restart,
        "kubelet.service",
    ),
    (
        "/etc/modules-load.d/",
        Service::Restart,
        "systemd-modules-load.service",
    ),
    (
        "/etc/NetworkManager/",
        Service::Reload,
        "NetworkManager.service",
    ),
    ("/etc/rsyslog", Service::Restart, "rsyslog.service"),
    ("/etc/ssh/sshd_config", Service::Reload, "ssh.service"),
    ("/etc/sssd/", Service::Restart, "sssd.service"),
    ("/etc/sysctl.d/", Service::Restart, "systemd-sysctl.service"),
    (
        "/etc/sysctl.conf",
        Service::Restart,
        "systemd-sysctl.service",
    ),
    (
        "/etc/systemd/journald.conf",
        Service::Restart,
        "systemd-journald.service",
    ),
    (
        "/etc/systemd/logind.conf",
        Service::Reload,
        "systemd-logind.service",
    ),
    (
        "/etc/systemd/network/",
        Service::Reload,
        "systemd-networkd.service",
    ),
    (
        "/etc/systemd/resolved.conf",
        Service::Restart,
        "systemd-resolved.service",
    ),
    (
        "/etc/systemd/timesyncd.conf",
        Service::Restart,
        "systemd-timesyncd.service",
    ),
];

/// Folders whose content systemd itself reads.
const UNIT_FOLDERS: [&str; 2] = ["/etc/systemd/system/", "/etc/systemd/system.conf"];

/// Something to do to the running system once the files are in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// systemd reads its units again.
    DaemonReload {
        /// What asks for it.
        because: String,
    },
    /// Stops a unit.
    Stop {
        /// The unit.
        unit: String,
        /// What asks for it.
        because: String,
    },
    /// Reloads a unit if it is running.
    Reload {
        /// The unit.
        unit: String,
        /// What asks for it.
        because: String,
    },
    /// Restarts a unit if it is running.
    Restart {
        /// The unit.
        unit: String,
        /// What asks for it.
        because: String,
    },
    /// Starts a unit.
    Start {
        /// The unit.
        unit: String,
        /// What asks for it.
        because: String,
    },
}

impl Action {
    /// How much it disturbs the node.
    pub fn disruption(&self) -> Disruption {
        match self {
            Action::DaemonReload { .. } => Disruption::DaemonReload,
            Action::Reload { .. } => Disruption::Reload,
            Action::Stop { .. } | Action::Restart { .. } | Action::Start { .. } => {
                Disruption::Restart
            }
        }
    }

    /// A DaemonReload comes before whatever needs it; what goes stops before what comes starts.
    fn rank(&self) -> u8 {
        match self {
            Action::Stop { .. } => 0,
            Action::DaemonReload { .. } => 1,
            Action::Reload { .. } => 2,
            Action::Restart { .. } => 3,
            Action::Start { .. } => 4,
        }
    }

    fn unit(&self) -> Option<&str> {
        match self {
            Action::DaemonReload { .. } => None,
            Action::Stop { unit, .. }
            | Action::Reload { unit, .. }
            | Action::Restart { unit, .. }
            | Action::Start { unit, .. } => Some(unit),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::DaemonReload { because } => write!(f, "daemon-reload: {because}"),
            Action::Stop { unit, because } => write!(f, "stop {unit}: {because}"),
            Action::Reload { unit, because } => write!(f, "reload {unit}: {because}"),
            Action::Restart { unit, because } => write!(f, "restart {unit}: {because}"),
            Action::Start { unit, because } => write!(f, "start {unit}: {because}"),
        }
    }
}

/// What live changes ask of the running system, in the order to do it, each once.
pub(super) fn actions(changes: &[Change]) -> Vec<Action> {
    let mut actions: Vec<Action> = changes.iter().flat_map(of_change).collect();
    actions.sort_by_key(Action::rank);
    let mut kept: Vec<Action> = Vec::new();
    // From the strongest to the weakest: a restart makes a reload of the same unit pointless, a start a restart.
    for action in actions.into_iter().rev() {
        if !kept.iter().any(|stronger| stronger.unit() == action.unit()) {
            kept.push(action);
        }
    }
    kept.reverse();
    kept
}

fn of_change(change: &Change) -> Vec<Action> {
    let because = change.to_string();
    match change {
        Change::Path { path, .. } => {
            if UNIT_FOLDERS.iter().any(|folder| path.starts_with(folder)) {
                return vec![Action::DaemonReload { because }];
            }
            let reader = READERS.iter().find(|(prefix, ..)| path.starts_with(prefix));
            reader
                .map(|(_, service, unit)| on_service(*service, unit, because))
                .into_iter()
                .collect()
        }
        Change::Unit {
            name,
            text,
            was_enabled,
            enabled,
            stopped,
            ..
        } => {
            let mut actions = vec![Action::DaemonReload {
                because: because.clone(),
            }];
            let unit = name.clone();
            // A template has no process of its own.
            if name.contains("@.") {
            } else if *stopped {
                actions.push(Action::Stop { unit, because });
            } else if *enabled && !was_enabled {
                actions.push(Action::Start { unit, because });
            } else if *text {
                actions.push(Action::Restart { unit, because });
            }
            actions
        }
        Change::SshKeys
        | Change::Password
        | Change::Image { .. }
        | Change::KernelArguments { .. }
        | Change::Extensions { .. }
        | Change::KernelType { .. }
        | Change::Fips(_) => Vec::new(),
    }
}

fn on_service(service: Service, unit: &str, because: String) -> Action {
    let unit = unit.to_owned();
    match service {
        Service::Reload => Action::Reload { unit, because },
        Service::Restart => Action::Restart { unit, because },
    }
}
