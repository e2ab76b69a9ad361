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

#[test]
fn links_and_hard_links_are_idempotent() {
    let t = tree();
    let (uid, gid) = (mine(0).uid, mine(0).gid);
    t.root
        .write(Utf8Path::new("/etc/a"), b"x", mine(0o644))
        .unwrap();
    for (expected, _) in [(true, ()), (false, ())] {
        assert_eq!(
            t.root
                .symlink(Utf8Path::new("/etc/s"), "a", uid, gid)
                .unwrap(),
            expected
        );
        assert_eq!(
            t.root
                .hard_link(Utf8Path::new("/etc/h"), Utf8Path::new("/etc/a"))
                .unwrap(),
            expected
        );
    }
    let access = mine(0o750);
    assert!(
        t.root
            .directory(Utf8Path::new("/etc/dir/sub"), access)
            .unwrap()
    );
    assert!(
        !t.root
            .directory(Utf8Path::new("/etc/dir/sub"), access)
            .unwrap()
    );
}
