//! sssd's configuration, and files in directories of drop-ins.

use crate::ignition::Owner;
use crate::lint::text::{entries, is_true, significant};
use crate::lint::{Level, Rule};

const MAIN: &str = "/etc/sssd/sssd.conf";
const DROP_INS: &str = "/etc/sssd/conf.d/";

/// Whether sssd reads a file, name and place given.
pub(super) fn is_config(path: &str) -> bool {
    path == MAIN || path.starts_with(DROP_INS) && path.ends_with(".conf")
}

pub(in crate::lint) static NO_SECTION: Rule = Rule {
    id: "no-section",
    level: Level::Warning,
    explanation: "Lines before the first `[section]` belong to nothing, and sssd ignores them. In its drop-ins settings of a \
                  domain, such as `override_homedir`, stand below `[domain/NAME]`, with the name that `domains` in \
                  `sssd.conf` has.",
    check: |seen, report| {
        let stray = |text: &str| {
            let first = significant(text).next()?;
            (!first.1.starts_with('[')).then_some(first.0)
        };
        for file in seen.files().filter(|file| is_config(&file.node.path)) {
            if let Some(line) = stray(&file.text()) {
                let message = format!(
                    "`{}` begins without a section: sssd ignores these lines",
                    file.node.path
                );
                let hint = "put `[domain/NAME]` or another section above them";
                report.tell_content(&file, line, message, hint);
            }
        }
    },
};

/// Directories whose files are read only when their names end in one of these.
const ENDINGS: &[(&str, &[&str])] = &[
    (DROP_INS, &[".conf"]),
    ("/etc/NetworkManager/conf.d/", &[".conf"]),
    ("/etc/apt/sources.list.d/", &[".list", ".sources"]),
    ("/etc/containers/registries.conf.d/", &[".conf"]),
    ("/etc/modprobe.d/", &[".conf"]),
    ("/etc/modules-load.d/", &[".conf"]),
    ("/etc/ssh/sshd_config.d/", &[".conf"]),
    ("/etc/sysctl.d/", &[".conf"]),
    ("/etc/systemd/journald.conf.d/", &[".conf"]),
    ("/etc/systemd/logind.conf.d/", &[".conf"]),
    ("/etc/systemd/resolved.conf.d/", &[".conf"]),
    ("/etc/systemd/system.conf.d/", &[".conf"]),
    ("/etc/sysusers.d/", &[".conf"]),
    ("/etc/tmpfiles.d/", &[".conf"]),
    ("/etc/udev/rules.d/", &[".rules"]),
    ("/etc/yum.repos.d/", &[".repo"]),
];

pub(in crate::lint) static DROP_IN_NOT_READ: Rule = Rule {
    id: "drop-in-not-read",
    level: Level::Warning,
    explanation: "Programs read of a directory of drop-ins only files with the ending that they expect, `.conf` mostly, and \
                  say nothing about others. sssd also leaves out names that begin with a dot.",
    check: |seen, report| {
        for file in seen.files() {
            let path = &file.node.path;
            for (directory, endings) in ENDINGS {
                let Some(name) = path
                    .strip_prefix(directory)
                    .filter(|name| !name.contains('/'))
                else {
                    continue;
                };
                let fits =
                    endings.iter().any(|ending| name.ends_with(ending)) && !name.starts_with('.');
                if !fits {
                    let message = format!("`{path}` is not read");
                    let hint = format!("give it a name that ends in `{}`", endings.join("` or `"));
                    report.tell(file.item, &format!("{}.path", file.field), message, &hint);
                }
            }
        }
    },
};

pub(in crate::lint) static SSSD_MODE: Rule = Rule {
    id: "sssd-mode",
    level: Level::Warning,
    explanation: "sssd refuses to start, or leaves a drop-in out, when others than root may read its configuration: it is \
                  where passwords of binds stand. Write `mode: 0600` (384 in JSON) and no other owner.",
    check: |seen, report| {
        for file in seen.files().filter(|file| is_config(&file.node.path)) {
            let accounts = [file.node.user(), file.node.group()];
            let foreign = accounts.iter().any(|owner| match owner {
                Owner::Id(id) => *id != 0,
                Owner::Name(name) => !matches!(name.as_str(), "root" | "sssd"),
            });
            if file.node.mode() & 0o177 != 0 || foreign {
                let message = format!(
                    "`{}` has mode {:04o}{}: sssd does not take it",
                    file.node.path,
                    file.node.mode(),
                    if foreign {
                        " and an owner other than root"
                    } else {
                        ""
                    },
                );
                let hint = "write `mode: 0600` and leave the owner out";
                report.tell(file.item, &format!("{}.mode", file.field), message, hint);
            }
        }
    },
};

pub(in crate::lint) static PLAIN_LDAP: Rule = Rule {
    id: "plain-ldap",
    level: Level::Warning,
    explanation: "With `ldap://` names, home directories and the password of the bind go over the network as they are, and \
                  whoever answers first decides who may log in. Write `ldaps://`, or set `ldap_id_use_start_tls = true` in \
                  the same section; both take `ldap_tls_cacert` when the authority is not among the host's.",
    check: |seen, report| {
        let all: Vec<_> = seen
            .files()
            .filter(|file| is_config(&file.node.path))
            .collect();
        for file in &all {
            let text = file.text();
            let plain = entries(&text).filter(|entry| {
                matches!(entry.key, "ldap_uri" | "ldap_backup_uri")
                    && entry.value.contains("ldap://")
            });
            for entry in plain {
                // Another file of the same pools may say it.
                let encrypted = all.iter().any(|other| {
                    other.item.role() == file.item.role()
                        && entries(&other.text()).any(|found| {
                            found.section == entry.section
                                && found.key == "ldap_id_use_start_tls"
                                && is_true(found.value)
                        })
                });
                if !encrypted {
                    let message =
                        format!("`{}` of `{}` is not encrypted", entry.key, file.node.path);
                    let hint = "write `ldaps://`, or `ldap_id_use_start_tls = true`";
                    report.tell_content(file, entry.line, message, hint);
                }
            }
        }
    },
};

pub(in crate::lint) static UNVERIFIED_LDAP: Rule = Rule {
    id: "unverified-ldap",
    level: Level::Warning,
    explanation: "With `ldap_tls_reqcert` below `demand` any certificate is taken, so that encryption protects from nobody \
                  who can stand in between. Give the authority with `ldap_tls_cacert` instead.",
    check: |seen, report| {
        for file in seen.files().filter(|file| is_config(&file.node.path)) {
            let text = file.text();
            for entry in entries(&text).filter(|entry| entry.key == "ldap_tls_reqcert") {
                if matches!(entry.value, "never" | "allow" | "try") {
                    let message = format!(
                        "`{}` takes any certificate: `ldap_tls_reqcert = {}`",
                        file.node.path, entry.value
                    );
                    let hint = "give the authority with `ldap_tls_cacert`";
                    report.tell_content(&file, entry.line, message, hint);
                }
            }
        }
    },
};
