//! The automounter: its maps, where it mounts, what it needs, and who looks at it.

use serde_json::Value;

use crate::ignition::{normalised, real};
use crate::lint::seen::{File, Item, Pool, Seen};
use crate::lint::text::{entries, mount_points, words};
use crate::lint::{Level, Rule};

const MASTER_DIRECTORY: &str = "/etc/auto.master.d/";
const MASTER_SUFFIX: &str = ".autofs";

pub(in crate::lint) static MAP_NOT_READ: Rule = Rule {
    id: "map-not-read",
    level: Level::Warning,
    explanation: "autofs reads a file of `/etc/auto.master.d` only when its name ends in `.autofs`, and says nothing about \
                  others. Maps that a master map names (`/etc/auto.home`) belong beside that directory, not into it.",
    check: |seen, report| {
        for file in seen.files() {
            let name = file.node.path.strip_prefix(MASTER_DIRECTORY);
            if let Some(name) = name.filter(|name| !name.ends_with(MASTER_SUFFIX)) {
                let message = format!("autofs does not read `{}`", file.node.path);
                let stem = name.strip_prefix("auto.").unwrap_or(name);
                let hint = format!("name it `{MASTER_DIRECTORY}{stem}{MASTER_SUFFIX}`");
                report.tell(file.item, &format!("{}.path", file.field), message, &hint);
            }
        }
    },
};

pub(in crate::lint) static MOUNT_BELOW_LINK: Rule = Rule {
    id: "mount-below-link",
    level: Level::Warning,
    explanation: "On ostree hosts `/home`, `/mnt`, `/opt`, `/root`, `/srv` and `/usr/local` are links into `/var`. An \
                  automount point below one mounts, but the automounter looks its own path up among the mounts, where it \
                  has the real name: nothing ever expires, and the next reboot hangs until the automounter is killed. A \
                  `.mount` or `.automount` unit below a link does not start. Write the real path, such as `/var/mnt/…`.",
    check: |seen, report| {
        let hint = |point: &str| format!("write `{}`", real_point(point));
        for (file, line, point) in points(seen) {
            let point = normalised(point);
            if is_below_link(&point) && !hides_home(&point) {
                let message = format!(
                    "mount point `{point}` of `{}` is below a link: what is mounted there never expires, and holds up the reboot",
                    file.node.path
                );
                report.tell_content(&file, line, message, &hint(&point));
            }
        }
        for unit in seen.units() {
            let mounts = [".mount", ".automount"];
            let text = unit.unit.contents.as_deref().unwrap_or_default();
            if !mounts.iter().any(|suffix| unit.unit.name.ends_with(suffix)) {
                continue;
            }
            for entry in entries(text).filter(|entry| entry.key == "Where") {
                let point = normalised(entry.value);
                if is_below_link(&point) {
                    let message = format!(
                        "`{}` mounts at `{point}`, which is below a link: it does not start",
                        unit.unit.name
                    );
                    let field = format!("{}.contents", unit.field);
                    report.tell_line(unit.item, (&field, entry.line), message, &hint(&point));
                }
            }
        }
    },
};

pub(in crate::lint) static HIDES_HOME: Rule = Rule {
    id: "hides-home",
    level: Level::Warning,
    explanation: "An automount point hides what is below it. At `/home`, which is `/var/home`, that is the home of `core` \
                  with its SSH keys: nobody gets in any more. Mount under a prefix of its own, such as `/var/mnt/home`, and \
                  let sssd say so: `override_homedir = /var/mnt/home/%u` in the domain's section.",
    check: |seen, report| {
        for (file, line, point) in points(seen) {
            if hides_home(&normalised(point)) {
                let message = format!(
                    "mount point `{point}` of `{}` hides the home of `core`, and with it the SSH keys",
                    file.node.path
                );
                let hint = "mount under a prefix of its own, such as `/var/mnt/home`";
                report.tell_content(&file, line, message, hint);
            }
        }
    },
};

pub(in crate::lint) static NO_AUTOFS_RESPONDER: Rule = Rule {
    id: "no-autofs-responder",
    level: Level::Warning,
    explanation: "With `autofs` among its services sssd answers the automounter, which asks through a library of its own. \
                  On Fedora and RHEL that is the package `libsss_autofs`, which neither `sssd` nor `autofs` brings; on \
                  Debian it is part of `sssd-common`, which `sssd-ldap` brings. Without it every map is empty, and nobody \
                  says why.",
    check: |seen, report| {
        for pool in seen.pools() {
            let Some((item, image)) = pool.image.filter(|_| asks_sssd(&pool)) else {
                continue;
            };
            for (index, file) in image.spec.container_file.iter().enumerate() {
                let has = |what: &dyn Fn(&str) -> bool| words(&file.content).any(what);
                let automounter = has(&|word| {
                    word == "autofs" || word.starts_with("autofs=") || word.starts_with("autofs-")
                });
                let apt = has(&|word| matches!(word, "apt-get" | "apt"));
                let rpm =
                    has(&|word| matches!(word, "dnf" | "dnf5" | "microdnf" | "yum" | "rpm-ostree"));
                let missing = if rpm && !has(&|word| word.contains("libsss_autofs")) {
                    "libsss_autofs"
                } else if apt && !has(&|word| word.starts_with("sssd")) {
                    "sssd-ldap"
                } else {
                    continue;
                };
                if automounter {
                    let message = format!(
                        "pool `{}` takes automount maps from sssd, but its image does not install `{missing}`",
                        pool.name
                    );
                    let hint = format!("install `{missing}` beside `autofs`");
                    report.tell(
                        item,
                        &format!("spec.containerFile[{index}].content"),
                        message,
                        &hint,
                    );
                }
            }
        }
    },
};

pub(in crate::lint) static NO_PROPAGATION: Rule = Rule {
    id: "no-propagation",
    level: Level::Warning,
    explanation: "A pod sees the mounts that were there when it started. What is mounted later, as an automounter does, \
                  appears in it only with `mountPropagation: HostToContainer` on the volume's mount; without it the pod \
                  sees an empty directory, or an error.",
    check: |seen, report| {
        let points: Vec<String> = points(seen)
            .map(|(_, _, point)| real_point(&normalised(point)))
            .collect();
        for (item, value) in seen.others() {
            for (template, spec) in pod_specs(value) {
                check_pod(item, template, spec, &points, report);
            }
        }
    },
};

/// Mount points of the master maps, each with its file and line.
fn points<'s>(seen: &'s Seen<'_>) -> impl Iterator<Item = (File<'s, 's>, usize, &'s str)> {
    let maps = seen.items.iter().flat_map(Item::files).filter(|file| {
        let path = &file.node.path;
        let dropped = path.starts_with(MASTER_DIRECTORY) && path.ends_with(MASTER_SUFFIX);
        path == "/etc/auto.master" || dropped
    });
    maps.flat_map(|file| {
        let text = std::str::from_utf8(file.node.contents().unwrap_or_default());
        let points = mount_points(text.unwrap_or_default());
        points.map(move |(line, point)| (file.clone(), line, point))
    })
}

/// Where a mount point really is: what is below it tells.
fn real_point(point: &str) -> String {
    let below = format!("{}/", point.trim_end_matches('/'));
    let real = real(&below).into_owned();
    real.strip_suffix('/').map_or(real.clone(), str::to_owned)
}

fn is_below_link(point: &str) -> bool {
    real_point(point) != point
}

fn hides_home(point: &str) -> bool {
    ["/var/home", "/var/home/core"].contains(&real_point(point).as_str())
}

/// Whether a pool's MachineConfigs have sssd serve the automounter.
fn asks_sssd(pool: &Pool<'_, '_>) -> bool {
    let mut files = pool.configs.iter().flat_map(|item| item.files());
    files.any(|file| {
        super::sssd::is_config(&file.node.path)
            && entries(&file.text()).any(|entry| match entry.key {
                "services" => entry.value.split(',').any(|name| name.trim() == "autofs"),
                "autofs_provider" => entry.value != "none",
                _ => false,
            })
    })
}

/// The pod specs of an object, each with its field.
fn pod_specs(value: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    let places = match value.get("kind").and_then(Value::as_str) {
        Some("Pod") => &["spec"][..],
        Some("CronJob") => &["spec.jobTemplate.spec.template.spec"],
        Some(
            "Deployment"
            | "DaemonSet"
            | "StatefulSet"
            | "ReplicaSet"
            | "Job"
            | "ReplicationController",
        ) => &["spec.template.spec"],
        _ => &[],
    };
    places.iter().filter_map(|place| {
        let pointer = format!("/{}", place.replace('.', "/"));
        Some((*place, value.pointer(&pointer)?))
    })
}

fn check_pod(
    item: &Item<'_>,
    template: &str,
    spec: &Value,
    points: &[String],
    report: &mut crate::lint::Report<'_>,
) {
    let list = |value: &'_ Value, key: &str| -> Vec<Value> {
        let found = value.get(key).and_then(Value::as_array);
        found.cloned().unwrap_or_default()
    };
    let text = |value: &Value, pointer: &str| -> String {
        let found = value.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    for volume in list(spec, "volumes") {
        let path = text(&volume, "/hostPath/path");
        let path = real_point(&normalised(&path));
        let automounts = points.iter().any(|point| {
            path == *point
                || path.starts_with(&format!("{point}/"))
                || point.starts_with(&format!("{path}/"))
        });
        if !automounts || volume.get("hostPath").is_none() {
            continue;
        }
        for kind in ["initContainers", "containers"] {
            for (index, container) in list(spec, kind).iter().enumerate() {
                for (number, mount) in list(container, "volumeMounts").iter().enumerate() {
                    let here = text(mount, "/name") == text(&volume, "/name");
                    if here
                        && !matches!(
                            text(mount, "/mountPropagation").as_str(),
                            "HostToContainer" | "Bidirectional"
                        )
                    {
                        let field =
                            format!("{template}.{kind}[{index}].volumeMounts[{number}].mountPath");
                        let message = format!(
                            "`{path}` is mounted on access, and the pod does not see what is mounted after its start"
                        );
                        report.tell(
                            item,
                            &field,
                            message,
                            "add `mountPropagation: HostToContainer`",
                        );
                    }
                }
            }
        }
    }
}
