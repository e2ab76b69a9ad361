#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use tokio::sync::Notify;

use super::*;
use crate::root::{Access, Found};

fn file(text: &str, mode: u32) -> Found {
    Found::File {
        bytes: text.into(),
        access: Access {
            mode,
            uid: 0,
            gid: 0,
        },
    }
}

fn link(target: &str) -> Found {
    Found::Link {
        target: target.to_owned(),
        uid: 0,
        gid: 0,
    }
}

#[track_caller]
fn check(wanted: Found, found: Found, expected: &str) {
    let difference = Difference {
        path: "/etc/x".into(),
        wanted,
        found,
        secret: false,
    };
    assert_eq!(describe(&[difference]), expected);
}

#[test]
fn drift_is_told_in_a_line() {
    check(file("a\n", 0o644), Found::Nothing, "`/etc/x` is gone");
    check(
        file("a\n", 0o644),
        link("/b"),
        "`/etc/x` is a link, not a file",
    );
    check(
        file("a\n", 0o644),
        file("a\n", 0o600),
        "`/etc/x` has mode 0600, not 0644",
    );
    check(link("/a"), link("/b"), "`/etc/x` leads to `/b`, not `/a`");
    check(
        file("keep\none\n", 0o644),
        file("keep\ntwo\n", 0o644),
        "`/etc/x` has other content: `-one` `+two`",
    );
    check(
        file("", 0o644),
        file(&"line\n".repeat(100), 0o644),
        "`/etc/x` has other content: `+line` `+line` `+line` `+line` `+line` `+line` and 94 more lines",
    );
    let many = Difference {
        path: "/etc/x".into(),
        wanted: file("a", 0o644),
        found: Found::Nothing,
        secret: false,
    };
    let text = describe(&vec![many; 7]);
    assert!(text.ends_with("; and 2 more"), "{text}");
}

#[test]
fn secrets_stay_out_of_it() {
    let hidden = "`/etc/x` has other content (not shown, for not everybody may read it)";
    check(file("pin=1\n", 0o600), file("pin=2\n", 0o600), hidden);
    check(file("pin=1\n", 0o600), file("pin=2\n", 0o644), hidden);
    check(file("pin=1\n", 0o644), file("pin=2\n", 0o600), hidden);
    check(
        file("Password = hunter2\nuser=x\n", 0o644),
        file("user=y\n", 0o644),
        "`/etc/x` has other content: `-(a line that is not shown)` `-user=x` `+user=y`",
    );
    check(
        Found::File {
            bytes: vec![0xff],
            access: Access {
                mode: 0o644,
                uid: 0,
                gid: 0,
            },
        },
        file("x", 0o644),
        "`/etc/x` has other content (not text)",
    );
    let secret = Difference {
        path: "/etc/x".into(),
        wanted: file("pin=1\n", 0o644),
        found: file("pin=2\n", 0o644),
        secret: true,
    };
    assert_eq!(describe(&[secret]), hidden);
    let long = file(&"y".repeat(10_000), 0o644);
    let difference = Difference {
        path: "/etc/x".into(),
        wanted: file("", 0o644),
        found: long,
        secret: false,
    };
    assert!(describe(&[difference]).len() < 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_what_is_ours_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(dir.path()).unwrap();
    std::fs::create_dir(root.join("etc")).unwrap();
    let paths = BTreeSet::from(["/etc/motd".into(), "/etc/absent/x".into()]);
    let changed = Arc::new(Notify::new());
    let watch = Watch::new(root, &paths, changed.clone()).unwrap();
    assert!(watch.is_at(&paths));
    let heard = async |what: &str| {
        let heard = tokio::time::timeout(Duration::from_secs(60), changed.notified()).await;
        assert!(heard.is_ok(), "{what}");
    };
    std::fs::write(root.join("etc/motd"), "one").unwrap();
    heard("a new file").await;
    std::fs::write(root.join("etc/new"), "two").unwrap();
    std::fs::rename(root.join("etc/new"), root.join("etc/motd")).unwrap();
    heard("a file that took its place").await;
    std::fs::remove_file(root.join("etc/motd")).unwrap();
    heard("a file that is gone").await;
}
