//! The binary as a shell sees it: help, results, errors and exit statuses.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use base64::prelude::{BASE64_STANDARD, Engine};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn caprock(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::cargo_bin("caprock")
        .unwrap()
        .current_dir(repository())
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

#[test]
fn manifests_are_linted_together_with_their_places() {
    let (code, text, words) =
        caprock(&["lint", "--strict", "examples/automount", "examples/worker"]);
    assert_eq!((code, text.as_str()), (Some(0), ""), "{words}");
    let (code, text, _) = caprock(&["explain", "lint/mount-below-link"]);
    assert_eq!(code, Some(0));
    assert!(
        text.starts_with("mount-below-link (warning)\n\nOn ostree hosts"),
        "{text}"
    );

    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("auto.yaml");
    let map = dir.path().join("master");
    std::fs::write(&map, "/mnt/home auto.home\n").unwrap();
    let map = format!("/etc/auto.master.d/auto.home={}", map.display());
    let (code, text, words) = caprock(&[
        "machineconfig",
        "99-auto",
        "--pool",
        "worker",
        "--file",
        &map,
    ]);
    assert_eq!(code, Some(0), "{words}");
    std::fs::write(
        &config,
        text.replace("  labels:", "  annotation: {}\n  labels:"),
    )
    .unwrap();
    let (code, text, _) = caprock(&["lint", "-o", "json", dir.path().to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found[0]["id"], "unknown-field");
    assert_eq!(
        (&found[0]["line"], &found[0]["level"]),
        (&4.into(), &"error".into())
    );
}

#[test]
fn a_machine_config_is_made_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("motd"), "100 % ours\n").unwrap();
    std::fs::write(path("hello.service"), "[Service]\nExecStart=/bin/true\n").unwrap();
    let file = format!("/etc/motd={}:0600", path("motd"));
    let unit = format!("hello.service={}", path("hello.service"));
    let args = [
        "machineconfig",
        "99-a",
        "--pool",
        "edge",
        "--file",
        &file,
        "--unit",
        &unit,
        "--unit",
        "x.service",
    ];
    let (code, text, words) = caprock(&args);
    assert_eq!(code, Some(0), "{words}");
    insta::assert_snapshot!(text);
    let (code, _, words) = caprock(&[
        "machineconfig",
        "99-a",
        "--pool",
        "edge",
        "--file",
        &format!("/usr/a={}", path("motd")),
    ]);
    assert_eq!(code, Some(1));
    assert!(words.contains("read-only"), "{words}");
}

/// What `kubectl kustomize` makes of a folder; nothing, with a word of it, where the test is not to run it.
fn kustomized(folder: &Path) -> Option<String> {
    if std::env::var("CAPROCK_TEST_PRIVILEGED").as_deref() != Ok("1") {
        eprintln!("skipped: set CAPROCK_TEST_PRIVILEGED=1 where kubectl is installed");
        return None;
    }
    let mut kubectl = Command::new("kubectl");
    let made = kubectl.arg("kustomize").arg(folder).output().unwrap();
    let words = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{}: {words}", folder.display());
    Some(String::from_utf8(made.stdout).unwrap())
}

/// Paths, modes and contents of the files that the manifests in `file` render to.
fn rendered_files(file: &Path) -> Vec<(String, u64, String)> {
    let (code, text, words) = caprock(&["render", "-f", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!(code, Some(0), "{words}");
    let rendered: serde_json::Value = serde_json::from_str(&text).unwrap();
    let files = &rendered["spec"]["config"]["storage"]["files"];
    let files = files.as_array().unwrap().iter().map(|file| {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let (path, mode) = (text(&file["path"]), file["mode"].as_u64().unwrap());
        (path, mode, text(&file["contents"]["source"]))
    });
    files.collect()
}

/// The recipe as a person uses it: kustomize, lint, render.
#[test]
fn privileged_the_recipe_has_nothing_to_lint_and_renders() {
    let recipe = repository().join("examples/automount-ldap");
    let dir = tempfile::tempdir().unwrap();
    let [manifests, workload] = ["recipe.yaml", "workload.yaml"].map(|name| dir.path().join(name));
    for variant in ["coreos", "debian"] {
        let Some(made) = kustomized(&recipe.join(variant)) else {
            return;
        };
        std::fs::write(&manifests, made).unwrap();
        std::fs::write(&workload, kustomized(&recipe.join("workload")).unwrap()).unwrap();
        let paths = [&manifests, &workload].map(|path| path.to_str().unwrap());
        let (code, text, words) = caprock(&["lint", "--strict", paths[0], paths[1]]);
        assert_eq!((code, text.as_str()), (Some(0), ""), "{variant}: {words}");
        let files = rendered_files(&manifests);
        let modes: Vec<(&str, u64)> = files
            .iter()
            .map(|(path, mode, _)| (path.as_str(), *mode))
            .collect();
        let expected = [
            ("/etc/auto.master", 0o644),
            ("/etc/autofs.conf", 0o644),
            ("/etc/sssd/conf.d/bind.conf", 0o600),
            ("/etc/sssd/conf.d/homes.conf", 0o600),
            ("/etc/sssd/ldap-ca.crt", 0o644),
            ("/etc/sssd/sssd.conf", 0o600),
        ];
        assert_eq!(modes, expected, "{variant}");
    }
}

/// Whoever mounts elsewhere writes so in one place, and nothing keeps the path that the recipe comes with.
#[test]
fn privileged_values_of_the_recipe_are_in_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("recipe");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(repository().join("examples/automount-ldap"))
        .arg(&recipe)
        .output();
    assert!(copied.unwrap().status.success());
    let site = recipe.join("base/site/values.env");
    let values = std::fs::read_to_string(&site).unwrap();
    let mut written = String::new();
    for line in values.lines() {
        let value = match line.split_once('=') {
            Some(("mount-root", _)) => "mount-root=/var/lib/our/homes",
            Some(("map", _)) => "map=auto.people",
            Some(("expire", _)) => "expire=--timeout=60",
            Some(("options", _)) => "options=-fstype=nfs4,ro,port=12049",
            Some(("push-spec", _)) => "push-spec=r.example/homes:1",
            Some(("probe-user", _)) => "probe-user=eve",
            _ => line,
        };
        written.push_str(value);
        written.push('\n');
    }
    std::fs::write(&site, written).unwrap();
    let Some(made) = kustomized(&recipe.join("debian")) else {
        return;
    };
    let workload = kustomized(&recipe.join("workload")).unwrap();
    for former in ["/var/mnt", "dale", "registry.example.com", "auto.home"] {
        assert!(!made.contains(former), "{former} in {made}");
        assert!(!workload.contains(former), "{former} in {workload}");
    }
    assert_eq!(workload.matches("ath: /var/lib/our/homes\n").count(), 2);
    assert_eq!(made.matches(" /var/lib/our/homes/eve\n").count(), 2);
    let manifests = dir.path().join("recipe.yaml");
    std::fs::write(&manifests, made).unwrap();
    let files = rendered_files(&manifests);
    let contents = |wanted: &str| {
        let file = files.iter().find(|(path, ..)| path == wanted);
        let encoded = file.unwrap().2.strip_prefix("data:;base64,").unwrap();
        String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap()
    };
    let master = contents("/etc/auto.master");
    let mount = "\n/var/lib/our/homes auto.people --timeout=60 -fstype=nfs4,ro,port=12049\n";
    assert!(master.ends_with(mount), "{master}");
    let homes = contents("/etc/sssd/conf.d/homes.conf");
    let home = "\noverride_homedir = /var/lib/our/homes/%u\n";
    assert!(homes.ends_with(home), "{homes}");
}
