#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::api::MachineConfig;
use crate::ignition;

/// An image in memory: path to text; a text that begins with `->` is a link.
struct Image(BTreeMap<String, String>);

impl Image {
    /// A bootable image with more in it.
    fn with(more: &[(&str, &str)]) -> Self {
        let usual = [
            ("/etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("/etc/group", "root:x:0:\n"),
            ("/ostree", "->sysroot/ostree"),
            ("/sysroot/.keep", ""),
            ("/usr/lib/modules/6.1.0/vmlinuz", "kernel"),
            ("/usr/lib/systemd/systemd", "init"),
        ];
        let entries = usual.iter().chain(more);
        Image(
            entries
                .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
                .collect(),
        )
    }

    fn without(mut self, path: &str) -> Self {
        self.0.remove(path).unwrap();
        self
    }
}

impl ImageRoot for Image {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        Ok(match self.0.get(path) {
            Some(text) => Some(match text.strip_prefix("->") {
                Some(target) => Entry::Link(target.to_owned()),
                None => Entry::File,
            }),
            None => (!self.list(path)?.is_empty()).then_some(Entry::Directory),
        })
    }

    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let text = self.0.get(path);
        let text = text.and_then(|text| match text.strip_prefix("->") {
            Some(target) => self.0.get(target),
            None => Some(text),
        });
        Ok(text.map(|text| text.as_bytes()[..text.len().min(limit)].to_vec()))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{path}/");
        let below = self.0.keys().filter_map(|key| key.strip_prefix(&prefix));
        let mut names: Vec<String> = below
            .map(|rest| rest.split('/').next().unwrap().to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }
}

fn problems(config: Value, image: &Image) -> String {
    let mut config = config;
    config["ignition"] = json!({"version": "3.4.0"});
    let source = MachineConfig::new(
        "99-autofs",
        serde_json::from_value(json!({"config": config})).unwrap(),
    );
    let config = ignition::parse(source.spec.config.as_ref().unwrap()).unwrap();
    let found = check(&config, &Provenance::of([&source]), image).unwrap();
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn enabled(name: &str) -> Value {
    json!({"systemd": {"units": [{"name": name, "enabled": true}]}})
}

const UNIT: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn a_unit_of_the_image_can_be_enabled() {
    for (name, files) in [
        (
            "autofs.service",
            vec![("/usr/lib/systemd/system/autofs.service", UNIT)],
        ),
        (
            "autofs.service",
            vec![("/lib/systemd/system/autofs.service", UNIT)],
        ),
        (
            "getty@tty2.service",
            vec![("/usr/lib/systemd/system/getty@.service", UNIT)],
        ),
        (
            "alias.service",
            vec![
                (
                    "/usr/lib/systemd/system/alias.service",
                    "->/usr/lib/systemd/system/real.service",
                ),
                ("/usr/lib/systemd/system/real.service", UNIT),
            ],
        ),
    ] {
        assert_eq!(problems(enabled(name), &Image::with(&files)), "", "{name}");
    }
}

#[test]
fn a_unit_of_the_config_can_be_enabled() {
    let own =
        json!({"systemd": {"units": [{"name": "own.service", "enabled": true, "contents": UNIT}]}});
    assert_eq!(problems(own, &Image::with(&[])), "");
    let instance = json!({"systemd": {"units": [
        {"name": "own@.service", "contents": UNIT},
        {"name": "own@a.service", "enabled": true},
    ]}});
    assert_eq!(problems(instance, &Image::with(&[])), "");
    let as_file = |text: &str| {
        json!({
            "systemd": {"units": [{"name": "own.service", "enabled": true}]},
            "storage": {"files": [{"path": "/etc/systemd/system/own.service", "contents": {"source": format!("data:,{text}")}}]},
        })
    };
    assert_eq!(
        problems(
            as_file("[Install]%0AWantedBy=multi-user.target"),
            &Image::with(&[])
        ),
        ""
    );
    insta::assert_snapshot!(problems(as_file("[Service]"), &Image::with(&[])), @"MachineConfig `99-autofs`: unit `own.service` is enabled but `/etc/systemd/system/own.service` has no [Install] section, so nothing would start it; leave out `enabled`, or add a drop-in with one");
}

#[test]
fn units_that_would_not_start() {
    let masked = [("/etc/systemd/system/autofs.service", "->/dev/null")];
    let static_unit = [(
        "/usr/lib/systemd/system/autofs.service",
        "[Service]\nExecStart=/bin/true\n",
    )];
    let dangling = [(
        "/usr/lib/systemd/system/autofs.service",
        "->/usr/lib/systemd/system/gone.service",
    )];
    let found = [&[][..], &masked, &static_unit, &dangling]
        .map(|files| problems(enabled("autofs.service"), &Image::with(files)));
    insta::assert_snapshot!(found.join("\n"), @r"
    MachineConfig `99-autofs`: unit `autofs.service` is enabled but exists neither in the image nor in a MachineConfig; install the package that has it in the Containerfile, or give its `contents`
    MachineConfig `99-autofs`: unit `autofs.service` is enabled but `/etc/systemd/system/autofs.service` masks it; remove that mask
    MachineConfig `99-autofs`: unit `autofs.service` is enabled but `/usr/lib/systemd/system/autofs.service` in the image has no [Install] section, so nothing would start it; leave out `enabled`, or add a drop-in with one
    MachineConfig `99-autofs`: unit `autofs.service` is enabled but `/usr/lib/systemd/system/autofs.service` is a link to nothing
    ");
}

#[test]
fn a_unit_that_is_not_enabled_may_be_missing() {
    let disabled = json!({"systemd": {"units": [
        {"name": "a.service", "enabled": false},
        {"name": "b.service", "mask": true},
        {"name": "c.service", "dropins": [{"name": "10.conf", "contents": "[Service]\n"}]},
    ]}});
    assert_eq!(problems(disabled, &Image::with(&[])), "");
}

#[test]
fn owners_exist() {
    let file = |owner: &str| {
        json!({"storage": {"files": [
            {"path": "/etc/x", "user": {"name": owner}, "group": {"name": owner}, "contents": {"source": "data:,x"}},
        ]}})
    };
    insta::assert_snapshot!(problems(file("autofs"), &Image::with(&[])), @r"
    MachineConfig `99-autofs`: file `/etc/x` belongs to user `autofs`, which the image does not have; create it in the Containerfile or with a file in `/etc/sysusers.d`
    MachineConfig `99-autofs`: file `/etc/x` belongs to group `autofs`, which the image does not have; create it in the Containerfile or with a file in `/etc/sysusers.d`
    ");
    for files in [
        [
            ("/etc/passwd", "autofs:x:99:99::/:/bin/false\n"),
            ("/etc/group", "autofs:x:99:\n"),
        ],
        [
            (
                "/usr/lib/sysusers.d/autofs.conf",
                "u autofs - \"Automounter\"\n",
            ),
            ("/x", ""),
        ],
    ] {
        assert_eq!(
            problems(file("autofs"), &Image::with(&files)),
            "",
            "{files:?}"
        );
    }
}

#[test]
fn an_image_must_boot() {
    let none = || json!({});
    let found = [
        problems(
            none(),
            &Image::with(&[]).without("/usr/lib/modules/6.1.0/vmlinuz"),
        ),
        problems(
            none(),
            &Image::with(&[("/usr/lib/modules/6.2.0/vmlinuz", "")]),
        ),
        problems(
            none(),
            &Image::with(&[]).without("/usr/lib/systemd/systemd"),
        ),
        problems(none(), &Image::with(&[]).without("/sysroot/.keep")),
        problems(none(), &Image::with(&[]).without("/ostree")),
    ];
    insta::assert_snapshot!(found.join("\n"), @r"
    image: there is no kernel at `/usr/lib/modules/<release>/vmlinuz`; start from a bootable base image
    image: there is more than one kernel (`6.1.0`, `6.2.0`) in `/usr/lib/modules`; remove the packages of all but one in the Containerfile
    image: there is no systemd at `/usr/lib/systemd/systemd`; start from a bootable base image
    image: there is no directory `/sysroot`, where ostree mounts the disk; keep it, or start from a bootable base image
    image: `/ostree` is not a link to `sysroot/ostree`; keep it, or start from a bootable base image
    ");
}
