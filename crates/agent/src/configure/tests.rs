#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use model::update::Version;
use serde_json::{Value, json};

use super::*;
use crate::tests::kill;
use crate::tests::tree::{assert_same, tree as listing};

mod properties;

struct Tree {
    dir: tempfile::TempDir,
    root: Root,
    state: State,
}

impl Tree {
    /// Everything in the root.
    fn listing(&self) -> BTreeMap<String, String> {
        listing(self.root.path())
    }

    /// Nothing that was only begun lies around, in the root or in the agent's own state.
    fn assert_tidy(&self, when: &str) {
        self.state.sweep().unwrap();
        let all = listing(Utf8Path::from_path(self.dir.path()).unwrap());
        let left: Vec<&String> = all
            .keys()
            .filter(|path| path.contains("/.caprock-"))
            .collect();
        assert!(left.is_empty(), "{when}: {left:?}");
    }
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
        ("etc/.pwd.lock", ""),
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
    for dir in ["home", "var"] {
        std::fs::create_dir(path.join("root").join(dir)).unwrap();
    }
    let root = Root::open(&path.join("root")).unwrap();
    let state = State::open(&path.join("state")).unwrap();
    Tree { dir, root, state }
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
    let before = tree.listing();
    let (nothing, full) = (Version::default(), full());
    apply(&tree, &[&nothing], &full);
    let paths: Vec<String> = tree
        .listing()
        .into_iter()
        .filter(|(path, text)| before.get(path) != Some(text))
        .map(|(path, text)| {
            let words: Vec<&str> = text.lines().next().unwrap_or_default().split(' ').collect();
            // Owners and attributes depend on who runs the test and where.
            let shown = words.iter().skip(3).take(2).copied().collect::<Vec<_>>();
            format!("{} {path} {}", words[0], shown.join(" "))
        })
        .collect();
    insta::assert_snapshot!(paths.join("\n"), @r"
    40755 /etc/a /
    100644 /etc/a/b ours
    40750 /etc/dir /
    100644 /etc/hand.conf ours
    120777 /etc/link -> a/b
    100644 /etc/shadow core:$6$x:1::::::
    40755 /etc/systemd /
    40755 /etc/systemd/system /
    40755 /etc/systemd/system/image.service.d /
    100644 /etc/systemd/system/image.service.d/x.conf [Unit]
    120777 /etc/systemd/system/masked.service -> /dev/null
    40755 /etc/systemd/system/multi-user.target.wants /
    120777 /etc/systemd/system/multi-user.target.wants/image.service -> /usr/lib/systemd/system/image.service
    120777 /etc/systemd/system/multi-user.target.wants/own.service -> /etc/systemd/system/own.service
    120777 /etc/systemd/system/multi-user.target.wants/spare@one.service -> /usr/lib/systemd/system/spare@.service
    100644 /etc/systemd/system/own.service [Service]
    100644 /etc/vendor.conf ours
    40700 /home/core /
    40700 /home/core/.ssh /
    100600 /home/core/.ssh/authorized_keys ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Q1F5v8bq3J4m8eV8y5vJ7l3aYt0fQm2Zb1n9kXo7e
    100644 /var/x ours
    ");
    assert_eq!(
        differences(&tree.root, &full).unwrap(),
        Vec::<Difference>::new()
    );

    apply(&tree, &[&full], &nothing);
    assert_same(&tree.listing(), &before, "back");
    forget_originals(&tree.root, &tree.state, &[full]).unwrap();
    let taken = tree.state.originals().unwrap();
    assert!(taken.paths.contains_key(Utf8Path::new("/etc/hand.conf")));
    forget_originals(&tree.root, &tree.state, &[nothing]).unwrap();
    assert_eq!(tree.state.originals().unwrap(), Default::default());
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
        .map(|difference| difference.path.into_string())
        .collect();
    assert_eq!(found, ["/etc/a/b", "/etc/systemd/system/masked.service"]);
}

#[test]
fn killed_at_every_file_operation_it_ends_the_same() {
    let (nothing, full) = (Version::default(), full());
    let calm = tree();
    let before = calm.listing();
    apply(&calm, &[&nothing], &full);
    let expected = calm.listing();
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
        let half = tree.listing();
        let whole = |(path, text): (&String, &String)| {
            let known = [before.get(path), expected.get(path)];
            known.contains(&Some(text)) || path.contains("/.caprock-")
        };
        assert!(
            half.iter().all(whole),
            "after {writes} operations: {half:?}"
        );
        apply(&tree, &[&nothing, &full], &full);
        assert_same(
            &tree.listing(),
            &expected,
            &format!("resumed after {writes}"),
        );

        // Cut short again on the way back, which then is the way.
        if !run(&[&full], &nothing) {
            apply(&tree, &[&full, &nothing], &nothing);
        }
        assert_same(&tree.listing(), &before, &format!("undone after {writes}"));
        tree.assert_tidy("in the end");
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

#[test]
fn core_is_made_where_there_is_none_and_goes_again() {
    let tree = tree();
    let etc = tree.root.path().join("etc");
    for (name, text) in [
        (
            "passwd",
            "root:x:0:0::/root:/bin/sh\nsomeone:x:1000:1000::/home/someone:/bin/sh\n",
        ),
        (
            "group",
            "root:x:0:\nadm:x:4:syslog\nwheel:x:10:\nsomeone:x:1000:\n",
        ),
        ("gshadow", "root:*::\nadm:*::syslog\n"),
        ("shadow", "root:*:1::::::\n"),
    ] {
        std::fs::write(etc.join(name), text).unwrap();
    }
    let before = tree.listing();
    let full = full();
    apply(&tree, &[], &full);
    let read = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap();
    let last = |name: &str| read(name).lines().last().unwrap().to_owned();
    assert_eq!(
        last("passwd"),
        "core:x:1001:1001:CoreOS Admin:/home/core:/bin/sh"
    );
    assert_eq!(
        read("group"),
        "root:x:0:\nadm:x:4:syslog,core\nwheel:x:10:core\nsomeone:x:1000:\ncore:x:1001:\n"
    );
    assert_eq!(read("gshadow"), "root:*::\nadm:*::syslog,core\ncore:!::\n");
    assert_eq!(last("shadow"), "core:$6$x:::::::");
    assert!(
        tree.root
            .path()
            .join("home/core/.ssh/authorized_keys")
            .is_file()
    );
    let once = tree.listing();
    apply(&tree, &[&full], &full);
    assert_same(&tree.listing(), &once, "again");
    apply(&tree, &[&full], &Version::default());
    assert_same(&tree.listing(), &before, "back");
}

#[test]
fn a_password_becomes_what_it_was() {
    let tree = tree();
    let before = tree.listing();
    let full = full();
    let mut keys_only = full.clone();
    keys_only.ignition.core.password_hash = None;
    apply(&tree, &[], &keys_only);
    let without = tree.listing();
    apply(&tree, &[&keys_only], &full);
    apply(&tree, &[&full], &keys_only);
    assert_same(&tree.listing(), &without, "back to keys alone");
    apply(&tree, &[&keys_only], &Version::default());
    assert_same(&tree.listing(), &before, "back");
}

#[test]
fn originals_outlive_a_run_that_was_cut_short() {
    let tree = tree();
    let before = tree.listing();
    let (one, two) = (
        version(
            "one",
            json!({"storage": {"files": [file("/etc/hand.conf", "one")]}}),
        ),
        version(
            "two",
            json!({"storage": {"files": [file("/etc/hand.conf", "two")]}}),
        ),
    );
    // `one` was begun, and killed before it wrote anything.
    apply(&tree, &[&one], &two);
    apply(&tree, &[&two], &Version::default());
    assert_same(&tree.listing(), &before, "back");
}

#[test]
fn units_start_again_as_they_did_before() {
    let tree = tree();
    let wants = tree.root.path().join("etc/systemd/system/own.target.wants");
    std::fs::create_dir_all(&wants).unwrap();
    std::os::unix::fs::symlink(
        "/usr/lib/systemd/system/image.service",
        wants.join("image.service"),
    )
    .unwrap();
    let before = tree.listing();
    for units in [
        json!([{"name": "image.service", "enabled": false}]),
        json!([{"name": "image.service", "enabled": true}]),
        json!([{"name": "image.service", "mask": true}]),
    ] {
        let to = version("to", json!({"systemd": {"units": units}}));
        apply(&tree, &[], &to);
        assert_ne!(tree.listing(), before);
        apply(&tree, &[&to], &Version::default());
        assert_same(&tree.listing(), &before, &format!("after {units}"));
    }
}

/// A deployment is found below `/ostree`, which is a link.
#[test]
fn a_unit_with_a_drop_in_is_enabled_in_a_root_behind_a_link() {
    let mut tree = tree();
    let drop_ins = tree
        .root
        .path()
        .join("usr/lib/systemd/system/image.service.d");
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("x.conf"), "[Unit]\nDescription=x\n").unwrap();
    let link = Utf8Path::from_path(tree.dir.path()).unwrap().join("link");
    std::os::unix::fs::symlink(tree.dir.path(), &link).unwrap();
    tree.root = Root::open(&link.join("root")).unwrap();
    let units = json!([{"name": "image.service", "enabled": true}]);
    apply(
        &tree,
        &[],
        &version("to", json!({"systemd": {"units": units}})),
    );
    let wants = "etc/systemd/system/multi-user.target.wants/image.service";
    assert!(tree.root.path().join(wants).is_symlink());
}

#[test]
fn devices_are_left_alone() {
    let tree = tree();
    let place = tree.root.path().join("etc/pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, place.as_std_path(), 0o600.into()).unwrap();
    let to = version(
        "to",
        json!({"storage": {"files": [file("/etc/pipe", "x")]}}),
    );
    let error = configure(&tree.root, &tree.state, &[], &to, Places::Running).unwrap_err();
    assert!(
        error.to_string().starts_with("`/etc/pipe` is a device"),
        "{error}"
    );
}

/// With the system's own tool; needs `matchpathcon`, and root to set labels.
#[test]
fn privileged_new_files_get_the_label_of_the_roots_policy() {
    if !crate::tests::privileged("matchpathcon") {
        return;
    }
    let tree = tree();
    let policy = tree.root.path().join("etc/selinux");
    let rules = policy.join("test/contexts/files/file_contexts");
    std::fs::create_dir_all(rules.parent().unwrap()).unwrap();
    std::fs::write(
        policy.join("config"),
        "SELINUX=enforcing\nSELINUXTYPE=test\n",
    )
    .unwrap();
    let text = "/etc(/.*)?\tsystem_u:object_r:etc_t:s0\n\
        /etc/chrony\\.conf\t--\tsystem_u:object_r:chrony_conf_t:s0\n\
        /etc/free(/.*)?\t<<none>>\n";
    std::fs::write(&rules, text).unwrap();
    let to = version(
        "to",
        json!({"storage": {
            "files": [file("/etc/chrony.conf", "x"), file("/etc/hand.conf", "x"), file("/etc/free/x", "x")],
            "links": [{"path": "/etc/link", "target": "x"}],
        }}),
    );
    let label = |path: &str| {
        let text =
            serde_json::to_value(tree.root.attributes(Utf8Path::new(path)).unwrap()).unwrap();
        text.get("security.selinux").map(|value| {
            use base64::Engine;
            let engine = base64::engine::general_purpose::STANDARD;
            let bytes = engine.decode(value.as_str().unwrap()).unwrap();
            String::from_utf8(bytes).unwrap()
        })
    };
    let hand = tree.root.path().join("etc/hand.conf");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(hand.as_str(), "security.selinux", b"own_t\0", flags).unwrap();
    let labels = Labels::by_config(&tree.root).unwrap();
    let change = prepare_with(&labels, &tree.root, &tree.state, &[], &to, Places::Running).unwrap();
    change.finish().unwrap();
    assert_eq!(
        label("/etc/chrony.conf").unwrap(),
        "system_u:object_r:chrony_conf_t:s0\0"
    );
    assert_eq!(label("/etc/link").unwrap(), "system_u:object_r:etc_t:s0\0");
    assert_eq!(label("/etc/hand.conf").unwrap(), "own_t\0");
    assert_eq!(label("/etc/free/x"), None);
}
