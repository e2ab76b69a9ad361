//! A server with the objects of another operator.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::served::{DEADLINE, Process, caprock, client, kubeconfig, serve};

const KINDS: &str = include_str!("objects/kinds.yaml");
const IDLE: &str = include_str!("objects/idle.yaml");
const STATUS: &str = "status";

pub(crate) struct Cluster {
    pub(crate) client: Client,
    dir: tempfile::TempDir,
    _server: Process,
}

impl Cluster {
    /// The idle cluster, with what differs from it.
    pub(crate) async fn start(differs: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let audit = dir.path().join("audit.log");
        let server = serve(
            dir.path(),
            &[
                "--without",
                "controllers",
                "--without",
                "builder",
                "--audit-log",
                audit.to_str().unwrap(),
            ],
        );
        let client = client(dir.path()).await;
        let cluster = Self {
            client,
            dir,
            _server: server,
        };
        for text in [KINDS, IDLE, differs] {
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
        let output = caprock()
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
        let mut command = caprock();
        command
            .args(line.split(' '))
            .env("KUBECONFIG", kubeconfig(self.dir.path()))
            .env("NO_COLOR", "1");
        command
    }
}
