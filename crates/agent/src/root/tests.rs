#![allow(clippy::unwrap_used)]
use super::*;

struct Tree {
    outer: tempfile::TempDir,
    root: Root,
}

fn tree() -> Tree {
    let outer = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(outer.path().join("root")).unwrap();
    std::fs::create_dir(&path).unwrap();
    let root = Root::open(&path).unwrap();
    Tree { outer, root }
}

fn mine(mode: u32) -> Access {
    Access {
        mode,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    }
}

#[test]
fn write_makes_parents_and_says_whether_it_changed_anything() {
    let t = tree();
    let path = Utf8Path::new("/etc/a/b.conf");
    assert!(t.root.write(path, b"one", mine(0o640)).unwrap());
    assert!(!t.root.write(path, b"one", mine(0o640)).unwrap());
    assert!(t.root.write(path, b"one", mine(0o600)).unwrap());
    assert!(t.root.write(path, b"two", mine(0o600)).unwrap());
    let found = t.root.find(path).unwrap();
    assert_eq!(
        found,
        Found::File {
            bytes: b"two".to_vec(),
            access: mine(0o600)
        }
    );
    let names: Vec<_> = std::fs::read_dir(t.root.path().join("etc/a"))
        .unwrap()
        .collect();
    assert_eq!(names.len(), 1, "no temporary file stays: {names:?}");
}

#[test]
fn a_link_in_the_tree_cannot_lead_a_write_out_of_it() {
    let t = tree();
    let outside = t.outer.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(t.root.path().join("etc")).unwrap();
    for (name, target) in [
        ("absolute", outside.to_str().unwrap()),
        ("dots", "../../../../outside"),
    ] {
        std::os::unix::fs::symlink(target, t.root.path().join("etc").join(name)).unwrap();
        let path = Utf8PathBuf::from(format!("/etc/{name}/x"));
        t.root.write(&path, b"x", mine(0o644)).unwrap();
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_link_at_the_end_is_replaced_and_its_target_kept() {
    let t = tree();
    let secret = t.outer.path().join("secret");
    std::fs::write(&secret, "keep").unwrap();
    std::os::unix::fs::symlink(&secret, t.root.path().join("motd")).unwrap();
    t.root
        .write(Utf8Path::new("/motd"), b"new", mine(0o644))
        .unwrap();
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "keep");
    assert!(matches!(
        t.root.find(Utf8Path::new("/motd")).unwrap(),
        Found::File { .. }
    ));
}

#[test]
fn directories_behind_dangling_links_are_made_in_the_root() {
    let t = tree();
    std::fs::create_dir(t.root.path().join("usr")).unwrap();
    std::os::unix::fs::symlink("../var/usrlocal", t.root.path().join("usr/local")).unwrap();
    std::os::unix::fs::symlink("/var/opt", t.root.path().join("opt")).unwrap();
    t.root
        .write(Utf8Path::new("/usr/local/bin/tool"), b"#!", mine(0o755))
        .unwrap();
    t.root
        .write(Utf8Path::new("/opt/x"), b"x", mine(0o644))
        .unwrap();
    assert!(t.root.path().join("var/usrlocal/bin/tool").is_file());
    assert!(t.root.path().join("var/opt/x").is_file());
    let real = t
        .root
        .real_parent(Utf8Path::new("/usr/local/bin/tool"))
        .unwrap();
    assert_eq!(real.unwrap(), "/var/usrlocal/bin");
}

#[test]
fn a_link_to_itself_is_an_error() {
    let t = tree();
    std::os::unix::fs::symlink("loop", t.root.path().join("loop")).unwrap();
    assert!(
        t.root
            .write(Utf8Path::new("/loop/x"), b"x", mine(0o644))
            .is_err()
    );
}

#[test]
fn remove_leaves_directories_with_content() {
    let t = tree();
    t.root
        .write(Utf8Path::new("/etc/d/x"), b"x", mine(0o644))
        .unwrap();
    assert!(!t.root.remove(Utf8Path::new("/etc/d")).unwrap());
    assert!(t.root.remove(Utf8Path::new("/etc/d/x")).unwrap());
    assert!(t.root.remove(Utf8Path::new("/etc/d")).unwrap());
    assert!(!t.root.remove(Utf8Path::new("/etc/d")).unwrap());
    assert!(!t.root.remove(Utf8Path::new("/nowhere/x")).unwrap());
}

fn link(target: &str) -> Found {
    Found::Link {
        target: target.to_owned(),
        uid: mine(0).uid,
        gid: mine(0).gid,
    }
}

/// Puts it there; whether that changed anything.
fn place(root: &Root, path: &str, wanted: &Found) -> bool {
    let path = Utf8Path::new(path);
    let changed = root.stage(path, wanted, &Keep::Present).unwrap();
    if changed {
        root.put(path).unwrap();
    }
    assert_eq!(root.find(path).unwrap(), *wanted);
    changed
}

#[test]
fn links_and_directories_are_idempotent() {
    let t = tree();
    let directory = Utf8Path::new("/etc/dir/sub");
    for expected in [true, false] {
        assert_eq!(place(&t.root, "/etc/s", &link("a")), expected);
        let changed = t.root.directory(directory, mine(0o750), &Keep::Present);
        assert_eq!(changed.unwrap(), expected);
    }
}

#[test]
fn kinds_give_way_to_each_other_but_content_stays() {
    let t = tree();
    let file = Found::File {
        bytes: b"x".to_vec(),
        access: mine(0o644),
    };
    let directory = Found::Directory {
        access: mine(0o755),
    };
    for wanted in [
        &file,
        &link("a"),
        &directory,
        &link("b"),
        &file,
        &directory,
        &file,
    ] {
        assert!(place(&t.root, "/etc/x", wanted));
    }
    place(&t.root, "/etc/y/inside", &file);
    let path = Utf8Path::new("/etc/y");
    assert!(t.root.stage(path, &file, &Keep::Present).unwrap());
    assert!(t.root.put(path).is_err());
    t.root.discard(path).unwrap();
    let names: Vec<_> = std::fs::read_dir(t.root.path().join("etc"))
        .unwrap()
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn what_was_made_for_a_place_and_never_put_there_goes() {
    let t = tree();
    let path = Utf8Path::new("/etc/x");
    t.root.write(path, b"old", mine(0o644)).unwrap();
    let wanted = Found::File {
        bytes: b"new".to_vec(),
        access: mine(0o644),
    };
    for removed in [false, true] {
        assert!(t.root.stage(path, &wanted, &Keep::Present).unwrap());
        let changed = match removed {
            true => t.root.remove(path),
            false => t.root.write(path, b"old", mine(0o644)),
        };
        assert_eq!(changed.unwrap(), removed);
        let names = std::fs::read_dir(t.root.path().join("etc")).unwrap();
        assert!(names.flatten().all(|entry| entry.file_name() == "x"));
    }
}

#[test]
fn attributes_outlive_a_replacement_and_come_back_exactly() {
    let t = tree();
    let path = Utf8Path::new("/etc/x");
    t.root.write(path, b"one", mine(0o644)).unwrap();
    let real = t.root.path().join("etc/x");
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(real.as_str(), "user.note", b"mine", flags).is_err() {
        // This file system keeps no attributes of users.
        return;
    }
    let before = t.root.attributes(path).unwrap();
    t.root.write(path, b"two", mine(0o600)).unwrap();
    assert_eq!(t.root.attributes(path).unwrap(), before);
    rustix::fs::setxattr(real.as_str(), "user.other", b"x", flags).unwrap();
    let wanted = Found::File {
        bytes: b"two".to_vec(),
        access: mine(0o600),
    };
    let exactly = Keep::Exactly(before.clone());
    assert!(t.root.stage(path, &wanted, &exactly).unwrap());
    t.root.put(path).unwrap();
    assert_eq!(t.root.attributes(path).unwrap(), before);
    assert!(!t.root.stage(path, &wanted, &exactly).unwrap());
    let text = serde_json::to_string(&before).unwrap();
    assert_eq!(serde_json::from_str::<Attributes>(&text).unwrap(), before);
}
