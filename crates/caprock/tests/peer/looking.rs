//! `plan`, `status`, `explain`, `diff` and `render` on what another operator wrote, by somebody who may only read.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::cluster::Cluster;

const CHANGE: &str = "
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfig
metadata: {name: 99-worker-motd, labels: {machineconfiguration.openshift.io/role: worker}}
spec: {config: {ignition: {version: 3.4.0}, storage: {files: [{path: /etc/motd, contents: {source: 'data:,hello'}}]}}}
";

/// Times that pass, and those that a server gave.
fn steady(text: &str) -> String {
    let mut steady = String::new();
    for line in text.lines() {
        let mut line = line.trim_end().to_owned();
        while let Some(at) = line.find(" ago)") {
            let from = line[..at].rfind('(').unwrap();
            line.replace_range(from..at + 5, "<SINCE>");
        }
        writeln!(steady, "{line}").unwrap();
    }
    steady
}

/// What each command, a line, says; every one must succeed.
async fn look(cluster: &Cluster, commands: &str) -> String {
    let reader = cluster.person("reader", &["get", "list", "watch"]).await;
    std::fs::write(cluster.path("change.yaml"), CHANGE).unwrap();
    let begun = cluster.text("audit.log").lines().count();
    let mut said = String::new();
    for line in commands.lines().map(str::trim) {
        let run = |flags: &[&str]| {
            let mut command = cluster.command(line);
            command
                .args(flags)
                .env("KUBECONFIG", &reader)
                .current_dir(cluster.path(""));
            command.output().unwrap()
        };
        let output = run(&[]);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{line}: {err}");
        write!(said, "$ caprock {line}\n{}{}\n", steady(&err), steady(&out)).unwrap();
        let output = run(&["-o", "json"]);
        assert!(output.status.success(), "{line} -o json: {output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
    }
    // The server writes down every request.
    let audit = cluster.text("audit.log");
    let reads = ["get", "list", "watch"].map(|verb| format!("\"verb\":\"{verb}\""));
    let writes = |line: &&str| !reads.iter().any(|read| line.contains(read));
    let theirs: Vec<&str> = audit
        .lines()
        .skip(begun)
        .filter(|line| line.contains("\"reader\""))
        .filter(writes)
        .collect();
    assert_eq!(theirs, Vec::<&str>::new());
    said
}

/// Objects of the operator as somebody exports them.
fn export(name: &str) -> String {
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer/objects");
    format!("render --pool worker -f {}", objects.join(name).display())
}

#[tokio::test]
async fn an_idle_cluster() {
    let cluster = Cluster::start("").await;
    let said = look(
        &cluster,
        "status
         plan
         plan -f change.yaml
         explain pool/worker
         explain node/worker-0
         diff rendered-worker-6f8c1e2b9d3a4750a1b2c3d4e5f60718 50-worker-chrony",
    )
    .await;
    insta::assert_snapshot!(said);
    // What it rendered is what Caprock renders.
    let rendered = cluster.caprock(&export("idle.yaml"));
    assert!(rendered.status.success(), "{rendered:?}");
    std::fs::write(cluster.path("rendered.yaml"), rendered.stdout).unwrap();
    let line = format!(
        "diff rendered-worker-6f8c1e2b9d3a4750a1b2c3d4e5f60718 {}",
        cluster.path("rendered.yaml").display()
    );
    let same = cluster.caprock(&line);
    assert_eq!(
        String::from_utf8_lossy(&same.stdout),
        "no difference\n",
        "{same:?}"
    );
}

#[tokio::test]
async fn a_cluster_that_is_being_updated() {
    let cluster = Cluster::start(include_str!("objects/rolling.yaml")).await;
    let said = look(
        &cluster,
        "status
         plan --pool worker
         explain pool/worker
         explain node/worker-0
         explain node/worker-1",
    )
    .await;
    insta::assert_snapshot!(said);
}

#[tokio::test]
async fn a_cluster_with_a_degraded_node() {
    let cluster = Cluster::start(include_str!("objects/degraded.yaml")).await;
    let said = look(
        &cluster,
        "status
         explain pool/worker
         explain node/worker-0
         diff rendered-worker-6f8c1e2b9d3a4750a1b2c3d4e5f60718 rendered-worker-c04be98d7f6a51324e5d6c7b8a990011",
    )
    .await;
    insta::assert_snapshot!(said);
}

#[tokio::test]
async fn a_cluster_with_layered_images() {
    let cluster = Cluster::start(include_str!("objects/layered.yaml")).await;
    let said = look(
        &cluster,
        "status
         plan --pool worker
         explain pool/worker
         explain node/worker-0
         explain build/worker-9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d
         explain build/worker-2b6d8e0f1a3c5d7e9f1b3d5f7a9c1e3f",
    )
    .await;
    insta::assert_snapshot!(said);
}
