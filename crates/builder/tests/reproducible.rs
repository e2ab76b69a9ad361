//! Equal inputs give an equal digest, however and wherever they are built. Takes root, crun and busybox.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::Request;
use common::{Lab, privileged};
use oci::Digest;

const STEPS: &str = "FROM base AS one\nRUN seq 1 200000 > /numbers; mkdir /d; for i in 3 1 2; do echo $i > /d/$i; done\n\
                     FROM base AS two\nADD files /files\nRUN ln /files/b /files/hard; touch /files/new\n\
                     FROM base\nWORKDIR /made/here\nCOPY --from=one / /one\nCOPY --from=two /files .\n\
                     COPY --chmod=u=rwX,go= files /private\nRUN rm /one/d/1; mv /one/d /moved; date > /dev/null";

/// Not a test of its own: builds what the tests below ask for, and prints the digests of image and archive.
#[tokio::test(flavor = "multi_thread")]
async fn helper_build_and_print() {
    let Some(dir) = std::env::var_os("CAPROCK_TEST_BUILD_IN") else {
        return;
    };
    let dir = Path::new(&dir);
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let engine = common::open(&dir.join("state"));
    let request = Request {
        containerfile: format!("FROM scratch AS base\nCOPY rootfs /\n{STEPS}"),
        context: Some(dir.join("context")),
        annotations: [("made.by".to_string(), "a test".to_string())].into(),
        created: epoch.map(|text| jiff::Timestamp::from_second(text.parse().unwrap()).unwrap()),
        no_cache: std::env::var_os("CAPROCK_TEST_NO_CACHE").is_some(),
        ..Request::default()
    };
    let image = engine
        .build(request, Default::default(), &|_| {})
        .await
        .unwrap();
    let archive = dir.join("archive");
    engine
        .write_archive(&image, &archive, Some("x"), &|_| {})
        .await
        .unwrap();
    let archive = Digest::of(&fs::read(archive).unwrap());
    println!("digests {} {archive}", image.digest());
}

/// Builds in a process of its own, started by a shell with some preparation.
fn build(dir: &Path, preparation: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "{preparation} {} --exact helper_build_and_print --nocapture",
        program.display()
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .env("CAPROCK_TEST_BUILD_IN", dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    match text.split_once("digests ") {
        Some((_, rest)) => rest.lines().next().unwrap_or_default().to_string(),
        None => panic!("{text}\n{said}"),
    }
}

/// The same context elsewhere: its files made in another order and at another time.
fn elsewhere(lab: &Lab, name: &str) -> PathBuf {
    let dir = lab.dir.path().join(name).join("far/away");
    let script = r#"set -e
        mkdir -p "$1/context"; cd "$0"
        find . -type d | sort | while read d; do mkdir -p "$1/context/$d"; done
        find . ! -type d | sort -r | while read f; do cp -d --preserve=mode "$f" "$1/context/$f"; done
        find . -type d | while read d; do chmod --reference "$d" "$1/context/$d"; done
        find "$1/context" -exec touch -h -d @86400 {} +"#;
    let status = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(lab.context())
        .arg(&dir)
        .status();
    assert!(status.unwrap().success());
    dir
}

#[test]
fn privileged_equal_inputs_give_an_equal_digest() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    for (path, text) in [("files/b", "b"), ("files/a", "a"), ("files/sub/c", "c")] {
        lab.write(path, text);
    }
    let here = lab.dir.path();
    let first = build(here, "");
    assert_eq!(build(here, ""), first, "from the cache");
    assert_eq!(
        build(here, "CAPROCK_TEST_NO_CACHE=1"),
        first,
        "again, without the cache"
    );
    let other = elsewhere(&lab, "one");
    assert_eq!(
        build(&other, "umask 077; taskset -c 0"),
        first,
        "with one worker, another mask, and another place, order and time of everything"
    );

    let dated = build(&elsewhere(&lab, "two"), "SOURCE_DATE_EPOCH=1000000000");
    assert_ne!(dated, first);
    let again = build(
        &elsewhere(&lab, "three"),
        "umask 027; SOURCE_DATE_EPOCH=1000000000 TZ=Asia/Tokyo LC_ALL=C taskset -c 1",
    );
    assert_eq!(again, dated, "with a date of its own");
}
