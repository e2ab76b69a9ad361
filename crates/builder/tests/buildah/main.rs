//! The language, case by case: each file in `cases/` holds a Containerfile, its context, and what must come out. The
//! same is built with buildah, where it is installed, and must come out there too unless the case says why not.
//!
//! `CAPROCK_TEST_UPDATE=1` writes what came out into the cases.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod case;
#[path = "../common/mod.rs"]
mod common;
mod listing;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use builder::{NamedContext, Request};
use common::{Lab, privileged};
use serde_json::Value;

use case::Case;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/buildah/cases");

#[tokio::test(flavor = "multi_thread")]
async fn privileged_every_case_gives_what_it_says() {
    if !privileged() {
        return;
    }
    let compare = buildah_is_there();
    let update = std::env::var_os("CAPROCK_TEST_UPDATE").is_some();
    let lab = Lab::new();
    let mut failures = Vec::new();
    for (number, path) in case::all(Path::new(CASES)).iter().enumerate() {
        let mut case = Case::read(path);
        let dir = lab.dir.path().join(number.to_string());
        case.prepare(&dir);
        let ours = match ours(&lab, &case, &dir).await {
            Ok(ours) => ours,
            Err(error) => {
                failures.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        if update {
            case.expected = ours.clone();
            case.write(path);
        }
        if case.expected != ours {
            let diff = listing::difference(&case.expected, &ours);
            failures.push(format!("{}: expected → found\n{diff}", path.display()));
        }
        if compare && case.differs.is_none() {
            let name = path.display();
            match theirs(&lab, &case, &dir) {
                Ok(theirs) if theirs == ours => {}
                Ok(theirs) => {
                    let diff = listing::difference(&theirs, &ours);
                    failures.push(format!("{name}: buildah → caprock\n{diff}"));
                }
                Err(said) => failures.push(format!("{name}: buildah refuses it: {said}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

async fn ours(lab: &Lab, case: &Case, dir: &Path) -> Result<String, String> {
    let base = NamedContext::Dir(lab.context().join("rootfs"));
    let request = Request {
        containerfile: case.containerfile.clone(),
        file_name: "Containerfile".into(),
        context: Some(dir.join("context")),
        named_contexts: BTreeMap::from([("rootfs".to_string(), base)]),
        build_args: case.args.clone(),
        target: case.target.clone(),
        ..Request::default()
    };
    let image = match lab.build_request(request, Default::default()).await {
        Ok(image) => image,
        Err(error) => return Err(format!("{error}\n{}", lab.output().join("\n"))),
    };
    let manifest: Value = serde_json::from_slice(image.manifest()).unwrap();
    let config = serde_json::to_value(image.config()).unwrap();
    let blobs = lab.dir.path().join("cache/blobs");
    let open = |digest: &str| File::open(blobs.join(digest.replace(':', "/"))).unwrap();
    Ok(listing::text(&config, &manifest, open, &base_files(lab)))
}

fn buildah_is_there() -> bool {
    let found = Command::new("buildah")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("not compared: buildah is not installed");
    }
    found
}

/// How often buildah may fail to seal the copy of itself that it runs from.
const SEALING_ATTEMPTS: u32 = 5;

/// Runs buildah on storage of its own. The kernel refuses a seal (EBUSY, fcntl(2)) while it has a page of the file in
/// its hands, as when it moves memory: that says nothing about the Containerfile, so buildah is run again.
fn buildah(lab: &Lab, args: &[String]) -> Result<(), String> {
    let mut said = String::new();
    for _ in 0..SEALING_ATTEMPTS {
        let output = Command::new("buildah")
            .arg("--root")
            .arg(lab.dir.path().join("storage"))
            .arg("--runroot")
            .arg(lab.dir.path().join("storage-run"))
            .args(["--storage-driver", "vfs"])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !said.contains("sealing memfd copy") {
            break;
        }
    }
    Err(said)
}

fn theirs(lab: &Lab, case: &Case, dir: &Path) -> Result<String, String> {
    let run = |args: &[String]| buildah(lab, args);
    let file = dir.join("Containerfile");
    fs::write(&file, &case.containerfile).unwrap();
    let rootfs = lab.context().join("rootfs");
    let mut args: Vec<String> = [
        "bud",
        "--quiet",
        "--isolation",
        "chroot",
        "--format",
        "docker",
    ]
    .map(str::to_string)
    .into();
    args.extend(["-t".into(), "compared".into()]);
    args.extend(["-f".into(), file.display().to_string()]);
    args.push(format!("--build-context=rootfs={}", rootfs.display()));
    for (name, value) in &case.args {
        args.push(format!("--build-arg={name}={value}"));
    }
    args.extend(
        case.target
            .iter()
            .map(|target| format!("--target={target}")),
    );
    args.push(dir.join("context").display().to_string());
    run(&args)?;
    let out = dir.join("theirs");
    run(&[
        "push",
        "--quiet",
        "compared",
        &format!("dir:{}", out.display()),
    ]
    .map(str::to_string))?;
    let read = |name: &str| -> Value {
        let name = name.strip_prefix("sha256:").unwrap_or(name);
        serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap()
    };
    let manifest = read("manifest.json");
    let config = read(manifest["config"]["digest"].as_str().unwrap());
    let open = |digest: &str| File::open(out.join(digest.trim_start_matches("sha256:"))).unwrap();
    Ok(listing::text(&config, &manifest, open, &base_files(lab)))
}

/// The files of the base, which are not listed as long as nobody changes them.
fn base_files(lab: &Lab) -> BTreeMap<PathBuf, u64> {
    let root = lab.context().join("rootfs");
    let mut files = BTreeMap::new();
    for dir in ["", "bin", "etc", "tmp"] {
        for entry in fs::read_dir(root.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let size = if metadata.is_file() {
                metadata.len()
            } else {
                0
            };
            files.insert(path.strip_prefix(&root).unwrap().to_path_buf(), size);
        }
    }
    files
}
