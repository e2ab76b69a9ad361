#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use model::update::Version;
use serde_json::{Value, json};

use super::*;
use crate::tests::kill;

struct Tree {
    _dir: tempfile::TempDir,
    root: Root,
    state: State,
}

const SERVICE: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

fn tree() -> Tree {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap();
    let files = [
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\ncore:x:1000:1000::/home/core:/bin/sh\n",
        ),
        ("etc/shadow", "core:!:1::::::\n"),
        ("etc/hand.conf", "by hand"),
        ("etc/vendor.conf", "vendor"),
        ("usr/etc/vendor.conf", "vendor"),
        // Without any preset systemd enables everything.
        ("usr/lib/systemd/system-preset/99-off.preset", "disable *\n"),
        ("usr/lib/systemd/system/image.service", SERVICE),
        ("usr/lib/systemd/system/spare@.service", SERVICE),
    ];
    for (name, text) in files {
        let place = path.join("root").join(name);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, text).unwrap();
    }
    let root = Root::open(&path.join("root")).unwrap();
    let state = State::open(&path.join("state")).unwrap();
    Tree {
        _dir: dir,
        root,
        state,
    }
}

fn version(name: &str, mut config: Value) -> Version {
    config["ignition"] = json!({"version": "3.4.0"});
    if config["storage"].is_null() {
        config["storage"] = json!({});
    }
    let spec = serde_json::from_value(json!({"config": config})).unwrap();
    Version::new(name, &spec, None).unwrap()
}

fn file(path: &str, text: &str) -> Value {
    json!({"path": path, "contents": {"source": format!("data:,{text}")}})
}

/// Everything below a root: mode, and text, target or nothing.
fn listing(root: &Root) -> BTreeMap<String, String> {
    fn walk(dir: &Utf8Path, inside: &str, found: &mut BTreeMap<String, String>) {
        for entry in dir.read_dir_utf8().unwrap() {
            let entry = entry.unwrap();
            let name = format!("{inside}/{}", entry.file_name());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                walk(entry.path(), &name, found);
            } else if kind.is_symlink() {
                found.insert(
                    name,
                    format!("-> {}", entry.path().read_link_utf8().unwrap()),
                );
            } else {
                found.insert(name, std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root.path(), "", &mut found);
    found
}

fn apply(tree: &Tree, from: &[&Version], to: &Version) {
    for places in [Places::Running, Places::Shared] {
        configure(&tree.root, &tree.state, from, to, places).unwrap();
    }
}

fn full() -> Version {
    version(
        "full",
        json!({
            "storage": {
                "files": [file("/etc/hand.conf", "ours"), file("/etc/vendor.conf", "ours"), file("/etc/a/b", "ours"), file("/var/x", "ours")],
                "directories": [{"path": "/etc/dir", "mode": 0o750}],
                "links": [{"path": "/etc/link", "target": "a/b"}],
            },
            "systemd": {"units": [
                {"name": "own.service", "enabled": true, "contents": SERVICE},
                {"name": "image.service", "enabled": true, "dropins": [{"name": "x.conf", "contents": "[Unit]\n"}]},
                {"name": "spare@one.service", "enabled": true},
                {"name": "masked.service", "mask": true},
            ]},
            "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Q1F5v8bq3J4m8eV8y5vJ7l3aYt0fQm2Zb1n9kXo7e someone"], "passwordHash": "$6$x"}]},
        }),
    )
}

#[test]
fn everything_is_written_and_everything_goes_again() {
    let tree = tree();
    let before = listing(&tree.root);
    let (nothing, full) = (Version::default(), full());
    apply(&tree, &[&nothing], &full);
    let paths: Vec<String> = listing(&tree.root)
        .into_iter()
        .filter(|(path, text)| before.get(path) != Some(text))
        .map(|(path, text)| {
            format!(
                "{path} {}",
                text.lines()
                    .next()
                    .unwrap_or_default()
                    .split(' ')
                    .take(2)
                    .collect::<Vec<_>>()
                    .join(" ")
            )
        })
        .collect();
    insta::assert_snapshot!(paths.join("\n"), @r"
    /etc/a/b ours
    /etc/hand.conf ours
    /etc/link -> a/b
    /etc/shadow core:$6$x:1::::::
    /etc/systemd/system/image.service.d/x.conf [Unit]
    /etc/systemd/system/masked.service -> /dev/null
    /etc/systemd/system/multi-user.target.wants/image.service -> /usr/lib/systemd/system/image.service
    /etc/systemd/system/multi-user.target.wants/own.service -> /etc/systemd/system/own.service
    /etc/systemd/system/multi-user.target.wants/spare@one.service -> /usr/lib/systemd/system/spare@.service
    /etc/systemd/system/own.service [Service]
    /etc/vendor.conf ours
    /home/core/.ssh/authorized_keys ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Q1F5v8bq3J4m8eV8y5vJ7l3aYt0fQm2Zb1n9kXo7e
    /var/x ours
    ");
    assert_eq!(
        differences(&tree.root, &full).unwrap(),
        Vec::<Utf8PathBuf>::new()
    );

    apply(&tree, &[&full], &nothing);
    let mut after = listing(&tree.root);
    // A password stays: no config says what it should be.
    after.insert("/etc/shadow".to_owned(), before["/etc/shadow"].clone());
    assert_eq!(after, before);
    forget_originals(&tree.root, &tree.state, &[full]).unwrap();
    assert_eq!(tree.state.originals().unwrap(), ["/etc/hand.conf"]);
    forget_originals(&tree.root, &tree.state, &[nothing]).unwrap();
    assert!(tree.state.originals().unwrap().is_empty());
}

#[test]
fn drift_is_found() {
    let tree = tree();
    let full = full();
    apply(&tree, &[], &full);
    std::fs::write(tree.root.path().join("etc/a/b"), "changed").unwrap();
    std::fs::remove_file(tree.root.path().join("etc/systemd/system/masked.service")).unwrap();
    let found: Vec<String> = differences(&tree.root, &full)
        .unwrap()
        .into_iter()
        .map(String::from)
        .collect();
    assert_eq!(found, ["/etc/a/b", "/etc/systemd/system/masked.service"]);
}

#[test]
fn killed_at_every_file_operation_it_ends_the_same() {
    let (nothing, full) = (Version::default(), full());
    let calm = tree();
    let before = listing(&calm.root);
    apply(&calm, &[&nothing], &full);
    let expected = listing(&calm.root);
    for writes in 0.. {
        let tree = tree();
        let run = |from: &[&Version], to: &Version| {
            kill::after_writes(Some(writes));
            let done =
                std::panic::catch_unwind(AssertUnwindSafe(|| apply(&tree, from, to))).is_ok();
            kill::after_writes(None);
            done
        };
        if run(&[&nothing], &full) {
            assert!(writes > 10, "only {writes} file operations");
            break;
        }
        let half = listing(&tree.root);
        let whole = |(path, text): (&String, &String)| {
            let known = [before.get(path), expected.get(path)];
            known.contains(&Some(text)) || path.contains("/.caprock-")
        };
        assert!(
            half.iter().all(whole),
            "after {writes} operations: {half:?}"
        );
        apply(&tree, &[&nothing], &full);
        assert_eq!(
            listing(&tree.root),
            expected,
            "resumed after {writes} operations"
        );

        // Cut short again on the way back, which then is the way.
        if !run(&[&full], &nothing) {
            apply(&tree, &[&full], &nothing);
        }
        let mut after = listing(&tree.root);
        after.insert("/etc/shadow".to_owned(), before["/etc/shadow"].clone());
        assert_eq!(after, before, "undone after {writes} operations");
    }
}

#[test]
fn a_new_deployment_is_not_written_outside_its_etc() {
    let tree = tree();
    std::os::unix::fs::symlink("/var/outside", tree.root.path().join("etc/away")).unwrap();
    std::fs::create_dir_all(tree.root.path().join("var/outside")).unwrap();
    let to = version(
        "to",
        json!({"storage": {"files": [file("/etc/away/x", "x")]}}),
    );
    let error = configure(&tree.root, &tree.state, &[], &to, Places::NewDeployment)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "`/etc/away/x` leads to `/var/outside`, which is not part of the deployment"
    );
}

#[test]
fn owners_that_the_root_does_not_have_are_named() {
    let tree = tree();
    let mut to = version("to", json!({"storage": {"files": [file("/etc/x", "x")]}}));
    to.ignition.nodes[0].user = Some(model::ignition::Owner::Name("nobody-here".to_owned()));
    let error = configure(&tree.root, &tree.state, &[], &to, Places::Running)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("user `nobody-here` of `/etc/x` is not in the image"),
        "{error}"
    );
}
