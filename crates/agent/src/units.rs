//! The agent's systemd units.

/// Runs the agent. Its arguments come from `/etc/caprock/agent.env`.
const AGENT: &str = "\
[Unit]
Description=Caprock node agent
Wants=network-online.target
After=network-online.target dbus.service caprock-boot.service

[Service]
EnvironmentFile=-/etc/caprock/agent.env
ExecStart=/usr/local/bin/caprock agent --kubeconfig /etc/caprock/kubeconfig $CAPROCK_AGENT_ARGS
Restart=always
RestartSec=1
# A step that is cut off is taken up at the next start; a reboot need not wait for it.
KillMode=mixed
TimeoutStopSec=5
# /sysroot may have to be made writable for an import; nobody else should see that.
PrivateMounts=yes

[Install]
WantedBy=multi-user.target
";

/// Finishes, before anything else starts, what a deployment still needs after a crash, and lets the places that
/// deployments share follow the one that booted.
const BOOT: &str = "\
[Unit]
Description=Complete the configuration of the booted deployment
DefaultDependencies=no
RequiresMountsFor=/var/lib/caprock /usr/local/bin
After=systemd-remount-fs.service local-fs.target
Before=sysinit.target systemd-tmpfiles-setup.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/bin/caprock agent --complete-boot
TimeoutStartSec=60

[Install]
WantedBy=sysinit.target
";

/// Name and text of each unit that a node needs; both are to be enabled.
#[must_use]
pub fn units() -> [(&'static str, &'static str); 2] {
    [
        ("caprock-agent.service", AGENT),
        ("caprock-boot.service", BOOT),
    ]
}
