//! What holds for any two configs.

use proptest::prelude::*;

use super::*;

/// Places where files, directories and links meet each other, what was there before, and links of the system.
const PATHS: [&str; 9] = [
    "/etc/hand.conf",
    "/etc/vendor.conf",
    "/etc/full",
    "/etc/full/own",
    "/etc/a",
    "/etc/a/b",
    "/etc/a/b/c",
    "/var/lib/x/y",
    "/usr/local/bin/tool",
];

/// The usual tree, with an old directory that has content and a mode of its own, and the links of an ostree host.
fn rich_tree() -> Tree {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let tree = tree();
    let root = tree.root.path();
    std::fs::create_dir(root.join("etc/full")).unwrap();
    std::fs::write(root.join("etc/full/theirs"), "theirs").unwrap();
    let mode = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(root.join("etc/full"), mode).unwrap();
    for dir in ["etc/systemd/system", "var/lib", "var/usrlocal/bin"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    symlink("../var/usrlocal", root.join("usr/local")).unwrap();
    tree
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    File,
    Directory,
    Link,
}

fn any_version(name: &'static str) -> impl Strategy<Value = Version> {
    let kind = prop_oneof![
        3 => Just(Kind::File),
        1 => Just(Kind::Directory),
        1 => Just(Kind::Link),
    ];
    let node = (kind, 0..3_usize, prop_oneof![Just(0o600), Just(0o755)]);
    let nodes = proptest::collection::vec(proptest::option::of(node), PATHS.len());
    let keys = any::<bool>();
    (nodes, keys).prop_map(move |(nodes, keys)| {
        let mut storage = json!({"files": [], "directories": [], "links": []});
        let mut closed: Vec<&str> = Vec::new();
        for (path, node) in PATHS.iter().zip(nodes) {
            let Some((kind, text, mode)) = node else {
                continue;
            };
            // No config has anything below its own file or link.
            if closed
                .iter()
                .any(|above| Utf8Path::new(path).starts_with(above))
            {
                continue;
            }
            let text = ["one", "two", "three"][text];
            let (list, entry) = match kind {
                Kind::File => {
                    let mut entry = file(path, text);
                    entry["mode"] = mode.into();
                    ("files", entry)
                }
                Kind::Directory => ("directories", json!({"path": path, "mode": mode})),
                Kind::Link => ("links", json!({"path": path, "target": text})),
            };
            if !matches!(kind, Kind::Directory) {
                closed.push(path);
            }
            storage[list].as_array_mut().unwrap().push(entry);
        }
        let mut config = json!({"storage": storage});
        if keys {
            config["passwd"] = json!({"users": [{"name": "core", "passwordHash": "$6$x"}]});
        }
        version(name, config)
    })
}

fn try_apply(tree: &Tree, from: &[&Version], to: &Version) -> Result<bool, ConfigureError> {
    let running = configure(&tree.root, &tree.state, from, to, Places::Running)?;
    let shared = configure(&tree.root, &tree.state, from, to, Places::Shared)?;
    Ok(running || shared)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_way_leads_back(one in any_version("one"), two in any_version("two"), kill in 0..40_u32) {
        let tree = rich_tree();
        let before = tree.listing();
        let nothing = Version::default();
        // Not every config can be applied here: a directory with content stays. Then it is undone.
        if try_apply(&tree, &[], &one).is_err() {
            apply(&tree, &[&one], &nothing);
            assert_same(&tree.listing(), &before, "one was undone");
            return Ok(());
        }
        let at_one = tree.listing();
        prop_assert!(!try_apply(&tree, &[&one], &one).unwrap(), "again changes nothing");

        // Killed somewhere, and then finished, or undone where it cannot be.
        kill::after_writes(Some(kill));
        let run = std::panic::catch_unwind(AssertUnwindSafe(|| try_apply(&tree, &[&one], &two)));
        kill::after_writes(None);
        drop(run);
        if try_apply(&tree, &[&one, &two], &two).is_ok() {
            let calm = rich_tree();
            try_apply(&calm, &[], &one).unwrap();
            try_apply(&calm, &[&one], &two).unwrap();
            assert_same(&tree.listing(), &calm.listing(), "finished");
            tree.assert_tidy("finished");
        }
        apply(&tree, &[&one, &two], &one);
        assert_same(&tree.listing(), &at_one, "back at one");
        apply(&tree, &[&one], &nothing);
        assert_same(&tree.listing(), &before, "back at nothing");
        tree.assert_tidy("in the end");
    }
}
