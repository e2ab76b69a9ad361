//! What changes ask for when nobody says otherwise: the files whose readers are known.

use super::{Directive, Rule};

/// A service that has to hear of a change. Only running services are touched, and a service that a host does not have is
/// passed over, so that the names of several distributions can stand side by side.
enum Tell {
    Reload(&'static str),
    Restart(&'static str),
    DaemonReload,
    Registries,
}

use Tell::{DaemonReload, Registries, Reload, Restart};

/// Files, and directories with all below them. Nothing to tell is `None`, which also ends what a directory above says.
const FILES: &[(&str, &[Tell])] = &[
    ("/etc/auto.direct", &[Reload("autofs.service")]),
    ("/etc/auto.home", &[Reload("autofs.service")]),
    ("/etc/auto.master", &[Reload("autofs.service")]),
    ("/etc/auto.master.d", &[Reload("autofs.service")]),
    ("/etc/auto.misc", &[Reload("autofs.service")]),
    ("/etc/auto.net", &[Reload("autofs.service")]),
    ("/etc/auto.nfs", &[Reload("autofs.service")]),
    ("/etc/auto.smb", &[Reload("autofs.service")]),
    ("/etc/autofs.conf", &[Restart("autofs.service")]),
    ("/etc/chrony", &[Restart("chrony.service")]),
    ("/etc/chrony.conf", &[Restart("chronyd.service")]),
    ("/etc/containers/policy.json", &[Reload("crio.service")]),
    ("/etc/containers/registries.conf", &[Registries]),
    // The same settings in pieces.
    ("/etc/containers/registries.conf.d", &[Registries]),
    ("/etc/containers/registries.d", &[Reload("crio.service")]),
    // Storage and most settings are read when cri-o starts; its containers go on meanwhile.
    ("/etc/containers/storage.conf", &[Restart("crio.service")]),
    ("/etc/crio", &[Restart("crio.service")]),
    ("/etc/crio/policies", &[Reload("crio.service")]),
    ("/etc/dbus-1", &[Reload("dbus.service")]),
    ("/etc/iri-registry", &[Restart("iri-registry.service")]),
    (
        "/etc/kubernetes/credential-providers",
        &[Restart("kubelet.service")],
    ),
    (
        "/etc/kubernetes/kubelet.conf",
        &[Restart("kubelet.service")],
    ),
    (
        "/etc/machine-config-daemon/no-reboot/containers-gpg.pub",
        &[Reload("crio.service")],
    ),
    (
        "/etc/modules-load.d",
        &[Restart("systemd-modules-load.service")],
    ),
    ("/etc/NetworkManager", &[Reload("NetworkManager.service")]),
    ("/etc/nmstate/openshift", &[]),
    (
        "/etc/pki/ca-trust/source/anchors/iri-root-ca.crt",
        &[Restart("coreos-update-ca-trust.service")],
    ),
    (
        "/etc/pki/ca-trust/source/anchors/openshift-config-user-ca-bundle.crt",
        &[
            Restart("coreos-update-ca-trust.service"),
            Restart("crio.service"),
        ],
    ),
    ("/etc/rsyslog.conf", &[Restart("rsyslog.service")]),
    ("/etc/rsyslog.d", &[Restart("rsyslog.service")]),
    (
        "/etc/ssh/sshd_config",
        &[Reload("ssh.service"), Reload("sshd.service")],
    ),
    (
        "/etc/ssh/sshd_config.d",
        &[Reload("ssh.service"), Reload("sshd.service")],
    ),
    ("/etc/sssd", &[Restart("sssd.service")]),
    ("/etc/sysctl.conf", &[Restart("systemd-sysctl.service")]),
    ("/etc/sysctl.d", &[Restart("systemd-sysctl.service")]),
    (
        "/etc/systemd/journald.conf",
        &[Restart("systemd-journald.service")],
    ),
    (
        "/etc/systemd/journald.conf.d",
        &[Restart("systemd-journald.service")],
    ),
    (
        "/etc/systemd/logind.conf",
        &[Reload("systemd-logind.service")],
    ),
    (
        "/etc/systemd/logind.conf.d",
        &[Reload("systemd-logind.service")],
    ),
    (
        "/etc/systemd/network",
        &[Reload("systemd-networkd.service")],
    ),
    (
        "/etc/systemd/resolved.conf",
        &[Restart("systemd-resolved.service")],
    ),
    (
        "/etc/systemd/resolved.conf.d",
        &[Restart("systemd-resolved.service")],
    ),
    ("/etc/systemd/system", &[DaemonReload]),
    ("/etc/systemd/system.conf", &[DaemonReload]),
    ("/etc/systemd/system.conf.d", &[DaemonReload]),
    (
        "/etc/systemd/system/kubelet.service.d/40-kubelet-crio-image-credential-provider.conf",
        &[DaemonReload, Restart("kubelet.service")],
    ),
    (
        "/etc/systemd/timesyncd.conf",
        &[Restart("systemd-timesyncd.service")],
    ),
    (
        "/usr/local/bin/load-registry-image.sh",
        &[Restart("iri-registry.service")],
    ),
    ("/var/lib/kubelet/config.json", &[]),
];

const UNITS: &[(&str, &[Tell])] = &[(
    "iri-registry.service",
    &[DaemonReload, Restart("iri-registry.service")],
)];

pub(super) fn files() -> Vec<Rule> {
    rules(FILES)
}

pub(super) fn units() -> Vec<Rule> {
    rules(UNITS)
}

fn rules(table: &[(&str, &[Tell])]) -> Vec<Rule> {
    let directive = |tell: &Tell| match tell {
        Reload(service) => Directive::Reload((*service).to_owned()),
        Restart(service) => Directive::Restart((*service).to_owned()),
        DaemonReload => Directive::DaemonReload,
        Registries => Directive::Registries,
    };
    let rule = |(subject, tell): &(&str, &[Tell])| Rule {
        subject: (*subject).to_owned(),
        directives: match tell {
            [] => vec![Directive::None],
            tell => tell.iter().map(directive).collect(),
        },
    };
    table.iter().map(rule).collect()
}
