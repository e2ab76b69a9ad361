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
    let steps = std::env::var("CAPROCK_TEST_STEPS").unwrap_or(STEPS.to_string());
    let engine = common::open(&dir.join("state"));
    let request = Request {
        containerfile: format!("FROM scratch AS base\nCOPY rootfs /\n{steps}"),
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
    started(dir, preparation, STEPS).unwrap_or_else(|said| panic!("{said}"))
}

/// Gives the digests, or what was said instead.
fn started(dir: &Path, preparation: &str, steps: &str) -> Result<String, String> {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "{preparation} {} --exact helper_build_and_print --nocapture",
        program.display()
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .env("CAPROCK_TEST_BUILD_IN", dir)
        .env("CAPROCK_TEST_STEPS", steps)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    match text.split_once("digests ") {
        Some((_, rest)) => Ok(rest.lines().next().unwrap_or_default().to_string()),
        None => Err(format!("{text}\n{said}")),
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

/// Layers with everything that a user namespace keeps in another way: marks of what is hidden, owners, capabilities.
const OS: &str = "FROM base AS os\nADD os.tar /\n\
                  RUN mkdir -p /a/b /gone; echo 1 > /a/b/c; echo 2 > /gone/x; chown -R 33:34 /a; chown 65535:65535 /kept\n\
                  RUN rm -r /gone /a/b; mkdir /a/b; echo 3 > /a/b/d\n";
const MORE: &str = "FROM os\nRUN chmod 4755 /able; rm -r /a/b; mkdir /a/b; mv /kept /moved\n\
                    RUN --network=none --mount=type=cache,target=/c --mount=type=tmpfs,target=/t echo > /c/y; ls -a /a/b > /listed\n\
                    USER web\nRUN id\n";

/// An archive with a capability, attributes and, if wanted, a device.
fn archive_of_an_os(context: &Path, device: bool) {
    let mut archive = tar::Builder::new(fs::File::create(context.join("os.tar")).unwrap());
    let mut add = |name: &str, kind| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_mtime(1000);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        if name == "able" {
            let capability: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let attributes = [
                ("SCHILY.xattr.security.capability", capability),
                ("SCHILY.xattr.user.note", b"x"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ];
            archive.append_pax_extensions(attributes).unwrap();
        }
        archive.append_data(&mut header, name, &b""[..]).unwrap();
    };
    add("kept", tar::EntryType::Regular);
    add("able", tar::EntryType::Regular);
    if device {
        add("thing", tar::EntryType::Char);
    }
    archive.finish().unwrap();
}

/// Builds as root of a user namespace, as a pod with `hostUsers: false` does.
fn build_in_pod(dir: &Path, steps: &str) -> Result<String, String> {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let overlay = format!("{tests}/../../../deploy/user-namespaces/builder.yaml");
    // Where the program is, nobody of the namespace may look.
    let program = std::env::current_exe().unwrap();
    fs::copy(&program, dir.join("program")).unwrap();
    let pod = format!(
        "{tests}/pod.sh {overlay} {} /mnt/program --exact",
        dir.display()
    );
    let preparation = format!(
        "export CAPROCK_TEST_BUILD_IN=/mnt; exec {pod} helper_build_and_print --nocapture;"
    );
    started(dir, &preparation, steps)
}

#[test]
fn privileged_a_user_namespace_gives_the_same_image() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    archive_of_an_os(&lab.context(), false);
    let steps = format!("{OS}{MORE}");
    let expected = started(lab.dir.path(), "", &steps).unwrap();
    let pod = elsewhere(&lab, "pod");
    assert_eq!(build_in_pod(&pod, &steps).unwrap(), expected);
    assert_eq!(
        build_in_pod(&pod, &steps).unwrap(),
        expected,
        "from the cache"
    );

    archive_of_an_os(&lab.context(), true);
    let expected = started(&elsewhere(&lab, "device"), "", &steps).unwrap();
    let shared = elsewhere(&lab, "shared");
    let refused = build_in_pod(&shared, &steps).unwrap_err();
    assert!(
        refused.contains("a device takes the superuser"),
        "{refused}"
    );
    started(&shared, "", OS).unwrap();
    let found = build_in_pod(&shared, &steps);
    assert_eq!(
        found.unwrap(),
        expected,
        "on the layers of the other superuser, without their device"
    );
    assert_eq!(started(&shared, "", &steps).unwrap(), expected, "and back");

    for (steps, told) in [
        (
            "FROM base\nUSER 70000\nRUN true\n",
            "user 70000 is not mapped",
        ),
        (
            "FROM base\nCOPY --chown=5:70000 os.tar /\n",
            "group 70000 is not mapped",
        ),
    ] {
        let refused = build_in_pod(&pod, steps).unwrap_err();
        assert!(refused.contains(told), "{refused}");
        started(lab.dir.path(), "", steps).unwrap();
    }
}
