//! Scenarios: what a person sees of the whole product, one shell script and its expected output per case.
//!
//! Each `scenarios/NAME.sh` runs against a `caprock serve` of its own (real API, registry, builder and crun) with
//! `kubectl`; what it prints is compared with `scenarios/NAME.out`. `UPDATE_SCENARIOS=1` writes the expected files.
//! They need root and the base image, so they run only with `CAPROCK_TEST_PRIVILEGED=1`; `SCENARIO=NAME` runs one.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Runs one scenario and returns what it printed. The server is started by the script's library, so that scripts can
/// kill it and start it again.
fn run(script: &Path, cache: &Path) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", ". \"$LIB\"; . \"$SCRIPT\""])
        .env("LIB", script.with_file_name("lib.bash"))
        .env("SCRIPT", script)
        .env("CAPROCK", env!("CARGO_BIN_EXE_caprock"))
        .env("SCRATCH", scratch.path())
        .env("BUILD_CACHE", cache)
        .env("ROOT", root())
        .current_dir(root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{} ended with {}; it printed:\n{printed}",
        script.display(),
        output.status
    );
    printed
}

#[test]
fn privileged_scenarios() {
    if std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_none() {
        println!("skipped: needs root and CAPROCK_TEST_PRIVILEGED=1");
        return;
    }
    let dir = root().join("crates/caprock/tests/scenarios");
    let only = std::env::var("SCENARIO").ok();
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    // Scenarios share the unpacked base image, as builds on one machine do.
    let cache = root().join("target/scenarios/build-cache");
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sh"))
        .filter(|path| {
            only.as_deref()
                .is_none_or(|only| path.file_stem().unwrap() == only)
        })
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scenario fits {only:?}");
    let mut wrong = Vec::new();
    for script in scripts {
        let name = script.file_stem().unwrap().to_string_lossy().into_owned();
        eprintln!("scenario {name}");
        let printed = run(&script, &cache);
        let expected = script.with_extension("out");
        if update {
            std::fs::write(&expected, &printed).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != printed {
            eprintln!(
                "scenario {name} printed, unlike {}:\n{printed}",
                expected.display()
            );
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "scenarios with another output: {wrong:?}");
}
