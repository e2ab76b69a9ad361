//! `caprock plan` and `caprock diff` without a server, as a shell sees them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs `caprock` and hides where the files are.
    fn caprock(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::cargo_bin("caprock")
            .unwrap()
            .env_remove("KUBECONFIG")
            .env("HOME", "/nonexistent")
            .args(args)
            .output()
            .unwrap();
        let place = self.0.path().to_str().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(place, "PLACE");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    #[track_caller]
    fn plan(&self, args: &[&str]) -> Value {
        let args = [&["plan", "-o", "json"], args].concat();
        let (code, text, words) = self.caprock(&args);
        assert_eq!(code, Some(0), "{words}");
        serde_json::from_str(&text).unwrap()
    }
}

fn config(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: machineconfiguration.openshift.io/v1\nkind: MachineConfig\n\
         metadata: {{name: {name}, labels: {{machineconfiguration.openshift.io/role: worker}}}}\nspec:\n{spec}"
    )
}

fn file(name: &str, path: &str, source: &str) -> String {
    config(
        name,
        &format!(
            "  config:\n    ignition: {{version: 3.4.0}}\n    storage:\n      files:\n      \
             - {{path: {path}, contents: {{source: \"data:,{source}\"}}}}\n"
        ),
    )
}

const POLICY: &str = r#"
apiVersion: operator.openshift.io/v1
kind: MachineConfiguration
metadata: {name: cluster}
spec:
  nodeDisruptionPolicy:
    files:
    - path: /etc/app
      actions:
      - type: DaemonReload
      - {type: Restart, restart: {serviceName: app.service}}
    - path: /etc/app/hard
      actions: [{type: Reboot}]
    - path: /srv/data
      actions: [{type: Drain}]
"#;

#[test]
fn two_configs_are_compared_under_a_policy() {
    let place = Place::new();
    let policy = place.write("policy.yaml", POLICY);
    let from = place.write("from.yaml", &config("50-app", "  kernelArguments: []\n"));
    for (path, disruption, types) in [
        ("/etc/app/x", "Restart", json!(["DaemonReload", "Restart"])),
        ("/etc/app/hard/x", "Reboot", json!(["Reboot"])),
        ("/etc/apple", "None", json!([])),
        ("/srv/data/x", "Drain", json!(["Drain"])),
    ] {
        let to = place.write("to.yaml", &file("50-app", path, "x"));
        let plan = place.plan(&["--from", &from, "--to", &to, "--policy", &policy]);
        let found: Vec<&Value> = plan["actions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| &a["type"])
            .collect();
        assert_eq!(
            (&plan["disruption"], json!(found)),
            (&json!(disruption), types),
            "{path}"
        );
        assert_eq!(plan["rebuild"], false);
        assert_eq!(plan.as_object().unwrap().len(), 3);
    }
}

#[test]
fn an_action_says_why() {
    let place = Place::new();
    let policy = place.write("policy.yaml", POLICY);
    let from = place.write("from.yaml", &file("50-app", "/etc/app/x", "1"));
    let to = place.write("to.yaml", &file("50-app", "/etc/app/x", "2"));
    let plan = place.plan(&["--from", &from, "--to", &to, "--policy", &policy]);
    assert_eq!(
        plan["actions"][1],
        json!({
            "type": "Restart",
            "service": "app.service",
            "reason": {
                "object": "50-app",
                "field": "spec.config.storage.files",
                "path": "/etc/app/x",
                "change": "~file /etc/app/x",
                "policy": "/etc/app",
            },
        })
    );
}

#[test]
fn folders_are_rendered_and_the_text_names_the_configs() {
    let place = Place::new();
    place.write("from/a.yaml", &file("10-motd", "/etc/motd", "1"));
    place.write("from/b.yaml", &file("20-sssd", "/etc/sssd/sssd.conf", "1"));
    place.write("to/a.yaml", &file("10-motd", "/etc/motd", "2"));
    place.write("to/b.yaml", &file("20-sssd", "/etc/sssd/sssd.conf", "2"));
    place.write(
        "to/c.yaml",
        &file("30-repo", "/etc/yum.repos.d/x.repo", "2"),
    );
    let (from, to) = (place.path("from"), place.path("to"));
    let (code, text, words) = place.caprock(&["plan", "--from", &from, "--to", &to]);
    assert_eq!((code, words.as_str()), (Some(0), ""));
    insta::assert_snapshot!(text);
    let plan = place.plan(&["--from", &from, "--to", &to]);
    assert_eq!(
        (&plan["disruption"], &plan["rebuild"]),
        (&json!("Restart"), &json!(true))
    );
}

#[test]
fn nothing_changes_and_kernel_arguments_do_not_rebuild() {
    let place = Place::new();
    let same = place.write("same.yaml", &file("a", "/etc/x", "hello"));
    let spelled = place.write("spelled.yaml", &file("a", "/etc/x", "hell%6f"));
    assert_eq!(
        place.plan(&["--from", &same, "--to", &spelled]),
        json!({"disruption": "None", "actions": [], "rebuild": false})
    );
    let quiet = place.write("quiet.yaml", &config("a", "  kernelArguments: [quiet]\n"));
    let plain = place.write("plain.yaml", &config("a", "  kernelArguments: []\n"));
    let plan = place.plan(&["--from", &plain, "--to", &quiet]);
    assert_eq!(
        (&plan["disruption"], &plan["rebuild"]),
        (&json!("Reboot"), &json!(false))
    );
}

#[test]
fn what_is_wrong_is_named_with_exit_status_1() {
    let place = Place::new();
    let good = place.write("good.yaml", &file("a", "/etc/x", "1"));
    let bad = place.write(
        "bad.yaml",
        &POLICY.replace("[{type: Reboot}]", "[{type: Reboot}, {type: Drain}]"),
    );
    let (code, _, words) =
        place.caprock(&["plan", "--from", &good, "--to", &good, "--policy", &bad]);
    assert_eq!(code, Some(1));
    assert!(
        words.contains("spec.nodeDisruptionPolicy.files[1].actions"),
        "{words}"
    );
    let (code, _, words) =
        place.caprock(&["plan", "--from", &good, "--to", &place.path("nowhere")]);
    assert_eq!(code, Some(1), "{words}");
    let (code, _, words) = place.caprock(&["plan", "--from", &good]);
    assert_eq!(code, Some(2), "{words}");
}

#[test]
fn a_difference_shows_contents_but_no_secret() {
    let place = Place::new();
    let from = file("10-motd", "/etc/motd", "one%0Atwo%0A");
    let secret = |value: &str| file("20-sssd", "/etc/sssd/sssd.conf", value);
    let from = place.write("from.yaml", &format!("{from}---\n{}", secret("old")));
    let to = file("10-motd", "/etc/motd", "one%0A2%0A");
    let to = place.write("to.yaml", &format!("{to}---\n{}", secret("s3cret")));
    let (code, text, words) = place.caprock(&["diff", &from, &to]);
    assert_eq!((code, words.as_str()), (Some(0), ""));
    insta::assert_snapshot!(text);
    let (_, text, _) = place.caprock(&["diff", &from, &to, "-o", "json"]);
    assert!(!text.contains("s3cret"), "{text}");
    let (code, text, _) = place.caprock(&["diff", &from, &from]);
    assert_eq!((code, text.as_str()), (Some(0), "no difference\n"));
}
