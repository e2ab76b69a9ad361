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
pub fn units() -> [(&'static str, &'static str); 5] {
    [
        ("caprock-agent.service", AGENT),
        ("caprock-boot.service", BOOT),
        ("caprock-trial.service", TRIAL),
        ("caprock-watch.service", WATCH),
        ("caprock-watch.timer", WATCH_TIMER),
    ]
}
