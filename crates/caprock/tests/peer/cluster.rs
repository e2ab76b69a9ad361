//! A server with the objects of another operator.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(120);
const IDLE: &str = include_str!("objects/idle.yaml");
const STATUS: &str = "status";

pub(crate) struct Cluster {
    pub(crate) client: Client,
    dir: tempfile::TempDir,
    _server: Process,
}

/// A process that is killed when nobody needs it any more.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A kind of OpenShift's configuration, of which no test needs more than that it is there.
fn crd(kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.config.openshift.io")},
        "spec": {
            "group": "config.openshift.io",
            "scope": "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {STATUS: {}}, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    })
}

impl Cluster {
    /// The idle cluster, with what differs from it.
    pub(crate) async fn start(differs: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(dir.path().join("serve.log")).unwrap();
        let data = dir.path().join("data");
        let server = Command::new(env!("CARGO_BIN_EXE_caprock"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--registry-listen",
                "127.0.0.1:0",
            ])
            .args(["--without", "controllers", "--without", "builder"])
            .arg("--audit-log")
            .arg(dir.path().join("audit.log"))
            .arg("--data-dir")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Process(server);
        let kubeconfig = data.join("kubeconfig");
        let began = Instant::now();
        while !kubeconfig.exists() {
            assert!(
                began.elapsed() < DEADLINE && server.0.try_wait().unwrap().is_none(),
                "the server is not ready: {}",
                std::fs::read_to_string(dir.path().join("serve.log")).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let config = Kubeconfig::read_from(&kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(config, &options);
        let client = Client::try_from(config.await.unwrap()).unwrap();
        let cluster = Self {
            client,
            dir,
            _server: server,
        };
        for (kind, plural) in [
            ("ClusterOperator", "clusteroperators"),
            ("ClusterVersion", "clusterversions"),
        ] {
            cluster.write(crd(kind, plural)).await;
        }
        for text in [IDLE, differs] {
            for object in serde_saphyr::from_multiple::<Value>(text).unwrap() {
                cluster.write(object).await;
            }
        }
        cluster
    }

    /// Writes an object with its status, as its operator would.
    pub(crate) async fn write(&self, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(&types).unwrap());
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        };
        let name = object.name_any();
        let failed = |error: kube::Error| panic!("{} `{name}`: {error}", types.kind);
        let (theirs, apply) = (
            PatchParams::apply("machine-config-operator").force(),
            Patch::Apply(&object),
        );
        let began = Instant::now();
        loop {
            match api.patch(&name, &theirs, &apply).await {
                // A kind that was defined a moment ago.
                Err(kube::Error::Api(status))
                    if status.code == 404 && began.elapsed() < DEADLINE =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => break other.map(drop).unwrap_or_else(failed),
            }
        }
        if object.data.get(STATUS).is_some() {
            api.patch_status(&name, &theirs, &apply)
                .await
                .map(drop)
                .unwrap_or_else(failed);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A kubeconfig of somebody with a certificate, who may do what a role says.
    pub(crate) async fn person(&self, name: &str, verbs: &[&str]) -> PathBuf {
        let rule = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": verbs}]);
        let rbac = "rbac.authorization.k8s.io/v1";
        self.write(json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rule})).await;
        self.write(json!({
            "apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        }))
        .await;
        let output = Command::new(env!("CARGO_BIN_EXE_caprock"))
            .args(["certs", "user", name, "--data-dir"])
            .arg(self.path("data"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let path = self.path(&format!("{name}.kubeconfig"));
        std::fs::write(&path, output.stdout).unwrap();
        path
    }

    /// Runs `caprock` as the administrator.
    pub(crate) fn caprock(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caprock"));
        command
            .args(line.split(' '))
            .env("KUBECONFIG", self.path("data/kubeconfig"))
            .env("HOME", "/nonexistent")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }
}
