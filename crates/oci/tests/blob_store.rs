//! The blob store under several writers, and writers that are killed.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use common::blob;
use oci::{BlobStore, Digest, StoreError};

/// The names of what is in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

/// Every visible blob is whole.
fn check_whole(dir: &Path) -> usize {
    let blobs = names(&dir.join("blobs/sha256"));
    for name in &blobs {
        let content = fs::read(dir.join("blobs/sha256").join(name)).unwrap();
        assert_eq!(Digest::of(&content).hex(), *name);
    }
    blobs.len()
}

#[test]
fn a_blob_is_there_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let digest = Digest::of(b"content");
    assert!(!store.has(&digest));
    assert!(
        matches!(store.open_blob(&digest), Err(StoreError::Missing(missing)) if missing == digest)
    );
    assert!(matches!(store.size(&digest), Err(StoreError::Missing(_))));

    let mut writer = store.writer().unwrap();
    writer.write_all(b"con").unwrap();
    writer.write_all(b"tent").unwrap();
    assert_eq!(writer.written(), 7);
    assert!(!store.has(&digest));
    assert_eq!(writer.commit(Some(&digest)).unwrap(), digest);
    assert_eq!(
        (store.has(&digest), store.size(&digest).unwrap()),
        (true, 7)
    );
    assert_eq!(store.read(&digest, 7).unwrap(), b"content");
    assert!(store.read(&digest, 6).is_err());
    store.verify(&digest).unwrap();
    assert_eq!(store.put(b"content").unwrap(), digest);
    assert_eq!(names(&dir.path().join("incoming")), Vec::<String>::new());

    store.remove(&digest).unwrap();
    store.remove(&digest).unwrap();
    assert!(!store.has(&digest));
}

#[test]
fn content_that_was_not_expected_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"other").unwrap();
    let error = writer.commit(Some(&Digest::of(b"content"))).unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
    let mut writer = store.writer().unwrap();
    writer.write_all(b"wrong start").unwrap();
    writer.restart().unwrap();
    writer.write_all(b"content").unwrap();
    assert_eq!(writer.commit(None).unwrap(), Digest::of(b"content"));
    drop(store.writer().unwrap());
    assert_eq!(check_whole(dir.path()), 1);
    assert_eq!(names(&dir.path().join("incoming")), Vec::<String>::new());
}

#[test]
fn a_damaged_blob_is_noticed_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let digest = store.put(b"content").unwrap();
    fs::write(store.path(&digest), "cont").unwrap();
    assert!(matches!(
        store.verify(&digest),
        Err(StoreError::Mismatch { .. })
    ));
    store.put(b"content").unwrap();
    store.verify(&digest).unwrap();
}

#[test]
fn many_writers_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8u64 {
            let dir = dir.path();
            scope.spawn(move || {
                for n in 0..10 {
                    // Each opens the store anew, as another process would, and half of the blobs are everybody's.
                    let store = BlobStore::open(dir).unwrap();
                    let seed = if n % 2 == 0 { n } else { 1000 * writer + n };
                    let content = blob(seed, 10_000);
                    let digest = store.put(&content).unwrap();
                    assert_eq!(store.read(&digest, 10_000).unwrap(), content);
                }
            });
        }
    });
    assert_eq!(check_whole(dir.path()), 5 + 8 * 5);
    assert_eq!(names(&dir.path().join("incoming")), Vec::<String>::new());
}

/// Writes blobs until it is killed. Only of use as a child of the next test, which names the directory.
#[test]
fn child_writes_for_ever() {
    let Some(dir) = std::env::var_os("OCI_TEST_STORE") else {
        return;
    };
    let store = BlobStore::open(dir).unwrap();
    for n in 0.. {
        store.put(&blob(n, 300_000)).unwrap();
        // Tells the parent that there is something to see.
        std::io::stderr().write_all(b".").unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_no_half_blob() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_for_ever", "--nocapture"])
            .env("OCI_TEST_STORE", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It writes what is there already first, then new blobs; it is killed in the middle of one.
        let mut dots = vec![0; before + round];
        child
            .stderr
            .as_mut()
            .unwrap()
            .read_exact(&mut dots)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let after = check_whole(dir.path());
        assert!(after > before);
        before = after;
    }
    BlobStore::open(dir.path()).unwrap();
    assert_eq!(names(&dir.path().join("incoming")), Vec::<String>::new());
}
