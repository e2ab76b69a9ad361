//! The agent's systemd units.

/// What the agent can do at most. It writes `/etc`, `/var`, `/boot` and ostree's repository, gives files any owner, mode,
/// label and flag, and starts the host's own tools, which drop privileges by themselves; it reboots and starts services by
/// asking systemd.
///
/// Not to be had: `RestrictSUIDSGID` (images have such files), `PrivateTmp` (a MachineConfig may write to `/var/tmp`),
/// `ProtectHome` (the keys of `core`), `PrivateDevices` (boot loader tools look for their disk).
const CONFINEMENT: &str = "\
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_LINUX_IMMUTABLE
CapabilityBoundingSet=CAP_SETFCAP CAP_MAC_ADMIN CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SETUID CAP_SETGID CAP_SETPCAP
# ostree compares its mount namespace with that of the first process.
CapabilityBoundingSet=CAP_SYS_PTRACE
# A mount namespace of its own: /sysroot may have to be made writable for an import, which nobody else should see.
ProtectSystem=strict
# /tmp is for the host's tools: `update-ca-certificates` needs it.
ReadWritePaths=/etc /var /sysroot -/boot -/run -/tmp
ProtectClock=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=mnt
RestrictRealtime=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallErrorNumber=EPERM
LimitCORE=0
# The agent itself is small; what its tools read and write counts too until it is on the disk.
MemoryMax=512M
TasksMax=256
";

/// Runs the agent. Its arguments come from `/etc/caprock/agent.env`.
fn agent() -> String {
    format!(
        "\
[Unit]
Description=Caprock node agent
Wants=network-online.target
After=network-online.target dbus.service caprock-boot.service caprock-firstboot.service
# It is tried for ever.
StartLimitIntervalSec=0

[Service]
Type=notify
EnvironmentFile=-/etc/caprock/agent.env
ExecStart=/usr/local/bin/caprock agent --bootstrap-kubeconfig /etc/caprock/kubeconfig $CAPROCK_AGENT_ARGS
Restart=always
RestartSec=1
# A step that does not end starves it, and so does a process that stands still.
WatchdogSec=60
WatchdogSignal=SIGKILL
# A step that is cut off is taken up at the next start; a reboot need not wait for it.
KillMode=mixed
TimeoutStopSec=5
{CONFINEMENT}
[Install]
WantedBy=multi-user.target
"
    )
}

/// Brings a new machine into its pool's configuration and image before it becomes a Node, with or without a kubelet.
fn first_boot() -> String {
    format!(
        "\
[Unit]
Description=Boot a new machine into what its pool runs
# Neither on a node that has a credential, nor on one that has not begun.
ConditionPathExists=|!/var/lib/caprock/credentials/facts.json
ConditionPathExists=|/var/lib/caprock/first-boot.json
Wants=network-online.target
After=network-online.target dbus.service caprock-boot.service
Before=caprock-agent.service kubelet.service

[Service]
Type=oneshot
ExecStart=/usr/local/bin/caprock agent --first-boot --bootstrap-kubeconfig /etc/caprock/kubeconfig
KillMode=mixed
TimeoutStopSec=5
{CONFINEMENT}
[Install]
WantedBy=multi-user.target
"
    )
}

/// Finishes, before anything else starts, what a deployment still needs after a crash, and lets the places that
/// deployments share follow the one that booted.
fn boot() -> String {
    format!(
        "\
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
{CONFINEMENT}
[Install]
WantedBy=sysinit.target
"
    )
}

/// Does nothing when it starts. It does so before the unit by which ostree makes a staged deployment at shutdown, so it
/// stops after that, and writes the configuration into the new `/etc`.
fn finalize() -> String {
    format!(
        "\
[Unit]
Description=Configure the deployment that is made at shutdown
DefaultDependencies=no
ConditionPathExists=/run/ostree-booted
RequiresMountsFor=/sysroot /boot /var/lib/caprock /usr/local/bin
After=local-fs.target
Before=ostree-finalize-staged.service final.target
Conflicts=final.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=/usr/local/bin/caprock agent --finalize
# What is cut off here is completed early in the next boot.
TimeoutStopSec=120
{CONFINEMENT}
[Install]
WantedBy=multi-user.target
"
    )
}

/// Counts the boots of a deployment on trial, and leaves it when they are too many. Before anything that may be broken in
/// it, and by a script that the agent which made the deployment left behind: what is judged does not judge itself.
const TRIAL: &str = "\
[Unit]
Description=Count the boots of a deployment that was not found well yet
ConditionPathExists=/var/lib/caprock/trial
DefaultDependencies=no
RequiresMountsFor=/var/lib/caprock
After=systemd-remount-fs.service local-fs.target
Before=caprock-boot.service sysinit.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /var/lib/caprock/watch.sh count
TimeoutStartSec=15min

[Install]
WantedBy=sysinit.target
";

/// Leaves a deployment on trial that was not found well in time, whatever became of the agent.
const WATCH: &str = "\
[Unit]
Description=Leave a deployment that is not found well in time
ConditionPathExists=/var/lib/caprock/trial

[Service]
Type=oneshot
ExecStart=/bin/sh /var/lib/caprock/watch.sh check
TimeoutStartSec=15min
";

const WATCH_TIMER: &str = "\
[Unit]
Description=Look whether a deployment on trial is found well in time

[Timer]
OnActiveSec=1min
OnUnitInactiveSec=1min
AccuracySec=10s

[Install]
WantedBy=timers.target
";

/// Name and text of each unit that a node needs. All that have an `[Install]` section are to be enabled.
#[must_use]
pub fn units() -> [(&'static str, String); 7] {
    [
        ("caprock-agent.service", agent()),
        ("caprock-firstboot.service", first_boot()),
        ("caprock-boot.service", boot()),
        ("caprock-finalize.service", finalize()),
        ("caprock-trial.service", TRIAL.to_owned()),
        ("caprock-watch.service", WATCH.to_owned()),
        ("caprock-watch.timer", WATCH_TIMER.to_owned()),
    ]
}
