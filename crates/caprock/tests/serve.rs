//! `caprock serve` as other programs see it: its files, its certificates, its end.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod served;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use served::{Process, caprock, kubeconfig, serve};

/// A server with a directory of its own.
struct Server {
    _process: Process,
    dir: tempfile::TempDir,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let _process = serve(dir.path(), flags);
        Self { _process, dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn kubeconfig(&self) -> PathBuf {
        kubeconfig(self.dir.path())
    }

    /// Writes what `caprock certs user` prints.
    fn user(&self, name: &str, flags: &[&str]) -> PathBuf {
        let output = caprock()
            .args(["certs", "user", name, "--data-dir"])
            .arg(self.data())
            .args(flags)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let path = self.dir.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, output.stdout).unwrap();
        path
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn kubectl(kubeconfig: &Path, line: &str) -> Output {
    Command::new("kubectl")
        .args(line.split(' '))
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

#[test]
fn a_client_certificate_is_a_user_and_a_group() {
    if Command::new("kubectl")
        .arg("version")
        .arg("--client")
        .output()
        .is_err()
    {
        return eprintln!("skipped: there is no kubectl");
    }
    let server = Server::start(&[]);
    let jane = server.user("jane", &["--group", "devs"]);
    assert!(
        !std::fs::read_to_string(&jane)
            .unwrap()
            .contains("\"token\"")
    );
    let whoami = kubectl(&jane, "auth whoami -o json");
    assert!(whoami.status.success(), "{}", text(&whoami.stderr));
    let whoami: serde_json::Value = serde_json::from_slice(&whoami.stdout).unwrap();
    assert_eq!(whoami["status"]["userInfo"]["username"], "jane");
    assert_eq!(whoami["status"]["userInfo"]["groups"][0], "devs");
    let refused = kubectl(&jane, "get nodes");
    assert!(
        text(&refused.stderr).contains("User \"jane\" cannot list resource \"nodes\""),
        "{refused:?}"
    );
    let line = "create clusterrolebinding devs --clusterrole=cluster-admin --group=devs";
    assert!(kubectl(&server.kubeconfig(), line).status.success());
    assert!(kubectl(&jane, "get nodes").status.success());

    // An authority of somebody else is nobody here, and one's own server cannot be a client.
    let other = Server::start(&[]);
    let foreign = other.user("root", &["--group", "system:masters"]);
    let mixed = std::fs::read_to_string(&foreign).unwrap();
    let mine: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(server.kubeconfig()).unwrap()).unwrap();
    let mut mixed: serde_json::Value = serde_json::from_str(&mixed).unwrap();
    mixed["clusters"] = mine["clusters"].clone();
    std::fs::write(&foreign, mixed.to_string()).unwrap();
    assert!(!kubectl(&foreign, "get nodes").status.success());

    // Unless the administrator says so.
    let authority = other.data().join("pki/ca.crt");
    let third = Server::start(&["--client-ca-file", authority.to_str().unwrap()]);
    let mine: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(third.kubeconfig()).unwrap()).unwrap();
    mixed["clusters"] = mine["clusters"].clone();
    std::fs::write(&foreign, mixed.to_string()).unwrap();
    let nodes = kubectl(&foreign, "get nodes");
    assert!(nodes.status.success(), "{}", text(&nodes.stderr));
}

#[test]
fn a_build_is_followed_from_before_there_is_one() {
    use std::io::{BufRead, BufReader};
    if Command::new("kubectl")
        .args(["version", "--client"])
        .output()
        .is_err()
    {
        return eprintln!("skipped: there is no kubectl");
    }
    let server = Server::start(&["--without", "controllers", "--without", "builder"]);
    let config = server.kubeconfig();
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/automount/machineosconfig.yaml");
    let made = kubectl(&config, &format!("create -f {}", example.display()));
    assert!(made.status.success(), "{}", text(&made.stderr));
    let logs = |flags: &[&str]| {
        let mut command = caprock();
        command
            .args(["logs", "worker-automount"])
            .args(flags)
            .env("KUBECONFIG", &config);
        command
    };
    let now = logs(&[]).output().unwrap();
    assert!(!now.status.success());
    assert!(text(&now.stderr).contains("has no build yet"), "{now:?}");

    let mut follows = logs(&["-f"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(follows.stderr.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    // A build that is over and gone has nothing to say, and ends what follows it.
    let status = r#"{"status":{"machineOSBuild":{"name":"worker-automount-1"}}}"#;
    let told = kubectl(
        &config,
        &format!(
            "patch machineosconfig worker-automount --subresource=status --type=merge -p {status}"
        ),
    );
    assert!(told.status.success(), "{}", text(&told.stderr));
    assert!(follows.wait().unwrap().success(), "{said}");
    assert!(said.contains("waiting for the build"), "{said}");
}
