//! A cache that has no room left. Takes root, crun and busybox.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::BuildError;
use common::{Lab, privileged};

/// A small file system, gone with its value.
struct Small(PathBuf);

impl Small {
    fn mount(place: PathBuf) -> Small {
        fs::create_dir_all(&place).unwrap();
        run(
            "mount",
            &["-t", "tmpfs", "-o", "size=20m,mode=755", "small"],
            &place,
        );
        Small(place)
    }

    fn grow(&self) {
        run("mount", &["-o", "remount,size=200m"], &self.0);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["--lazy"], &self.0);
    }
}

fn run(program: &str, args: &[&str], place: &Path) {
    let status = Command::new(program).args(args).arg(place).status();
    assert!(status.unwrap().success(), "{program} {args:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_full_disk_spoils_nothing() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    // The file fits once, but not a second time as a layer that does not get smaller.
    let mut noise = Vec::new();
    let source = fs::File::open("/dev/urandom").unwrap();
    source.take(11 << 20).read_to_end(&mut noise).unwrap();
    fs::write(lab.context().join("noise"), noise).unwrap();
    let steps = "RUN echo one > /one\nCOPY noise /noise\nRUN echo two > /two";
    let expected = lab.build(steps).await.unwrap().digest();

    let small = Small::mount(lab.dir.path().join("small"));
    let engine = common::open(&small.0.join("cache"));
    let build = async |steps: &str| {
        let request = lab.request(steps);
        engine.build(request, Default::default(), &|_| {}).await
    };
    for _ in 0..2 {
        let error = build(steps).await.unwrap_err();
        assert!(matches!(error, BuildError::Host { .. }), "{error:?}");
        let said = format!("{:?}", causes(&error));
        assert!(said.contains("No space left"), "{said}");
    }
    // A command that fills the disk is told so itself; what it wrote is gone afterwards.
    let error = build("RUN head -c 50000000 /dev/zero > /zeroes")
        .await
        .unwrap_err();
    assert!(matches!(error, BuildError::Step { .. }), "{error:?}");
    build("RUN echo three > /three").await.unwrap();
    small.grow();
    assert_eq!(build(steps).await.unwrap().digest(), expected);
    drop(engine);
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push(cause.to_string());
        source = cause.source();
    }
    chain
}
