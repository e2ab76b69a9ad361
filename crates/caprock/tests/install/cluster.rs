//! The cluster of a test: a server of its own, or the one that the environment names.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kubelet::Kubelet;
use crate::served::{self, DEADLINE, Process};
use crate::tools::{caprock, command, json_of, ok, tool};

/// Tests use a cluster one after the other: there can be one Caprock in it.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Cluster {
    kubectl: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    /// What the parts run from.
    pub(crate) image: String,
    server: Option<(Process, Kubelet)>,
    scratch: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some((server, kubelet)) = self.server.take() {
            drop(kubelet);
            drop(server);
        }
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.scratch.path()).unwrap().flatten() {
                if entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "log")
                {
                    let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
                    let from = log.lines().count().saturating_sub(5);
                    let last: Vec<String> = log
                        .lines()
                        .skip(from)
                        .map(|line| line.chars().take(300).collect())
                        .collect();
                    eprintln!("--- {}:\n{}", entry.path().display(), last.join("\n"));
                }
            }
        }
    }
}

impl Cluster {
    /// Nothing where there is no `kubectl`.
    pub(crate) fn start() -> Option<Self> {
        let kubectl = tool("kubectl")?;
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = tempfile::tempdir().unwrap();
        let image = std::env::var("CAPROCK_TEST_IMAGE");
        let image = image.unwrap_or_else(|_| "r.example/caprock:1".to_owned());
        let (kubeconfig, server) = match std::env::var_os("CAPROCK_TEST_KUBECONFIG") {
            Some(given) => (PathBuf::from(given), None),
            None => {
                let elsewhere = ["--without", "controllers", "--without", "builder"];
                let server = served::serve(scratch.path(), &elsewhere);
                let kubeconfig = served::kubeconfig(scratch.path());
                let kubelet = Kubelet::start(&kubectl, &kubeconfig, scratch.path());
                (kubeconfig, Some((server, kubelet)))
            }
        };
        Some(Cluster {
            kubectl,
            kubeconfig,
            image,
            server,
            scratch,
            _turn: turn,
        })
    }

    /// Runs `kubectl`, which must succeed.
    pub(crate) fn kubectl(&self, line: &str) -> String {
        ok(&mut command(&self.kubectl, &self.kubeconfig, line))
    }

    /// Runs `caprock`, which must succeed.
    pub(crate) fn caprock(&self, line: &str) -> String {
        ok(&mut command(&caprock(), &self.kubeconfig, line))
    }

    pub(crate) fn command(&self, tool: &Path, line: &str) -> Command {
        command(tool, &self.kubeconfig, line)
    }

    /// Applies a manifest. What begins with a brace is JSON to some versions of kubectl.
    pub(crate) fn apply(&self, manifest: &str) {
        let file = self.scratch.path().join("manifest.json");
        let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        std::fs::write(&file, list.to_string()).unwrap();
        self.kubectl(&format!("apply -f {}", file.display()));
    }

    /// An object; nothing when it is not there, or its kind is not.
    pub(crate) fn get(&self, line: &str) -> Option<Value> {
        json_of(&self.kubectl, &self.kubeconfig, &format!("get {line}"))
    }

    pub(crate) fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(
                began.elapsed() < DEADLINE,
                "not within {DEADLINE:?}: {what}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
