//! The binary as a shell sees it: help, results, errors and exit statuses.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use assert_cmd::Command;

fn caprock(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::cargo_bin("caprock")
        .unwrap()
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .env("COLUMNS", "100")
        .args(args)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn every_command_has_help_with_what_it_is_for() {
    let (code, text, _) = caprock(&["--help"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(text);
}

#[test]
fn a_command_that_does_not_exist_is_a_wrong_invocation() {
    let (code, _, words) = caprock(&["sreve"]);
    assert_eq!(code, Some(2));
    assert!(words.contains("serve"), "{words}");
}

#[test]
fn the_examples_render_offline() {
    let (code, text, words) = caprock(&[
        "render",
        "-f",
        "examples/automount",
        "--pool",
        "worker-automount",
        "-o",
        "json",
    ]);
    assert_eq!(code, Some(0), "{words}");
    let rendered: serde_json::Value = serde_json::from_str(&text).unwrap();
    let name = rendered["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("rendered-worker-automount-"), "{name}");
    let units = rendered["spec"]["config"]["systemd"]["units"].to_string();
    assert!(units.contains("autofs.service"), "{units}");
}

#[test]
fn what_cannot_be_rendered_says_object_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.yaml");
    std::fs::write(
        &path,
        r#"
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfigPool
metadata: {name: edge}
spec:
  machineConfigSelector: {matchLabels: {machineconfiguration.openshift.io/role: edge}}
---
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfig
metadata:
  name: 50-edge-chrony
  labels: {machineconfiguration.openshift.io/role: edge}
spec:
  config:
    ignition: {version: 3.5.0}
    storage:
      files: [{path: etc/chrony.conf}]
"#,
    )
    .unwrap();
    let (code, text, words) = caprock(&["render", "-f", path.to_str().unwrap()]);
    assert_eq!((code, text.as_str()), (Some(1), ""));
    insta::assert_snapshot!(words);
}

#[test]
fn the_printed_crds_are_the_committed_ones() {
    let (code, text, _) = caprock(&["crds"]);
    assert_eq!(code, Some(0));
    for kind in [
        "MachineConfig",
        "MachineConfigPool",
        "MachineOSConfig",
        "MachineOSBuild",
        "MachineConfigNode",
    ] {
        assert!(text.contains(&format!("kind: {kind}\n")), "{kind}");
    }
}

#[test]
fn completions_are_offered_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, text, _) = caprock(&["completions", shell]);
        assert_eq!(code, Some(0));
        assert!(text.contains("caprock"), "{shell}");
    }
}

#[test]
fn a_node_kubeconfig_needs_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, words) = caprock(&[
        "node",
        "kubeconfig",
        "worker-1",
        "--data-dir",
        dir.path().to_str().unwrap(),
    ]);
    assert_eq!(code, Some(1));
    assert!(words.contains("caprock serve"), "{words}");
}

#[test]
fn lint_tells_every_problem_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("Containerfile");
    std::fs::write(&file, "FROM a:1\nRUN cd /x\nMAINTAINER me\n").unwrap();
    let name = file.to_str().unwrap();
    let (code, text, words) = caprock(&["lint", name]);
    assert_eq!(code, Some(0), "{words}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{name}:2:1: warning: ")),
        "{text}"
    );
    assert!(lines[0].ends_with("[lost-cd]"), "{text}");
    assert_eq!(lines[1], "    hint: use `WORKDIR`");
    assert_eq!(caprock(&["lint", "--strict", name]).0, Some(1));
    let (code, text, _) = caprock(&["explain", "lint/lost-cd"]);
    assert_eq!(code, Some(0));
    assert!(
        text.starts_with("lost-cd (warning)\n\nEach `RUN` starts a new shell"),
        "{text}"
    );
    let (code, _, words) = caprock(&["explain", "lint/lost"]);
    assert_eq!(code, Some(1));
    assert!(words.contains("there is no finding `lost`"), "{words}");

    std::fs::write(&file, "FROM a:1\nCOPPY x y\n").unwrap();
    let (code, text, _) = caprock(&["lint", "-o", "json", name]);
    assert_eq!(code, Some(1));
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found[0]["line"], 2);
    assert_eq!(found[0]["level"], "error");
    assert_eq!(found[0]["hint"], "did you mean `COPY`?");
}
