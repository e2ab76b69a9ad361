//! The server as `kubectl` sees it, over TLS. Skipped where there is no `kubectl` of version 1.32 or newer.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{ADMIN, Fixture};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const OLDEST_MINOR: u64 = 32;

/// A served fixture and the kubeconfig that leads to it.
struct Served {
    fixture: Fixture,
    stop: oneshot::Sender<()>,
    done: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start() -> Self {
        let fixture = Fixture::new();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let key = certified.signing_key.serialize_der();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://{}", listener.local_addr().unwrap()),
                "certificate-authority-data": STANDARD.encode(certified.cert.pem()),
            }}],
            "users": [{"name": "u", "user": {"token": ADMIN}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = fixture.directory.path().join("kubeconfig");
        std::fs::write(path, kubeconfig.to_string()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = fixture.server.clone();
        let done = tokio::spawn(server.serve(listener, Arc::new(tls), async {
            stopped.await.ok();
        }));
        Self {
            fixture,
            stop,
            done,
        }
    }

    fn command(&self) -> Command {
        let directory = self.fixture.directory.path();
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", directory.join("kubeconfig"))
            .env("HOME", directory)
            .env("KUBECACHEDIR", directory.join("cache"))
            .current_dir(directory);
        command
    }

    /// Runs `kubectl` and returns its exit status and both outputs together.
    async fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut command = self.command();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            let output = child.wait_with_output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8(text).unwrap())
        })
        .await
        .unwrap()
    }

    async fn ok(&self, line: &str) -> String {
        self.ok_with(line, "").await
    }

    async fn ok_with(&self, line: &str, input: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let (success, output) = self.run(&arguments, input).await;
        assert!(success, "kubectl {line}: {output}");
        output
    }

    async fn fails_with(&self, line: &str, input: &str, expected: &str) {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let (success, output) = self.run(&arguments, input).await;
        assert!(!success, "kubectl {line}: {output}");
        assert!(output.contains(expected), "kubectl {line}: {output}");
    }
}

/// Whether there is a `kubectl` that the server promises to work with.
fn kubectl_is_there() -> bool {
    let output = Command::new("kubectl")
        .args(["version", "--client", "-o", "json"])
        .output();
    let minor = output.ok().and_then(|output| {
        let version: Value = serde_json::from_slice(&output.stdout).ok()?;
        let minor = version["clientVersion"]["minor"].as_str()?;
        minor.trim_end_matches('+').parse::<u64>().ok()
    });
    if minor.is_some_and(|minor| minor >= OLDEST_MINOR) {
        return true;
    }
    eprintln!("skipped: needs kubectl 1.{OLDEST_MINOR} or newer");
    false
}

const WIDGET: &str = "\
apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
spec: {size: 3}
";

#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_through_their_life() {
    if !kubectl_is_there() {
        return;
    }
    let api = Served::start().await;
    let created = api.ok_with("create -f -", WIDGET).await;
    assert_eq!(created, "widget.example.com/w created\n");
    api.fails_with("create -f -", WIDGET, "AlreadyExists").await;
    let bad = WIDGET.replace("size", "sise");
    api.fails_with(
        "apply -f -",
        &bad,
        "unknown field \"spec.sise\" (did you mean \"size\"?)",
    )
    .await;

    let table = api.ok("get wd").await;
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["NAME", "SIZE", "READY", "AGE"]);
    assert_eq!(lines[1][..2], ["w", "3"]);

    api.ok("label wd w a=b").await;
    api.ok("annotate wd w note=x").await;
    let patch = r#"{"spec":{"paused":true}}"#;
    api.ok(&format!("patch wd/w --type merge --patch {patch}"))
        .await;
    let patch = r#"[{"op":"replace","path":"/spec/size","value":9}]"#;
    api.ok(&format!("patch wd/w --type json --patch {patch}"))
        .await;
    let status = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    api.ok(&format!(
        "patch wd/w --subresource=status --type merge --patch {status}"
    ))
    .await;
    api.ok("wait --for=condition=Ready wd/w --timeout=20s")
        .await;
    let shown = api
        .ok("get wd w -o jsonpath={.spec.size}/{.spec.paused}/{.metadata.labels.a}")
        .await;
    assert_eq!(shown, "9/true/b");
    let described = api.ok("describe wd w").await;
    assert!(
        described.trim_end().ends_with("<none>") && described.contains("Events:"),
        "{described}"
    );
    assert!(api.ok("get wd").await.contains("True"));

    let applied = WIDGET.replace("{size: 3}", "{size: 5, color: blue}");
    api.ok_with("apply -f -", &applied).await;
    api.ok_with("apply -f -", &WIDGET.replace("size: 3", "size: 5"))
        .await;
    let shown = api
        .ok("get wd w -o jsonpath={.spec.color}/{.spec.paused}")
        .await;
    assert_eq!(
        shown, "red/true",
        "what was applied and is no longer goes; the rest stays"
    );
    api.fails_with(
        "apply --server-side -f -",
        WIDGET,
        "conflict with \"kubectl-client-side-apply\"",
    )
    .await;
    api.ok_with("apply --server-side --force-conflicts -f -", WIDGET)
        .await;
    api.ok_with("replace -f -", WIDGET).await;
    api.ok("get all").await;
    let deleted = api.ok("delete wd w").await;
    assert!(
        deleted.starts_with("widget.example.com \"w\" deleted"),
        "{deleted}"
    );
    api.ok("wait --for=delete wd/w --timeout=20s").await;
    api.fails_with("get wd w", "", "NotFound").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn core_objects_and_what_describes_them() {
    if !kubectl_is_there() {
        return;
    }
    let api = Served::start().await;
    api.ok("create namespace extra").await;
    api.ok("create configmap c --from-literal=a=b").await;
    api.ok("create secret generic s --from-literal=a=b").await;
    api.ok(
        "create secret docker-registry d --docker-server=r --docker-username=u --docker-password=p",
    )
    .await;
    api.ok("create serviceaccount sa").await;
    assert!(
        api.ok("get secrets")
            .await
            .contains("kubernetes.io/dockerconfigjson")
    );
    let node = "\
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {node-role.kubernetes.io/worker: ''}}
";
    api.ok_with("apply -f -", node).await;
    api.ok_with("apply -f -", &node.replace("worker", "infra"))
        .await;
    api.ok("cordon node-1").await;
    let table = api.ok("get nodes").await;
    assert!(
        table.contains("SchedulingDisabled") && table.contains("infra"),
        "{table}"
    );
    assert!(!table.contains("worker"), "{table}");
    let pod = "\
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {nodeName: node-1, containers: [{name: c, image: i}]}
";
    api.ok_with("create -f -", pod).await;
    let drained = api.ok("drain node-1 --force --timeout=20s").await;
    assert!(drained.contains("pod/p evicted"), "{drained}");
    api.ok("uncordon node-1").await;
    api.ok("describe node node-1").await;
    api.ok("get events -A").await;
    assert!(
        api.ok("explain node.spec.unschedulable")
            .await
            .contains("<boolean>")
    );
    let explained = api.ok("explain widget.spec").await;
    assert!(explained.contains("What is wanted.") && explained.contains("How big it is."));
    let resources = api.ok("api-resources").await;
    assert!(
        resources.contains("wd") && resources.contains("leases"),
        "{resources}"
    );
    assert!(api.ok("auth can-i delete nodes").await.contains("yes"));
    assert!(api.ok("auth whoami").await.contains("system:masters"));
    api.ok("get crd widgets.example.com -o yaml").await;
    api.ok("delete namespace extra --timeout=20s").await;
}

/// What `kubectl get -o yaml` writes of several objects can be applied, and is checked field by field.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_applied_and_checked() {
    if !kubectl_is_there() {
        return;
    }
    let served = Served::start().await;
    let list = |key: &str| {
        let item = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": "default"},
            key: {"a": "b"},
        });
        json!({"apiVersion": "v1", "kind": "List", "items": [item]}).to_string()
    };
    let output = served.ok_with("apply -f -", &list("data")).await;
    assert!(output.contains("configmap/one created"), "{output}");
    served
        .fails_with("apply -f -", &list("dats"), "unknown field \"dats\"")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_ends_watches() {
    if !kubectl_is_there() {
        return;
    }
    let api = Served::start().await;
    api.ok_with("create -f -", WIDGET).await;
    let mut command = api.command();
    command
        .args(["get", "wd", "--watch", "-o", "name"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let (first, rest) =
        tokio::task::spawn_blocking(move || (lines.next().unwrap().unwrap(), lines))
            .await
            .unwrap();
    assert_eq!(first, "widget.example.com/w");
    api.stop.send(()).unwrap();
    api.done.await.unwrap().unwrap();
    let more = tokio::task::spawn_blocking(move || rest.count())
        .await
        .unwrap();
    assert_eq!(more, 0);
    child.wait().unwrap();
}
