//! systemd units.

use crate::ignition::has_install_section;
use crate::lint::text::{entries, words};
use crate::lint::{Level, Rule};

/// How the names of units begin that base images usually have.
const IN_BASES: &[&str] = &[
    "NetworkManager",
    "auditd",
    "bootc",
    "chrony",
    "console-getty",
    "containerd",
    "cri",
    "crio",
    "dbus",
    "dnf",
    "docker",
    "firewalld",
    "fstrim",
    "getty",
    "irqbalance",
    "iscsi",
    "kubelet",
    "multipathd",
    "nfs-",
    "nftables",
    "ostree",
    "podman",
    "rpc",
    "rpm-ostree",
    "serial-getty",
    "ssh",
    "sssd",
    "systemd-",
    "tuned",
    "zincati",
];

pub(in crate::lint) static UNIT_FROM_NOWHERE: Rule = Rule {
    id: "unit-from-nowhere",
    level: Level::Warning,
    explanation: "A MachineConfig enables a unit without saying what is in it, so the image must have it: from a package \
                  that the Containerfile installs, or copied there. Here nothing in the Containerfile looks as if it did. \
                  If no image has it, the build fails and names the MachineConfig; no node is touched. Silence this where \
                  the base image has the unit.",
    check: |seen, report| {
        for pool in seen.pools() {
            let Some((_, image)) = pool.image else {
                continue;
            };
            let text: String = image
                .spec
                .container_file
                .iter()
                .map(|file| format!("{}\n", file.content))
                .collect();
            let words: Vec<String> = words(&text).map(str::to_lowercase).collect();
            let open = words.iter().any(|word| {
                matches!(
                    word.as_str(),
                    "copy" | "add" | "curl" | "wget" | "tar" | "make"
                ) || word.ends_with(".sh")
            });
            if open {
                continue;
            }
            let units = || pool.configs.iter().flat_map(|item| item.units());
            for unit in units() {
                let name = &unit.unit.name;
                let known = units()
                    .any(|other| other.unit.name == *name && other.unit.contents.is_some())
                    || IN_BASES.iter().any(|start| name.starts_with(start));
                let stem = name
                    .split(['.', '@'])
                    .next()
                    .unwrap_or_default()
                    .to_lowercase();
                let stem = stem
                    .strip_suffix('d')
                    .filter(|stem| stem.len() > 3)
                    .unwrap_or(&stem);
                let brought = words.iter().any(|word| {
                    word.contains(stem) || word.len() > 3 && stem.contains(word.as_str())
                });
                if unit.unit.enabled == Some(true) && !known && !brought {
                    let message = format!(
                        "`{name}` is enabled, but nothing in the Containerfile of pool `{}` looks as if it brought it",
                        pool.name
                    );
                    let hint = "install its package there, or give the unit `contents`";
                    report.tell(unit.item, &format!("{}.name", unit.field), message, hint);
                }
            }
        }
    },
};

pub(in crate::lint) static NOTHING_STARTS_IT: Rule = Rule {
    id: "nothing-starts-it",
    level: Level::Warning,
    explanation: "Enabling a unit does what its section `[Install]` says. A unit with contents and without that section is \
                  enabled to no effect: it starts neither now nor at boot. Add `[Install]` with `WantedBy=multi-user.target`, \
                  or leave `enabled` out when a timer, a socket or another unit starts it.",
    check: |seen, report| {
        for unit in seen.units() {
            let Some(text) = &unit.unit.contents else {
                continue;
            };
            let drop_ins = unit
                .unit
                .dropins
                .iter()
                .filter_map(|dropin| dropin.contents.as_deref());
            let mut texts = std::iter::once(text.as_str()).chain(drop_ins);
            if unit.unit.enabled == Some(true) && !texts.any(has_install_section) {
                let message = format!(
                    "`{}` is enabled, but has no section `[Install]`: nothing starts it",
                    unit.unit.name
                );
                let hint = "add `[Install]` with `WantedBy=multi-user.target`";
                report.tell(unit.item, &format!("{}.enabled", unit.field), message, hint);
            }
        }
    },
};

pub(in crate::lint) static SETSEBOOL_PERSISTENT: Rule = Rule {
    id: "setsebool-persistent",
    level: Level::Warning,
    explanation: "`setsebool -P` writes the whole policy below `/etc/selinux` anew: seconds at every boot, and on ostree hosts \
                  the policy then counts as changed by hand, so that the one of later images may not arrive. It also stays \
                  when the unit goes. Without `-P` the boolean is set in the running kernel, in milliseconds: let a oneshot \
                  unit do that at each boot, before what needs it.",
    check: |seen, report| {
        for unit in seen.units() {
            let text = unit.unit.contents.as_deref().unwrap_or_default();
            for entry in entries(text).filter(|entry| entry.key.starts_with("Exec")) {
                let words: Vec<&str> = entry.value.split_whitespace().collect();
                let at = words.iter().position(|word| {
                    word.trim_start_matches(['-', '\'', '"'])
                        .ends_with("setsebool")
                });
                let flags = at.map_or(&[][..], |at| &words[at + 1..]).iter();
                let persistent = flags
                    .take_while(|word| word.starts_with('-'))
                    .any(|word| word.contains('P'));
                if persistent {
                    let message = format!(
                        "`{}` rewrites the SELinux policy each time it runs",
                        unit.unit.name
                    );
                    let field = format!("{}.contents", unit.field);
                    let hint = "leave `-P` out: the unit sets the boolean at each boot";
                    report.tell_line(unit.item, (&field, entry.line), message, hint);
                }
            }
        }
    },
};
