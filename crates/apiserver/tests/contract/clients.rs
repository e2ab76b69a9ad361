//! Clients that are not ours as oracles: other versions of `kubectl`, `helm`, Python's official library.
//!
//! `demo/deps.sh clients` puts them into `target/tools`; a test without its client is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use http::Request;

use super::api::Api;

/// A tool of `target/tools`, if it is there.
fn tool(name: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    let path = target.join("tools").join(name);
    let found = std::path::absolute(path).ok().filter(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: there is no {name}; `demo/deps.sh clients` gets it");
    }
    found
}

/// Runs a client against the server and returns what it printed.
async fn run(api: &Api, program: &Path, line: &str) -> (bool, String) {
    let mut command = Command::new(program);
    command
        .args(line.split_whitespace())
        .env("KUBECONFIG", &api.kubeconfig)
        .env("HOME", api.directory.path())
        .env("KUBECACHEDIR", api.directory.path().join("cache"))
        .current_dir(api.directory.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

async fn ok(api: &Api, program: &Path, line: &str) -> String {
    let (success, output) = run(api, program, line).await;
    assert!(success, "{} {line}: {output}", program.display());
    output
}

const CHART: &str = "apiVersion: v2\nname: small\nversion: 0.1.0\n";
const TEMPLATE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-greeting
data:
  greeting: {{ .Values.greeting }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-hook
  annotations: {"helm.sh/hook": pre-install, "helm.sh/hook-delete-policy": before-hook-creation}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  replicas: 0
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec: {containers: [{name: a, image: "b:{{ .Values.greeting }}"}]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn helm_installs_upgrades_goes_back_and_removes() {
    let Some(helm) = tool("helm") else {
        return;
    };
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    let chart = api.directory.path().join("chart");
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    std::fs::write(chart.join("Chart.yaml"), CHART).unwrap();
    std::fs::write(chart.join("values.yaml"), "greeting: hello\n").unwrap();
    std::fs::write(chart.join("templates/all.yaml"), TEMPLATE).unwrap();
    let greeting = async || {
        let path = format!("/api/v1/namespaces/{ns}/configmaps/r-greeting");
        api.get(&path).await.json()["data"]["greeting"].clone()
    };
    let helm = async |line: &str| ok(&api, &helm, &format!("{line} -n {ns}")).await;
    helm("install r chart --dry-run=server").await;
    assert_eq!(greeting().await, serde_json::Value::Null);
    helm("install r chart").await;
    assert_eq!(greeting().await, "hello");
    helm("upgrade r chart --set greeting=bye").await;
    assert_eq!(greeting().await, "bye");
    helm("rollback r 1").await;
    assert_eq!(greeting().await, "hello");
    let history = helm("history r").await;
    assert!(history.contains("Rollback to 1"), "{history}");
    // What somebody else changed is found by comparing three ways.
    let path = format!("/api/v1/namespaces/{ns}/configmaps/r-greeting");
    let patch = br#"{"data":{"other":"stays"}}"#.to_vec();
    let request = Request::patch(&path).header("content-type", "application/merge-patch+json");
    assert_eq!(api.send(request, patch).await.code, 200);
    helm("upgrade r chart --set greeting=again").await;
    let data = api.get(&path).await.json()["data"].clone();
    assert_eq!(data["greeting"], "again", "{data}");
    helm("uninstall r --wait --timeout 60s").await;
    assert_eq!(greeting().await, serde_json::Value::Null);
    let listed = helm("list -q").await;
    assert!(!listed.contains('r'), "{listed}");
}

/// The newest `kubectl` and two minor versions before that of the server.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_of_other_versions() {
    let versions = ["kubectl-1.36", "kubectl-1.34", "kubectl-1.33"];
    for kubectl in versions.into_iter().filter_map(tool) {
        let api = Api::connect().await;
        let ns = &api.namespace().await;
        let manifest = api.directory.path().join("map.yaml");
        let write = |value: &str| {
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, labels: {{l: x}}}}\ndata: {{k: '{value}'}}\n"
            );
            std::fs::write(&manifest, text).unwrap();
        };
        let run = async |line: &str| run(&api, &kubectl, &format!("{line} -n {ns}")).await;
        let ok = async |line: &str| ok(&api, &kubectl, &format!("{line} -n {ns}")).await;
        write("1");
        ok("apply -f map.yaml").await;
        write("2");
        let (same, difference) = run("diff -f map.yaml").await;
        assert!(!same && difference.contains("+  k: \"2\""), "{difference}");
        ok("apply -f map.yaml").await;
        ok("apply --server-side --force-conflicts --field-manager=other -f map.yaml").await;
        assert!(ok("get configmap -l l=x -o wide").await.contains("a"));
        ok("wait --for=jsonpath={.data.k}=2 configmap/a --timeout=60s").await;
        ok("create deployment web --image=nginx --replicas=0 --port=80").await;
        let web =
            ok("get deployment web -o jsonpath={.spec.replicas},{..image},{..hostPort}").await;
        assert_eq!(web, "0,nginx,");
        ok("set image deployment/web nginx=nginx:2").await;
        ok("create job once --image=busybox").await;
        ok("create cronjob often --image=busybox --schedule=@daily").await;
        ok("create service clusterip web --tcp=80:8080").await;
        let port = ok("get service web -o jsonpath={.spec.ports[0].targetPort}").await;
        assert_eq!(port, "8080");
        ok("delete deployment/web job/once cronjob/often service/web --cascade=orphan").await;
        ok("create serviceaccount robot").await;
        ok("create token robot").await;
        ok("create role r --verb=get --resource=pods").await;
        assert!(ok("auth can-i get pods").await.contains("yes"));
        ok("auth can-i --list").await;
        assert!(ok("explain pod.spec.containers").await.contains("image"));
        ok("api-resources").await;
        ok("get events").await;
        ok("events").await;
        ok("get --raw /readyz?verbose").await;
        ok("delete configmap a --wait --timeout=60s").await;
        let (found, output) = run("get configmap a").await;
        assert!(!found && output.contains("NotFound"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_does_its_work() {
    let Some(python) = tool("python/bin/python") else {
        return;
    };
    let api = Api::connect().await;
    let ns = &api.namespace().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/client.py");
    let printed = ok(&api, &python, &format!("{} {ns}", script.display())).await;
    assert!(printed.ends_with("done\n"), "{printed}");
}
