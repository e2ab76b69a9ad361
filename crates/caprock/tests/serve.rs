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
